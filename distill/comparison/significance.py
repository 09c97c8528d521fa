"""Which differences are more than chance: a paired test for each pair of results, corrected for their number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from distill.comparison.entries import Entry
from distill.errors import DataError
from distill.evaluation.quality import paired_p_value
from distill.tasks import Task

_MANY = 6  # pairs, from which on it takes seconds
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PairedTests:
    """Every pair of the tested entries: p of the paired randomisation test, and p after Holm's correction."""

    entries: Sequence[Entry]
    p: dict[tuple[int, int], float]
    corrected: dict[tuple[int, int], float]
    untested: Sequence[tuple[str, str]] = ()

    def of(self, one: int, other: int) -> tuple[float, float] | None:
        """The p and corrected p of two entries by place, whichever comes first; None for an entry with itself."""
        pair = (min(one, other), max(one, other))
        return (self.p[pair], self.corrected[pair]) if pair in self.p else None


def compare_pairs(entries: Sequence[Entry], task: Task) -> PairedTests:
    """Tests each pair of entries that have predictions of the very same examples.

    What has none is in `untested`, with the reason.
    """
    kept: list[Entry] = []
    untested = []
    for entry in entries:
        labels = entry.run.predictions.get("labels")
        if labels is None or entry.predictions is None:
            untested.append((entry.title, "no predictions were kept"))
        elif kept and not np.array_equal(labels, kept[0].run.predictions["labels"]):
            untested.append((entry.title, f"its labels are not those of {kept[0].title}"))
        elif len(entry.predictions) != len(labels):
            untested.append((entry.title, "its vocabulary cuts the test texts into other rows than its teacher's"))
        else:
            kept.append(entry)
    pairs = list(combinations(range(len(kept)), 2))
    if len(pairs) > _MANY:
        log.info("paired tests of %d pairs of results", len(pairs))
    p = {(one, other): p_value(kept[one], kept[other], task) for one, other in pairs}
    return PairedTests(kept, p, dict(zip(p, holm(list(p.values())), strict=True)), untested)


def p_value(one: Entry, other: Entry, task: Task) -> float:
    """The paired test of two entries of one group, which both have predictions."""
    if one.predictions is None or other.predictions is None:
        raise DataError(f"{one.title}, {other.title}: a paired test needs the predictions of both")
    if np.array_equal(one.predictions, other.predictions):
        return 1.0
    return paired_p_value(one.predictions, other.predictions, one.run.predictions["labels"], task)


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p values for their number, step by step from the smallest (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    corrected, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = least
    return corrected
