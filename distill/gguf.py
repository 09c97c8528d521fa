"""Teachers in a GGUF file: converted once into a checkpoint folder like any other, which lies in the store.

transformers reads the file and brings its weights back to float32; they stay on the grid that the file stored them on.
No torch at import.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill import checkpoint, packages
from distill.disk import expanded
from distill.errors import CheckpointError, first_line
from distill.store import Store, name_of

log = logging.getLogger(__name__)
_KIND, _VERSION = "gguf", 3
_MAGIC = b"GGUF"
_WHOLE = ("F64", "F32", "F16", "BF16")  # kinds of numbers that are on no grid
# How texts are split before merges, where transformers' own reading of the file leaves out what llama.cpp does.
_DIGITS_ALONE = ("smollm",)


def is_gguf(name: str) -> bool:
    """Whether a name is meant as a GGUF file."""
    return name.lower().endswith(".gguf")


def locate(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint that is named by its folder, by a Hub id, or by a GGUF file, which is converted.

    Raises CheckpointError.
    """
    return convert(expanded(name)) if is_gguf(name) else checkpoint.locate(name, revision)


def find(path: Path) -> Path | None:
    """The folder that a GGUF file was converted into; None when it wasn't yet. Raises CheckpointError."""
    piece = Store().find(name_of(_KIND, _facts(path)))
    return piece.folder if piece else None


def convert(path: Path) -> Path:
    """The folder that a GGUF file is converted into, once: the store keeps it under the file's SHA-256.

    Raises CheckpointError for what transformers can't read, and without the package gguf.
    """

    def make(files: Path, _: Path) -> dict[str, Any]:
        log.info("%s: converted into a checkpoint folder, once", path.name)
        files.mkdir(parents=True, exist_ok=True)
        kinds, way = _read(path)
        _write(path, files, way)
        return {"file": path.name, "kinds": kinds}

    folder = Store().piece(_KIND, _facts(path), make).folder
    checkpoint.inspect(folder)
    return folder


def grid(path: Path) -> str | None:
    """The kind of number that most matrices are stored in, where it is a grid of few bits, such as Q4_1; None for
    whole floats. Raises CheckpointError.
    """
    return next((kind for kind in _read(path)[0] if kind not in _WHOLE), None)


def _read(path: Path) -> tuple[dict[str, int], str | None]:
    """How many tensors of a file are of each kind of number, the most frequent first, and the name of the way in which
    it splits texts before it merges. Raises CheckpointError.
    """
    _require(path)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        way = reader.get_field("tokenizer.ggml.pre")
        found = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        return dict(found.most_common()), str(way.contents()) if way is not None else None
    except Exception as error:  # what a damaged file makes of the reader has no common base
        raise CheckpointError(f"{path}: not a whole GGUF file ({first_line(error)})") from None


def _facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such GGUF file (looked in {path.resolve().parent})")
    return {"version": _VERSION, "file": checkpoint.sha256(path)}


def _require(path: Path) -> None:
    """The file is GGUF by its first bytes, and the package that reads it is installed. Raises CheckpointError."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CheckpointError(f"{path}: not a GGUF file, though its name ends so; get the original again")
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(f"{path}: {packages.not_installed('gguf')}")


def _write(path: Path, folder: Path, way: str | None) -> None:
    """Config, safetensors and tokenizer of a GGUF file, which splits texts in a way that it names."""
    import transformers

    from distill.surgery import like

    try:
        config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        read, told = _auto_class(config).from_pretrained(
            path.parent, gguf_file=path.name, dtype="float32", output_loading_info=True
        )
    except Exception as error:  # readers of strangers' files raise kinds without a common base
        raise CheckpointError(f"{path}: transformers can't read it: {first_line(error)}") from error
    _require_whole(path, told)
    if hasattr(config := read.config, "quantization_config"):  # or whoever loads the folder finds it still quantized,
        del config.quantization_config  # and transformers refuses to save what it has trained
    plain = like(read, config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    _split_as_its_own(tokenizer, way).save_pretrained(folder)


def _require_whole(path: Path, told: Mapping[str, Any]) -> None:
    """Raises CheckpointError where weights that the model needs aren't in the file, or others are."""
    wrong = {
        "missing_keys": "it lacks {}, which the model needs",
        "mismatched_keys": "it has {} in another size than the model needs",
        "unexpected_keys": "it has {}, which the model that it tells of doesn't have",
    }
    for word, sentence in wrong.items():
        if found := sorted(map(str, told.get(word) or ())):
            some = found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            what = sentence.format(some)
            raise CheckpointError(f"{path}: {what}: a part of a model, or a model that transformers can't read whole")


def _auto_class(config: Any) -> Any:
    """The class whose models a file of this architecture holds: GGUF is a format of language models."""
    import transformers

    is_two_sided = getattr(config, "is_encoder_decoder", False)
    return transformers.AutoModelForSeq2SeqLM if is_two_sided else transformers.AutoModelForCausalLM


def _split_as_its_own(tokenizer: Any, way: str | None) -> Any:
    """A tokenizer that splits texts the way its file names, before it merges."""
    from tokenizers import pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and way in _DIGITS_ALONE:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return tokenizer
