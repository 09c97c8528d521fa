"""What one way of training bought over another: the paired difference of their scores, over texts and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from distill.tasks import Task

_RESAMPLES = 1000


@dataclass(frozen=True)
class Gain:
    """How much better one is than the other by the primary metric, in its own units: more is better, also where a
    metric wants less. `each` is the difference at each seed, `value` their mean, `interval` the 95 % interval.
    """

    value: float
    interval: tuple[float, float]
    each: tuple[float, ...]

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval[0] > 0 or self.interval[1] < 0


def measure_gain(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], labels: np.ndarray, task: Task, seed: int = 0
) -> Gain:
    """What `ours` have over `theirs`: predictions of the same texts, one array a seed, paired by seed.

    The interval is a percentile bootstrap that draws texts and seeds anew together, both sides the same ones. Of few
    seeds the plain bootstrap makes too little: what they differ by is stretched by √(S / (S − 1)), which makes its
    variance that of a mean of S (Efron 1982), and by what Student's t is wider than the normal at S − 1 degrees of
    freedom (Hesterberg 2015, section 4.4). Of one seed only texts are drawn.
    """
    sign = -1.0 if task.lower else 1.0
    tallies = [(task.tally(one, labels), task.tally(other, labels)) for one, other in zip(ours, theirs, strict=True)]
    rows, seeds, rng = len(labels), len(tallies), np.random.default_rng(seed)
    stretch = (seeds / (seeds - 1)) ** 0.5 * t.ppf(0.975, seeds - 1) / norm.ppf(0.975) if seeds > 1 else 0.0

    def apart(drawn: np.ndarray) -> np.ndarray:
        return np.array([sign * (one(drawn) - other(drawn)) for one, other in tallies])

    each, found = apart(np.arange(rows)), []
    for _ in range(_RESAMPLES):
        differences = apart(rng.integers(rows, size=rows))
        mean = differences.mean()
        found.append(mean + stretch * (differences[rng.integers(seeds, size=seeds)].mean() - mean))
    low, high = np.percentile(found, [2.5, 97.5])
    return Gain(float(each.mean()), (float(low), float(high)), tuple(map(float, each)))
