"""How important each head and neuron is, measured on training texts only. Higher is more important.

`magnitude` looks at weights alone; `activations` at what a unit adds to its layer's output; `taylor` at the loss's
first derivative by a gate on the unit (Molchanov et al. 2019; Michel et al. 2019); `fisher` at the squares of the same,
with what units share between them (Kwon et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.bars import bar
from distill.checkpoint import Checkpoint
from distill.data import Splits, TokenBatches, collate
from distill.losses import to_targets
from distill.pruning.sites import Site, gated, reals, watched
from distill.signals import read, tensors

_BATCH, _TOKENS = 32, 4096


@dataclass
class Importance:
    """A site's importance by unit, (units,), and, for `fisher`, the derivatives of every example, (examples, units)."""

    scores: Tensor
    derivatives: Tensor | None = None


def measure(
    checkpoint: Checkpoint, sites: Sequence[Site], by: str, data: Splits, rows: Sequence[int]
) -> list[Importance]:
    """The importance of every site's units."""
    if by == "magnitude":
        return [Importance(_magnitude(site)) for site in sites]
    if by == "activations":
        return [Importance(scores) for scores in _activations(checkpoint, sites, data, rows)]
    found = _derivatives(checkpoint, sites, data, rows)
    if by == "taylor":
        return [Importance(derivatives.abs().mean(0)) for derivatives in found]
    return [Importance(derivatives.square().mean(0), derivatives) for derivatives in found]


def batches(checkpoint: Checkpoint, data: Splits, rows: Sequence[int], title: str) -> Iterator[dict[str, Tensor]]:
    """Some of the training texts in batches by length, on the model's device."""
    some = checkpoint.encode(data, "train").take(torch.as_tensor(rows).numpy())
    for place in bar(list(TokenBatches(some.lengths, _BATCH, _TOKENS)), title=title):
        yield tensors(collate(some, place), checkpoint.model.device)


def _magnitude(site: Site) -> Tensor:
    """The product of the norms of what makes a unit and of what mixes it in, relative to the layer's mean."""
    mixed = site.mixing.detach().float().square().sum(0).view(-1, site.width).sum(1)
    scores = (site.made() * mixed.cpu()).sqrt()
    return scores / scores.mean()


@torch.no_grad()
def _activations(checkpoint: Checkpoint, sites: Sequence[Site], data: Splits, rows: Sequence[int]) -> list[Tensor]:
    """The mean norm of what a unit adds to its layer's output, relative to the layer's mean."""
    sums = [torch.zeros(site.units) for site in sites]
    real: tuple[Tensor, Tensor] | None = None

    def add(number: int, given: Tensor, _: Tensor) -> None:
        site = sites[number]
        kept = given[real[site.decoder]].float().view(-1, site.units, site.width)
        weights = site.mixing.detach().float().reshape(-1, site.units, site.width)
        shared = torch.einsum("oud,oue->ude", weights, weights)  # so that no output is made unit by unit
        norms = torch.einsum("nud,ude,nue->nu", kept, shared, kept).clamp(min=0).sqrt()
        sums[number] += norms.sum(0).cpu()

    model = checkpoint.model.eval()
    with watched(sites, add):
        for batch in batches(checkpoint, data, rows, "activations"):
            real = reals(batch)
            read(model, batch)
    return [scores / scores.mean() for scores in sums]


def _derivatives(checkpoint: Checkpoint, sites: Sequence[Site], data: Splits, rows: Sequence[int]) -> list[Tensor]:
    """Each example's derivative of its own loss by a gate on each unit: (examples, units) a site."""
    task, model = data.task, checkpoint.model.eval()
    found: list[list[Tensor]] = [[] for _ in sites]
    for batch in batches(checkpoint, data, rows, "importance"):
        number = len(batch["labels"])
        with gated(sites, number, model.device) as gates, torch.enable_grad():
            loss = to_targets(task, read(model, batch).logits, batch) * number
            for kept, derivative in zip(found, torch.autograd.grad(loss, gates), strict=True):
                kept.append(derivative.float().cpu())
    return [torch.cat(kept) for kept in found]
