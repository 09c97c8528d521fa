"""The objective: a student, the projections that its loss needs, and the terms of that loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import anatomy, processes
from distill.distillation.fitting import Pairs, wanted_of
from distill.distillation.mixing import LayerMap
from distill.losses import LOSSES, bucketed, in_portions, is_known, log_relations, to_targets
from distill.recipe import settings
from distill.signals import Signals, read
from distill.tasks import NO_TARGET, Task
from distill.training import Objective, Rate


class _Part(NamedTuple):
    """A part of a term: the mean loss over so many places."""

    mean: Tensor
    places: int | Tensor


class Lesson(Objective):
    """What a student is trained on: labels, its teacher's logits, and what both compute on the way to them.

    `imitate` holds the terms that count, `pairs` the layers that each of them compares, and `widths` are those of the
    two's hidden states: where they differ, a projection bridges them. `start` has the pairs that learned maps begin at.
    """

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        imitate: settings.Imitate,
        *,
        temperature: float = 1.0,
        pairs: Pairs | None = None,
        start: Pairs | None = None,
        widths: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.student, self.task, self.temperature, self.pairs = student, task, temperature, pairs or {}
        self.asked: dict[str, Any] = {name: term for name, term in imitate if term is not None}
        self.weights = {name: term.weight for name, term in self.asked.items()}
        self.facts = student.config.to_dict()
        self.wanted = wanted_of(self.asked, self.pairs, teacher=False)
        self.attends = bool(self.wanted.attentions)
        different = widths[0] != widths[1]
        bridged = self.wanted.hidden_states if different else ()
        self.projections = nn.ModuleDict({str(mine): nn.Linear(*widths, bias=False) for mine in bridged})
        self.projections.to(student.device)
        learned = [name for name in self.pairs if name in self.asked and self.asked[name].layers == "learned"]
        maps = {name: LayerMap(self.pairs[name], (start or {}).get(name, ())) for name in learned}
        self.maps = nn.ModuleDict(maps).to(student.device)

    def rates(self) -> list[Rate]:
        """Projections where the recipe says so, and learned maps, which are no weights to make smaller."""
        asked = self.asked.get("hidden_states")
        own = asked.projection_learning_rate if asked and len(self.projections) else None
        bridges = [Rate([*self.projections.parameters()], own)] if own else []
        return bridges + [
            Rate([*found.parameters()], self.asked[name].map_rate, decays=False) for name, found in self.maps.items()
        ]

    def forward(self, batch: dict[str, Tensor], signals: Signals | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term before its weight.

        Of several processes each gives its own share of a batch; the mean over them is that of the whole batch.
        """
        found = read(self.student, batch, self.wanted)
        parts = {name: getattr(self, f"_{name}")(found, signals, batch) for name in self.asked}
        spare = processes.is_spare(batch.get("whole"))
        terms = {name: torch.stack(means).mean() for name, means in _weighed(parts, spare=spare).items()}
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
            known = labels != NO_TARGET
            loss = partial(_decoupled, temperature=self.temperature, **words)
            return [_Part(in_portions(loss, mine[known], theirs[known], labels[known]), known.sum())]
        if name == "mse":
            real = self.task.real_logits(batch)
            if real is not None:  # places of different lengths: every logit counts alike
                return [_Part(LOSSES[name](mine[..., None], theirs[..., None], real), real.sum())]
            return [_Part(in_portions(LOSSES[name], mine, theirs), len(mine))]
        loss = partial(LOSSES[name], temperature=self.temperature, **words)
        return [_Part(in_portions(loss, mine, theirs), len(mine))]

    def _in_buckets(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A loss on what of the logits the teacher's saved ones are: the kept tokens', and one for all others."""
        return lambda mine, theirs, kept: loss(bucketed(mine, kept, self.temperature), theirs)

    def _hidden_states(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        """A part a pair of layers, on real tokens."""
        name, parts, layers = self.asked["hidden_states"].loss, [], teacher.hidden_states
        if name == "cosine" and "hidden_states" in self.maps:  # which knows no lengths, so none outweighs another
            layers = {layer: F.normalize(states.float(), dim=-1) for layer, states in layers.items()}
        for mine, followed in self._followed("hidden_states", layers):
            states, real = student.hidden_states[mine], self._real(mine, batch)
            if str(mine) in self.projections:
                states = self.projections[str(mine)](states)
            parts.append(_Part(LOSSES[name](states, followed, real), real.sum()))
        return parts

    def _attentions(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        """A part a pair of layers, of real tokens' attention."""
        parts = []
        for mine, followed in self._followed("attentions", teacher.attentions):
            real = self._real(mine, batch)
            loss = LOSSES["attention"](student.attentions[mine], followed, real)
            parts.append(_Part(loss, real.sum()))
        return parts

    def _relations(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> list[_Part]:
        """A part a pair of layers and what is related in it, between real tokens."""
        asked, parts, learned = self.asked["relations"], [], "relations" in self.maps
        loss, followed = LOSSES["relation_to" if learned else "relation"], {}
        for what in asked.of:
            layers = {layer: vectors for (made, layer), vectors in teacher.vectors.items() if made == what}
            if learned:  # relations can be mixed, and vectors of different layers can't
                layers = {layer: self._relations_of(layer, vectors, batch) for layer, vectors in layers.items()}
            followed[what] = dict(self._followed("relations", layers))
        for mine in followed[asked.of[0]]:
            real = self._real(mine, batch)
            parts += [
                _Part(loss(student.vectors[what, mine], followed[what][mine], real, asked.heads), real.sum())
                for what in asked.of
            ]
        return parts

    def _relations_of(self, layer: int, vectors: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much each of the teacher's tokens relates to each, in one of its layers."""
        real = self._real(self.maps["relations"].partner(layer), batch)
        return log_relations(vectors, real, self.asked["relations"].heads).exp()

    def _followed(self, term: str, layers: Mapping[int, Tensor]) -> Iterable[tuple[int, Tensor]]:
        """The student's layers that a term compares, each with what it follows: a layer of the teacher's, or a mixture
        of them.
        """
        if term in self.maps:
            return self.maps[term](layers)
        return ((mine, layers[theirs]) for mine, theirs in self.pairs[term])

    def _real(self, layer: int, batch: Mapping[str, Tensor]) -> Tensor:
        """Which tokens of a layer are no padding: of the text that is read, or of the one to write."""
        if anatomy.is_written(self.facts, layer) and "decoder_input_ids" in batch:  # else it is given what is read
            return batch["labels"] != NO_TARGET
        return batch["attention_mask"]


def _decoupled(student: Tensor, teacher: Tensor, labels: Tensor, **words: float) -> Tensor:
    return LOSSES["decoupled_kl"](student, teacher, labels=labels, **words)


def _weighed(parts: Mapping[str, list[_Part]], *, spare: bool) -> dict[str, list[Tensor]]:
    """The means of each term, times what this process's places weigh beside those of the others: nothing, where its
    rows are another's too.
    """
    if processes.number() == 1:
        return {name: [part.mean for part in found] for name, found in parts.items()}
    counts = [torch.as_tensor(part.places, dtype=torch.float32) for found in parts.values() for part in found]
    counts = [torch.zeros_like(count) for count in counts] if spare else counts
    device = next(iter(parts.values()))[0].mean.device
    weights = iter(processes.shares(torch.stack([count.to(device) for count in counts])))
    return {name: [part.mean * next(weights) for part in found] for name, found in parts.items()}
