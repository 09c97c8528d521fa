"""A run under way: its folder, what is at work in it, and what has been made and measured so far."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distill import preflight
from distill.evaluation import Quality, Subject, Together
from distill.pipeline.pieces import Bench
from distill.pipeline.state import State
from distill.pipeline.telling import Telling
from distill.recipe.arms import seeds_of
from distill.store import Piece

log = logging.getLogger(__name__)


@dataclass
class Underway:
    """What the stages of a run share. `aside` holds the pieces of arms, whose names are ARM/STEP; `solo` are the scores
    of an ensemble's teachers, each alone, and `together` is what they score as one.
    """

    plan: preflight.Plan
    folder: Path
    state: State
    bench: Bench
    telling: Telling
    pieces: dict[str, Piece] = field(default_factory=dict)
    aside: dict[str, Piece] = field(default_factory=dict)
    subjects: list[Subject] = field(default_factory=list)
    qualities: list[Quality] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    solo: list[Quality] = field(default_factory=list)
    together: Together | None = None
    notes: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Says what begins, and keeps how long it took."""
        log.info("── %s", name)
        self.state.mark(name, "at work")
        start = time.perf_counter()
        yield
        spent, whole = time.perf_counter() - start, name.partition("/")[0]
        self.seconds[whole] = self.seconds.get(whole, 0.0) + spent
        if self.state.stage(name).standing != "done":
            self.state.mark(name, "done", seconds=round(spent, 1))

    @property
    def student_bench(self) -> Bench:
        """What the recipe's own student is made with: its first seed's."""
        return self.bench.seeded(seeds_of(self.plan.recipe)[0])

    def keep(self, name: str, piece: Piece) -> None:
        """Notes a finished piece."""
        (self.aside if "/" in name else self.pieces)[name] = piece
        if piece.reused:
            log.info("%s: in the store already (%.0f s when it was made)", name, piece.seconds)
        facts = {"piece": piece.name, "seconds": round(piece.seconds, 1), "reused": piece.reused}
        self.state.mark(name, "done", finished=piece.finished, **facts)

    def measure(self, subject: Subject, place: int | None = None) -> Quality:
        """Scores a subject on the test split; its turn in the timing session comes at the end."""
        quality = self.score(subject)
        place = len(self.subjects) if place is None else place
        self.subjects.insert(place, subject)
        self.qualities.insert(place, quality)
        return quality

    def score(self, subject: Subject) -> Quality:
        """A subject's score on the test split, taken from the store where it was scored before."""
        quality = self.bench.quality(subject)
        log.info(
            "%s (%s): %s %.4f on %d test examples",
            subject.name, subject.format, quality.metric, quality.score, quality.n,
        )  # fmt: skip
        return quality
