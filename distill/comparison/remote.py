"""A run on Weights & Biases, by its path: its report and predictions fetched through W&B's public API."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.errors import DataError, MachineError

log = logging.getLogger(__name__)
_SECONDS = 20
_PATH = re.compile(r"([\w-][\w.-]*)/([\w-][\w.-]*)/(?:runs/)?([\w-]+)")
_ADDRESS = re.compile(r"(?:wandb:(?://)?|https://(?:www\.)?wandb\.ai/)")


def run_path(place: str) -> str | None:
    """entity/project/id, when a place is written so, or is a run's address on wandb.ai; None when it is not."""
    bare = place[found.end() :] if (found := _ADDRESS.match(place)) else place
    written = _PATH.fullmatch(bare.partition("?")[0].rstrip("/"))
    return "/".join(written.groups()) if written else None


@contextlib.contextmanager
def downloaded(path: str, most_json: int, most_arrays: int) -> Iterator[Path]:
    """A folder with the run's report.json, and its predictions.npz if it has them, gone after the block.

    Raises DataError for a run that has no report or that can't be seen, MachineError without a network.
    """
    with tempfile.TemporaryDirectory(prefix="distill-wandb-") as folder:
        _fetch(path, {"report.json": most_json, "predictions.npz": most_arrays}, Path(folder))
        yield Path(folder)


def _fetch(path: str, wanted: dict[str, int], folder: Path) -> None:
    try:
        import wandb
    except ImportError:
        raise DataError(f"{path}: no such folder; to read a W&B run of this path, `pip install wandb`") from None
    try:
        run = _api(path, wandb).run(path)
        for name, most in wanted.items():
            file = run.file(name)
            size = int(getattr(file, "size", 0) or 0)
            if size > most:
                raise DataError(f"{path}: {name} has {size >> 20} MiB; more than {most >> 20} MiB are not read")
            if size:
                file.download(root=str(folder), replace=True).close()
    except DataError:
        raise
    except Exception as error:  # wandb and the libraries below it have kinds of their own, which change
        raise _told(path, error) from None
    if not (folder / "report.json").is_file():
        raise DataError(f"{path}: this W&B run holds no report.json")


def _api(path: str, wandb: Any) -> Any:
    """The public API; never asks for a key on the terminal."""
    if not wandb.login(prompt=False, verify=False):
        raise DataError(f"{path}: no such folder; to read the W&B run of this path, `wandb login` first")
    return wandb.Api(timeout=_SECONDS)


def _told(path: str, error: Exception) -> DataError | MachineError:
    message = " ".join(str(error).split())[:200] or type(error).__name__
    log.debug("W&B: %r", error)
    if re.search(r"not found|permission|401|403|404|could not find|relogin", message, re.IGNORECASE):
        return DataError(f"{path}: W&B has no such run, or not for this key ({message})")
    return MachineError(f"{path}: W&B can't be reached ({message})")
