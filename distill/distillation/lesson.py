"""The objective: a student, the projections that its loss needs, and the terms of that loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill import anatomy, processes
from distill.distillation.fitting import Pairs, wanted_of
from distill.losses import LOSSES, bucketed, in_portions, is_known, to_targets
from distill.recipe import settings
from distill.signals import Signals, read
from distill.tasks import NO_TARGET, Task
from distill.training import Objective


class _Part(NamedTuple):
    """A part of a term: the mean loss over so many places."""

    mean: Tensor
    places: int | Tensor


class Lesson(Objective):
    """What a student is trained on: labels, its teacher's logits, and what both compute on the way to them.

    `imitate` holds the terms that count, `pairs` the layers that each of them compares, and `widths` are those of the
    two's hidden states: where they differ, a projection bridges them.
    """

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        imitate: settings.Imitate,
        *,
        temperature: float = 1.0,
        pairs: Pairs | None = None,
        widths: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.student, self.task, self.temperature, self.pairs = student, task, temperature, pairs or {}
        self.asked: dict[str, Any] = {name: term for name, term in imitate if term is not None}
        self.weights = {name: term.weight for name, term in self.asked.items()}
        self.facts = student.config.to_dict()
        self.wanted = wanted_of(self.asked, self.pairs, teacher=False)
        different = widths[0] != widths[1]
        bridged = self.wanted.hidden_states if different else ()
        self.projections = nn.ModuleDict({str(mine): nn.Linear(*widths, bias=False) for mine in bridged})
        self.projections.to(student.device)

    def forward(self, batch: dict[str, Tensor], signals: Signals | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term before its weight.

        Of several processes each gives its own share of a batch; the mean over them is that of the whole batch.
        """
        found = read(self.student, batch, self.wanted)
        parts = {name: getattr(self, f"_{name}")(found, signals, batch) for name in self.asked}
        terms = {name: torch.stack(means).mean() for name, means in _weighed(parts).items()}
        return sum(self.weights[name] * value for name, value in terms.items()), terms

    def _labels(self, student: Signals, _: Signals | None, batch: dict[str, Tensor]) -> list[_Part]:
        known = is_known(self.task.targets(batch))
        return [_Part(to_targets(self.task, student.logits, batch), known.sum())]

    def _logits(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        asked = self.asked["logits"]
        name, words = self.task.soft_loss(asked.loss), dict(asked.words)
        mine, theirs = (self.task.imitated(one.logits, batch) for one in (student, teacher))
        if teacher.kept is not None:
            kept = self.task.imitated(teacher.kept.tokens, batch)
            loss = partial(LOSSES[name], temperature=self.temperature, **words)
            mine = mine[:, : teacher.kept.classes]
            return [_Part(in_portions(self._in_buckets(loss), mine, theirs, kept), len(mine))]
        if not self.task.head_labels:  # vocabularies are often padded, and to different sizes
            common = min(mine.shape[-1], theirs.shape[-1])
            mine, theirs = mine[:, :common], theirs[:, :common]
        if name == "decoupled_kl":
            labels = self.task.targets(batch)
            loss = LOSSES[name](mine, theirs, self.temperature, labels=labels, **words)
            return [_Part(loss, (labels != NO_TARGET).sum())]
        loss = LOSSES[name] if name == "mse" else partial(LOSSES[name], temperature=self.temperature, **words)
        return [_Part(in_portions(loss, mine, theirs), len(mine))]

    def _in_buckets(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A loss on what of the logits the teacher's saved ones are: the kept tokens', and one for all others."""
        return lambda mine, theirs, kept: loss(bucketed(mine, kept, self.temperature), theirs)

    def _hidden_states(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        """A part a pair of layers, on real tokens."""
        loss, parts = LOSSES[self.asked["hidden_states"].loss], []
        for mine, theirs in self.pairs["hidden_states"]:
            states, real = student.hidden_states[mine], self._real(mine, batch)
            if str(mine) in self.projections:
                states = self.projections[str(mine)](states)
            parts.append(_Part(loss(states, teacher.hidden_states[theirs], real), real.sum()))
        return parts

    def _attentions(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        """A part a pair of layers, of real tokens' attention."""
        parts = []
        for mine, theirs in self.pairs["attentions"]:
            real = self._real(mine, batch)
            loss = LOSSES["attention"](student.attentions[mine], teacher.attentions[theirs], real)
            parts.append(_Part(loss, real.sum()))
        return parts

    def _relations(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        """A part a pair of layers and what is related in it, between real tokens."""
        asked, parts = self.asked["relations"], []
        for mine, theirs in self.pairs["relations"]:
            real = self._real(mine, batch)
            for what in asked.of:
                vectors = student.vectors[what, mine], teacher.vectors[what, theirs]
                parts.append(_Part(LOSSES["relation"](*vectors, real, asked.heads), real.sum()))
        return parts

    def _real(self, layer: int, batch: Mapping[str, Tensor]) -> Tensor:
        """Which tokens of a layer are no padding: of the text that is read, or of the one to write."""
        if anatomy.is_written(self.facts, layer):
            return batch["labels"] != NO_TARGET
        return batch["attention_mask"]


def _weighed(parts: Mapping[str, list[_Part]]) -> dict[str, list[Tensor]]:
    """The means of each term, times what this process's places weigh beside those of the others."""
    if processes.number() == 1:
        return {name: [part.mean for part in found] for name, found in parts.items()}
    counts = [torch.as_tensor(part.places, dtype=torch.float32) for found in parts.values() for part in found]
    device = next(iter(parts.values()))[0].mean.device
    weights = iter(processes.shares(torch.stack([count.to(device) for count in counts])))
    return {name: [part.mean * next(weights) for part in found] for name, found in parts.items()}
