"""Text classification: one or two texts to one label, to many labels, or to a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.tasks.labels import label_config, label_misfit
from distill.tasks.metrics import f1
from distill.tasks.task import Array, Task, places_in

if TYPE_CHECKING:
    from torch import Tensor

    from distill.data import Batch


@dataclass(frozen=True)
class TextClassification(Task):
    """One or two texts to one label, to many labels, or to a number.

    `labels` are the names in the order of the logits; for a regression the one name of the number.
    """

    name: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head: ClassVar[str] = "ForSequenceClassification"
    pairs: ClassVar[bool] = True

    @property
    def activation(self) -> str:
        """What makes probabilities of logits."""
        return {"multi_label_classification": "sigmoid", "regression": "none"}.get(self.problem, "softmax")

    @property
    def each(self) -> str:
        """What `by_class` tells, for whoever reads it."""
        return "F1 of each class" if self.problem == "multi_label_classification" else super().each

    @property
    def chooses(self) -> bool:
        """Whether there is a threshold to be chosen on validation: that of many labels."""
        return self.problem == "multi_label_classification"

    @property
    def head_config(self) -> dict[str, Any]:
        """What a model's config says of the head."""
        return {**label_config(self.labels), "problem_type": self.problem}

    @property
    def hard_loss(self) -> str:
        """The loss on true labels, by its name in LOSSES."""
        return {
            "single_label_classification": "cross_entropy",
            "multi_label_classification": "binary_cross_entropy",
            "regression": "squared_error",
        }[self.problem]

    def misfit(self, config: dict[str, Any]) -> str | None:
        """Why the head that a config describes can't serve these labels, in this order; None when it can.

        A head that names no labels (LABEL_0, …) or no problem serves any of the right size.
        """
        told = config.get("problem_type")
        if told is not None and told != self.problem:
            return f"it was trained for {told}, the data is {self.problem}"
        return label_misfit(config, self.labels, named=self.problem != "regression")

    def soft_loss(self, asked: str) -> str:
        """The loss on the teacher's logits, by its name in LOSSES: what the recipe asks for, in this problem's form.

        Many labels are many two-way distributions; a number has no distribution, so its loss is the squared error.
        """
        if self.problem == "regression":
            return "mse"
        return "binary_kl" if asked == "kl" and self.problem == "multi_label_classification" else asked

    def refuse_loss(self, asked: str) -> str | None:
        """Many labels are no one distribution; and of two classes there is but one other."""
        if self.problem == "multi_label_classification" and asked not in ("kl", "mse"):
            return "of many labels each is a distribution of its own; use kl or mse"
        return self._refuse_two(asked) if self.problem == "single_label_classification" else None

    def scored(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """All of them, (batch, labels)."""
        return logits

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """(batch,) class indices, (batch, labels) zeros and ones, or (batch, 1) numbers."""
        return batch["labels"].float().unsqueeze(-1) if self.problem == "regression" else batch["labels"]

    def reduce(self, logits: Array, batch: Batch) -> Array:
        """The logits as they are, (batch, labels)."""
        return logits

    def agreement(self, found: Array, expected: Array, threshold: float = 0.5, theirs: float | None = None) -> float:
        """The share of equal predictions; of numbers those within one hundredth."""
        if self.problem == "regression":
            return float(np.isclose(found, expected, rtol=0.01, atol=0.01).mean())
        return super().agreement(found, expected, threshold, theirs)

    def changed(self, found: Array, expected: Array) -> float:
        """The mean square between probabilities."""
        return self.moved(self.probabilities(found), self.probabilities(expected))

    def confidences(self, answers: Array) -> Array | None:
        """The probabilities, where a row has one label."""
        return self.probabilities(answers) if self.problem == "single_label_classification" else None

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

    def choose_threshold(self, logits: Array, labels: Array) -> float:
        """The probability from which a label counts as given: the best of 19 on the split it is chosen on.

        0.5 unless another is better; only for many labels. Never call it on a test split.
        """
        if self.problem != "multi_label_classification":
            return 0.5
        candidates = sorted((step / 20 for step in range(1, 20)), key=lambda value: abs(value - 0.5))
        return max(candidates, key=lambda value: self.score(self.predictions(logits, value), labels))

    def unlike(self, array: Array, rows: int) -> str | None:
        """Why an array holds no predictions or labels of so many rows, behind its name; None when it can."""
        number = len(self.labels)
        shape = (rows, number) if self.problem == "multi_label_classification" else (rows,)
        if array.shape != shape:
            return f"has the shape {array.shape}, not {shape}"
        if self.problem == "single_label_classification" and not places_in(array, 0, number):
            return "holds values that are no single label classification"
        return super().unlike(array, rows)

    def by_class(self, predictions: Array, labels: Array) -> dict[str, float]:
        """Each label's own score: recall for one label, F1 for many, nothing for a number."""
        if self.problem == "regression":
            return {}
        if self.problem == "multi_label_classification":
            alone = f1("binary")
            return {
                name: alone(predictions[:, i], labels[:, i]) for i, name in enumerate(self.labels) if labels[:, i].any()
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

    def answer(
        self, logits: Array, threshold: float = 0.5, about: Sequence[Any] | None = None
    ) -> list[dict[str, float]]:
        """What a person wants to read: for each example the predicted labels with their probabilities, best first."""
        answers = []
        for row, given in zip(self.probabilities(logits), self.predictions(logits, threshold), strict=True):
            if self.problem == "regression":
                answers.append({self.labels[0]: float(given)})
                continue
            chosen = [int(given)] if given.ndim == 0 else [int(i) for i in np.flatnonzero(given)]
            answers.append({self.labels[i]: float(row[i]) for i in sorted(chosen, key=lambda i: -row[i])})
        return answers

    def told(self, answer: dict[str, float]) -> str:
        """Labels with their probabilities."""
        return ", ".join(f"{label} {value:.3f}" for label, value in answer.items()) or "no label"
