"""A checkpoint folder, without torch: its config, the files that an engine needs, their hashes, its licence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from distill import safety, tasks
from distill.checkpoint import marian
from distill.engines import files_of
from distill.errors import CheckpointError

_SHAPE = "shape.json"  # what a config can't say; surgery's
_WITHOUT_DEFAULTS = (  # classes of tokenizers that have neither a pad nor a mask token unless they are told one
    "PreTrainedTokenizerFast", "TokenizersBackend", "GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer",
    "LlamaTokenizerFast",
)  # fmt: skip
_LARGEST_CARD = 1 << 20  # bytes of a model card
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model", "target_tokenizer.json",
)  # fmt: skip
_TOKENIZER_PARTS = (
    "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "tokenizer.model", "spm.model", "source.spm",
    "target.spm", "added_tokens.json",
)  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's config.json as a dict. Raises CheckpointError."""
    path = folder / "config.json"
    try:
        config = safety.read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no config.json, so this is not a checkpoint folder") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path}: names no model_type")
    safety.check_config(config, str(path))
    return config


def inspect(folder: Path) -> None:
    """Looks through a folder before anything is loaded from it, as distill.safety tells. Raises CheckpointError."""
    weights = [path for path in weight_files(folder, "model.safetensors") if path.is_file()]
    safety.check_folder(folder, read_config(folder), weights)


def label_names(config: dict[str, Any]) -> list[str] | None:
    """The label names that a config carries, in order; None when it has only LABEL_0, LABEL_1, … or nothing."""
    ordered = tasks.ordered_names(config)
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(ordered)) else ordered


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two checkpoint folders cut text into the same ids, as far as their tokenizer.json tells."""
    first, second = _cutting(one), _cutting(other)
    if first is None or second is None:
        return False
    return all(first.get(part) == second.get(part) for part in ("model", "normalizer", "pre_tokenizer"))


def count_tokens(folder: Path) -> int | None:
    """How many ids a folder's tokenizer has, as its tokenizer.json tells; None where it doesn't."""
    told = _cutting(folder) or {}
    vocabulary, added = (told.get("model") or {}).get("vocab"), told.get("added_tokens") or []
    if not isinstance(vocabulary, dict | list) or not vocabulary:
        return None
    last = max(vocabulary.values()) if isinstance(vocabulary, dict) else len(vocabulary) - 1
    return 1 + max([last, *(token["id"] for token in added)])


def lacks_token(folder: Path, name: str) -> bool:
    """Whether a folder's tokenizer is known to have no special token of a name, such as `pad`; one whose class may have
    it by default is not.
    """
    if marian.is_marian(folder):
        return False
    told: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file() and isinstance(held := safety.read_json(folder / file), dict):
            told = {**told, **{key: value for key, value in held.items() if value is not None or key not in told}}
    key = f"{name}_token"
    return told.get(key) is None and (key in told or told.get("tokenizer_class") in _WITHOUT_DEFAULTS)


def _cutting(folder: Path) -> dict[str, Any] | None:
    """A folder's tokenizer.json, or what it would be; None for one of which only transformers can tell.

    Scores are rounded, as their last digit changes when `tokenizers` reads a file and writes it again.
    """
    path = folder / "tokenizer.json"
    if marian.is_marian(folder):
        told = json.loads(marian.tokenizers_of(folder)[0].to_str())
    elif path.is_file():
        told = safety.read_json(path)
    else:
        return None
    model = told.get("model")
    if isinstance(model, dict) and model.get("type") == "Unigram":
        told["model"] = {**model, "vocab": [[piece, round(score, 6)] for piece, score in model["vocab"]]}
    return told


def engine_files(folder: Path, weights: str) -> list[Path]:
    """The files that one engine needs to answer: its weights (with external data), the config, the tokenizer."""
    needed = [*weight_files(folder, weights), folder / "config.json", folder / "generation_config.json"]
    needed += [folder / _SHAPE] if weights.endswith(".safetensors") else []
    tokenizer = [folder / name for name in _TOKENIZER_FILES]
    if not tokenizer[0].is_file():  # transformers makes one of these
        tokenizer += [folder / name for name in _TOKENIZER_PARTS]
    return [path for path in (*needed, *tokenizer) if path.is_file()]


def weight_files(folder: Path, weights: str) -> list[Path]:
    """The files of some weights: shards that an index names, and a graph's external data."""
    index = folder / f"{weights}.index.json"
    if not (folder / weights).is_file() and index.is_file():
        return [folder / shard for shard in safety.shards(index)]
    files = files_of(folder / weights) if weights.endswith(".onnx") else [folder / weights]
    return [*files, *(more for file in files for more in folder.glob(f"{file.name}.data"))]


def count_bytes(folder: Path, weights: str = "model.safetensors") -> int:
    """Size in bytes of what one engine needs to answer."""
    return sum(path.stat().st_size for path in engine_files(folder, weights))


def fingerprint(folder: Path, weights: str = "model.safetensors") -> str:
    """SHA-256 over the bytes of what one engine needs to answer; the folder's place is no part of it."""
    told = [[path.name, sha256(path)] for path in sorted(engine_files(folder, weights))]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def licence_of(folder: Path) -> str | None:
    """The licence that a checkpoint's own model card (README.md) names; None when it names none."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file() or path.stat().st_size > _LARGEST_CARD:
        return None
    try:
        found = ModelCard.load(path).data.to_dict().get("license")
    except Exception:  # somebody else's page, in whatever form: the library raises kinds without a common base
        return None
    return found if isinstance(found, str) else None
