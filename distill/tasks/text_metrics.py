"""Metrics of written texts: chrF and BLEU as sacrebleu has them (0 to 100), ROUGE and exact match (0 to 1).

Each is worked out from counts a row, which a corpus adds up, so that a bootstrap over rows cuts no text twice.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray


class TextMetric:
    """A metric of texts that is worked out from sums of counts."""

    def counts(self, predictions: Array, labels: Array) -> Array:
        """(rows, counts) of what each row adds to the score."""
        raise NotImplementedError

    def of(self, summed: Array) -> float:
        """The score from the sum of the rows' counts."""
        raise NotImplementedError

    def __call__(self, predictions: Array, labels: Array) -> float:
        """The score of some rows."""
        return self.of(self.counts(predictions, labels).sum(0))


class ExactMatch(TextMetric):
    """The share of texts that are the expected ones, whitespace around them aside."""

    def counts(self, predictions: Array, labels: Array) -> Array:
        """Whether a row is right, and one for the row."""
        same = np.char.strip(predictions) == np.char.strip(labels)
        return np.stack([same, np.ones_like(same)], axis=1).astype(np.float64)

    def of(self, summed: Array) -> float:
        """The mean."""
        return float(summed[0] / summed[1])


@dataclass(frozen=True)
class Rouge(TextMetric):
    """The mean F1 of shared words, of pairs of words, or of the longest common run with gaps (Lin 2004).

    Words are runs of the letters a to z and digits, as rouge-score cuts them: other scripts have none.
    """

    kind: Literal["rouge1", "rouge2", "rougeL"]

    def counts(self, predictions: Array, labels: Array) -> Array:
        """A row's F1, and one for the row."""
        scorer = _rouge(self.kind)
        found = [
            scorer.score(label, text)[self.kind].fmeasure
            for text, label in zip(predictions.tolist(), labels.tolist(), strict=True)
        ]
        return np.stack([found, np.ones(len(found))], axis=1)

    def of(self, summed: Array) -> float:
        """The mean."""
        return float(summed[0] / summed[1])


@dataclass(frozen=True)
class Sacrebleu(TextMetric):
    """A metric of sacrebleu's with its own defaults, one reference a row (Post 2018; Popović 2015)."""

    kind: Literal["CHRF", "BLEU"]

    def counts(self, predictions: Array, labels: Array) -> Array:
        """Lengths and matches of n-grams."""
        return np.array(_sacrebleu(self.kind)._extract_corpus_statistics(predictions.tolist(), [labels.tolist()]))

    def of(self, summed: Array) -> float:
        """As sacrebleu's corpus_score."""
        return float(_sacrebleu(self.kind)._compute_score_from_stats(summed.tolist()).score)


@functools.cache
def _rouge(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind])


@functools.cache
def _sacrebleu(kind: str) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, kind)()
