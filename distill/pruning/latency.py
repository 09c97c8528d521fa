"""A table of latencies on this machine's engine: what one layer's heads and neurons cost, and what the whole does.

Blocks are layers of the checkpoint itself, exported at several widths and timed on ONNX Runtime in turns, so that the
machine's mood falls on all alike. A width's cost is what it takes longer than the narrowest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from distill import anatomy, surgery
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits
from distill.engines import GRAPHS, open_graph
from distill.evaluation.timing import measure_latency
from distill.export import export
from distill.pruning.costs import Costs, Curve
from distill.pruning.sites import Site, What, sites_of
from distill.recipe import settings

log = logging.getLogger(__name__)
_STEPS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of a layer's units: where it is timed, beside the least
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
    """ONNX Runtime in fp32 on this machine, on batches of one shape; `folder` holds the graphs."""

    words: settings.Target
    data: Splits
    folder: Path
    rounds: int = _ROUNDS
    _graphs: dict[int, tuple[Checkpoint, Path]] = field(default_factory=dict)

    def table(self, whole: Checkpoint, now: Checkpoint, sites: Sequence[Site], multiples: dict[What, int]) -> Costs:
        """What the units of `now` cost in ms; `whole` is what the target is a share of."""
        whats = list(dict.fromkeys(site.what for site in sites))
        plans: list[tuple[What, int, Checkpoint]] = []
        blocks: dict[What, Checkpoint] = {}
        for what in whats:
            widest = max((site for site in sites if site.what == what), key=lambda site: site.units)
            block = blocks[what] = _block(now, widest)
            plans += [
                (what, units, _narrowed(block, what, units, multiples))
                for units in _widths(widest.units, multiples[what])
            ]
        timed = self._time([whole, now, *(block for *_, block in plans)])
        curves: dict[What, Curve] = {}
        for what in whats:
            mine = [(units, ms) for (kind, units, _), ms in zip(plans, timed[2:], strict=True) if kind == what]
            units, costs = zip(*mine, strict=True)
            rising = np.maximum.accumulate(np.array(costs) - costs[0])  # wider is never cheaper
            rising /= len(sites_of(blocks[what].model, [what]))
            curves[what] = Curve(units, tuple(rising.tolist()))
            log.info(
                "prune.to: %s a layer: %s ms", what,
                ", ".join(f"{n} {cost:+.3f}" for n, cost in zip(units, rising, strict=True)),
            )  # fmt: skip
        fixed = timed[1] - sum(float(curves[site.what].at([site.units])[0]) for site in sites)
        return Costs("ms", timed[0], max(fixed, 0.0), curves)

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
        """A checkpoint's graph, exported once."""
        if (kept := self._graphs.get(id(checkpoint))) is None:
            folder = self.folder / str(len(self._graphs))
            folder.mkdir()
            kept = self._graphs[id(checkpoint)] = (checkpoint, export(checkpoint, folder / GRAPHS["onnx-fp32"]))
        return kept[1]


def _widths(units: int, multiple: int) -> list[int]:
    """The numbers of units at which a layer is timed, rising: the least, and whole multiples up to all of them."""
    least = min(multiple, units)
    found = {least, units} | {multiple * round(share * units / multiple) for share in _STEPS}
    return sorted(n for n in found if least <= n <= units)


def _block(now: Checkpoint, widest: Site) -> Checkpoint:
    """The layer that a site is in, alone between embeddings and head; all layers where they are of several kinds."""
    if len(anatomy.family_of(now.model.config.to_dict()).stacks) > 1:
        return now
    return Checkpoint(surgery.keep_layers(now.model, [widest.place + 1]), now.tokenizer)


def _narrowed(block: Checkpoint, what: What, units: int, multiples: dict[What, int]) -> Checkpoint:
    """A block with so many units of one kind in each site, and the least of the other where that can go too."""
    kept: dict[What, list[list[int]]] = {}
    for site in sites_of(block.model, list(multiples)):
        number = units if site.what == what else multiples[site.what]
        kept.setdefault(site.what, []).append(site.heads(range(min(number, site.units))))
    smaller = surgery.keep_units(block.model, kept.get("heads"), kept.get("neurons"))
    return Checkpoint(smaller.eval(), block.tokenizer)
