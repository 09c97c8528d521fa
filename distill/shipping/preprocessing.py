"""The preprocessing contract: a tokenizer that cuts and pads by itself, as it did when the score was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill import anatomy, generation
from distill.checkpoint import marian
from distill.data.encoding import NO_LIMIT, UNLIMITED
from distill.data.readers import WRITTEN, Cutter
from distill.data.windows import shared_tokens
from distill.engines import files_of, open_session
from distill.errors import CheckpointError
from distill.safety import check_size, read_json
from distill.tasks import kind_of

_VOCABULARIES = (
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "target_tokenizer.json", "chat_template.jinja",
)  # fmt: skip
_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32"}
# Of transformers 5: classes of tokenizers that give token types by themselves, and models that have one of them.
_TYPED = (
    "BertTokenizer", "CanineTokenizer", "ConvBertTokenizer", "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer", "ElectraTokenizer", "FNetTokenizer",
    "LayoutLMTokenizer", "LayoutLMv2Tokenizer", "LxmertTokenizer", "MarkupLMTokenizer", "MobileBertTokenizer",
    "SqueezeBertTokenizer", "TapasTokenizer",
)  # fmt: skip
_TYPED_MODELS = (
    "bert", "canine", "convbert", "deberta", "deberta-v2", "distilbert", "dpr", "electra", "ernie", "fnet", "layoutlm",
    "layoutlmv2", "lxmert", "markuplm", "megatron-bert", "mobilebert", "nezha", "nomic_bert", "qdqbert", "realm",
    "retribert", "squeezebert", "tapas", "visual_bert",
)  # fmt: skip
_OF_ONE_MACHINE = ("is_local", "local_files_only", "name_or_path", "tokenizer_file", "vocab_file", "max_length")


def words_of(folder: Path) -> dict[str, Any]:
    """What a folder's tokenizer_config.json says; nothing when there is none. Raises CheckpointError."""
    if marian.is_marian(folder):
        return marian.settings_of(folder)
    told = folder / "tokenizer_config.json"
    words = read_json(told) if told.is_file() else {}
    if not isinstance(words, dict):
        raise CheckpointError(f"{told}: not the settings of a tokenizer")
    return words


def longest(config: dict[str, Any], words: dict[str, Any], asked: int | None = None) -> int:
    """Tokens a text is cut to: the least of the model's positions, the tokenizer's limit and what was asked for."""
    limits = [anatomy.size(config, "positions"), words.get("model_max_length"), asked]
    numbers = [limit for limit in limits if isinstance(limit, int | float) and 0 < limit < NO_LIMIT]
    return int(min(numbers, default=UNLIMITED))


def padding(words: dict[str, Any]) -> tuple[str, str, str]:
    """The pad token, the side it goes to, and the side that long texts are cut on."""
    pad = words.get("pad_token") or words.get("eos_token") or "[PAD]"  # GPT-2 has none: any will do that is masked
    sides = [words.get(f"{what}_side", "right") for what in ("padding", "truncation")]
    if any(side not in ("left", "right") for side in sides):
        raise CheckpointError("tokenizer_config.json: padding_side and truncation_side are left or right")
    return (str(pad["content"] if isinstance(pad, dict) and "content" in pad else pad), *sides)


def open_tokenizer(folder: Path, config: dict[str, Any], asked: int | None = None) -> Any:
    """A folder's tokenizer.json as a `tokenizers.Tokenizer` that cuts and pads. Raises CheckpointError."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if marian.is_marian(folder):
        tokenizer = marian.tokenizers_of(folder)[0]
    elif not path.is_file():
        raise CheckpointError(f"{folder}: no tokenizer.json; save its tokenizer again with transformers")
    else:
        check_size(path)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except BaseException as error:  # the library raises plain Exception, and Rust's panics are no Exception at all
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CheckpointError(f"{path}: not a tokenizer ({error})") from None
    words = words_of(folder)
    pad, padding_side, truncation_side = padding(words)
    tokenizer.enable_truncation(
        longest(config, words, asked), direction=truncation_side, **_windows(config, words, asked)
    )
    tokenizer.enable_padding(direction=padding_side, pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    return tokenizer


def cutter_of(folder: Path, config: dict[str, Any]) -> Cutter:
    """What cuts a user's texts as they were when the score was measured; padding is left to the batch."""
    words, tokenizer = words_of(folder), open_tokenizer(folder, config)
    pad = tokenizer.token_to_id(padding(words)[0]) or 0
    tokenizer.no_padding()
    kind = kind_of(config)
    if kind.windows or kind.continues:
        tokenizer.no_truncation()
    prefix = str(config.get("prefix") or "") if kind.generates else ""
    says = generation.read_config(folder).get("max_new_tokens") is not None
    written = generation.words_of(folder).max_new_tokens if says else WRITTEN
    stride, mask, texts = config.get("window_stride"), mask_token(words), config.get("texts")
    return Cutter(tokenizer, pad, typed(words, config), longest(config, words), stride, prefix, written, mask, texts)


def frame_of(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens a tokenizer puts before a text, and behind it."""
    added = tokenizer.encode("a").special_tokens_mask
    return tuple(next((place for place, special in enumerate(side) if not special), 0) for side in (added, added[::-1]))


def _windows(config: dict[str, Any], words: dict[str, Any], asked: int | None = None) -> dict[str, Any]:
    """How a long text is cut into windows, for a tokenizer; nothing for a task that has none."""
    if not kind_of(config).windows:
        return {}
    tokens, stride = longest(config, words, asked), config.get("window_stride")
    return {"strategy": "only_second", "stride": shared_tokens(tokens, stride)}


def _windows_told(config: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    found = _windows(config, words)
    return {"truncation": found["strategy"], "stride": found["stride"]} if found else {}


def typed(words: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a tokenizer tells the two texts of a pair apart by token types. Where its settings don't say it, it goes
    by their class, or by the model where no class is named either, as in transformers.
    """
    if isinstance(names := words.get("model_input_names"), list):
        return "token_type_ids" in names
    if kind := words.get("tokenizer_class"):
        return str(kind).removesuffix("Fast") in _TYPED
    return config.get("model_type") in _TYPED_MODELS


def _names(words: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """What a tokenizer gives the model."""
    return ["input_ids", "attention_mask", *(["token_type_ids"] if typed(words, config) else [])]


def mask_token(words: dict[str, Any]) -> str | None:
    """What stands for a word that is to be filled in; None where the tokenizer has no such token."""
    mask = words.get("mask_token")
    mask = mask.get("content") if isinstance(mask, dict) else mask
    return mask if isinstance(mask, str) else None


def write_tokenizer(source: Path, target: Path, config: dict[str, Any], asked: int | None) -> None:
    """Copies a tokenizer with its limit and padding written out, and without what only concerns one machine."""
    tokenizer, words = open_tokenizer(source, config, asked), words_of(source)
    tokenizer.save(str(target / "tokenizer.json"))
    kept = {word: value for word, value in words.items() if word not in _OF_ONE_MACHINE}
    kept["model_max_length"] = longest(config, words, asked)
    kept.setdefault("model_input_names", _names(words, config))
    write_json(target / "tokenizer_config.json", kept)


def vocabularies(source: Path) -> list[Path]:
    """Files that some tokenizers want beside tokenizer.json."""
    return [source / name for name in _VOCABULARIES if (source / name).is_file()]


def write_json(path: Path, told: Any) -> None:
    """Writes JSON for people to read."""
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def contract_of(folder: Path, config: dict[str, Any], graph: Path | None, texts: int) -> dict[str, Any]:
    """What the manifest says of a shipped folder's preprocessing. The graph's own inputs are asked where it has one."""
    words = words_of(folder)
    pad, padding_side, truncation_side = padding(words)
    tokenizer = open_tokenizer(folder, config)
    names = _names(words, config)
    return {
        "max_length": longest(config, words),
        "truncation": "longest_first",
        **_windows_told(config, words),
        "truncation_side": truncation_side,
        "padding_side": padding_side,
        "pad_token": pad,
        "pad_id": tokenizer.token_to_id(pad) or 0,
        "texts": texts,
        "pair": "two texts are given to the tokenizer as a pair; its own template sets what stands between them",
        "inputs": _inputs(graph) if graph else {n: {"dtype": "int64", "shape": ["batch", "tokens"]} for n in names},
    }


def _inputs(graph: Path) -> dict[str, Any]:
    found = {}
    for one in open_session(files_of(graph)[0]).get_inputs():  # an encoder-decoder's encoder reads the text
        names = ["batch", "tokens"] if len(one.shape) == 2 else ["batch", "heads", "past", "width"]
        shape = [size if isinstance(size, int) else name for size, name in zip(one.shape, names, strict=True)]
        found[one.name] = {"dtype": _DTYPES.get(one.type, one.type), "shape": shape}
    return found
