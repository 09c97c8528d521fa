"""Taking heads and neurons out of a model's layers, and padding what is left for stock transformers.

Layers may differ in what they keep. What a config can't say of that stands in a shape record beside the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError
from distill.surgery.embeddings import multiply_out, narrow_table
from distill.surgery.modules import ranges
from distill.surgery.parts import Part, attentions_of, keep_in_tables, neurons_of
from distill.surgery.shape import Shape, misfit, tell_config


def keep_units(
    model: PreTrainedModel, heads: Sequence[Sequence[int]] | None, neurons: Sequence[Sequence[int]] | None
) -> PreTrainedModel:
    """A new model with some of each attention's heads and each layer's neurons, counted from 0; None keeps them all.

    There is a list of heads for every attention, as they are passed (see Shape), and one of neurons for every layer.
    What the config can say it says. Raises CheckpointError for a family that isn't known or can't do it, for a layer
    that would keep nothing, for heads that break a group that shares a key head, and where attentions that share a
    table of position biases would keep different heads.
    """
    facts = model.config.to_dict()
    anatomy.family_of(facts)
    for what, kept in (("heads", heads), ("neurons", neurons)):
        if kept is not None and (reason := anatomy.refuse(facts, what)):
            raise CheckpointError(f"{what} can't be left out: {reason}")
        if kept is not None and not all(kept):
            raise CheckpointError(f"a layer would keep no {what}; keep at least one")
    smaller = copy.deepcopy(model)
    for what, kept, parts in (
        ("heads", heads, attentions_of(smaller) if heads is not None else []),
        ("neurons", neurons, neurons_of(smaller) if neurons is not None else []),
    ):
        if kept is None:
            continue
        _check(what, kept, parts)
        keep_in_tables(parts, kept)
        for part, units in zip(parts, kept, strict=True):
            part.keep(units)
    return tell_config(smaller)


def reshape(model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """Gives a model's layers a shape, in place; what the weights then hold is for the caller to fill in.

    Raises CheckpointError for a shape that the model can't be cut to.
    """
    if reason := misfit(model.config.to_dict(), shape):
        raise CheckpointError(f"the shape {reason}")
    attentions = attentions_of(model)
    keep_in_tables(attentions, [range(number) for number in shape.heads])
    for parts, counts in ((attentions, shape.heads), (neurons_of(model), shape.neurons)):
        for part, number in zip(parts, counts, strict=True):
            if number != part.units:
                part.keep(range(number))
            else:
                part.follow()
    if shape.embeddings is not None:
        narrow_table(model, shape.embeddings)
    return tell_config(model)


def pad(model: PreTrainedModel) -> PreTrainedModel:
    """A model that stock transformers loads: its layers padded with zeros to the nearest shape that a config can say.

    A head or neuron of zeros adds nothing, so the logits stay what they are; a factorised token table is multiplied
    out. The model given stays as it was.
    """
    model = multiply_out(model)
    full = like(model, model.config)
    given, weights = model.state_dict(), full.state_dict()
    loaded = {name: tensor for name, tensor in given.items() if weights[name].shape == tensor.shape}
    full.load_state_dict(loaded, strict=False)
    with torch.no_grad():
        for parts in (attentions_of, neurons_of):
            for mine, room in zip(parts(model), parts(full), strict=True):
                if mine.units != room.units:
                    _pour(mine, room)
    return full.to(model.device, model.dtype).eval()


def like(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """A model of the same class, of random weights, for a config that differs in sizes alone. What the model given
    doesn't tie, whatever its config says, isn't tied.
    """
    made = type(model)(copy.deepcopy(config))
    untie(made, model.state_dict(keep_vars=True))
    if getattr(model, "generation_config", None) is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    return made


def untie(model: PreTrainedModel, told: Mapping[str, torch.Tensor]) -> None:
    """Gives weights that a model ties memory of their own, in place, where `told` has them apart under their names:
    T5 1.1 and Flan-T5 have heads of their own, but transformers ties those of every T5 that it makes of a config.
    """
    for name, other in list(model.all_tied_weights_keys.items()):
        if name not in told or other not in told or told[name] is told[other]:
            continue
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, own, nn.Parameter(getattr(module, own).detach().clone()))
        del model.all_tied_weights_keys[name]


def _check(what: str, kept: Sequence[Sequence[int]], parts: Sequence[Part]) -> None:
    if len(kept) != len(parts):
        each = "an attention" if what == "heads" else "a layer"
        raise CheckpointError(f"{what} are listed for {len(kept)}, but the model has {len(parts)}: give a list {each}")
    tables: dict[int, list[int]] = {}
    for part, units in zip(parts, kept, strict=True):
        units = list(units)
        if units != sorted(set(units)) or not 0 <= units[0] <= units[-1] < part.units:
            raise CheckpointError(f"layer {part.place + 1} has {part.units} {what}, 0 and up; a list of some rises")
        groups = {unit // part.group for unit in units}
        if len(groups) * part.group != len(units):
            raise CheckpointError(
                f"heads don't divide into groups: in layer {part.place + 1} each {part.group} heads, from 0 on, share "
                "a key head and stay or go together"
            )
        if part.table is not None and tables.setdefault(id(part.table), units) != units:
            raise CheckpointError(
                f"layer {part.place + 1} would keep other heads than the layers before it, but they share one table of "
                "position biases with a column a head; keep the same heads in each of them"
            )


def _pour(mine: Part, room: Part) -> None:
    """Fills a larger part with the units of a smaller one; what is over becomes zero."""
    for small, large in zip(mine.makers, room.makers, strict=True):
        rows = large.rows(range(mine.units), room.units)
        for ours, theirs, axis in _pairs(small.module, large.module, outputs=True):
            theirs.zero_().index_copy_(axis, rows.to(theirs.device), ours.to(theirs))
    columns = ranges(range(mine.units), mine.width)
    for ours, theirs, axis in _pairs(mine.mixer, room.mixer, outputs=False):
        theirs.zero_().index_copy_(axis, columns.to(theirs.device), ours.to(theirs))
    if mine.table is not None:
        columns = torch.arange(mine.table.embedding_dim)
        room.table.weight.zero_().index_copy_(1, columns.to(room.table.weight.device), mine.table.weight)


def _pairs(small: nn.Module, large: nn.Module, *, outputs: bool) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """The parameters of two modules that differ along their outputs or their inputs, with the axis."""
    lies = not isinstance(small, nn.Linear)
    found = [(small.weight, large.weight, int(lies) if outputs else 1 - int(lies))]
    return [*found, (small.bias, large.bias, 0)] if outputs and small.bias is not None else found
