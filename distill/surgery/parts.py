"""The attentions and the feed-forward parts of a real model, found where the anatomy says they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError
from distill.surgery.modules import Mixing, keep_columns, keep_inputs, keep_outputs, ranges, takes


@dataclass(frozen=True)
class Maker:
    """A module that makes units: `parts` times, one after the other, a block of `width` rows for each.

    Where heads share a key head `width` stands for `group` heads together.
    """

    module: Mixing
    width: int
    group: int = 1
    parts: int = 1

    def rows(self, units: Sequence[int], of: int) -> Tensor:
        """The rows of some units out of so many."""
        chosen = ranges(sorted({unit // self.group for unit in units}), self.width)
        length = of // self.group * self.width
        return torch.cat([chosen + part * length for part in range(self.parts)])


@dataclass(frozen=True)
class Part:
    """The heads of one attention, or the neurons of one feed-forward part.

    `mixer` is the module whose columns they are, `width` columns each; `place` counts the model's layers from 0 over
    all stacks. `group` heads share a key head and stay or go together. `table` is a table of position biases with a
    column a head that the attentions of a stack share; `counts` are attributes that must follow.
    """

    place: int
    stack: int
    makers: tuple[Maker, ...]
    mixer: Mixing
    width: int
    group: int = 1
    table: nn.Embedding | None = None
    counts: tuple[tuple[nn.Module, str, str], ...] = ()

    @property
    def units(self) -> int:
        """How many heads or neurons there are."""
        return takes(self.mixer) // self.width

    def keep(self, units: Sequence[int]) -> None:
        """Leaves some of the heads or neurons, in place; the shared table of biases is not touched."""
        of = self.units
        for maker in self.makers:
            keep_outputs(maker.module, maker.rows(units, of))
        keep_inputs(self.mixer, ranges(units, self.width))
        self.follow()

    def follow(self) -> None:
        """Lets attributes follow."""
        for module, name, what in self.counts:
            setattr(module, name, {"heads": self.units, "width": self.units * self.width, "one": 1}[what])


def stacks_of(model: PreTrainedModel) -> list[list[nn.Module]]:
    """A model's layers, from the first to the last, for each of its stacks.

    Raises CheckpointError for a family that isn't known, or a model that lacks a stack.
    """
    family = anatomy.family_of(model.config.to_dict())
    return [list(_find(model.base_model, stack.layers, model)) for stack in family.stacks]


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """A model's layers, the encoder's before the decoder's. Raises CheckpointError for a family that isn't known."""
    return [layer for stack in stacks_of(model) for layer in stack]


def attentions_of(model: PreTrainedModel) -> list[Part]:
    """The heads of every attention in the order in which they are passed: a decoder's layer has two, self and cross.
    None of a family whose heads can't go.
    """
    facts = model.config.to_dict()
    if anatomy.refuse(facts, "heads"):
        return []
    family, found, place = anatomy.family_of(facts), [], 0
    for number, (stack, layers) in enumerate(zip(family.stacks, stacks_of(model), strict=True)):
        width, group = anatomy.head_width(facts, number), anatomy.heads_a_group(facts, number)
        table = _find(model.base_model, stack.biases, model) if stack.biases else None
        for layer in layers:
            for attention in stack.layer.attentions:
                counts = [(*_parent(layer, path), what) for path, what in attention.counts.items()]
                found.append(
                    Part(
                        place, number, tuple(_attention_makers(layer, attention, width, group, model)),
                        _find(layer, attention.output, model), width, group, table if attention.biased else None,
                        tuple(counts),
                    )
                )  # fmt: skip
            place += 1
    return found


def neurons_of(model: PreTrainedModel) -> list[Part]:
    """The neurons of every layer; none of a family whose neurons can't go."""
    facts = model.config.to_dict()
    if anatomy.refuse(facts, "neurons"):
        return []
    family, found, place = anatomy.family_of(facts), [], 0
    for number, (stack, layers) in enumerate(zip(family.stacks, stacks_of(model), strict=True)):
        for layer in layers:
            there = [module for path in stack.layer.up if (module := _there(layer, path)) is not None]
            if not there:
                _find(layer, stack.layer.up[0], model)
            parts = 2 if stack.layer.fused_up else 1
            makers = tuple(Maker(module, 1, 1, parts) for module in there)
            found.append(Part(place, number, makers, _find(layer, stack.layer.down, model), 1))
            place += 1
    return found


def keep_in_tables(parts: Sequence[Part], heads: Sequence[Sequence[int]]) -> None:
    """Leaves in each shared table of position biases the columns of the heads that its attentions keep."""
    for part, kept in {id(part.table): (part, kept) for part, kept in zip(parts, heads, strict=True)}.values():
        if part.table is not None:
            keep_columns(part.table, torch.tensor(list(kept)))


def _attention_makers(
    layer: nn.Module, attention: anatomy.Attention, width: int, group: int, model: PreTrainedModel
) -> list[Maker]:
    if attention.fused is not None:
        return [Maker(_find(layer, attention.fused, model), width, parts=3)]
    keys = [Maker(_find(layer, path, model), width, group) for path in (attention.key, attention.value)]
    return [Maker(_find(layer, attention.query, model), width), *keys]


def _there(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _find(module: nn.Module, path: str, model: PreTrainedModel) -> nn.Module:
    found = _there(module, path)
    if found is None:
        raise CheckpointError(
            f"this {type(model).__name__} has no '{path}' in its {type(module).__name__}, where its family "
            f"({model.config.model_type}) keeps it"
        )
    return found


def _parent(layer: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return layer.get_submodule(parent), name
