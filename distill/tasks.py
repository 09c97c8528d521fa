"""What a checkpoint is for: its head, the form of a label and of a prediction, and how predictions are scored.

A task that has met its data is resolved: it knows its labels in order and its metric. No torch at import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distill.errors import DistillError
from distill.recipe import settings
from distill.recipe.settings import Problem

Array = np.ndarray
Metric = Callable[[Array, Array], float]


def _accuracy(predictions: Array, labels: Array) -> float:
    same = predictions == labels
    return float((same if same.ndim == 1 else same.all(-1)).mean())  # of many labels all must be right


def _f1(average: str) -> Metric:
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


METRICS: dict[settings.Metric, Metric] = {
    "accuracy": _accuracy,
    "macro_f1": _f1("macro"),
    "micro_f1": _f1("micro"),
    "matthews": _matthews,
    "spearman": _correlation("spearmanr"),
    "pearson": _correlation("pearsonr"),
}

# The first of each is the primary metric when a recipe names none; the others stand beside it.
METRICS_OF: dict[Problem, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "macro_f1", "matthews"),
    "multi_label_classification": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("spearman", "pearson"),
}


@dataclass(frozen=True)
class TextClassification:
    """One or two texts to one label, to many labels, or to a number.

    `labels` are the names in the order of the logits; for a regression the one name of the number.
    """

    problem: Problem
    labels: tuple[str, ...]
    metric: str

    name: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head: ClassVar[str] = "ForSequenceClassification"

    @property
    def head_config(self) -> dict[str, Any]:
        """What a model's config says of the head."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: position for position, label in enumerate(self.labels)},
            "problem_type": self.problem,
        }

    @property
    def hard_loss(self) -> str:
        """The loss on true labels, by its name in LOSSES."""
        return {
            "single_label_classification": "cross_entropy",
            "multi_label_classification": "binary_cross_entropy",
            "regression": "mse",
        }[self.problem]

    def misfit(self, config: dict[str, Any]) -> str | None:
        """Why the head that a config describes can't serve these labels, in this order; None when it can.

        A head that names no labels (LABEL_0, …) or no problem serves any of the right size.
        """
        names, told = ordered_names(config), config.get("problem_type")
        if told is not None and told != self.problem:
            return f"it was trained for {told}, the data is {self.problem}"
        if len(names) != len(self.labels):
            return f"it has {len(names)} labels, the data {len(self.labels)} ({', '.join(self.labels[:8])})"
        named = any(name != f"LABEL_{i}" for i, name in enumerate(names))
        if named and self.problem != "regression" and list(self.labels) != names:
            return f"its labels are {', '.join(names[:8])}, the data's {', '.join(self.labels[:8])}"
        return None

    def soft_loss(self, asked: str) -> str:
        """The loss on the teacher's logits, by its name in LOSSES: what the recipe asks for, in this problem's form.

        Many labels are many two-way distributions; a number has no distribution, so its loss is the squared error.
        """
        if self.problem == "regression":
            return "mse"
        return "binary_kl" if asked == "kl" and self.problem == "multi_label_classification" else asked

    def probabilities(self, logits: Array) -> Array:
        """(n, labels) logits to probabilities; a regression's number stays as it is."""
        if self.problem == "regression":
            return logits
        if self.problem == "multi_label_classification":
            return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -50, 50)))
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)

    def predictions(self, logits: Array, threshold: float = 0.5) -> Array:
        """Logits to predictions: (n,) class indices, (n, labels) zeros and ones, or (n,) numbers."""
        if self.problem == "single_label_classification":
            return logits.argmax(-1)
        if self.problem == "multi_label_classification":
            return (self.probabilities(logits) >= threshold).astype(np.int64)
        return logits[:, 0]

    def scores(self, predictions: Array, labels: Array) -> dict[str, float]:
        """Every metric of this problem, the primary one first."""
        names = dict.fromkeys((self.metric, *METRICS_OF[self.problem]))
        return {name: METRICS[name](predictions, labels) for name in names}

    def score(self, predictions: Array, labels: Array) -> float:
        """The primary metric."""
        return METRICS[self.metric](predictions, labels)

    def choose_threshold(self, logits: Array, labels: Array) -> float:
        """The probability from which a label counts as given: the best of 19 on the split it is chosen on.

        0.5 unless another is better; only for many labels. Never call it on a test split.
        """
        if self.problem != "multi_label_classification":
            return 0.5
        candidates = sorted((step / 20 for step in range(1, 20)), key=lambda value: abs(value - 0.5))
        return max(candidates, key=lambda value: self.score(self.predictions(logits, value), labels))

    def by_class(self, predictions: Array, labels: Array) -> dict[str, float]:
        """Each label's own score: recall for one label, F1 for many, nothing for a number."""
        if self.problem == "regression":
            return {}
        if self.problem == "multi_label_classification":
            f1 = _f1("binary")
            return {
                name: f1(predictions[:, i], labels[:, i]) for i, name in enumerate(self.labels) if labels[:, i].any()
            }
        return {
            name: float((predictions[labels == i] == i).mean())
            for i, name in enumerate(self.labels)
            if (labels == i).any()
        }

    def confusion(self, predictions: Array, labels: Array) -> list[list[int]] | None:
        """How often each true label (a row) got each prediction (a column); only for one label an example."""
        if self.problem != "single_label_classification":
            return None
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(labels, predictions, labels=range(len(self.labels))).tolist()

    def answer(self, logits: Array, threshold: float = 0.5) -> list[dict[str, float]]:
        """What a person wants to read: for each example the predicted labels with their probabilities, best first."""
        answers = []
        for row, given in zip(self.probabilities(logits), self.predictions(logits, threshold), strict=True):
            if self.problem == "regression":
                answers.append({self.labels[0]: float(given)})
                continue
            chosen = [int(given)] if given.ndim == 0 else [int(i) for i in np.flatnonzero(given)]
            answers.append({self.labels[i]: float(row[i]) for i in sorted(chosen, key=lambda i: -row[i])})
        return answers


TASKS = {TextClassification.name: TextClassification}


def choose_metric(problem: Problem, asked: str | None) -> str:
    """The metric a recipe asks for, or the problem's own. Raises DistillError when the two don't fit."""
    if asked is None:
        return METRICS_OF[problem][0]
    if asked not in METRICS_OF[problem]:
        fitting = ", ".join(METRICS_OF[problem])
        raise DistillError(f"metric: {asked} does not fit a {problem.replace('_', ' ')}; these do: {fitting}")
    return asked


def ordered_names(config: dict[str, Any]) -> list[str]:
    """A config's label names in the order of the logits; LABEL_0 and LABEL_1 when it has none, as transformers has it.

    Raises DistillError for names that are not numbered 0, 1, 2, …
    """
    names = config.get("id2label")
    if not names:
        return ["LABEL_0", "LABEL_1"]
    numbers = [str(i) for i in range(len(names))]
    if not isinstance(names, dict) or {str(key) for key in names} != set(numbers):
        raise DistillError("config.json: id2label must map 0, 1, 2, … to the names of the labels")
    by_number = {str(key): str(name) for key, name in names.items()}
    return [by_number[number] for number in numbers]


def from_config(config: dict[str, Any]) -> TextClassification:
    """The task that a saved checkpoint's config describes. Raises DistillError when it has no such head."""
    heads, problem, ordered = config.get("architectures") or [], config.get("problem_type"), ordered_names(config)
    if heads and not any(TextClassification.head in head for head in heads):
        raise DistillError(f"this checkpoint is a {', '.join(heads)}; it has no head for text classification")
    if problem is None:
        problem = "regression" if len(ordered) == 1 else "single_label_classification"
    if problem not in METRICS_OF:
        raise DistillError(f"config.json: problem_type '{problem}' is none of: {', '.join(METRICS_OF)}")
    return TextClassification(problem, tuple(ordered), METRICS_OF[problem][0])
