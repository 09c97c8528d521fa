"""Runs under accelerate or torchrun: the leader carries a recipe out, the other processes help it train.

Store, run folder and W&B are written by the leader alone. Store and run folder lie where all processes see them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import distributed as dist

from distill import checkpoint as checkpoints
from distill import distillation, processes
from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.errors import DistillError, MachineError, TrainingError
from distill.recipe import settings
from distill.teacher import Ensemble, Keep
from distill.training import Watch

_GONE = re.compile("closed by peer|connection|broken pipe|timed out", re.IGNORECASE)
_out_of_step = False  # after a training that failed the others wait for its next step, and for nothing else


@dataclass
class _Order:
    """A training to take part in."""

    words: settings.Training
    data: Splits
    start: Path
    teachers: list[Path]
    weights: tuple[float, ...]
    title: str
    workshop: Path
    turn: int


def train(
    start: Checkpoint, words: settings.Training, *, data: Splits, teacher: Ensemble | None, watch: Watch, turn: int,
    keep: Sequence[Keep],
) -> Checkpoint:  # fmt: skip
    """The one way in which all processes train: `finetune`, or `distill` where there is a teacher."""
    if isinstance(words, settings.Distill):
        return distillation.distill(start, words, data=data, teacher=teacher, watch=watch, keep=keep, turn=turn)
    return distillation.finetune(start, words, data=data, watch=watch, turn=turn)


@contextlib.contextmanager
def all_hands(
    start: Checkpoint, words: settings.Training, *, data: Splits, teacher: Ensemble | None, watch: Watch, turn: int
) -> Iterator[None]:
    """Has the other processes, where there are any, take part in the training that the block carries out."""
    global _out_of_step
    if processes.number() == 1:
        yield
        return
    handed = watch.folder / "handed"
    shutil.rmtree(handed, ignore_errors=True)
    several = enumerate(teacher.teachers, start=1) if teacher is not None else ()
    folders = [one.save(handed / f"teacher-{number}") for number, one in several]
    weights = teacher.weights if teacher is not None else ()
    order = _Order(words, data, start.save(handed / "start"), folders, weights, watch.title, watch.folder, turn)
    processes.once(lambda: order)
    try:
        yield
    except BaseException:
        _out_of_step = True
        raise
    finally:
        shutil.rmtree(handed, ignore_errors=True)


def serve_unless_first() -> None:
    """Returns in the leader at once. Another process takes part in its trainings until it ends, and exits then."""
    if processes.is_first():
        if processes.number() > 1:
            _dismiss_at_exit()
        return
    logging.getLogger("distill").setLevel(logging.ERROR)  # the leader tells the same
    while (order := _next()) is not None:
        _take_part(order)
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
    raise SystemExit(0)


def _next() -> _Order | None:
    """The leader's next order; None where there is none, or where the leader is gone, and has said why."""
    with contextlib.suppress(RuntimeError):
        return processes.once(lambda: None)
    return None


def _take_part(order: _Order) -> None:
    start = checkpoints.load(order.start)
    teachers = [checkpoints.load(folder) for folder in order.teachers]
    teacher = Ensemble(teachers, order.weights) if teachers else None
    watch = Watch(order.title, order.workshop)
    try:
        train(start, order.words, data=order.data, teacher=teacher, watch=watch, turn=order.turn, keep=[])
    except (TrainingError, MachineError):  # of this process's own rows, or of its machine
        raise
    except DistillError as error:  # the leader has met the same, and tells it
        raise SystemExit(error.exit_code) from None
    except RuntimeError as error:
        if _GONE.search(str(error)) is None:
            raise
        raise SystemExit(0) from None  # the leader is gone, and has said why


@functools.cache
def _dismiss_at_exit() -> None:
    atexit.register(_dismiss)


def _dismiss() -> None:
    if not _out_of_step:
        processes.once(lambda: None)
        dist.destroy_process_group()
