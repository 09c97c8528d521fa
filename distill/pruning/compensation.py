"""What is lost when units go and those that stay are refitted by least squares to make up for them.

For a mixer with weights W, inputs of second moment H and outputs at which the loss has the derivative's second moment
G, taking the columns s out and refitting all others adds tr(Gᵀ W_s ([H⁻¹]_ss)⁻¹ W_sᵀ) to the loss, to the second order
and with inputs and derivatives taken as independent (Hassibi and Stork 1993 for single weights; Kurtic et al. 2023 for
columns; Martens and Grosse 2015 for the independence). Nothing is trained: the order is found in closed form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.losses import to_targets
from distill.pruning.importance import batches
from distill.pruning.sites import Site, reals
from distill.signals import read

_RIDGE = 1e-2  # of the mean square of an input, as in the refit
_DENSE = 0.8  # of the units that are carried along must be left
_SMALLEST = 1e-9  # of the largest eigenvalue


def moments(
    checkpoint: Checkpoint, sites: Sequence[Site], data: Splits, rows: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """For each site H, (inputs, inputs), a token's mean; and G, (outputs, outputs), an example's mean."""
    task, model = data.task, checkpoint.model.eval()
    given: list[Tensor | None] = [None] * len(sites)
    made: list[Tensor | None] = [None] * len(sites)
    sums: list[list[Tensor]] = [[] for _ in sites]
    tokens = [0, 0]

    for batch in batches(checkpoint, data, rows, "importance"):
        real = reals(batch)
        tokens = [before + int(kept.sum()) for before, kept in zip(tokens, real, strict=True)]
        labels = batch["labels"]
        with _kept(sites, given, made), torch.enable_grad():
            loss = to_targets(task, read(model, batch).logits, batch) * len(labels)
            slopes = torch.autograd.grad(loss, made)
        for number, slope in enumerate(slopes):
            kept = real[sites[number].decoder]
            parts = [part.flatten(0, -2)[kept].float() for part in (given[number], slope)]
            squares = [(part.T @ part).cpu() for part in parts]
            if sums[number]:
                for total, square in zip(sums[number], squares, strict=True):
                    total += square
            else:
                sums[number] = squares
    counts = [tokens[site.decoder] for site in sites]
    return [(inputs / count, slopes / len(rows)) for (inputs, slopes), count in zip(sums, counts, strict=True)]


@contextlib.contextmanager
def _kept(sites: Sequence[Site], given: list[Tensor | None], made: list[Tensor | None]) -> Iterator[None]:
    """Keeps what goes into each mixer, and what comes out of it as the loss is derived by it."""

    def keep(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            given[number], made[number] = inputs[0].detach(), outputs

        return hook

    hooks = [site.mixer.register_forward_hook(keep(number)) for number, site in enumerate(sites)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def removal(site: Site, inputs: Tensor, slopes: Tensor, multiple: int) -> tuple[list[int], np.ndarray]:
    """A site's units in the order in which they go, and what is lost by so many that are gone, (units + 1,).

    `multiple` units of one column go at a time, as they do in the end.
    """
    second = inputs.double()
    second.diagonal().add_(_RIDGE * float(second.diagonal().mean()) + torch.finfo(torch.float32).tiny)
    inverse = torch.linalg.inv(second)
    felt = _root(slopes.double()).T @ site.mixing.detach().double().cpu()  # G's root times W
    here, left, going, lost = list(range(site.units)), list(range(site.units)), [], [0.0]
    while left:
        each = _each(felt, inverse, left, site.width)
        chosen = [left[int(i)] for i in each.argsort(stable=True)[: multiple if site.width == 1 else 1]]
        columns = site.columns(chosen)
        among = torch.linalg.inv(inverse[columns][:, columns])
        share = felt[:, columns]
        added = max(0.0, float((share @ among).mul(share).sum()))
        lost += [lost[-1] + added * (i + 1) / len(chosen) for i in range(len(chosen))]
        going += [here[i] for i in chosen]
        beside = inverse[:, columns]
        felt.addmm_(share @ among, beside.T, alpha=-1)
        inverse.addmm_(beside @ among, beside.T, alpha=-1)
        gone = set(chosen)
        left = [i for i in left if i not in gone]
        if len(left) <= _DENSE * len(here):  # what is gone is no longer carried along
            columns = site.columns(left)
            felt, inverse = felt[:, columns].contiguous(), inverse[columns][:, columns].contiguous()
            here, left = [here[i] for i in left], list(range(len(left)))
    return going, np.array(lost)


def _each(felt: Tensor, inverse: Tensor, units: Sequence[int], width: int) -> Tensor:
    """What each unit's going alone would add, (units,)."""
    if width == 1:
        return (felt.square().sum(0) / inverse.diagonal())[list(units)]
    costs = []
    for unit in units:
        columns = slice(unit * width, (unit + 1) * width)
        share = felt[:, columns]
        costs.append((share @ torch.linalg.inv(inverse[columns, columns])).mul(share).sum())
    return torch.stack(costs)


def _root(square: Tensor) -> Tensor:
    """R of a symmetric matrix R Rᵀ without the directions that don't matter."""
    values, vectors = torch.linalg.eigh(square)
    kept = values > _SMALLEST * values.max().clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()
