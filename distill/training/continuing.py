"""What a training can go on from: Trainer's checkpoints, each sealed when it is whole.

Trainer takes the checkpoint with the highest number, complete or not. Here one counts only with a seal, written last,
that names the size and the SHA-256 of every file.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import asdict
from pathlib import Path

from distill.checkpoint import sha256, write_text
from distill.training.record import TrainingLog

log = logging.getLogger(__name__)
_SEAL = "complete.json"
_RECORD = "record.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def seal(checkpoint: Path, record: TrainingLog) -> None:
    """Marks a training checkpoint as complete, with what the training has told so far."""
    write_text(checkpoint / _RECORD, json.dumps(asdict(record)))
    files = {path.name: [path.stat().st_size, sha256(path)] for path in sorted(checkpoint.iterdir()) if path.is_file()}
    write_text(checkpoint / _SEAL, json.dumps(files))


def latest(folder: Path) -> tuple[Path, TrainingLog] | None:
    """The last complete training checkpoint and the record kept with it; incomplete ones are removed."""
    numbered = sorted((int(found[1]), path) for path in folder.glob("checkpoint-*") if (found := _match(path)))
    best: tuple[Path, TrainingLog] | None = None
    for _, path in numbered:
        if _is_whole(path):
            best = path, TrainingLog(**json.loads((path / _RECORD).read_text(encoding="utf-8")))
        else:
            log.warning("a training checkpoint that is not whole is left out: %s", path.name)
            shutil.rmtree(path)
    return best


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name) if path.is_dir() else None


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / _SEAL).read_text(encoding="utf-8"))
        return all(
            (path / name).stat().st_size == size and sha256(path / name) == digest
            for name, (size, digest) in files.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False
