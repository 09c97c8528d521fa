"""Trimming the vocabulary to the tokens that training texts use: embeddings are half of a small encoder.

Texts that use kept tokens alone are cut exactly as before. WordPiece takes the longest piece that fits, so pieces that
are never taken can go. BPE takes the merge of the lowest rank, so merges that are never made can go, as long as those
that lead to a kept token stay. Unigram takes the likeliest pieces, so the others can go. Single characters, bytes and
special tokens always stay, so that no text needs an unknown token that did not need one before.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill import surgery
from distill.checkpoint import Checkpoint, tokenizers
from distill.data import Encoded, Splits
from distill.errors import CheckpointError
from distill.recipe import settings

log = logging.getLogger(__name__)
_MODELS = ("WordPiece", "BPE", "Unigram", "WordLevel")
_TOKENS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")  # of a generation's settings
_SPECIAL = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


def trim(checkpoint: Checkpoint, words: settings.Vocabulary, data: Splits) -> tuple[Checkpoint, str]:
    """A checkpoint with a smaller vocabulary, and a sentence on what it covers; the one given stays as it was.

    Raises CheckpointError for a tokenizer that can't be trimmed.
    """
    facts = _facts(checkpoint.tokenizer)
    counts = Counter(used(checkpoint.encode(data, "train")).tolist())
    rows = checkpoint.model.get_input_embeddings().num_embeddings
    chosen = choose(facts, counts, words) | _named(checkpoint.model)
    kept = sorted(number for number in chosen if number < rows)
    if words.keep != "used" and len(kept) > words.keep:
        log.warning(
            "prune.vocabulary: %d tokens are too few: single characters, bytes and special tokens stay, so the "
            "vocabulary has %d", words.keep, len(kept),
        )  # fmt: skip
    tokenizer = rebuild(checkpoint.tokenizer, facts, kept)
    smaller = Checkpoint(surgery.keep_tokens(checkpoint.model, kept), tokenizer)
    _follow(smaller, kept, {name: _id(checkpoint.tokenizer, name) for name in _SPECIAL})
    return smaller, _coverage(checkpoint, smaller, kept, data)


def used(encoded: Encoded) -> np.ndarray:
    """The id of every token of a split, of the texts and of those that a decoder writes."""
    if encoded.decoder_start is None:
        return encoded.ids
    return np.concatenate([encoded.ids, encoded.targets.values])


def choose(facts: Mapping[str, Any], counts: Mapping[int, int], words: settings.Vocabulary) -> set[int]:
    """The ids that stay, from how often training texts use each: what is used (or the most used, up to a size), what
    has to stay, and a margin of unused ones in the tokenizer's own order, which is that of their frequency.
    """
    model = facts["model"]
    vocabulary, makers = _vocabulary(model), _makers(model)
    names = {number: token for token, number in vocabulary.items()}
    kept = {number for token, number in vocabulary.items() if _is_base(token, model)}
    kept |= {added["id"] for added in facts.get("added_tokens", ())}
    kept |= {model["unk_id"]} if model.get("unk_id") is not None else set()
    most = len(vocabulary) if words.keep == "used" else words.keep
    for number, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        if number not in kept and len(more := _closed(number, vocabulary, names, makers) - kept) + len(kept) <= most:
            kept |= more
    room = round(words.margin * len(kept)) if words.keep == "used" else most - len(kept)
    for number in sorted(set(vocabulary.values()) - kept):
        if room <= 0:
            break
        if number not in kept and not _is_unused(number, vocabulary):
            more = _closed(number, vocabulary, names, makers) - kept
            kept |= more
            room -= len(more)
    return kept


def rebuild(tokenizer: PreTrainedTokenizerBase, facts: Mapping[str, Any], kept: list[int]) -> PreTrainedTokenizerBase:
    """A tokenizer of the kept ids alone, numbered anew in their old order."""
    with tempfile.TemporaryDirectory(prefix="distill-vocabulary-") as scratch:
        folder = Path(scratch)
        tokenizer.save_pretrained(folder)
        words = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        words.pop("added_tokens_decoder", None)
        for path in folder.iterdir():
            if path.name == "tokenizer.json":
                path.write_text(json.dumps(_smaller(facts, kept), ensure_ascii=False), encoding="utf-8")
            elif path.name == tokenizers.TARGET:  # of the same vocabulary
                told = json.loads(path.read_text(encoding="utf-8"))
                path.write_text(json.dumps(_smaller(told, kept), ensure_ascii=False), encoding="utf-8")
            elif path.is_file() and path.name != "special_tokens_map.json" and path.suffix != ".jinja":
                path.unlink()  # the vocabulary in other forms
        (folder / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
        return tokenizers.load_tokenizer(folder)


def _smaller(facts: Mapping[str, Any], kept: list[int]) -> dict[str, Any]:
    """A tokenizer.json of the kept ids alone."""
    new = {old: number for number, old in enumerate(kept)}
    told = json.loads(json.dumps(facts))
    model = told["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
        model["unk_id"] = new[model["unk_id"]] if model.get("unk_id") is not None else None
    else:
        model["vocab"] = {token: new[old] for token, old in model["vocab"].items() if old in new}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right]
            for left, right in map(_parts, model["merges"])
            if {left, right, left + right.removeprefix(prefix)} <= model["vocab"].keys()
        ]
    told["added_tokens"] = [
        {**added, "id": new[added["id"]]} for added in told.get("added_tokens", ()) if added["id"] in new
    ]
    told["post_processor"] = _renumbered(told.get("post_processor"), facts, new)
    if told.get("padding"):
        told["padding"]["pad_id"] = new[told["padding"]["pad_id"]]
    return told


def _facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if not tokenizer.is_fast:
        raise CheckpointError("prune.vocabulary: the tokenizer has no tokenizer.json; save it with transformers first")
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    if facts["model"].get("type") not in _MODELS:
        raise CheckpointError(
            f"prune.vocabulary: a {facts['model'].get('type')} tokenizer can't be trimmed ({', '.join(_MODELS)} can)"
        )
    return facts


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _is_base(token: str, model: Mapping[str, Any]) -> bool:
    """Whether a token is a single character, a byte, or the one for what is unknown."""
    bare = token
    for mark in (model.get("continuing_subword_prefix") or "", "▁"):
        bare = bare.removeprefix(mark) if mark and len(bare) > len(mark) else bare
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "") or bare
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return len(bare) == 1 or is_byte or token == model.get("unk_token")


def _is_unused(number: int, vocabulary: Mapping[str, int]) -> bool:
    """BERT's vocabularies begin with room for tokens that nobody has trained."""
    return f"[unused{number - 1}]" in vocabulary or f"[unused{number}]" in vocabulary


def _closed(
    number: int, vocabulary: Mapping[str, int], names: Mapping[int, str], makers: Mapping[str, set[str]]
) -> set[int]:
    """An id, and every id that the merges to it go through."""
    found, waiting = {number}, [names[number]] if number in names else []
    while waiting:
        for part in makers.get(waiting.pop(), ()):
            if (other := vocabulary.get(part)) is not None and other not in found:
                found.add(other)
                waiting.append(part)
    return found


def _makers(model: Mapping[str, Any]) -> dict[str, set[str]]:
    """For each token of a BPE the parts of every merge that makes it; nothing for other models."""
    prefix = model.get("continuing_subword_prefix") or ""
    found: dict[str, set[str]] = {}
    for left, right in map(_parts, model.get("merges") or ()):
        found.setdefault(left + right.removeprefix(prefix), set()).update((left, right))
    return found


def _parts(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _renumbered(processor: Any, facts: Mapping[str, Any], new: Mapping[int, int]) -> Any:
    """A post-processor whose ids are the new ones: [token, id] pairs, and lists of ids beside their tokens."""
    if isinstance(processor, dict):
        told = {key: _renumbered(value, facts, new) for key, value in processor.items()}
        if "ids" in told and "tokens" in told:
            told["ids"] = [new[number] for number in processor["ids"]]
        return told
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], new[processor[1]]]
        return [_renumbered(part, facts, new) for part in processor]
    return processor


def _id(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    return getattr(tokenizer, f"{name}_token_id")


def _follow(smaller: Checkpoint, kept: list[int], before: Mapping[str, int | None]) -> None:
    """Lets the config's ids follow the tokenizer's. Raises CheckpointError where positions hang on the padding's id."""
    config, new = smaller.model.config, {old: number for number, old in enumerate(kept)}
    for words in (config, getattr(smaller.model, "generation_config", None)):
        for key, old in words.to_dict().items() if words is not None else ():
            if (key.endswith("_token_id") or key in _TOKENS) and old is not None:
                setattr(words, key, _renewed(old, new))
    for name in _SPECIAL:
        if before[name] is not None and _id(smaller.tokenizer, name) != new.get(before[name]):
            raise CheckpointError(f"prune.vocabulary: the {name} token lost its place; this tokenizer can't be trimmed")


def _named(model: PreTrainedModel) -> set[int]:
    """The tokens that a model which writes needs by name: those that begin, end and part its texts."""
    if not model.can_generate():
        return set()
    told = [value for words in (model.config, model.generation_config) for value in words.to_dict().items()]
    ids = (value if isinstance(value, list) else [value] for key, value in told if key.endswith("_token_id"))
    return {number for some in ids for number in some if isinstance(number, int) and number >= 0}


def _renewed(old: Any, new: Mapping[int, int]) -> Any:
    """An id's new number, None for one that went; in lists, such as of tokens that end a text, those that stay. A
    phrase, which is a list in a list, goes as soon as one of its tokens does.
    """
    if not isinstance(old, list):
        return new.get(old)
    held = [_renewed(one, new) if not isinstance(one, list) else [new.get(part) for part in one] for one in old]
    return [one for one in held if one is not None and not (isinstance(one, list) and None in one)]


def _coverage(before: Checkpoint, after: Checkpoint, kept: list[int], data: Splits) -> str:
    """How validation texts, which chose nothing here, are cut now."""
    old, new = before.encode(data, "validation"), after.encode(data, "validation")
    covered = float(np.isin(used(old), kept).mean())
    unknown = _id(after.tokenizer, "unk")
    strangers = float((new.ids == unknown).mean()) if unknown is not None else 0.0
    return (
        f"{len(kept)} of {before.model.config.vocab_size} tokens kept; they cover {100 * covered:.2f} % of the tokens "
        f"of validation texts, which are {100 * (len(new.ids) / len(old.ids) - 1):+.2f} % longer now, "
        f"{100 * strangers:.2f} % unknown"
    )
