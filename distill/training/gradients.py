"""How hard each term of a loss pulls: the norm of its gradient, which its value says nothing of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distill import processes


def gradient_shares(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
) -> dict[str, float]:
    """Each term's share of the sum of gradient norms, over parameters that are trained, its weight included.

    The graph behind the terms stays for the backward pass that follows. A term without a gradient has none; one that
    is nothing in this batch, as the loss on labels where none is known, is left out.
    """
    norms, sizes = [], []
    for name, value in terms.items():
        found = [None] * len(parameters)
        if value.requires_grad:
            found = torch.autograd.grad(weights[name] * value, parameters, retain_graph=True, allow_unused=True)
        squares = [float(gradient.float().square().sum()) for gradient in found if gradient is not None]
        norms.append(sum(squares) ** 0.5)
        sizes.append(abs(float(value.detach())))
    both = processes.mean([*norms, *sizes])
    norms, sizes = both[: len(terms)], both[len(terms) :]
    whole = sum(norms) or 1.0
    return {name: norm / whole for name, norm, size in zip(terms, norms, sizes, strict=True) if norm or size}
