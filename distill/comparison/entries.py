"""What is compared: a checkpoint of a run, as one row of its ledger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.comparison.reading import Run
from distill.evaluation.ledger import Row


@dataclass(eq=False)
class Entry:
    """One checkpoint of one run; a teacher's row that several runs have alike stands once, with all their labels."""

    run: Run
    row: Row
    labels: list[str]
    teacher: bool
    result: bool
    shared: bool = False  # by every run of its group, or there is but one
    on_front: bool = False
    speed: float | None = None  # what the group's front compares: see Group.speed

    @property
    def title(self) -> str:
        """Which run's which checkpoint; the run is left out where there is no other."""
        return self.row.title if self.shared else f"{', '.join(self.labels)}: {self.row.title}"

    @property
    def predictions(self) -> np.ndarray | None:
        """Of the test split, where they were kept."""
        return self.run.predictions_of(self.row)

    @property
    def against_eager(self) -> float | None:
        """Median latency over that of its teacher in eager torch, at the first batch that was timed."""
        return self.run.ledger.against_eager(self.row)
