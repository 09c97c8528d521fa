"""Writing whole or not at all, and what the disk can have against it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distill.errors import CheckpointError, DistillError, MachineError

_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOTDIR,
    errno.ENOENT, errno.ENAMETOOLONG, errno.EEXIST, errno.ESTALE,
)  # fmt: skip
_LONGEST = 255  # bytes of a name


def expanded(name: Path | str) -> Path:
    """A path as it was given, `~` read as the user's home. Raises DistillError for what can be no path."""
    if "\0" in str(name) or any(len(os.fsencode(part)) > _LONGEST for part in Path(name).parts):
        raise DistillError(f"{str(name)[:60]!r}…: not the name of a file: it holds a NUL, or is too long")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        user = Path(name).parts[0]
        raise DistillError(f"{name}: no user {user} on this machine; a file of that name is written ./{name}") from None


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder beside the wanted one that takes its name when the block ends well, and vanishes otherwise.

    Raises CheckpointError when the folder is already there, MachineError when the disk is full or read-only.
    """
    if folder.exists():
        raise CheckpointError(f"{folder}: already there; it is not overwritten")
    with machine_errors(f"writing {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield unfinished
            unfinished.chmod(0o777 & ~_umask())
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with machine_errors(f"writing {path}"):
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(unfinished).chmod(0o666 & ~_umask())
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def machine_errors(doing: str) -> Iterator[None]:
    """Turns a full disk or a folder that can't be written into one clear MachineError."""
    try:
        yield
    except MachineError:
        raise
    except Exception as error:  # a full disk comes in the kinds of several libraries; any other goes on as it came
        if (reason := _disk_failure(error)) is None:
            raise
        raise MachineError(f"{doing}: {reason}") from error


def _disk_failure(error: BaseException) -> str | None:
    """Why a file could not be written, when an error is about that; safetensors and torch hide it in their own."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return os.strerror(error.errno).lower()
    text = str(error).lower()
    if "no space left on device" in text:
        return "no space left on device"
    if "inline_container.cc" in text or "pytorchstreamwriter" in text:
        return "a file could not be written whole; is the disk full?"
    inner = error.__cause__ or error.__context__
    return _disk_failure(inner) if inner is not None and not isinstance(error, OSError) else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
