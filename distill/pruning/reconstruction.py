"""Refitting what is left: by least squares, so that each layer gives what the whole one gave.

Layer by layer, from the first to the last, the mixing weights of the units that stay are fitted anew: on training
texts, from what reaches them in the pruned model to what came out of the whole one. A ridge keeps weights near where
they were (as Kwon et al. 2022, section 4.4, fit one factor a unit; here every weight is fitted).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.bars import bar
from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.pruning.importance import batches
from distill.pruning.sites import ReachedError, Site, reals, sites_of, watched
from distill.signals import read

_RIDGE = 1e-2  # of the mean square of what reaches a weight
_MOST_TOKENS = 16384


@torch.no_grad()
def refit(
    pruned: Checkpoint, whole: Checkpoint, whats: Sequence[str], data: Splits, rows: Sequence[int],
    dims: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Fits the mixers of a pruned checkpoint's sites, in place, to what the whole one's give: in the hidden dimensions
    that were kept of it, where not all were.
    """
    mine, theirs = sites_of(pruned.model, whats), sites_of(whole.model, whats)
    tokens = int(whole.encode(data, "train").lengths[list(rows)].sum())
    rows = rows[:: -(-tokens // _MOST_TOKENS)]  # texts of all lengths: batches come by length, the shortest first
    wanted = _outputs(whole, theirs, data, rows)
    for number, site in enumerate(bar(mine, title="refit", leave=True, unit="layer")):
        goal = wanted[number] if dims is None else wanted[number][:, list(dims)]
        _fit(site, _inputs(pruned, site, data, rows), goal)


def _outputs(whole: Checkpoint, sites: Sequence[Site], data: Splits, rows: Sequence[int]) -> list[Tensor]:
    """What comes out of every site of the whole model, (tokens, width) each, for the real tokens of the texts."""
    found: list[list[Tensor]] = [[] for _ in sites]
    real: tuple[Tensor, Tensor] | None = None

    def keep(number: int, _: Tensor, made: Tensor) -> None:
        if sum(map(len, found[number])) < _MOST_TOKENS:
            found[number].append(made[real[sites[number].decoder]].float().cpu())

    with watched(sites, keep):
        for batch in batches(whole, data, rows, "whole model"):
            real = reals(batch)
            read(whole.model.eval(), batch)
    return [torch.cat(kept)[:_MOST_TOKENS] for kept in found]


def _inputs(pruned: Checkpoint, site: Site, data: Splits, rows: Sequence[int]) -> Tensor:
    """What reaches a site's mixer in the pruned model as it is now, for the same tokens in the same order."""
    found: list[Tensor] = []
    real: tuple[Tensor, Tensor] | None = None

    def keep(_: int, given: Tensor, __: Tensor) -> None:
        found.append(given[real[site.decoder]].float().cpu())

    with watched([site], keep, stop=True):
        for batch in batches(pruned, data, rows, f"layer {site.place + 1}"):
            real = reals(batch)
            with contextlib.suppress(ReachedError):
                read(pruned.model.eval(), batch)
            if sum(map(len, found)) >= _MOST_TOKENS:
                break
    return torch.cat(found)[:_MOST_TOKENS]


def _fit(site: Site, given: Tensor, wanted: Tensor) -> None:
    """Ridge regression towards the weights that are there: W + argmin ‖XΔ − (Y − XW)‖² + λ‖Δ‖², and the bias."""
    mixer, weight = site.mixer, site.mixing
    inputs = given.double()
    before = weight.T.double().cpu()
    if mixer.bias is not None:
        inputs = torch.cat([inputs, torch.ones(len(given), 1, dtype=torch.float64)], 1)
        before = torch.cat([before, mixer.bias.unsqueeze(0).double().cpu()])
    left = wanted.double() - inputs @ before
    gram = inputs.T @ inputs
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    fitted = (before + torch.linalg.solve(gram, inputs.T @ left)).to(weight)
    weight.copy_(fitted[: weight.shape[1]].T)
    if mixer.bias is not None:
        mixer.bias.copy_(fitted[-1])
