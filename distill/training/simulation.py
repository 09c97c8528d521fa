"""Training for int8: what a model computes is rounded as its int8 graph will round it (quantization-aware training).

Weights are rounded symmetrically with one scale an output row, embeddings with one scale a token's row, what enters a
Linear to 8 bits with one scale and zero point a tensor, whose range is followed through the training. Gradients pass
as if nothing had been rounded, but not where a value was clipped (straight through: Bengio et al. 2013; Jacob et al.
2018). The weights themselves stay what they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import processes
from distill.surgery.embeddings import FactorisedEmbedding
from distill.surgery.modules import Mixing, weights

RANGE = "simulated_range"  # a Linear's buffer while it is simulated: lowest, highest, batches seen
_BATCHES = 100  # that the moving average of a range remembers
_LEVELS, _STEPS = 127, 255  # of a signed weight each way, and of an unsigned activation
_TINY = torch.finfo(torch.float32).tiny


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """A matrix (rows, columns) on the int8 grid of each row: integers of −127 to 127, times max|row| / 127.

    The largest weight of a row sets its scale, so that no weight is clipped.
    """
    scales = (weight.detach().abs().amax(1) / _LEVELS).clamp(min=_TINY)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -_LEVELS, _LEVELS)


def fake_quantize_activation(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values of any shape on a grid of 256 steps from `low` to `high` (numbers), widened to hold 0 exactly.

    What lies outside is clipped, and gets no gradient.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / _STEPS).clamp(min=_TINY)
    zero = (-low / scale).round().clamp(0, _STEPS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, _STEPS)


@contextlib.contextmanager
def simulated(model: nn.Module) -> Iterator[None]:
    """Every Linear (GPT-2's Conv1D too) and embedding table of a model computes as in int8 while the block lasts.

    The range of what enters a Linear, padding included, is a moving average over the batches seen in training mode,
    kept in a buffer: it is saved and loaded with the model within the block, and gone behind it, as everything else. A
    Linear that has seen no batch in training takes the range of what it is given.
    """
    changed: list[nn.Module] = []
    try:
        for module in model.modules():
            if isinstance(module, Mixing):
                module.register_buffer(RANGE, module.weight.new_zeros(3, dtype=torch.float32))
                module.forward = _rounded_linear(module)
                changed.append(module)
            elif isinstance(module, nn.Embedding):
                module.forward = _rounded_embedding(module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward
            if isinstance(module, Mixing):
                delattr(module, RANGE)


def _rounded_linear(linear: Mixing) -> Callable[[Tensor], Tensor]:
    def forward(given: Tensor) -> Tensor:
        values = given.float()
        low, high = _follow(linear, values.detach())
        rounded = fake_quantize_activation(values, low, high).to(given.dtype)
        return F.linear(rounded, fake_quantize_weight(weights(linear)), linear.bias)

    return forward


def _rounded_embedding(table: nn.Embedding) -> Callable[..., Tensor]:
    """Only the rows that are looked up are rounded: each has a scale of its own.

    A table with a lookup of its own keeps it: BART's scales what it finds, OPT's counts positions from a mask. A row on
    its grid stays on it when it is scaled.
    """
    factorised = isinstance(table, FactorisedEmbedding)
    look_up = nn.Embedding.forward if factorised else type(table).forward

    def forward(*given: Any, **named: Any) -> Tensor:
        rows = look_up(table, *given, **named)
        found = fake_quantize_weight(rows.flatten(0, -2)).view_as(rows)
        return table.projection(found) if factorised else found

    return forward


@torch.no_grad()
def _follow(linear: Mixing, values: Tensor) -> tuple[Tensor, Tensor]:
    """The range to round to: a plain mean over the first batches, a moving average from then on."""
    kept, seen = getattr(linear, RANGE), torch.stack(values.aminmax())
    if linear.training:
        seen = processes.widest(seen)
        batches = kept[2] + 1
        kept[:2].lerp_(seen, 1 / batches.clamp(max=_BATCHES))
        kept[2] = batches
    known = torch.where(kept[2] > 0, kept[:2], seen)
    return known[0], known[1]
