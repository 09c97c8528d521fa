"""What every task says of itself. No torch at import: tensors come and go through their own methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.errors import CheckpointError
from distill.recipe.settings import Distill, Generation, Imitate, Kept, Problem
from distill.tasks.metrics import LOWER, METRICS, METRICS_OF

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from distill.data import Batch, Encoded
    from distill.engines import Engine

Array = np.ndarray
_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
NO_TARGET = -100  # a place where no class is right: what torch's losses leave out
OTHER_IDS = "the teacher reads other token ids than the student, so it must be asked beforehand; leave `signals` out"


@dataclass(frozen=True)
class Task:
    """What a checkpoint is for: its head, the places of an answer that count, the form of a prediction, the scores.

    A task that has met its data is resolved: it knows its labels in the order of the logits (none where the classes are
    the vocabulary) and its metric. Three forms of what is said about a row: **logits**, as a model gives them;
    **answers**, what is kept of them, an array with an entry a row; **predictions**, an array (never of objects) that
    is held against `Encoded.labels`.
    """

    problem: Problem
    labels: tuple[str, ...]
    metric: str
    words: Generation = field(default_factory=Generation)  # how texts are written
    said: bool = False  # whether a recipe, or a checkpoint, says how

    name: ClassVar[str]
    auto_class: ClassVar[str]
    head: ClassVar[str]  # how the name of a model's class ends
    families: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "encoder-decoder")  # whose models can have it
    head_labels: ClassVar[bool] = True  # whether the head has a logit a label, not one a token of the vocabulary
    by_token: ClassVar[bool] = False  # whether there are logits for each token
    generates: ClassVar[bool] = False  # whether an engine's answer to a row is a text of its own
    writes: ClassVar[bool] = False  # whether its models can write a text

    @classmethod
    def serves(cls, architecture: str) -> bool:
        """Whether a model class, by its name, has this task's head."""
        return architecture.endswith(cls.head)

    pairs: ClassVar[bool] = False  # whether a row may be two texts
    special: ClassVar[tuple[str, ...]] = ("pad",)  # tokens that a tokenizer must have
    windows: ClassVar[bool] = False  # whether what is too long is read in several windows, not cut
    continues: ClassVar[bool] = False  # whether a user's text is written on, so that its end counts
    threshold: ClassVar[float] = 0.5  # where a checkpoint's config says none
    activation: ClassVar[str] = "softmax"  # what makes probabilities of logits

    @property
    def output_shape(self) -> list[str | int]:
        """Of the logits that a graph gives; words name the dimensions that are free."""
        return ["batch", "tokens", len(self.labels)] if self.by_token else ["batch", len(self.labels)]

    @property
    def each(self) -> str:
        """What `by_class` tells, for whoever reads it."""
        return "Recall of each class"

    @property
    def chooses(self) -> bool:
        """Whether there is a threshold to be chosen on validation."""
        return False

    @property
    def head_config(self) -> dict[str, Any]:
        """What a model's config says of the head."""
        return {}

    def misfit(self, config: dict[str, Any]) -> str | None:
        """Why the head that a config describes can't serve this data; None when it can."""
        return None

    def writing(self, words: Generation | None) -> Task:
        """The same task with other words for how texts are written, where it writes any."""
        return replace(self, words=words, said=True) if words is not None and self.writes else self

    def settle(self, model: PreTrainedModel) -> None:
        """Writes down, in a model's configs, what whoever answers with it must know; nothing for most tasks."""

    def _settle_writing(self, model: PreTrainedModel) -> None:
        """How texts are written, in a model's generation config, which then draws nothing at random."""
        told, many = model.generation_config, self.words.beams > 1
        told.update(
            max_new_tokens=self.words.max_new_tokens, max_length=None, num_beams=self.words.beams, do_sample=False,
            length_penalty=self.words.length_penalty if many else None,
            early_stopping=self.words.early_stopping if many else None,
            **dict.fromkeys(_OF_SAMPLING),
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------- what is trained

    hard_loss: ClassVar[str] = "cross_entropy"  # on what is right, by its name in LOSSES

    def soft_loss(self, asked: str) -> str:
        """The loss on the teacher's logits, by its name in LOSSES: what the recipe asks for, in this task's form."""
        return asked

    def refuse_loss(self, asked: str) -> str | None:
        """Why a loss on logits makes no sense for this task; None where it does."""
        return None

    def _refuse_two(self, asked: str) -> str | None:
        """Why a loss makes no sense between two labels of which one is right."""
        if asked == "decoupled_kl" and len(self.labels) == 2:
            return "of two classes there is only one other, so nothing is left to decouple; use kl"
        return None

    def require_loss(self, asked: str) -> None:
        """Raises CheckpointError for a loss on logits that makes no sense for this task."""
        if reason := self.refuse_loss(asked):
            raise CheckpointError(f"imitate.logits.loss: {asked}: {reason}")

    def refuse_kept(self, words: Kept) -> str | None:
        """Why a teacher's signals can't be kept in a form; None where they can."""
        if isinstance(words.logits, int) and self.head_labels:
            return (
                f"logits: {words.logits}: it counts a vocabulary's tokens, and here a logit is a label's; leave it out"
            )
        return None

    def require_kept(self, words: Kept | None) -> None:
        """Raises CheckpointError for a form in which a teacher's signals can't be kept."""
        if words is not None and (reason := self.refuse_kept(words)):
            raise CheckpointError(f"signals.{reason}")

    @classmethod
    def reads_along(cls, imitate: Imitate) -> bool:
        """Whether a teacher must be asked by the student's own rows: for what is never kept, and logits over tokens."""
        return not cls.head_labels or imitate.attentions is not None

    @classmethod
    def refuse_other_ids(cls, words: Distill) -> str | None:
        """Why a step can't be what it says where a student has other token ids than its teacher; None where it can."""
        if words.kept == "off" and not cls.reads_along(words.imitate):
            return f"signals: off: {OTHER_IDS}"
        if words.labelled_by_graph and not cls.head_labels:
            return (
                f"signals.engine: {words.signals.engine}: where a student has other token ids a teacher is asked by "
                "those, which a graph of it doesn't know; say float32, bfloat16 or auto"
            )
        return None

    def scored(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The logits at the places that have a right answer, (places, classes)."""
        raise NotImplementedError

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """What is right at those places, (places,) or (places, classes)."""
        raise NotImplementedError

    def imitated(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The logits at the places where a student follows its teacher, (places, classes): where it is scored."""
        return self.scored(logits, batch)

    def real_logits(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Which of the imitated logits are no padding, (places, classes); None where all are."""
        return None

    # ------------------------------------------------------------------------------------------- what is answered

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """What is kept of an engine's answer to a batch, with an entry a row."""
        return self.reduce(engine.answer(batch), batch)

    def reduce(self, logits: Array, batch: Batch) -> Array:
        """What is kept of a batch's logits, with an entry a row: never as much as (tokens, vocabulary)."""
        raise NotImplementedError

    def joined(self, parts: list[Array]) -> Array:
        """The answers to several batches in one array; shorter rows are padded."""
        return np.concatenate(parts)

    def predictions(self, answers: Array, threshold: float = 0.5) -> Array:
        """Answers to predictions, which are held against `Encoded.labels`."""
        raise NotImplementedError

    def choose_threshold(self, answers: Array, labels: Array) -> float:
        """The probability from which a label counts as given, chosen on the split given; 0.5 where nothing is chosen.

        Never call it on a test split.
        """
        return 0.5

    def unended(self, answers: Array) -> float | None:
        """The share of written texts that have as many tokens as they may have; None where none are written."""
        return None

    def moved(self, found: Array, expected: Array) -> float:
        """How far answers are from those expected: the mean square, of what is a number in both."""
        both = np.isfinite(found) & np.isfinite(expected)
        return float(np.square(np.where(both, found, 0) - np.where(both, expected, 0)).sum() / max(1, both.sum()))

    def apart(self, found: Array, expected: Array) -> float:
        """The largest difference of answers."""
        return float(np.nanmax(np.abs(found - expected)))

    def changed(self, found: Array, expected: Array) -> float:
        """How much of what answers say is changed: as `moved`, in what a user reads where that differs."""
        return self.moved(found, expected)

    def agreement(self, found: Array, expected: Array, threshold: float = 0.5, theirs: float | None = None) -> float:
        """The share of equal predictions; `theirs` is the threshold of what is expected, where that has its own."""
        same = self.predictions(found, threshold) == self.predictions(expected, threshold if theirs is None else theirs)
        return float(same.reshape(len(same), -1).all(-1).mean())

    # ---------------------------------------------------------------------------------------------- how it is judged

    @property
    def lower(self) -> bool:
        """Whether less of the primary metric is better."""
        return self.metric in LOWER

    def scores(self, predictions: Array, labels: Array) -> dict[str, float]:
        """Every metric of this problem, the primary one first."""
        names = dict.fromkeys((self.metric, *METRICS_OF[self.problem]))
        return {name: METRICS[name](predictions, labels) for name in names}

    def score(self, predictions: Array, labels: Array) -> float:
        """The primary metric."""
        return METRICS[self.metric](predictions, labels)

    def tally(self, predictions: Array, labels: Array) -> Callable[[Array], float]:
        """The primary metric of any choice of rows, for those who ask for many."""
        return lambda rows: self.score(predictions[rows], labels[rows])

    def unlike(self, array: Array, rows: int) -> str | None:
        """Why an array holds no predictions or labels of so many rows, behind its name; None when it can."""
        if array.shape[:1] != (rows,):
            return f"has the shape {array.shape}, not {rows} rows"
        return None if np.isfinite(array).all() else f"holds values that are no {self.problem.replace('_', ' ')}"

    def by_class(self, predictions: Array, labels: Array) -> dict[str, float]:
        """Each label's own score; nothing where there are no classes."""
        return {}

    def confusion(self, predictions: Array, labels: Array) -> list[list[int]] | None:
        """How often each true label (a row) got each prediction (a column); None where that can't be said."""
        return None

    def confidences(self, answers: Array) -> Array | None:
        """(n, labels) probabilities whose calibration can be measured; None where there are none."""
        return None

    def answer(self, answers: Array, threshold: float = 0.5, about: Sequence[Any] | None = None) -> list[Any]:
        """What a person wants to read, for each row; `about` is what `Encoded` knows of the rows."""
        raise NotImplementedError

    def told(self, answer: Any) -> str:
        """One of those in a line."""
        return str(answer)


def places_in(array: Array, low: int, high: int) -> bool:
    """Whether an array holds whole numbers from `low` to below `high` only."""
    return array.dtype.kind in "iu" and bool(((array >= low) & (array < high)).all())


def better(one: float, other: float, *, lower: bool) -> bool:
    """Whether one score is better than another."""
    return one < other if lower else one > other


def retained(score: float, of: float, *, lower: bool = False) -> float | None:
    """The share of a score that is kept: score over score, or the inverse where less is better; None of nothing."""
    if of <= 0 or (lower and score <= 0):
        return None
    return of / score if lower else score / of
