"""A table of latencies on this machine's engine: what one layer's heads and neurons cost, and what the whole does.

Blocks are layers of the checkpoint itself, exported at several widths and timed on ONNX Runtime in turns, so that the
machine's mood falls on all alike. A width's cost is what it takes longer than the narrowest. Where a head reads one
position, a graph works its last layer out for that position alone, so the last layer has costs of its own; and any
other one stands before it in its block.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from distill import anatomy, surgery
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits
from distill.engines import GRAPHS, open_graph
from distill.evaluation.timing import measure_latency
from distill.export import export, write_settings
from distill.pruning.costs import Costs, Curve
from distill.pruning.sites import Site, What, sites_of
from distill.recipe import settings

log = logging.getLogger(__name__)
_STEPS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of a layer's units: where it is timed, beside the least
_FEW_STEPS = (1 / 2, 1)  # of a last layer's, which cost little
_ROUNDS = 40  # answers of each graph; their median counts


class Clock(Protocol):
    """Who tells how long checkpoints take: a machine, or, in a test, a sum."""

    def table(self, whole: Checkpoint, now: Checkpoint, sites: Sequence[Site], multiples: dict[What, int]) -> Costs:
        """What the units of `now` cost in ms; `whole` is what the target is a share of."""
        ...

    def ratio(self, whole: Checkpoint, pruned: Checkpoint) -> float:
        """How long one takes over how long the other does, both measured in turns."""
        ...


@dataclass
class MachineClock:
    """ONNX Runtime in fp32 on this machine, on batches of one shape; `folder` holds the graphs.

    What a checkpoint takes hangs on its form alone, not on its weights: one form is exported once, and one table made
    once. A clock that is given to several calls of `prune` spares all but the first most of the time.
    """

    words: settings.Target
    data: Splits
    folder: Path
    rounds: int = _ROUNDS
    _graphs: dict[str, Path] = field(default_factory=dict)
    _tables: dict[str, Costs] = field(default_factory=dict)

    def table(self, whole: Checkpoint, now: Checkpoint, sites: Sequence[Site], multiples: dict[What, int]) -> Costs:
        """What the units of `now` cost in ms; `whole` is what the target is a share of."""
        key = f"{_form(whole)} {_form(now)} {sorted(multiples.items())}"
        if key not in self._tables:
            self._tables[key] = self._measured(whole, now, sites, multiples)
        return self._tables[key]

    def _measured(self, whole: Checkpoint, now: Checkpoint, sites: Sequence[Site], multiples: dict[What, int]) -> Costs:
        blocks = _blocks(now, sites, apart=not self.data.task.by_token)
        plans = [
            (block, units, block.narrowed(units, multiples))
            for block in blocks
            for units in _widths(block.units, multiples[block.what], _FEW_STEPS if block.last else _STEPS)
        ]
        timed = self._time([whole, now, *(narrow for *_, narrow in plans)])
        curves: dict[bool, dict[What, Curve]] = {False: {}, True: {}}
        for block in blocks:
            mine = [(units, ms) for (of, units, _), ms in zip(plans, timed[2:], strict=True) if of is block]
            units, costs = zip(*mine, strict=True)
            rising = np.maximum.accumulate(np.array(costs) - costs[0]) / block.varied  # wider is never cheaper
            curves[block.last][block.what] = Curve(units, tuple(rising.tolist()))
            log.info(
                "prune.to: %s %s: %s ms", block.what, "in the last layer" if block.last else "a layer",
                ", ".join(f"{n} {cost:+.3f}" for n, cost in zip(units, rising, strict=True)),
            )  # fmt: skip
        costs = Costs("ms", timed[0], 0.0, curves[False], {_last(sites): curves[True]} if curves[True] else {})
        return replace(costs, fixed=max(timed[1] - costs.total(sites, [site.units for site in sites]), 0.0))

    def ratio(self, whole: Checkpoint, pruned: Checkpoint) -> float:
        """How long the pruned checkpoint takes over how long the whole does."""
        before, after = self._time([whole, pruned])
        return after / before

    def _time(self, checkpoints: Sequence[Checkpoint]) -> list[float]:
        """The median time of each checkpoint's answers, in ms, measured in turns."""
        engines = [open_graph(self._graph(each), self.words.threads) for each in checkpoints]
        inputs: list[Encoded] = [each.encode(self.data, "train") for each in checkpoints]
        tokens = self.words.tokens or int(np.median(inputs[0].sequences))
        timing = settings.Timing(
            batch=[self.words.batch], tokens=tokens, threads=self.words.threads, rounds=self.rounds
        )
        return [found.p50_ms for (found,) in measure_latency(engines, inputs, timing)]

    def _graph(self, checkpoint: Checkpoint) -> Path:
        """The graph of a checkpoint's form."""
        form = _form(checkpoint)
        if form not in self._graphs:
            folder = self.folder / str(len(self._graphs))
            folder.mkdir()
            write_settings(checkpoint, folder)
            self._graphs[form] = export(checkpoint, folder / GRAPHS["onnx-fp32"])
        return self._graphs[form]


def _form(checkpoint: Checkpoint) -> str:
    """All that a checkpoint's latency hangs on: its config, its heads and neurons layer by layer, its table's rank."""
    return f"{checkpoint.model.config.to_json_string(use_diff=False)} {surgery.shape_of(checkpoint.model)}"


def _widths(units: int, multiple: int, steps: Sequence[float]) -> list[int]:
    """The numbers of units at which a layer is timed, rising: the least, and whole multiples up to all of them."""
    least = min(multiple, units)
    found = {least, units} | {multiple * round(share * units / multiple) for share in steps}
    return sorted(n for n in found if least <= n <= units)


@dataclass(frozen=True)
class _Block:
    """A few layers between embeddings and head, in which the units of one kind vary: in the first one, or in `all`.

    `units` is how many there are at most, and `last` whether it is the last layer's cost that is measured.
    """

    checkpoint: Checkpoint
    what: What
    units: int
    last: bool = False
    all: bool = False

    @property
    def varied(self) -> int:
        """In how many sites the units vary."""
        return sum(self.all or site.place == 0 for site in sites_of(self.checkpoint.model, [self.what]))

    def narrowed(self, units: int, multiples: dict[What, int]) -> Checkpoint:
        """The block with so many units where they vary, and the least of whatever else can go."""
        kept: dict[What, list[list[int]]] = {}
        for site in sites_of(self.checkpoint.model, list(multiples)):
            varies = site.what == self.what and (self.all or site.place == 0)
            number = units if varies else multiples[site.what]
            kept.setdefault(site.what, []).append(site.heads(range(min(number, site.units))))
        smaller = surgery.keep_units(self.checkpoint.model, kept.get("heads"), kept.get("neurons"))
        return Checkpoint(smaller.eval(), self.checkpoint.tokenizer)


def _blocks(now: Checkpoint, sites: Sequence[Site], *, apart: bool) -> list[_Block]:
    """What is timed: the widest layer for each kind of unit, alone; or, with the last layer `apart`, the widest before
    it with the last one behind it, and the last one alone. All layers where they are of several kinds.
    """
    whats, last = list(dict.fromkeys(site.what for site in sites)), _last(sites)
    several = len(anatomy.family_of(now.model.config.to_dict()).stacks) > 1
    apart = apart and not several and last > 0
    found = []
    for what in whats:
        mine = [site for site in sites if site.what == what]
        widest = max((site for site in mine if site.place < last or not apart), key=lambda site: site.units)
        if several:
            found.append(_Block(now, what, widest.units, all=True))
            continue
        layers = [widest.place + 1, *([last + 1] if apart else [])]
        found.append(_Block(_only(now, layers), what, widest.units))
        if apart:
            found.append(_Block(_only(now, [last + 1]), what, mine[-1].units, last=True))
    return found


def _only(now: Checkpoint, layers: list[int]) -> Checkpoint:
    return Checkpoint(surgery.keep_layers(now.model, layers), now.tokenizer)


def _last(sites: Sequence[Site]) -> int:
    """The place of the last layer."""
    return max(site.place for site in sites)
