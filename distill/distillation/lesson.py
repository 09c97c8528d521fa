"""The objective: a student, the projections that its loss needs, and the terms of that loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill import anatomy
from distill.distillation.fitting import Pairs, wanted_of
from distill.losses import LOSSES, in_portions, to_targets
from distill.recipe import settings
from distill.signals import Signals, read
from distill.tasks import NO_TARGET, Task
from distill.training import Objective


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
        """The weighted sum, and each term before its weight."""
        found = read(self.student, batch, self.wanted)
        terms = {name: getattr(self, f"_{name}")(found, signals, batch) for name in self.asked}
        return sum(self.weights[name] * value for name, value in terms.items()), terms

    def _labels(self, student: Signals, _: Signals | None, batch: dict[str, Tensor]) -> Tensor:
        return to_targets(self.task, student.logits, batch)

    def _logits(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> Tensor:
        asked = self.asked["logits"]
        name, words = self.task.soft_loss(asked.loss), dict(asked.words)
        mine, theirs = (self.task.imitated(one.logits, batch) for one in (student, teacher))
        if not self.task.head_labels:  # vocabularies are often padded, and to different sizes
            common = min(mine.shape[-1], theirs.shape[-1])
            mine, theirs = mine[:, :common], theirs[:, :common]
        if name == "mse":
            return in_portions(LOSSES[name], mine, theirs)
        if name == "decoupled_kl":
            return LOSSES[name](mine, theirs, self.temperature, labels=self.task.targets(batch), **words)
        return in_portions(partial(LOSSES[name], temperature=self.temperature, **words), mine, theirs)

    def _hidden_states(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> Tensor:
        """The mean over the pairs of layers, on real tokens."""
        loss, losses = LOSSES[self.asked["hidden_states"].loss], []
        for mine, theirs in self.pairs["hidden_states"]:
            states = student.hidden_states[mine]
            if str(mine) in self.projections:
                states = self.projections[str(mine)](states)
            losses.append(loss(states, teacher.hidden_states[theirs], self._real(mine, batch)))
        return torch.stack(losses).mean()

    def _attentions(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> Tensor:
        """The mean over the pairs of layers, of real tokens' attention."""
        return torch.stack(
            [
                LOSSES["attention"](student.attentions[mine], teacher.attentions[theirs], self._real(mine, batch))
                for mine, theirs in self.pairs["attentions"]
            ]
        ).mean()

    def _relations(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> Tensor:
        """The mean over the pairs of layers and what is related in each, between real tokens."""
        asked = self.asked["relations"]
        return torch.stack(
            [
                LOSSES["relation"](
                    student.vectors[what, mine], teacher.vectors[what, theirs], self._real(mine, batch), asked.heads
                )
                for mine, theirs in self.pairs["relations"]
                for what in asked.of
            ]
        ).mean()

    def _real(self, layer: int, batch: Mapping[str, Tensor]) -> Tensor:
        """Which tokens of a layer are no padding: of the text that is read, or of the one to write."""
        if anatomy.is_written(self.facts, layer):
            return batch["labels"] != NO_TARGET
        return batch["attention_mask"]
