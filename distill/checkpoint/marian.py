"""Marian's tokenizer, which comes as two SentencePiece models over one vocabulary, as two of the `tokenizers` library.

`source.spm` cuts what is read and `target.spm` what is to be written, both into ids of `vocab.json`; transformers has
Python code for it alone, and no tokenizer.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import CheckpointError
from distill.safety import check_size, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
_END, _UNKNOWN, _PAD = "</s>", "<unk>", "<pad>"
_UNIGRAM = 1  # SentencePiece's own number
_FOREIGN, _MIXED = 1e3, 1e6  # nats below the rarest piece: nothing that the model has a piece for is cut otherwise


def is_marian(folder: Path) -> bool:
    """Whether a checkpoint folder's tokenizer is Marian's, and nothing else."""
    return not (folder / "tokenizer.json").is_file() and all((folder / n).is_file() for n in (SOURCE, TARGET))


def tokenizers_of(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """What cuts texts that are read, and what cuts texts to write; neither cuts off nor pads.

    Each cuts as transformers' MarianTokenizer does. Characters that one of the models doesn't know, but the vocabulary
    has, are taken out of the vocabulary: of several in a row that are no piece together each for itself, where
    MarianTokenizer has one unknown token for all. Raises CheckpointError for files of another kind.
    """
    ids = _vocabulary(folder)
    if _words(folder).get("separate_vocabs"):
        raise CheckpointError(
            f"{folder}: texts that are read and that are written have a vocabulary each (separate_vocabs), which "
            "no tokenizer.json holds; take a checkpoint with one vocabulary"
        )
    return _converted(folder / SOURCE, ids), _converted(folder / TARGET, ids)


def settings_of(folder: Path) -> dict[str, Any]:
    """What a tokenizer_config.json beside the tokenizer.json made of them says."""
    words = _words(folder)
    kept = {word: words[word] for word in ("model_max_length", "source_lang", "target_lang") if words.get(word)}
    return {
        "model_max_length": 512,
        **kept,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END, "unk_token": _UNKNOWN, "pad_token": _PAD,
        "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip


def _words(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    words = read_json(path) if path.is_file() else {}
    if not isinstance(words, dict):
        raise CheckpointError(f"{path}: not the settings of a tokenizer")
    return words


def _vocabulary(folder: Path) -> dict[str, int]:
    path = folder / VOCABULARY
    ids = read_json(path) if path.is_file() else None
    numbers = list(ids.values()) if isinstance(ids, dict) else []
    if not numbers or any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(len(ids))):
        raise CheckpointError(f"{path}: not a vocabulary, which has every id from 0 up once")
    if absent := {_END, _UNKNOWN, _PAD} - ids.keys():
        raise CheckpointError(f"{path}: lacks {', '.join(sorted(absent))}")
    return ids


def _converted(path: Path, ids: dict[str, int]) -> Tokenizer:
    """One of the models as transformers converts such files, over the vocabulary's ids."""
    from types import SimpleNamespace

    from tokenizers import AddedToken, Tokenizer, models, processors
    from transformers.convert_slow_tokenizer import SpmConverter

    class Converter(SpmConverter):
        def tokenizer(self, proto: Any) -> Tokenizer:
            return Tokenizer(models.Unigram(_scored(proto, ids), unk_id=ids[_UNKNOWN]))

        def post_processor(self) -> Any:
            return processors.TemplateProcessing(
                single=f"$A {_END}", pair=f"$A $B {_END}", special_tokens=[(_END, ids[_END])]
            )

    check_size(path)
    try:
        converter = Converter(SimpleNamespace(vocab_file=str(path)))
    except Exception as error:  # the parser raises kinds of its own
        raise CheckpointError(f"{path}: not a SentencePiece model ({error})") from None
    if not _pieces(converter.proto):
        raise CheckpointError(f"{path}: not a SentencePiece model (it holds no pieces)")
    if converter.proto.trainer_spec.model_type != _UNIGRAM:
        raise CheckpointError(f"{path}: a SentencePiece model that is no Unigram, which Marian's are")
    found = converter.converted()
    found.add_special_tokens([_END, _UNKNOWN, _PAD])
    whole = [piece for piece in ids if piece.startswith(">>") and piece.endswith("<<")]  # the language to write
    whole += [piece.piece for piece in converter.proto.pieces if piece.type == piece.USER_DEFINED]
    found.add_tokens([AddedToken(piece, normalized=False) for piece in whole if piece in ids])
    return found


def _pieces(proto: Any) -> dict[str, float]:
    """The pieces that texts are cut into, with their logarithmic likelihoods."""
    return {piece.piece: piece.score for piece in proto.pieces if piece.type == proto.SentencePiece.NORMAL}


def _scored(proto: Any, ids: dict[str, int]) -> list[tuple[str, float]]:
    """Every piece of the vocabulary, in the order of ids, with its logarithmic likelihood."""
    own = _pieces(proto)
    known, least = set("".join(own)), min(own.values())
    far = {piece: _MIXED if known & set(piece) else _FOREIGN for piece in ids.keys() - own.keys()}
    return [(piece, own[piece] if piece in own else least - far[piece]) for piece in sorted(ids, key=ids.__getitem__)]
