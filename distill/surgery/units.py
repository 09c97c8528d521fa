"""Taking parts out of a real module: layers, heads, neurons. Who asked for it, and why, is not known here.

Layers may differ in what they keep. What a config can't say of that stands in a shape record beside the weights.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError
from distill.surgery.embeddings import multiply_out, narrow_table, rank_of

RECORD = "shape.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Shape:
    """How many heads and neurons each layer has, and the rank of the token table where it is factorised."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    embeddings: int | None = None


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """A model's layers, from the first to the last. Raises CheckpointError for a family that isn't known."""
    return list(model.base_model.get_submodule(anatomy.family_of(model.config.to_dict()).stack))


def head_width(model: PreTrainedModel) -> int:
    """Dimensions of one head, which no pruning changes."""
    facts = model.config.to_dict()
    return anatomy.size(facts, "hidden_size") // anatomy.size(facts, "heads")


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape that a model has."""
    layer, width = anatomy.family_of(model.config.to_dict()).layer, head_width(model)
    layers = layers_of(model)
    return Shape(
        tuple(each.get_submodule(layer.query).out_features // width for each in layers),
        tuple(each.get_submodule(layer.up).out_features for each in layers),
        rank_of(model),
    )


def shape_in_config(config: dict[str, Any]) -> Shape:
    """The shape that a config says."""
    layers = anatomy.size(config, "layers")
    return Shape((anatomy.size(config, "heads"),) * layers, (anatomy.size(config, "neurons"),) * layers)


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with some of a model's layers, counted from 1; everything else is copied as it is.

    The weights are the original's values in memory of their own. Raises CheckpointError for a family that isn't known
    or can't do it.
    """
    facts = model.config.to_dict()
    family = anatomy.family_of(facts)
    if reason := anatomy.refuse(facts, "layers"):
        raise CheckpointError(f"layers can't be left out: {reason}")
    config = copy.deepcopy(model.config)
    setattr(config, family.config["layers"], len(layers))
    smaller = type(model)(config)
    if anatomy.refuse(facts, "neurons") is None:
        shape = shape_of(model)
        kept = (tuple(counts[i - 1] for i in layers) for counts in (shape.heads, shape.neurons))
        reshape(smaller, Shape(*kept, shape.embeddings))
    stack = re.compile(rf"^{re.escape(f'{model.base_model_prefix}.{family.stack}')}\.(\d+)\.")
    new_place = {old - 1: new for new, old in enumerate(layers)}
    weights = {}
    for name, tensor in model.state_dict().items():
        found = stack.match(name)
        if found is None:
            weights[name] = tensor
        elif int(found[1]) in new_place:
            start, end = found.span(1)
            weights[f"{name[:start]}{new_place[int(found[1])]}{name[end:]}"] = tensor
    smaller.load_state_dict(weights)
    return smaller.to(model.device, model.dtype).eval()


def keep_units(
    model: PreTrainedModel, heads: Sequence[Sequence[int]] | None, neurons: Sequence[Sequence[int]] | None
) -> PreTrainedModel:
    """A new model with some of each layer's heads and neurons, counted from 0; None keeps them all.

    Where all layers keep the same number of neurons the config says it. Raises CheckpointError for a family that isn't
    known or can't do it, and for a layer that would keep nothing.
    """
    facts = model.config.to_dict()
    layer, width = anatomy.family_of(facts).layer, head_width(model)
    for what, kept in (("heads", heads), ("neurons", neurons)):
        if kept is not None and (reason := anatomy.refuse(facts, what)):
            raise CheckpointError(f"{what} can't be left out: {reason}")
        if kept is not None and not all(kept):
            raise CheckpointError(f"a layer would keep no {what}; keep at least one")
    smaller = copy.deepcopy(model)
    for place, each in enumerate(layers_of(smaller)):
        if heads is not None:
            rows = torch.tensor([head * width + i for head in heads[place] for i in range(width)])
            for name in (layer.query, layer.key, layer.value):
                _keep_rows(each.get_submodule(name), rows)
            _keep_columns(each.get_submodule(layer.output), rows)
        if neurons is not None:
            columns = torch.tensor(list(neurons[place]))
            _keep_rows(each.get_submodule(layer.up), columns)
            _keep_columns(each.get_submodule(layer.down), columns)
    return _told(smaller)


def keep_tokens(model: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """A new model that embeds some of a model's tokens alone, numbered anew in the order given.

    Raises CheckpointError where positions hang on the padding token's id and it would change.
    """
    smaller = copy.deepcopy(model)
    table = smaller.get_input_embeddings()
    family = anatomy.FAMILIES.get(str(model.config.model_type))
    padding = table.padding_idx
    if padding is not None and family is not None and family.reserved_positions and list(ids).index(padding) != padding:
        raise CheckpointError("the padding token must keep its id, because positions are counted from it")
    rows = torch.tensor(list(ids), device=table.weight.device)
    table.weight = nn.Parameter(table.weight.detach()[rows].clone())
    table.num_embeddings = len(rows)
    table.padding_idx = None if padding is None else list(ids).index(padding)
    smaller.config.vocab_size = len(rows)
    return smaller


def reshape(model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """Gives a model's layers a shape, in place; what the weights then hold is for the caller to fill in."""
    layer, width = anatomy.family_of(model.config.to_dict()).layer, head_width(model)
    for each, heads, neurons in zip(layers_of(model), shape.heads, shape.neurons, strict=True):
        for name in (layer.query, layer.key, layer.value):
            _resize(each.get_submodule(name), rows=heads * width)
        _resize(each.get_submodule(layer.output), columns=heads * width)
        _resize(each.get_submodule(layer.up), rows=neurons)
        _resize(each.get_submodule(layer.down), columns=neurons)
    if shape.embeddings is not None:
        narrow_table(model, shape.embeddings)
    return _told(model)


def pad(model: PreTrainedModel) -> PreTrainedModel:
    """A model that stock transformers loads: its layers padded with zeros to the nearest shape that a config can say.

    A head or neuron of zeros adds nothing, so the logits stay what they are; a factorised token table is multiplied
    out. The model given stays as it was.
    """
    model = multiply_out(model)
    shape = shape_of(model)
    config = copy.deepcopy(model.config)
    facts = config.to_dict()
    setattr(config, anatomy.family_of(facts).config["neurons"], max(shape.neurons))
    full = type(model)(config)
    weights = full.state_dict()
    for name, tensor in model.state_dict().items():
        room = weights[name]
        if room.shape != tensor.shape:
            room = torch.zeros_like(room)
            room[tuple(slice(0, size) for size in tensor.shape)] = tensor
            weights[name] = room
        else:
            weights[name] = tensor
    full.load_state_dict(weights)
    return full.to(model.device, model.dtype).eval()


def write_record(model: PreTrainedModel, folder: Path) -> None:
    """Writes the shape record where the config doesn't say the model's shape."""
    facts = model.config.to_dict()
    if str(facts.get("model_type")) not in anatomy.FAMILIES or anatomy.refuse(facts, "neurons"):
        return
    shape = shape_of(model)
    if shape != shape_in_config(facts):
        told = {"schema": _SCHEMA, "heads": list(shape.heads), "neurons": list(shape.neurons)}
        told |= {"embeddings": shape.embeddings} if shape.embeddings is not None else {}
        (folder / RECORD).write_text(json.dumps(told) + "\n", encoding="utf-8")


def read_record(folder: Path, config: dict[str, Any]) -> Shape | None:
    """The shape record of a checkpoint folder; None when its config says it all. Raises CheckpointError."""
    path = folder / RECORD
    if not path.is_file():
        return None
    limits = shape_in_config(config)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != _SCHEMA:
            raise ValueError("another schema")
        shape = Shape(tuple(told["heads"]), tuple(told["neurons"]), told.get("embeddings"))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a shape record ({error})") from None
    for counts, most in ((shape.heads, limits.heads), (shape.neurons, limits.neurons)):
        ints = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
        if len(counts) != len(most) or not ints or any(not 1 <= n <= m for n, m in zip(counts, most, strict=True)):
            raise CheckpointError(f"{path}: says {list(counts)!s:.80}, which the model of this config can't be cut to")
    rank, width = shape.embeddings, anatomy.table_width(config)
    if rank is not None and not (type(rank) is int and width is not None and 1 <= rank < width):
        raise CheckpointError(f"{path}: says embeddings of rank {rank!s:.40}, of a table {width} wide")
    return shape


def _told(model: PreTrainedModel) -> PreTrainedModel:
    """Lets attributes and config follow the shape that the layers have."""
    family, width, shape = anatomy.family_of(model.config.to_dict()), head_width(model), shape_of(model)
    for each, heads in zip(layers_of(model), shape.heads, strict=True):
        for path, what in family.layer.counts.items():
            parent, _, name = path.rpartition(".")
            setattr(each.get_submodule(parent), name, heads if what == "heads" else heads * width)
    setattr(model.config, family.config["neurons"], max(shape.neurons))
    return model


def _keep_rows(linear: nn.Linear, rows: torch.Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[rows.to(linear.weight.device)].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[rows.to(linear.bias.device)].clone())
    linear.out_features = len(rows)


def _keep_columns(linear: nn.Linear, columns: torch.Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[:, columns.to(linear.weight.device)].clone())
    linear.in_features = len(columns)


def _resize(linear: nn.Linear, *, rows: int | None = None, columns: int | None = None) -> None:
    if rows is not None and rows != linear.out_features:
        _keep_rows(linear, torch.zeros(rows, dtype=torch.int64))
    if columns is not None and columns != linear.in_features:
        _keep_columns(linear, torch.zeros(columns, dtype=torch.int64))
