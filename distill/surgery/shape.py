"""How many heads and neurons each layer has, and the rank of the token table: what a config can say, and the record of
the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError
from distill.surgery.embeddings import rank_of
from distill.surgery.parts import attentions_of, neurons_of

RECORD = "shape.json"
_SCHEMA = 1
_LARGEST_RECORD = 1 << 20  # bytes


@dataclass(frozen=True)
class Shape:
    """How many heads each attention has, how many neurons each layer, and the rank of a factorised token table.

    Attentions come as they are passed: an encoder's layers, then a decoder's, each with its self-attention and, where
    it has one, its cross-attention. Heads that share a key head count each.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    embeddings: int | None = None


def head_width(model: PreTrainedModel, stack: int = 0) -> int:
    """Dimensions of one head, which no pruning changes."""
    return anatomy.head_width(model.config.to_dict(), stack)


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape that a model has."""
    counts = (tuple(part.units for part in parts) for parts in (attentions_of(model), neurons_of(model)))
    return Shape(*counts, rank_of(model))


def shape_in_config(config: dict[str, Any]) -> Shape:
    """The shape that a config says."""
    heads, neurons = [], []
    for place, stack in enumerate(anatomy.family_of(config).stacks):
        layers = anatomy.size(config, "layers", place)
        heads += [anatomy.size(config, "heads", place)] * layers * len(stack.layer.attentions)
        neurons += [anatomy.size(config, "neurons", place)] * layers
    return Shape(tuple(heads), tuple(neurons))


def misfit(config: dict[str, Any], shape: Shape) -> str | None:
    """Why a model of a config can't be cut to a shape; None when it can."""
    most = shape_in_config(config)
    for counts, limits in ((shape.heads, most.heads), (shape.neurons, most.neurons)):
        ints = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
        if len(counts) != len(limits) or not ints or any(not 1 <= n <= m for n, m in zip(counts, limits, strict=True)):
            return f"says {list(counts)!s:.80}, which the model of this config can't be cut to"
    rank, width = shape.embeddings, anatomy.table_width(config)
    if rank is not None and not (type(rank) is int and width is not None and 1 <= rank < width):
        return f"says embeddings of rank {rank!s:.40}, of a table {width} wide"
    place = 0
    for number, stack in enumerate(anatomy.family_of(config).stacks):
        shared, group = set(), anatomy.heads_a_group(config, number)
        for _ in range(anatomy.size(config, "layers", number)):
            for attention in stack.layer.attentions:
                if shape.heads[place] % group:
                    return f"says {shape.heads[place]} heads, which don't divide into groups of {group}"
                shared |= {shape.heads[place]} if attention.biased else set()
                place += 1
        if len(shared) > 1:
            return f"says {sorted(shared)} heads in layers that share one table of position biases"
    return None


def tell_config(model: PreTrainedModel) -> PreTrainedModel:
    """Lets a model's config say as much of its shape as it can, in place."""
    family, facts = anatomy.family_of(model.config.to_dict()), model.config.to_dict()
    for key, most in _most(family, "neurons", [(part.stack, part.units) for part in neurons_of(model)]).items():
        _set(model.config, facts, key, most)
    width_key = family.key("head_width")
    if width_key is None:
        return model
    width, hidden = head_width(model), anatomy.size(facts, "hidden_size")
    for key, most in _most(family, "heads", [(part.stack, part.units) for part in attentions_of(model)]).items():
        group, told = anatomy.heads_a_group(facts), most
        if family.heads_divide:  # the number told before divides, so the search ends there at the latest
            told = next(count for count in range(most, facts[key] + 1) if hidden % count == 0 and count % group == 0)
        if told != facts[key]:
            _set(model.config, facts, width_key, width)
            if (keys := family.key("key_value_heads")) is not None:
                _set(model.config, facts, keys, told // group)
            _set(model.config, facts, key, told)
    return model


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
    try:
        if path.stat().st_size > _LARGEST_RECORD:
            raise ValueError(f"{path.stat().st_size} bytes")
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != _SCHEMA:
            raise ValueError("another schema")
        shape = Shape(tuple(told["heads"]), tuple(told["neurons"]), told.get("embeddings"))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a shape record ({error})") from None
    if reason := misfit(config, shape):
        raise CheckpointError(f"{path}: {reason}")
    return shape


def _most(family: anatomy.Family, word: anatomy.Word, counts: Sequence[tuple[int, int]]) -> dict[str, int]:
    """The largest number for each of the config's keys, from (stack, number) pairs."""
    found: dict[str, int] = {}
    for stack, number in counts:
        key = family.key(word, stack)
        found[key] = max(number, found.get(key, 0))
    return found


def _set(config: Any, facts: dict[str, Any], key: str, value: int) -> None:
    if facts.get(key) != value:
        setattr(config, key, value)
