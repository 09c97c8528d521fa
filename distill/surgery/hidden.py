"""Taking dimensions out of the hidden size, and everything that hangs on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError
from distill.surgery.parts import attentions_of
from distill.surgery.shape import shape_of
from distill.surgery.units import like, reshape


def keep_hidden(model: PreTrainedModel, dims: Sequence[int]) -> PreTrainedModel:
    """A new model with some of a model's hidden dimensions, counted from 0 and rising; heads and neurons stay.

    The config says the smaller hidden size, as a norm over padded zeros would not be the same; where the head's inputs
    are divided by its root (T5), the norm before it makes up for that. Where a head is as wide as the hidden size by
    the number of heads, the new size must be a multiple of that width, and no layer can have more heads than it then
    has room for. Raises CheckpointError for that and for a family that can't do it.
    """
    config = _config(model, len(dims))
    hidden = anatomy.size(model.config.to_dict(), "hidden_size")
    if list(dims) != sorted(set(dims)) or not 0 <= dims[0] <= dims[-1] < hidden:
        raise CheckpointError(f"the hidden dimensions are 0 to {hidden - 1}; a list of some rises")
    smaller = reshape(like(model, config), shape_of(model))
    chosen, weights = torch.tensor(list(dims), device=model.device), {}
    axes = _differences(model.state_dict(), smaller.state_dict(), hidden, len(dims))
    for name, tensor in model.state_dict().items():
        weights[name] = tensor
        for axis in axes[name]:
            weights[name] = weights[name].index_select(axis, chosen.to(tensor.device))
    smaller.load_state_dict(weights)
    for key, path in anatomy.family_of(model.config.to_dict()).scaled.items():
        # what the norm gives is divided by another root now, where a language-model head reads it
        if getattr(model.config, key, False) and model.get_output_embeddings() is not None:
            smaller.base_model.get_submodule(path).weight.data *= math.sqrt(len(dims) / hidden)
    return smaller.to(model.device, model.dtype).eval()


def hidden_axes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """For each of a model's weights, by name, the axes that are as long as the hidden size because of it.

    Found by building the model with another hidden size: what differs hangs on it. Raises as keep_hidden does.
    """
    facts = model.config.to_dict()
    hidden, more = anatomy.size(facts, "hidden_size"), anatomy.hidden_multiple(facts)
    while _meets(facts, hidden + more):
        more += anatomy.hidden_multiple(facts)
    other = reshape(like(model, _config(model, hidden + more)), shape_of(model))
    return _differences(model.state_dict(), other.state_dict(), hidden, hidden + more)


def least_hidden(model: PreTrainedModel) -> int:
    """The smallest hidden size that has room for the heads of every layer, for a config to say it."""
    facts = model.config.to_dict()
    multiple, least = anatomy.hidden_multiple(facts), 1
    if anatomy.family_of(facts).key("head_width") is None:
        least = max(part.units * part.width for part in attentions_of(model))
    return multiple * math.ceil(least / multiple)


def _config(model: PreTrainedModel, number: int) -> PretrainedConfig:
    """A model's config with another hidden size."""
    config, facts = copy.deepcopy(model.config), model.config.to_dict()
    family = anatomy.family_of(facts)
    if reason := anatomy.refuse(facts, "hidden"):
        raise CheckpointError(f"the hidden size can't be changed: {reason}")
    multiple, least = anatomy.hidden_multiple(facts), least_hidden(model)
    if number < 1 or number % multiple:
        below, above = multiple * (number // multiple), multiple * (number // multiple + 1)
        raise CheckpointError(
            f"a hidden size of {number} can't be told by the config of this {family.model_type}: it has to be a "
            f"multiple of {multiple}, such as {max(below, least)} or {max(above, least)}"
        )
    if number < least:
        raise CheckpointError(
            f"a hidden size of {number} has no room for a layer's heads: the config of this {family.model_type} makes "
            f"them as wide as the hidden size by their number, so it can be {least} at least; take heads out first"
        )
    if key := _meets(facts, number):
        raise CheckpointError(
            f"a hidden size of {number} would equal {key}, for which transformers leaves out the projection "
            f"between the two that this {family.model_type} has; take another multiple of {multiple}"
        )
    before = anatomy.size(facts, "hidden_size")
    for stack in range(len(family.stacks)):
        setattr(config, family.key("neurons", stack), anatomy.size(facts, "neurons", stack))
        if (width := family.key("head_width", stack)) is not None:
            setattr(config, width, anatomy.head_width(facts, stack))
        else:
            setattr(config, family.key("heads", stack), number // anatomy.head_width(facts, stack))
    for key in family.follows:
        if facts.get(key) == before:
            setattr(config, key, number)
    setattr(config, family.key("hidden_size"), number)
    return config


def _meets(facts: Mapping[str, Any], number: int) -> str | None:
    """The key of an embedding size that a new hidden size would equal, where the old one doesn't."""
    family = anatomy.family_of(facts)
    keys = (key for key in family.follows if facts.get(key) != anatomy.size(facts, "hidden_size"))
    return next((key for key in keys if facts.get(key) == number), None)


def _differences(
    whole: Mapping[str, Tensor], other: Mapping[str, Tensor], before: int, after: int
) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, tensor in whole.items():
        sizes = list(zip(tensor.shape, other[name].shape, strict=True))
        found[name] = tuple(axis for axis, (old, new) in enumerate(sizes) if old != new)
        if any(sizes[axis] != (before, after) for axis in found[name]):
            raise CheckpointError(f"{name} grows with the hidden size, but otherwise: it is {tuple(tensor.shape)}")
    return found
