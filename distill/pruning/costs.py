"""What heads and neurons cost, counted or timed, and which numbers of them are worth a budget the most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import nn

from distill.checkpoint import Checkpoint
from distill.pruning.sites import Site, What

_BINS = 4096  # the budget is weighed in this many parts


@dataclass(frozen=True)
class Curve:
    """What one layer's units of a kind cost, measured at some numbers of them; in between it is interpolated."""

    units: tuple[int, ...]
    costs: tuple[float, ...]

    def at(self, units: Sequence[int] | np.ndarray) -> np.ndarray:
        """The costs of numbers of units; beyond what was measured the last stretch goes on."""
        asked, known, costs = np.asarray(units, float), np.array(self.units, float), np.array(self.costs)
        found = np.interp(asked, known, costs)
        if len(known) > 1:
            slope = (costs[-1] - costs[-2]) / (known[-1] - known[-2])
            found = np.where(asked > known[-1], costs[-1] + slope * (asked - known[-1]), found)
        return found


@dataclass(frozen=True)
class Costs:
    """A checkpoint's costs: `curves` by kind of unit and the `fixed` rest; `whole` is what the target is a share of.

    A curve is that of one attention or one feed-forward part. Those `at` the place of a layer are that layer's own.
    """

    unit: Literal["ms", "parameters", "bytes"]
    whole: float
    fixed: float
    curves: Mapping[What, Curve]
    at: Mapping[int, Mapping[What, Curve]] = field(default_factory=dict)

    def of(self, site: Site, units: Sequence[int] | np.ndarray) -> np.ndarray:
        """What numbers of a site's units cost."""
        return self.at.get(site.place, self.curves)[site.what].at(units)

    def total(self, sites: Sequence[Site], numbers: Sequence[int]) -> float:
        """What everything costs when each site keeps so many units."""
        return self.fixed + sum(float(self.of(site, [n])[0]) for site, n in zip(sites, numbers, strict=True))


def count(checkpoint: Checkpoint, sites: Sequence[Site], unit: Literal["parameters", "bytes"], whole: float) -> Costs:
    """What units cost in parameters, or in bytes of the weights' file: exactly, for they are Linear layers' rows and
    columns. What a file says beside its weights is left out; `whole` is the caller's.
    """
    each = next(checkpoint.model.parameters()).element_size() if unit == "bytes" else 1
    curves: dict[What, Curve] = {}
    for site in sites:
        made = sum(maker.module.weight.numel() + _biases(maker.module) for maker in site.makers)
        curves[site.what] = Curve((0, site.units), (0.0, float(each * (made + site.mixing.numel()))))
    there = each * checkpoint.parameters
    fixed = there - sum(float(curves[site.what].at([site.units])[0]) for site in sites)
    return Costs(unit, whole, fixed, curves)


def _biases(module: nn.Module) -> int:
    return 0 if module.bias is None else module.bias.numel()


def options(site: Site, multiple: int) -> np.ndarray:
    """The numbers of units that a site may keep, rising: whole multiples, and all that are there."""
    least = min(multiple, site.units)
    return np.unique([*range(least, site.units + 1, multiple), site.units])


def share_out(
    sites: Sequence[Site],
    losses: Sequence[np.ndarray],
    costs: Costs,
    budget: float,
    multiples: Mapping[What, int],
    *,
    uniform: bool,
) -> list[int] | None:
    """How many units each site keeps, so that the loss together is least and the cost together within the budget.

    `losses` says for each site what it loses when so many units go, (units + 1,). Heads and neurons of all layers
    compete: a knapsack with one choice a site, solved over budgets in whole parts, costs rounded up. `uniform` keeps
    the same number in each layer. None when even the least is beyond the budget.
    """
    choices = [options(site, multiples[site.what]) for site in sites]
    lost = [loss[site.units - kept] for site, loss, kept in zip(sites, losses, choices, strict=True)]
    spent = [costs.of(site, kept) for site, kept in zip(sites, choices, strict=True)]
    room = budget - costs.fixed
    if sum(float(cost[0]) for cost in spent) > room:
        return None
    if uniform:
        return _alike(sites, choices, lost, spent, room)
    taken = _knapsack(lost, spent, room)
    return [int(kept[i]) for kept, i in zip(choices, taken, strict=True)]


def _knapsack(lost: Sequence[np.ndarray], spent: Sequence[np.ndarray], room: float) -> list[int]:
    """One choice a site, the least loss within the room; what is over is spent choice by choice on the best bargain."""
    floors = [float(cost[0]) for cost in spent]
    part = max(room - sum(floors), 1e-9 * max(room, 1.0)) / _BINS
    best, picks = np.zeros(_BINS + 1), []
    for loss, cost, floor in zip(lost, spent, floors, strict=True):
        found, pick = np.full(_BINS + 1, np.inf), np.zeros(_BINS + 1, dtype=np.int64)
        for choice, parts in enumerate(np.ceil((cost - floor) / part - 1e-9).astype(np.int64)):
            if parts > _BINS:
                continue
            tried = np.full(_BINS + 1, np.inf)
            tried[parts:] = best[: _BINS + 1 - parts] + loss[choice]
            better = tried < found
            found[better], pick[better] = tried[better], choice
        best = found
        picks.append((pick, cost, floor))
    left, taken = _BINS, []
    for pick, cost, floor in reversed(picks):
        choice = int(pick[left])
        taken.append(choice)
        left -= max(0, int(np.ceil((cost[choice] - floor) / part - 1e-9)))
    return _filled(taken[::-1], lost, spent, room)


def _filled(taken: list[int], lost: Sequence[np.ndarray], spent: Sequence[np.ndarray], room: float) -> list[int]:
    """What rounding up has left of the room goes, step by step, where a unit of cost saves most."""
    while True:
        left = room - sum(float(cost[i]) for cost, i in zip(spent, taken, strict=True))
        bargains = []
        for site, (loss, cost, i) in enumerate(zip(lost, spent, taken, strict=True)):
            more = np.arange(i + 1, len(cost))
            more = more[cost[more] - cost[i] <= left]
            if len(more):
                gain = (loss[i] - loss[more]) / np.maximum(cost[more] - cost[i], 1e-12)
                bargains.append((float(gain.max()), site, int(more[gain.argmax()])))
        if not bargains or max(bargains)[0] <= 0:
            return taken
        _, site, choice = max(bargains)
        taken[site] = choice


def _alike(
    sites: Sequence[Site],
    choices: Sequence[np.ndarray],
    lost: Sequence[np.ndarray],
    spent: Sequence[np.ndarray],
    room: float,
) -> list[int]:
    """The best pair of a number of heads and a number of neurons that every layer keeps (or all it has, if fewer)."""
    whats = list(dict.fromkeys(site.what for site in sites))
    sums = []
    for what in whats:
        mine = [i for i, site in enumerate(sites) if site.what == what]
        numbers = np.unique(np.concatenate([choices[i] for i in mine]))
        places = {i: np.searchsorted(choices[i], np.minimum(numbers, choices[i][-1]), side="right") - 1 for i in mine}
        sums.append((numbers, sum(lost[i][places[i]] for i in mine), sum(spent[i][places[i]] for i in mine)))
    losses, costs = sums[0][1], sums[0][2]
    for _, loss, cost in sums[1:]:
        losses, costs = np.add.outer(losses, loss), np.add.outer(costs, cost)
    place = np.unravel_index(np.where(costs <= room, losses, np.inf).argmin(), losses.shape)
    kept = {what: int(told[0][i]) for what, told, i in zip(whats, sums, place, strict=True)}
    return [
        int(choices[i][np.searchsorted(choices[i], min(kept[site.what], site.units), side="right") - 1])
        for i, site in enumerate(sites)
    ]
