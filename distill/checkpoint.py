"""A checkpoint: a model with its tokenizer in memory, a folder (config, tokenizer, safetensors) on disk.

Locating, hashing and writing need no torch, so that `distill check` can do without it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import anatomy, heads, safety, tasks
from distill.disk import atomic_folder
from distill.engines import files_of
from distill.errors import CheckpointError
from distill.tasks import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from distill.data import Encoded, Splits

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHAPE = "shape.json"  # what a config can't say; surgery's
_LARGEST_CARD = 1 << 20  # bytes of a model card
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "README.md"]
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
_TOKENIZER_PARTS = (
    "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "source.spm", "target.spm", "added_tokens.json",
)  # fmt: skip


@dataclass
class Checkpoint:
    """A model and the tokenizer that feeds it. Steps take one and give back a new one."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        """A config names the class it belongs to, whatever class it was read from."""
        self.model.config.architectures = [type(self.model).__name__]

    @property
    def labels(self) -> list[str]:
        """Names of the head's labels, in the order of its logits; none for a head that tells tokens or places."""
        config = self.model.config.to_dict()
        return tasks.ordered_names(config) if heads.has_labels(config) else []

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def encode(self, data: Splits, split: str) -> Encoded:
        """A split in this checkpoint's own tokens, cut to the positions that it has."""
        from distill.data.decoders import Decoder

        config = self.model.config.to_dict()
        decoder = Decoder.of(config) if data.task.generates else None
        return data.encode(split, self.tokenizer, anatomy.size(config, "positions"), decoder)

    def copy(self) -> Checkpoint:
        """The same weights in memory of their own."""
        return Checkpoint(copy.deepcopy(self.model), copy.deepcopy(self.tokenizer))

    def save(self, folder: Path) -> Path:
        """Writes config, safetensors and tokenizer; the folder appears whole or not at all."""
        from distill import surgery

        with atomic_folder(folder) as unfinished:
            self.model.save_pretrained(unfinished, safe_serialization=True)
            self.tokenizer.save_pretrained(unfinished)
            surgery.write_record(self.model, unfinished)
            if not any(unfinished.glob("*.safetensors")):  # transformers leaves them to the first of several processes
                raise CheckpointError(f"{folder}: transformers wrote no weights; save it in one process")
        return folder


def load(folder: Path, task: Task | None = None, *, new_head: bool = False, seed: int = 0) -> Checkpoint:
    """A checkpoint folder as a model with its tokenizer, in float32 where accelerate places it.

    The task says which head; without one it is the head of the config's architecture. With a task the config's labels
    become the task's; `new_head` starts its head from random weights (what fine-tuning trains), the same ones for the
    same seed. Raises CheckpointError when the weights don't fill the model.
    """
    import torch
    import transformers

    from distill import processes

    inspect(folder)
    config = _config_for(folder, task, new_head)
    known = task.auto_class if task else heads.auto_class_of(config.to_dict())
    auto_class = known or tasks.kind_of(read_config(folder)).auto_class
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, absent = _fill(folder, config, getattr(transformers, auto_class), new_head)
            if new_head:
                heads.start_head(model)
    except BaseException as error:  # damaged weights and tokenizers raise kinds of their own without a common base
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust's code throws
            raise
        raise CheckpointError(f"{folder}: transformers can't load it: {_first_line(error)}") from error
    if new_head:  # the body must be whole; its head is what is trained
        absent -= heads.head_weights(model)
    if absent:
        raise CheckpointError(
            f"{folder}: the weights lack {len(absent)} tensors of a {type(model).__name__}, such as {min(absent)}"
        )
    return Checkpoint(model.to(processes.device()).eval(), tokenizer)


def _fill(folder: Path, config: PretrainedConfig, auto_class: Any, new_head: bool) -> tuple[PreTrainedModel, set[str]]:
    """A model with a folder's weights, in the shape of its record where it has one, and the tensors that it lacks."""
    from safetensors.torch import load_file

    from distill import surgery

    shape = surgery.read_record(folder, config.to_dict())
    if shape is None:
        model, report = auto_class.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False, dtype="float32",
            ignore_mismatched_sizes=new_head, output_loading_info=True,
        )  # fmt: skip
        return model, {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    model = surgery.reshape(auto_class.from_config(config, dtype="float32"), shape)
    expected, fitting = model.state_dict(), {}
    for path in _weight_files(folder, "model.safetensors"):
        held = load_file(path)
        fitting |= {name: held[name] for name in held.keys() & expected if held[name].shape == expected[name].shape}
    model.load_state_dict(fitting, strict=False)
    held = model.state_dict(keep_vars=True)  # tied weights are one object under several names, of which one is saved
    filled = {id(held[name]) for name in fitting}
    return model, {name for name in expected if id(held[name]) not in filled} - heads.untold(model)


def _config_for(folder: Path, task: Task | None, new_head: bool) -> PretrainedConfig:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a config's own checks raise kinds without a common base
        if "auto_map" in (told := read_config(folder)):
            raise CheckpointError(
                f"{folder}: transformers has no model type '{told['model_type']:.60}' without the checkpoint's own "
                "code (auto_map), which is never run; choose a model type that transformers knows"
            ) from None
        raise CheckpointError(f"{folder}: transformers can't read its config: {_first_line(error)}") from error
    if task is not None and not new_head and (misfit := task.misfit(read_config(folder))):
        raise CheckpointError(f"{folder}: its head doesn't fit the data: {misfit}")
    for key, value in (task.head_config if task else {}).items():
        setattr(config, key, value)
    return config


def looks_like_folder(name: str) -> bool:
    """Whether a name is meant as a folder on this machine rather than as a Hub id."""
    return Path(name).expanduser().is_dir() or name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name)


def locate(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: the folder itself, or a Hub id's snapshot (fetched when it isn't there yet).

    Only safetensors, configs and tokenizers are fetched; pickled weights are refused. Raises CheckpointError.
    """
    if looks_like_folder(name):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise CheckpointError(f"{name}: no such checkpoint folder (looked in {folder.resolve().parent})")
    else:
        folder = _fetch(name, revision)
    read_config(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        found = (
            f"only pickled weights ({', '.join(pickled)}), which can run code when they are read"
            if pickled
            else "no weights"
        )
        raise CheckpointError(
            f"{name}: {found}; a checkpoint needs model.safetensors (save it again with transformers)"
        )
    if not any((folder / file).is_file() for file in _VOCABULARIES):
        raise CheckpointError(f"{name}: no tokenizer in it ({', '.join(_VOCABULARIES)}); save its tokenizer beside it")
    inspect(folder)
    return folder


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise CheckpointError(f"{name}: neither a folder nor a valid Hub id ({error})") from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{name}: not a folder here, and the Hugging Face Hub can't be reached; check the network, or fetch it "
            "on another machine and name its folder"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"{name}{at}: the Hugging Face Hub has no such checkpoint for you ({_first_line(error)})"
        ) from None


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
    weights = [path for path in _weight_files(folder, "model.safetensors") if path.is_file()]
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
    files = [folder / "tokenizer.json" for folder in (one, other)]
    if not all(file.is_file() for file in files):
        return False
    vocabularies = [safety.read_json(file) for file in files]
    return all(
        vocabularies[0].get(part) == vocabularies[1].get(part) for part in ("model", "normalizer", "pre_tokenizer")
    )


def engine_files(folder: Path, weights: str) -> list[Path]:
    """The files that one engine needs to answer: its weights (with external data), the config, the tokenizer."""
    needed = [*_weight_files(folder, weights), folder / "config.json", folder / "generation_config.json"]
    needed += [folder / _SHAPE] if weights.endswith(".safetensors") else []
    tokenizer = [folder / name for name in _TOKENIZER_FILES]
    if not tokenizer[0].is_file():  # transformers makes one of these
        tokenizer += [folder / name for name in _TOKENIZER_PARTS]
    return [path for path in (*needed, *tokenizer) if path.is_file()]


def _weight_files(folder: Path, weights: str) -> list[Path]:
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
