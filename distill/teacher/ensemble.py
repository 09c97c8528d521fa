"""Several teachers that are imitated as one: what they say together is the weighted mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.checkpoint import Checkpoint
from distill.data import Batch, Encoded, Splits, arrays, collate
from distill.engines import Engine, Torch
from distill.errors import CheckpointError
from distill.portions import places_at_once
from distill.recipe.settings import Generation
from distill.signals import Signals
from distill.tasks import Task

_AWAY = -1e4  # the logit of padding, which is no place of an answer


@dataclass(frozen=True)
class Ensemble:
    """Teachers with their weights, which are given in any scale and kept as shares of one; alike when none are given.

    The first one is the one that a student is cut from. Raises CheckpointError for weights that can't be.
    """

    teachers: Sequence[Checkpoint]
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Shares of one."""
        weights = list(self.weights) or [1.0] * len(self.teachers)
        if not self.teachers or len(weights) != len(self.teachers) or not all(0 < one < math.inf for one in weights):
            raise CheckpointError(
                f"ensemble: {len(self.teachers)} teachers and the weights {weights}; give each one > 0"
            )
        object.__setattr__(self, "teachers", tuple(self.teachers))
        object.__setattr__(self, "weights", tuple(weight / sum(weights) for weight in weights))

    @classmethod
    def of(cls, teacher: Checkpoint | Ensemble) -> Ensemble:
        """A single teacher as an ensemble of one."""
        return teacher if isinstance(teacher, Ensemble) else cls([teacher])

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def first(self) -> Checkpoint:
        """The one that a student is cut from, and whose layers it follows."""
        return self.teachers[0]

    def encode(self, data: Splits, split: str) -> Encoded:
        """A split in the first one's tokens."""
        return self.first.encode(data, split)

    def engine(self, data: Splits, split: str, dtype: torch.dtype | None = None) -> Engine:
        """What answers for a split that is encoded so: the mean without a temperature, as an ensemble predicts."""
        if len(self) == 1:
            return Torch(self.first.model, dtype)
        encoded = [teacher.encode(data, split) for teacher in self.teachers]
        return _Together([Torch(teacher.model, dtype) for teacher in self.teachers], encoded, self.weights, data.task)


class Source(Protocol):
    """A live teacher, or its saved signals."""

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The teacher's signals for a batch."""
        ...


class Mixture:
    """The sources of several teachers as one: its logits are their mean, all else is the first one's.

    With `raw` it is the logits that are averaged, for a loss that compares them as they are.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], task: Task, *, temperature: float, raw: bool = False
    ) -> None:
        self.sources, self.mean = sources, partial(mixed, task, weights, temperature=temperature, raw=raw)
        kept = [getattr(source, "told", {}) for source in sources]  # nothing of a live one
        self.told = {"teachers": kept} if any(kept) else {}

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """Every teacher's signals, the logits mixed."""
        found = [source.signals(batch) for source in self.sources]
        found[0].logits = self.mean([one.logits for one in found], batch["attention_mask"])
        return found[0]


def mixed(
    task: Task, weights: Sequence[float], logits: Sequence[Tensor], real: Tensor, *, temperature: float = 1.0,
    raw: bool = False,
) -> Tensor:  # fmt: skip
    """The logits of a task that several teachers give together; `real` (batch, tokens) tells padding.

    Vocabularies are often padded, and to different sizes: what all have is mixed.
    """
    if raw or task.activation == "none":
        return mean_of_logits(_common(logits), weights)
    if task.activation == "sigmoid":
        return mean_of_flags(logits, weights, temperature)
    if task.windows:  # a distribution is over the tokens of a window, for its start and for its end
        away = (real == 0)[..., None]
        turned = [one.float().masked_fill(away, _AWAY).transpose(1, 2) for one in logits]
        return mean_of_classes(turned, weights, temperature).transpose(1, 2)
    return mean_of_classes(_common(logits), weights, temperature)


def mean_of_classes(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """T log Σ wᵢ softmax(zᵢ / T) over the last dimension: logits that, softened by T, say the weighted mean of the
    teachers' softened probabilities: the arithmetic mean of Hinton et al. 2015 (section 1), taken of softened outputs
    as in You et al. 2017.
    """
    flat = [one.reshape(-1, one.shape[-1]) for one in logits]
    found = torch.empty(flat[0].shape, dtype=torch.float32, device=flat[0].device)
    size = places_at_once(flat[0].shape[-1], found.device.type)
    for start in range(0, len(found), size):
        some = slice(start, start + size)
        found[some] = temperature * _log_mean(
            [F.log_softmax(one[some].float() / temperature, dim=-1) for one in flat], weights
        )
    return found.view(logits[0].shape)


def mean_of_flags(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """The same for many labels, each a yes or no of its own: T times the log odds of the mean of sigmoid(zᵢ / T)."""
    soft = [one.float() / temperature for one in logits]
    yes, no = (_log_mean([F.logsigmoid(sign * one) for one in soft], weights) for sign in (1, -1))
    return temperature * (yes - no)


def mean_of_logits(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of numbers, or of logits as they are (Ba and Caruana 2014)."""
    return sum(weight * one.float() for weight, one in zip(weights, logits, strict=True))


def _log_mean(logs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The logarithm of a weighted mean, of logarithms."""
    found = logs[0] + math.log(weights[0])
    for one, weight in zip(logs[1:], weights[1:], strict=True):
        found = torch.logaddexp(found, one + math.log(weight))
    return found


def _common(logits: Sequence[Tensor]) -> list[Tensor]:
    """What all have of the last dimension."""
    most = min(one.shape[-1] for one in logits)
    return [one[..., :most] for one in logits]


class _Together:
    """Several teachers that answer for one split, each in its own tokens; a batch is in the first one's."""

    name, format, batch_dependent, counts_padding = "torch", "ensemble", False, False

    def __init__(
        self, engines: Sequence[Engine], encoded: Sequence[Encoded], weights: Sequence[float], task: Task
    ) -> None:
        self.engines, self.weights, self.task = engines, weights, task
        self.own = [None if _reads_alike(rows, encoded[0]) else rows for rows in encoded]

    def answer(self, batch: Batch) -> np.ndarray:
        """Their logits, mixed."""
        given = [batch if rows is None else collate(rows, batch["rows"].tolist()) for rows in self.own]
        found = [torch.from_numpy(one.answer(part)) for one, part in zip(self.engines, given, strict=True)]
        return mixed(self.task, self.weights, found, torch.from_numpy(batch["attention_mask"])).numpy()

    def generate(self, batch: Batch, words: Generation, *, forced: int | None = None) -> list[list[int]]:
        """Raises CheckpointError: each token would have to be chosen by all of them."""
        raise CheckpointError("an ensemble of teachers writes no texts; name one teacher")


def _reads_alike(one: Encoded, other: Encoded) -> bool:
    """Whether two splits hold the same ids, padding and token types, so that one batch serves both."""
    if one is other:
        return True
    return one.pad == other.pad and arrays.equal(one.ids, other.ids) and (one.types is None) == (other.types is None)
