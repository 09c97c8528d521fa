"""Which form of a teacher's logits over a vocabulary pays: whole on disk, the likeliest tokens', or none at all.

An estimate by counting: arithmetic, and bytes written once and read in every epoch, at one rate each, so that the same
recipe on the same data decides alike wherever it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from distill.data import Encoded, TokenBatches, collate
from distill.errors import CheckpointError
from distill.signals import tensors
from distill.teacher.likeliest import Fidelity, Likeliest, fidelities
from distill.teacher.saved import Layout, Source, written

_RATES = {"cpu": 1e11}  # operations a second
_FASTER = 2e13  # of what is no CPU
_DISK = 1e9  # bytes a second, written or read
_NUMBERS = (8, 16, 32, 64, 128, 256, 512, 1024)  # of tokens, to choose from
_LOST = 0.05  # nats that a choice may lose
_SMALLER = 4  # times smaller than whole logits, or it isn't worth a look
_SAVES = 0.2  # share of a training that makes the likeliest tokens worth what they lose
_SAMPLE, _AT_ONCE = 2048, 1 << 24  # training tokens that fidelity is measured on; logits at once


@dataclass(frozen=True)
class Asked:
    """What a recipe asks for of each token's logits over a vocabulary of so many `classes` that both models know.

    `needs_whole` says why a loss takes whole logits; `student` is what is trained.
    """

    logits: Literal["auto", "whole"] | int
    temperature: float
    classes: int
    student: Any
    needs_whole: str | None = None

    def of(self, number: int) -> Likeliest:
        """So many likeliest tokens. Raises CheckpointError where there are no more than that."""
        if number >= self.classes:
            raise CheckpointError(
                f"signals.logits: {number} is no part of {self.classes} tokens; keep fewer, or say whole"
            )
        return Likeliest(number, self.temperature, self.classes)


@dataclass(frozen=True)
class Choice:
    """What is kept of logits over a vocabulary (nothing is said: whole logits where they are small), how faithful that
    is where it isn't all, and of what was chosen why, in words.
    """

    form: Literal["whole", "live"] | Likeliest | None = None
    fidelity: Fidelity | None = None
    why: str = ""

    @property
    def likeliest(self) -> Likeliest | None:
        """How few, where not all."""
        return self.form if isinstance(self.form, Likeliest) else None

    @property
    def binds(self) -> bool:
        """Whether a teacher that runs in every step would be another training, or not what was asked for."""
        return self.likeliest is not None or (self.form == "whole" and not self.why)

    @property
    def lines(self) -> list[str]:
        """What a user is told of it."""
        lines = [f"signals.logits: auto: {self.why}"] if self.why else []
        return lines + ([self.likeliest.told(self.fidelity)] if self.likeliest else [])

    @property
    def told(self) -> dict[str, Any]:
        """The same for report.json."""
        return {"likeliest": self.likeliest.facts, **asdict(self.fidelity)} if self.likeliest else {}


def choose(asked: Asked, source: Source, encoded: Encoded, *, epochs: float, live: bool, at_most: int) -> Choice:
    """What a recipe asks for; of `auto` what the estimate says. `live` says whether the teacher can run in every step,
    `at_most` how many bytes of signals a disk is asked to keep.

    Raises CheckpointError.
    """
    if asked.logits == "whole":
        return Choice("whole")
    if asked.logits != "auto":
        form = asked.of(asked.logits)
        return Choice(form, *fidelities([form], sample(source, encoded, asked.classes)))
    if epochs <= 1 and live:
        return Choice("live", why="they are asked for only once, so the teacher runs in every step")
    estimate = _Estimate(asked, source, encoded, epochs)
    exact = {"whole": estimate.whole.bytes} if estimate.whole.bytes <= at_most or not live else {}
    exact |= {"live": 0} if live else {}
    best = min(exact, key=lambda name: estimate.seconds(name, exact[name]))
    if asked.needs_whole is not None:
        return Choice(best, why=f"{_NAMES[best]}: the loss takes whole logits: {asked.needs_whole}")
    forms = estimate.smaller(at_most)
    found = fidelities(forms, sample(source, encoded, asked.classes))
    faithful = next((pair for pair in zip(forms, found, strict=True) if pair[1].nats <= _LOST), None)
    if faithful is None:
        lost = f"; {forms[-1].number} would lose {found[-1].nats:.2g}" if forms else ""
        return Choice(best, why=f"{_NAMES[best]}: no few tokens are within {_LOST} nats of whole logits{lost}")
    form, fidelity = faithful
    mine = estimate.seconds("likeliest", estimate.size(form))
    costs = {name: estimate.seconds(name, size) for name, size in exact.items()}
    others = ", ".join(f"{_NAMES[name]} {cost / mine:.2f}" for name, cost in costs.items())
    why = f"estimated for the whole training, {form.number} likeliest tokens 1, {others} times as long"
    if mine > (1 - _SAVES) * costs[best]:
        return Choice(best, why=f"{_NAMES[best]}: {why}, too little to leave anything out")
    return Choice(form, fidelity, why)


_NAMES = {"whole": "whole logits", "live": "the teacher in every step"}


class _Estimate:
    """What a training takes: the teacher's passes, the student's (forward and twice that backward), and the disk."""

    def __init__(self, asked: Asked, source: Source, encoded: Encoded, epochs: float) -> None:
        self.asked, self.source, self.epochs = asked, source, epochs
        self.whole, self.tokens = Layout(source, encoded), int(encoded.offsets[-1])

    def smaller(self, at_most: int) -> list[Likeliest]:
        """Numbers of likeliest tokens that take far less than whole logits, and no more than there may be."""
        forms = [self.asked.of(number) for number in _NUMBERS if number < self.asked.classes]
        return [form for form in forms if self.size(form) <= min(at_most, self.whole.bytes // _SMALLER)]

    def size(self, form: Likeliest) -> int:
        """Bytes on disk, with the other signals that are kept."""
        logits = self.whole.logits
        return self.whole.bytes - logits.bytes + logits.shape[0] * form.bytes_a_line

    def seconds(self, name: str, size: int) -> float:
        """A form's, of so many bytes on disk."""
        passes = self.epochs if name == "live" else 1
        work = passes * _work(self.source.model) + 3 * self.epochs * _work(self.asked.student)
        rate = _RATES.get(self.source.model.device.type, _FASTER)
        return work * self.tokens / rate + (1 + self.epochs) * size / _DISK


def _work(model: Any) -> float:
    """Operations a token, forward: two for each weight that is multiplied, an embedding table only as a head."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    weights = sum(parameter.numel() for parameter in model.parameters())
    looked_up = table is not None and (head is None or head.weight is not table.weight)
    return 2.0 * (weights - (table.weight.numel() if looked_up else 0))


def sample(source: Source, encoded: Encoded, classes: int) -> Iterator[Tensor]:
    """The (tokens, classes) logits of the real tokens of some training rows, drawn evenly, in batches."""
    some = drawn(encoded, _SAMPLE)
    for rows in TokenBatches(some.work, batch_size=32, batch_tokens=max(1, _AT_ONCE // classes)):
        batch = tensors(collate(some, rows), source.model.device)
        yield source.signals(batch).logits[written(batch)]


def drawn(encoded: Encoded, tokens: int | None = None, rows: int | None = None) -> Encoded:
    """Rows of a split with so many `tokens` together, or so many `rows`; drawn evenly, always the same ones."""
    most = min(len(encoded), rows or tokens)  # no row is without a token
    order = np.random.default_rng(0).choice(len(encoded), most, replace=False)
    if tokens is not None:
        order = order[: int(np.searchsorted(np.cumsum(encoded.work[order]), tokens)) + 1]
    return encoded.take(np.sort(order))
