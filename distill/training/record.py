"""What a training tells: its record, and who follows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass
class TrainingLog:
    """What a training did: a record now and then with every term's value and share of the loss (and, less often, of the
    gradient), scores by epoch, and its pace (validation included). `samples` were seen in `seconds`, over all the
    sittings that it took. `teacher` tells of who was imitated, on validation texts: its score (or `loss` by token, of
    texts to write), and where labels are given the share of equal answers and the entropy of its own in nats.
    `signals` tells what its saved signals take, and what they leave out. `layer_maps` has the weights of learned maps
    at the best epoch, by term, student's layer and teacher's.
    """

    step: str
    dtype: str
    records: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: float = 0.0
    seconds: float = 0.0
    samples: int = 0
    samples_per_second: float = 0.0
    sittings: int = 1
    lower: bool = False  # whether less is better
    teacher: dict[str, float] | None = None
    signals: dict[str, Any] | None = None
    layer_maps: dict[str, dict[str, dict[str, float]]] | None = None
    since: dict[str, Any] = field(default_factory=dict)  # what was summed behind the last record, to go on from

    @property
    def best(self) -> dict[str, float]:
        """The epoch with the best validation score, the first of equals."""
        return min(self.epochs, key=lambda epoch: epoch["score"] if self.lower else -epoch["score"])

    @property
    def waited(self) -> int:
        """Epochs since the best one so far."""
        return len(self.epochs) - 1 - self.epochs.index(self.best) if self.epochs else 0

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> TrainingLog:
        """One that was kept with a training checkpoint, by this version or by another that says less or more."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in known})

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {name: value for name, value in asdict(self).items() if name != "since"}


def _nobody(_: Mapping[str, float]) -> None:
    """Nobody is told."""


@dataclass
class Watch:
    """How a training is followed: its name, where it keeps what it can go on from, and who is told of its progress.

    Without a `folder` a training that is cut off is lost. `tell` gets flat figures: the step, the epoch, the loss,
    every term, the learning rate and the pace; or the epoch and its validation score. `log` is there in the end.
    """

    title: str = "train"
    folder: Path | None = None
    tell: Callable[[Mapping[str, float]], None] = _nobody
    log: TrainingLog | None = None


@dataclass
class Clock:
    """Seconds of this sitting and of those before it."""

    before: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.before + time.perf_counter() - self.start
