"""Where a checkpoint is: a folder on this machine, or a snapshot of the Hub, of which only safe files are fetched."""

from __future__ import annotations

import re
from pathlib import Path

from distill.checkpoint.folder import inspect, read_config
from distill.disk import expanded
from distill.errors import CheckpointError, first_line

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "README.md"]
_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "spm.model",
)  # fmt: skip


def looks_like_folder(name: str) -> bool:
    """Whether a name is meant as a folder on this machine rather than as a Hub id: whatever is there is."""
    return expanded(name).exists() or name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name)


def locate(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: the folder itself, or a Hub id's snapshot (fetched when it isn't there yet).

    Only safetensors, configs and tokenizers are fetched; pickled weights are refused. Raises CheckpointError.
    """
    if looks_like_folder(name):
        folder = expanded(name)
        if folder.is_file():
            raise CheckpointError(f"{name}: a file; name the folder that holds the checkpoint")
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
            f"{name}{at}: the Hugging Face Hub has no such checkpoint for you ({first_line(error)})"
        ) from None
