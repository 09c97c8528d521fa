"""`prune: {to: …}`: down to a share of the latency, size or parameters, wherever it costs least to go.

Heads and neurons of all layers compete in one currency: the loss that their going is expected to add, mᵀFm, for what
they cost. What is promised is what is measured in the end on the whole checkpoint; where the two differ the budget is
corrected and heads and neurons are chosen again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill import anatomy, surgery
from distill import checkpoint as checkpoints
from distill.bars import bar
from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.errors import CheckpointError
from distill.pruning.choosing import removal
from distill.pruning.compensation import moments
from distill.pruning.compensation import removal as compensated
from distill.pruning.costs import count, options, share_out
from distill.pruning.importance import Importance, measure
from distill.pruning.latency import Clock, MachineClock
from distill.pruning.reconstruction import refit
from distill.pruning.sites import Site, What, sites_of
from distill.recipe import settings

log = logging.getLogger(__name__)
_TRIES = 5
_WASTE = 0.03  # a measured latency this far below the target has given away more than it had to


def to_target(
    now: Checkpoint, whole: Checkpoint, words: settings.Prune, data: Splits, rows: Sequence[int], clock: Clock | None,
    tell: Callable[[str], None],
) -> Checkpoint:  # fmt: skip
    """`now` (which may lack layers and tokens already) without the heads and neurons that the target leaves no room
    for; the target is a share of what `whole` has, and what came of it is told. Raises CheckpointError when it can't be
    reached.
    """
    with tempfile.TemporaryDirectory(prefix="distill-latency-") as scratch:
        found, pruned = _chosen(now, whole, words, data, rows, clock or MachineClock(words.to, data, Path(scratch)))
    measured = "measured on ONNX Runtime here" if words.to.word == "latency" else "counted"
    tell(f"{words.to.word}: {found:.3f} of what it was, {measured} ({words.to.share:g} asked for)")
    return pruned


def _chosen(
    now: Checkpoint, whole: Checkpoint, words: settings.Prune, data: Splits, rows: Sequence[int], clock: Clock
) -> tuple[float, Checkpoint]:
    """The share that is left, and what has it: chosen, measured, and chosen again where the measure is not what was
    promised; then refitted.
    """
    target, whats = words.to, kinds(now.model.config.to_dict())
    if any(site.shared_heads is not None for site in sites_of(now.model, whats)):
        whats = ["neurons"]  # heads that share a table of position biases go in all layers or none: a share says that
    sites = sites_of(now.model, whats)
    multiples: dict[What, int] = {what: words.multiple_of if what == "neurons" else 1 for what in whats}
    if target.word == "latency":
        costs = clock.table(whole, now, sites, multiples)
    elif target.word == "size":
        costs = count(now, sites, "bytes", _bytes(whole))
    else:
        costs = count(now, sites, "parameters", whole.parameters)
    least = [int(options(site, multiples[site.what])[0]) for site in sites]
    _require_reachable(costs.total(sites, least) / costs.whole, target, words)
    going = _going(now, sites, words, multiples, data, rows)
    budget, best, measured = target.share * costs.whole, None, {}
    for _ in range(4 * _TRIES):
        lost = [lost for _, lost in going]
        numbers = tuple(share_out(sites, lost, costs, budget, multiples, uniform=words.uniform) or least)
        if numbers in measured:  # too small a correction for another choice
            if best is not None or numbers == tuple(least):
                break
            budget *= 1 - _WASTE
            continue
        kept = [sorted(order[len(order) - n :]) for (order, _), n in zip(going, numbers, strict=True)]
        pruned = _keep(now, sites, kept)
        found = measured[numbers] = _measured(pruned, whole, target, clock)
        promised = costs.total(sites, numbers) / costs.whole
        log.info("prune.to: %s %.3f promised, %.3f measured (target %g)", target.word, promised, found, target.share)
        if found <= target.share and (best is None or found > best[0]):
            best = found, pruned
        enough = target.word != "latency" or found >= (1 - _WASTE) * target.share
        if (found <= target.share and enough) or len(measured) == _TRIES:
            break
        budget *= (1 - _WASTE / 3) * target.share / found
    if best is None:
        raise CheckpointError(
            f"prune.to.{target.word}: {target.share:g} was not reached in {len(measured)} tries, the nearest measured "
            f"is {min(measured.values()):.3f}; {_help(words)}"
        )
    if words.reconstruct:
        refit(best[1], now, whats, data, rows)
    return best


def _going(
    now: Checkpoint,
    sites: Sequence[Site],
    words: settings.Prune,
    multiples: dict[What, int],
    data: Splits,
    rows: Sequence[int],
) -> list[tuple[list[int], np.ndarray]]:
    """For each site the order in which its units go, and what is lost by so many: with what a refit makes up for,
    where `by: fisher` is refitted.
    """
    if words.by == "fisher" and words.reconstruct:
        found = moments(now, sites, data, rows)
        return [
            compensated(site, *both, multiples[site.what])
            for site, both in zip(bar(sites, title="choose"), found, strict=True)
        ]
    found = measure(now, sites, words.by, data, rows)
    if words.by in ("magnitude", "activations"):  # relative to a site's mean: a site's few heads count as its neurons
        found = [Importance(importance.scores / importance.scores.sum()) for importance in found]
    return [removal(importance) for importance in found]


def kinds(facts: dict[str, Any]) -> list[What]:
    """What a family can lose for a target. Raises CheckpointError for one that can lose neither heads nor neurons."""
    reasons = {what: anatomy.refuse(facts, what) for what in ("heads", "neurons")}
    if all(reasons.values()):
        raise CheckpointError(f"prune.to: {reasons['neurons']}")
    return [what for what, reason in reasons.items() if reason is None]


def _keep(now: Checkpoint, sites: Sequence[Site], kept: Sequence[Sequence[int]]) -> Checkpoint:
    by_kind: dict[What, list[list[int]]] = {}
    for site, units in zip(sites, kept, strict=True):
        by_kind.setdefault(site.what, []).append(site.heads(units))
    smaller = surgery.keep_units(now.model, by_kind.get("heads"), by_kind.get("neurons"))
    return Checkpoint(smaller.eval(), now.tokenizer)


def _measured(pruned: Checkpoint, whole: Checkpoint, target: settings.Target, clock: Clock) -> float:
    """What is left of what the target counts, measured on the whole checkpoints."""
    match target.word:
        case "latency":
            return clock.ratio(whole, pruned)
        case "size":
            return _bytes(pruned) / _bytes(whole)
        case _:
            return pruned.parameters / whole.parameters


def _bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights' file as it is saved."""
    with tempfile.TemporaryDirectory(prefix="distill-size-") as scratch:
        folder = checkpoint.save(Path(scratch) / "checkpoint")
        weights = checkpoints.engine_files(folder, "model.safetensors")
        return sum(path.stat().st_size for path in weights if path.suffix == ".safetensors")


def _require_reachable(least: float, target: settings.Target, words: settings.Prune) -> None:
    if least > target.share:
        by_the_table = " by the table" if target.word == "latency" else ""
        raise CheckpointError(
            f"prune.to.{target.word}: {target.share:g} can't be reached: with the least that every layer must keep "
            f"(one head, {words.multiple_of} neurons) {least:.3f} is left{by_the_table}, the nearest to it; "
            f"{_help(words)}"
        )


def _help(words: settings.Prune) -> str:
    """What would bring a target nearer that heads and neurons alone don't reach."""
    more = "`layers` (more of them)" if words.layers is not None else "`layers`"
    if words.to.word != "latency":
        more += " or `vocabulary`" if words.vocabulary is None else " or a smaller `vocabulary`"
    return f"take out {more} as well, or ask for less"
