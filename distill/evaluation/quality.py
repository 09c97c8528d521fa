"""How good: a score with its interval, the worst class, and a paired test against the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from distill.data import Encoded
from distill.engines import Engine, answer_all
from distill.tasks import Task

_RESAMPLES = 1000
_BATCHES = (1, 32)
_BINS = 10


@dataclass(frozen=True)
class Quality:
    """The score of one checkpoint on one split, and the predictions behind it."""

    metric: str
    score: float
    scores: dict[str, float]
    interval: tuple[float, float]
    n: int
    by_class: dict[str, float]
    predictions: np.ndarray
    batch: int | None
    confusion: list[list[int]] | None = None
    calibration: dict[str, Any] | None = None
    unended: float | None = None

    @property
    def worst_class(self) -> tuple[str, float] | None:
        """The label with the lowest score of its own (recall, or F1 for many labels)."""
        return min(self.by_class.items(), key=lambda item: item[1]) if self.by_class else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON, predictions included."""
        return {**asdict(self), "predictions": self.predictions.tolist(), "dtype": str(self.predictions.dtype)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Quality:
        """What `as_dict` told."""
        words = {word: value for word, value in told.items() if word != "dtype"}
        predictions = np.array(told["predictions"], dtype=told["dtype"])
        return cls(**{**words, "interval": tuple(told["interval"]), "predictions": predictions})


def measure_quality(
    engine: Engine, encoded: Encoded, task: Task, *, threshold: float = 0.5, seed: int = 0,
    title: str | None = None,
) -> Quality:  # fmt: skip
    """Scores an engine on a split.

    Where activations are rounded, so that a logit might hang on what else is in its batch, the split is answered at
    batch 1 and at batch 32 and the worse score counts; `batch` says which. The interval is a 95 % percentile bootstrap
    over examples.
    """
    sizes = _BATCHES if engine.batch_dependent else (None,)
    tries = []
    for size in sizes:
        how = {} if size is None else {"batch_size": size, "batch_tokens": 1 << 30}
        answers = answer_all(engine, encoded, task, title=title, **how)
        predictions = task.predictions(answers, threshold)
        tries.append((task.score(predictions, encoded.labels), size, predictions, answers))
    score, size, predictions, answers = (max if task.lower else min)(tries, key=lambda attempt: attempt[0])
    confidences = task.confidences(answers)
    return Quality(
        metric=task.metric,
        score=score,
        scores=task.scores(predictions, encoded.labels),
        interval=_interval(len(encoded), task.tally(predictions, encoded.labels), seed),
        n=len(encoded),
        by_class=task.by_class(predictions, encoded.labels),
        predictions=predictions,
        batch=size,
        confusion=task.confusion(predictions, encoded.labels),
        calibration=None if confidences is None else calibrate(confidences, encoded.labels),
        unended=task.unended(answers),
    )


def calibrate(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How far confidence is from accuracy: the expected calibration error over ten bins of confidence, and the bins.

    `probabilities` (n, labels), `labels` (n,). Each bin has its bounds, examples, mean confidence and accuracy
    (Naeini et al. 2015; Guo et al. 2017).
    """
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "low": number / _BINS,
            "high": (number + 1) / _BINS,
            "n": int((place == number).sum()),
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
        }
        for number in np.unique(place).tolist()
    ]
    error = sum(found["n"] * abs(found["confidence"] - found["accuracy"]) for found in bins) / len(labels)
    return {"expected_error": float(error), "bins": bins}


def _interval(rows: int, tally: Callable[[np.ndarray], float], seed: int) -> tuple[float, float]:
    found = stats.bootstrap(
        (np.arange(rows),), tally, n_resamples=_RESAMPLES, vectorized=False, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def paired_p_value(one: np.ndarray, other: np.ndarray, labels: np.ndarray, task: Task, seed: int = 0) -> float:
    """How often chance alone, swapping the two models' predictions example by example, gives so large a difference.

    A two-sided paired randomisation test of the primary metric (Noreen 1989).
    """
    apart = np.flatnonzero(
        (one != other).reshape(len(labels), -1).any(axis=1)
    )  # swapping equal answers changes nothing
    if len(apart) < 2:  # both ways to swap a single one are as far apart
        return 1.0
    tally, n = task.tally(np.concatenate([one, other]), np.concatenate([labels, labels])), len(apart)
    places = np.concatenate([apart, apart + len(labels)])

    def score(rows: np.ndarray) -> float:
        swapped = np.arange(len(labels))
        swapped[apart] = places[rows]
        return tally(swapped)

    def difference(rows: np.ndarray, others: np.ndarray) -> float:
        return score(rows) - score(others)

    found = stats.permutation_test(  # few that differ: every swap, and so exact
        (np.arange(n), np.arange(n) + n), difference, permutation_type="samples", n_resamples=_RESAMPLES,
        vectorized=False, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
