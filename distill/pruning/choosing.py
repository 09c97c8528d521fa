"""Which units stay, from their importance: the same number in every layer, or wherever they count most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.pruning.importance import Importance
from distill.pruning.sites import Site


def choose_units(
    found: Sequence[tuple[Site, Importance]], share: float, *, uniform: bool, multiple: int
) -> list[list[int]]:
    """For each site the heads or neurons that stay, rising, as `surgery.keep_units` takes them.

    Sites that must keep the same heads are chosen as one, by their importance together, and lose just the share.
    """
    kept: dict[int, list[int]] = {}
    free = [number for number, (site, _) in enumerate(found) if site.shared_heads is None]
    chosen = choose([found[number][1] for number in free], share, uniform=uniform, multiple=multiple)
    kept |= dict(zip(free, chosen, strict=True))
    for shared in {site.shared_heads for site, _ in found if site.shared_heads is not None}:
        together = [number for number, (site, _) in enumerate(found) if site.shared_heads == shared]
        (units,) = choose([summed([found[i][1] for i in together])], share, uniform=True, multiple=multiple)
        kept |= dict.fromkeys(together, units)
    return [site.heads(kept[number]) for number, (site, _) in enumerate(found)]


def summed(found: Sequence[Importance]) -> Importance:
    """Units that go together in several sites, as one: their derivatives by one gate add up."""
    if found[0].derivatives is None:
        return Importance(torch.stack([importance.scores for importance in found]).sum(0))
    derivatives = torch.stack([importance.derivatives for importance in found]).sum(0)
    return Importance(derivatives.square().mean(0), derivatives)


def choose(found: Sequence[Importance], share: float, *, uniform: bool, multiple: int) -> list[list[int]]:
    """For each site the units that stay, rising, when about a share of all goes.

    Where derivatives are there, each layer's units are chosen again with what they share. At least one unit (or
    `multiple` of them) stays in every layer.
    """
    numbers = _numbers([importance.scores for importance in found], share, uniform=uniform, multiple=multiple)
    return [_best(importance, number) for importance, number in zip(found, numbers, strict=True)]


def _numbers(scores: Sequence[Tensor], share: float, *, uniform: bool, multiple: int) -> list[int]:
    """How many units stay in each layer, in multiples, all together as near to what was asked for as can be."""
    units = [len(layer) for layer in scores]
    wanted = round(sum(units) * (1 - share))
    if uniform:
        return [_rounded(number * (1 - share), number, multiple) for number in units]
    least = [min(multiple, number) for number in units]
    # Whole multiples are given out in the order of what they bring a unit, the first of each layer beforehand.
    blocks = []
    for layer, kept in enumerate(scores):
        ordered = kept.sort(descending=True).values
        for start in range(least[layer], units[layer], multiple):
            block = ordered[start : start + multiple]
            blocks.append((float(block.mean()), layer, len(block)))
    numbers = list(least)
    for _, layer, size in sorted(blocks, key=lambda block: -block[0]):
        if sum(numbers) + size / 2 > wanted:
            break
        numbers[layer] += size
    return numbers


def _rounded(number: float, of: int, multiple: int) -> int:
    return min(of, max(multiple, multiple * round(number / multiple)))


def _best(importance: Importance, number: int) -> list[int]:
    """The units that stay in one layer."""
    going, _ = removal(importance)
    return sorted(going[len(going) - number :])


def removal(importance: Importance) -> tuple[list[int], np.ndarray]:
    """One layer's units in the order in which they go, and what is lost by so many that are gone, (units + 1,).

    With derivatives, units are taken out one by one, each time the one whose going adds least to mᵀFm, where F is the
    layer's block of the empirical Fisher information and m marks what is gone (Kwon et al. 2022, section 4.3); without,
    what is lost is the sum of the scores.
    """
    if importance.derivatives is None:
        ordered = importance.scores.double().sort(stable=True)
        return ordered.indices.tolist(), np.concatenate([[0.0], ordered.values.cumsum(0).numpy()])
    shared = importance.derivatives.T.double() @ importance.derivatives.double() / len(importance.derivatives)
    cost, going, lost = shared.diagonal().clone(), [], [0.0]
    for _ in range(len(cost)):
        worst = int(cost.argmin())
        going.append(worst)
        lost.append(lost[-1] + float(cost[worst]))
        cost += 2 * shared[worst]
        cost[worst] = torch.inf
    return going, np.array(lost)
