"""The metrics: functions of predictions and labels, both arrays with an entry a row, and the dict that names them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distill.errors import DistillError
from distill.recipe import settings
from distill.recipe.settings import Problem
from distill.tasks.text_metrics import ExactMatch, Rouge, Sacrebleu

Array = np.ndarray
Metric = Callable[[Array, Array], float]
_MOST_NATS = 700.0  # whose exponential is still a number


def _accuracy(predictions: Array, labels: Array) -> float:
    same = predictions == labels
    return float((same if same.ndim == 1 else same.all(-1)).mean())  # of many labels all must be right


def f1(average: str) -> Metric:
    """F1 over classes, averaged as scikit-learn's word says."""

    def score(predictions: Array, labels: Array) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(labels, predictions, average=average, zero_division=0.0))

    return score


def _matthews(predictions: Array, labels: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _correlation(name: str) -> Metric:
    def score(predictions: Array, labels: Array) -> float:
        from scipy import stats

        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0  # a constant correlates with nothing
        return float(getattr(stats, name)(predictions, labels).statistic)

    return score


def _perplexity(predictions: Array, labels: Array) -> float:
    """By token: of rows of (nats, tokens, bytes, right)."""
    return float(np.exp(min(_ratio(predictions, 0, 1), _MOST_NATS)))


def _bits_per_byte(predictions: Array, labels: Array) -> float:
    """Perplexity's other form, in bits and by byte of text: the same for any way of cutting text into tokens."""
    return _ratio(predictions, 0, 2) / float(np.log(2))


def _token_accuracy(predictions: Array, labels: Array) -> float:
    return _ratio(predictions, 3, 1)


def _ratio(predictions: Array, one: int, other: int) -> float:
    sums = predictions.sum(0)
    return float(sums[one] / max(1.0, sums[other]))


METRICS: dict[settings.Metric, Metric] = {
    "accuracy": _accuracy,
    "macro_f1": f1("macro"),
    "micro_f1": f1("micro"),
    "matthews": _matthews,
    "spearman": _correlation("spearmanr"),
    "pearson": _correlation("pearsonr"),
    "perplexity": _perplexity,
    "bits_per_byte": _bits_per_byte,
    "token_accuracy": _token_accuracy,
    "exact_match": ExactMatch(),
    "chrf": Sacrebleu("CHRF"),
    "bleu": Sacrebleu("BLEU"),
    "rouge1": Rouge("rouge1"),
    "rouge2": Rouge("rouge2"),
    "rouge_l": Rouge("rougeL"),
}

# What a perfect score is, where it isn't 1.
PERFECT: dict[settings.Metric, float] = {
    "chrf": 100.0,
    "bleu": 100.0,
}

# Of these less is better.
LOWER: frozenset[str] = frozenset(
    {
        "perplexity",
        "bits_per_byte",
    }
)

# The first of each is the primary metric when a recipe names none; the others stand beside it.
METRICS_OF: dict[Problem, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "macro_f1", "matthews"),
    "multi_label_classification": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("spearman", "pearson"),
    "masked_language_modelling": ("perplexity", "bits_per_byte", "token_accuracy"),
    "causal_language_modelling": ("perplexity", "bits_per_byte", "token_accuracy"),
    "text_to_text": ("exact_match", "chrf", "bleu", "rouge_l"),  # often one answer is right
    "translation": ("chrf", "bleu", "exact_match"),  # chrF follows people's judgement more closely than BLEU
    "summarization": ("rouge_l", "rouge1", "rouge2", "chrf", "exact_match"),
    "token_classification": ("entity_f1", "accuracy", "macro_f1"),
    "question_answering": ("f1", "exact_match"),
}


def choose_metric(problem: Problem, asked: str | None) -> str:
    """The metric a recipe asks for, or the problem's own. Raises DistillError when the two don't fit."""
    if asked is None:
        return METRICS_OF[problem][0]
    if asked not in METRICS_OF[problem]:
        fitting = ", ".join(METRICS_OF[problem])
        raise DistillError(f"metric: {asked} does not fit a {problem.replace('_', ' ')}; these do: {fitting}")
    return asked
