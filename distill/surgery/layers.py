"""Taking whole layers out of a model, on either side of an encoder-decoder."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError
from distill.surgery.modules import weights as outputs_of
from distill.surgery.parts import attentions_of, layers_of, stacks_of
from distill.surgery.shape import Shape, shape_of
from distill.surgery.units import like, reshape

log = logging.getLogger(__name__)


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with some of a model's layers, counted from 1; everything else is copied as it is.

    An encoder-decoder's layers are counted on from the encoder's to the decoder's, and each keeps at least one. What a
    config lists layer by layer follows. What a layer holds for all stays with the first: T5's position biases. The
    weights are the original's values in memory of their own; where a layer's number divides its scores, its queries
    keep the old one. A family whose first layer lacks a norm (ModernBERT) loses that of the layer which becomes the
    first, with a warning. Raises CheckpointError for a family that isn't known or can't do it, and for layers that
    aren't there.
    """
    facts = model.config.to_dict()
    family = anatomy.family_of(facts)
    if reason := anatomy.refuse(facts, "layers"):
        raise CheckpointError(f"layers can't be left out: {reason}")
    there = len(layers_of(model))
    if list(layers) != sorted(set(layers)) or not all(1 <= layer <= there for layer in layers):
        raise CheckpointError(f"layers {list(layers)!s:.80}: the model has layers 1 to {there}; a list of some rises")
    _tell_of_lost(model, layers)
    config, told = copy.deepcopy(model.config), anatomy.with_layers(facts, layers)
    for key, value in told.items():
        if facts.get(key) != value:
            setattr(config, key, value)
    smaller = reshape(like(model, config), _shape(model, layers))
    smaller.load_state_dict(_renamed(model, family, layers, set(smaller.state_dict())))
    _keep_scores(smaller, family, layers)
    return smaller.to(model.device, model.dtype).eval()


def _tell_of_lost(model: PreTrainedModel, layers: Sequence[int]) -> None:
    before, facts = 0, model.config.to_dict()
    for stack, held in zip(anatomy.family_of(facts).stacks, stacks_of(model), strict=True):
        if stack.not_in_first and before + 1 not in layers:
            log.warning(
                "layer %d goes, behind which the first layer of a %s has no %s: the layer that is first now loses its "
                "own, so what is left answers otherwise than the model without those layers until it is trained",
                before + 1, facts["model_type"], " and ".join(stack.not_in_first),
            )  # fmt: skip
        before += len(held)


def _shape(model: PreTrainedModel, layers: Sequence[int]) -> Shape:
    """The shape that is left: a layer's own counts follow it."""
    family, shape, place, heads, neurons = anatomy.family_of(model.config.to_dict()), shape_of(model), 0, [], []
    counts = iter(shape.heads)
    for stack, held in zip(family.stacks, stacks_of(model), strict=True):
        for _ in held:
            place += 1
            mine = [next(counts) for _ in stack.layer.attentions]
            if place in layers:
                heads += mine
                neurons.append(shape.neurons[place - 1])
    return Shape(tuple(heads), tuple(neurons), shape.embeddings)


@torch.no_grad()
def _keep_scores(smaller: PreTrainedModel, family: anatomy.Family, layers: Sequence[int]) -> None:
    """Folds the number that a layer had into its queries, where attention scores are divided by it."""
    for part in attentions_of(smaller):
        key = family.stacks[part.stack].by_place
        if key is None or not getattr(smaller.config, key):
            continue
        query, rows = part.makers[0].module, part.units * part.width
        factor = (part.place + 1) / layers[part.place]
        for tensor in (outputs_of(query), query.bias):
            tensor[:rows] *= factor


def _renamed(
    model: PreTrainedModel, family: anatomy.Family, layers: Sequence[int], expected: set[str]
) -> dict[str, Tensor]:
    """The weights that stay, under the names that they have now."""
    base = next(name for name, module in model.named_modules() if module is model.base_model)
    start = f"{base}." if base else ""
    weights, before = dict(model.state_dict()), 0
    for stack, held in zip(family.stacks, stacks_of(model), strict=True):
        numbers = range(before + 1, before + len(held) + 1)
        kept = {layer - before - 1: new for new, layer in enumerate(layer for layer in layers if layer in numbers)}
        pattern = re.compile(rf"^{re.escape(start + stack.layers)}\.(\d+)\.")
        found: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            match = pattern.match(name)
            if match is None or (stack.biases and name.startswith(f"{start}{stack.biases}.")):
                found[name] = tensor
            elif (old := int(match[1])) in kept:
                new = f"{name[: match.start(1)]}{kept[old]}{name[match.end(1) :]}"
                norms = [f"{start}{stack.layers}.0.{path}." for path in stack.not_in_first]
                if new in expected or not any(new.startswith(path) for path in norms):
                    found[new] = tensor
        weights, before = found, before + len(held)
    return weights
