"""Freezing: parts of a model whose weights a training leaves as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import TrainingError
from distill.surgery.parts import stacks_of


def freeze(model: PreTrainedModel, parts: Sequence[str]) -> None:
    """Takes `embeddings` or the `encoder` out of what is trained; weights tied to them stay as they are, too.

    The embeddings are every table outside the layers, and what BERT and its like keep beside theirs. Raises
    CheckpointError for a model that has no such part, and TrainingError where nothing would be left.
    """
    for part in parts:
        family = anatomy.freezable(model.config.to_dict(), part)
        for module in _embeddings(model) if part == "embeddings" else _encoder(model, family):
            module.requires_grad_(False)
    if parts and not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"freeze: nothing of this model is left to train beside its {' and its '.join(parts)}")


def _embeddings(model: PreTrainedModel) -> Iterator[nn.Module]:
    body = model.base_model
    inside = {id(module) for stack in stacks_of(model) for layer in stack for module in layer.modules()}
    yield from (module for module in body.modules() if isinstance(module, nn.Embedding) and id(module) not in inside)
    if isinstance(getattr(body, "embeddings", None), nn.Module):
        yield body.embeddings


def _encoder(model: PreTrainedModel, family: anatomy.Family) -> Iterator[nn.Module]:
    yield from stacks_of(model)[0]
    if family.kind == "encoder-decoder":
        yield from (
            module
            for name, module in model.get_encoder().named_children()
            if not isinstance(module, nn.ModuleList | nn.Embedding) and "position" not in name
        )
