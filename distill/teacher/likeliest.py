"""The likeliest tokens of a vocabulary with the mass of all others: what is kept of logits that are too many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.losses import bucketed

_SHORT = 1 << 16  # ids below it take two bytes


@dataclass(frozen=True)
class Likeliest:
    """The `number` largest of so many `classes` logits, and one for all others, of their mass at a temperature: see
    `losses.bucketed`, which says why.
    """

    number: int
    temperature: float
    classes: int

    @property
    def id_dtype(self) -> np.dtype:
        """What a kept token's id is written as."""
        return np.dtype(np.uint16 if self.classes <= _SHORT else np.int32)

    @property
    def bytes_a_line(self) -> int:
        """What a token's take on disk: float32 logits, and ids."""
        return 4 * (self.number + 1) + self.id_dtype.itemsize * self.number

    @property
    def facts(self) -> dict[str, float]:
        """What signals that are kept so hang on."""
        return asdict(self)

    def of(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(places, number + 1) logits in float32 and (places, number) ids of (places, classes or more) logits."""
        known = logits[..., : self.classes].float()
        tokens = known.topk(self.number).indices
        return bucketed(known, tokens, self.temperature), tokens

    def told(self, found: Fidelity) -> str:
        """How much of the whole that is, in words."""
        return (
            f"on {found.tokens:,} training tokens the {self.number} likeliest of {self.classes:,} hold "
            f"{1 - found.tail:.1%} of the mass at temperature {self.temperature:g}; with the others' mass spread "
            f"evenly over them KL from whole logits is {found.nats:.2g} nats, and the likeliest token is the same on "
            f"{found.same:.1%}"
        )


@dataclass(frozen=True)
class Fidelity:
    """How much of a teacher's distributions is kept, on so many `tokens`: the mean mass of the `tail`, the mean KL in
    `nats` from the whole distribution to what is kept with the tail's mass spread evenly over its tokens (what nobody
    can do better without knowing more), and the share of tokens whose likeliest class is the `same`.
    """

    tokens: int
    tail: float
    nats: float
    same: float


def fidelities(forms: Sequence[Likeliest], logits: Iterable[Tensor]) -> list[Fidelity]:
    """What each form keeps of some batches of (places, classes or more) logits."""
    sums = np.zeros((len(forms), 4))
    for some in logits:
        for place, form in enumerate(forms):
            sums[place] += _measured(form, some)
    return [Fidelity(int(count), *(found / max(1, count)).tolist()) for count, *found in map(np.array, sums)]


@torch.no_grad()
def _measured(form: Likeliest, logits: Tensor) -> np.ndarray:
    """Sums over places: how many there are, their tails' mass, nats, and how many keep their likeliest class."""
    kept, tokens = form.of(logits)
    whole = F.log_softmax(logits[:, : form.classes].float() / form.temperature, dim=-1)
    logs = F.log_softmax(kept / form.temperature, dim=-1)
    tail = logs[:, -1:]
    again = (tail - math.log(form.classes - form.number)).expand_as(whole).scatter(-1, tokens, logs[:, :-1])
    nats = (whole.exp() * (whole - again)).sum(-1)
    same = again.argmax(-1) == whole.argmax(-1)
    return np.array([len(logits), tail.exp().sum().item(), nats.sum().item(), same.sum().item()])
