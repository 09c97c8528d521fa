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

from transformers.trainer import TRAINER_STATE_NAME

from distill.checkpoint import sha256
from distill.disk import write_text
from distill.training.record import TrainingLog

log = logging.getLogger(__name__)
_SEAL = "complete.json"
_RECORD = "record.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def seal(checkpoint: Path, record: TrainingLog) -> None:
    """Marks a training checkpoint as complete, with what the training has told so far."""
    write_text(checkpoint / _RECORD, json.dumps(asdict(record)))
    held = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name != _SEAL]
    files = {path.name: [path.stat().st_size, sha256(path)] for path in held}
    write_text(checkpoint / _SEAL, json.dumps(files))


def latest(folder: Path) -> tuple[Path, TrainingLog] | None:
    """The last complete training checkpoint and the record kept with it; the others that don't count are removed.

    One that has lost the checkpoint of its best epoch counts no more than an incomplete one: Trainer would go on
    without it, and hand out the last epoch as the best.
    """
    numbered = sorted((path for path in folder.glob("checkpoint-*") if _match(path)), key=_number)
    whole = {path.name for path in numbered if _is_whole(path)}
    counting = [path for path in numbered if path.name in whole and _best_of(path) in (None, *whole)]
    for path in numbered:
        if path not in counting:
            log.warning("a training checkpoint that is not whole is left out: %s", path.name)
            shutil.rmtree(path)
    if not counting:
        return None
    record = TrainingLog.read(json.loads((counting[-1] / _RECORD).read_text(encoding="utf-8")))
    if (best := _best_of(counting[-1])) is not None:
        _found_at(folder / best, counting[-1], record)
    return counting[-1], record


def _best_of(checkpoint: Path) -> str | None:
    """The name of the checkpoint of the best epoch so far; it lies beside."""
    state = checkpoint / TRAINER_STATE_NAME
    best = json.loads(state.read_text(encoding="utf-8"))["best_model_checkpoint"] if state.is_file() else None
    return Path(best).name if best is not None else None


def _found_at(best: Path, checkpoint: Path, record: TrainingLog) -> None:
    """Has a checkpoint say where the best epoch's lies now: Trainer wrote down the path of that sitting, and the
    folder may have been moved, or be reached another way.
    """
    path = checkpoint / TRAINER_STATE_NAME
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"] != str(best):
        write_text(path, json.dumps(state | {"best_model_checkpoint": str(best)}, indent=2) + "\n")
        seal(checkpoint, record)


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name) if path.is_dir() else None


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / _SEAL).read_text(encoding="utf-8"))
        return all(
            (path / name).stat().st_size == size and sha256(path / name) == digest
            for name, (size, digest) in files.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False
