"""`prune`: a checkpoint with less in it."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from distill import anatomy, surgery
from distill import checkpoint as checkpoints
from distill.checkpoint import Checkpoint
from distill.data import Splits, collate
from distill.errors import CheckpointError
from distill.influence import least
from distill.pruning.choosing import choose_units
from distill.pruning.embeddings import narrow
from distill.pruning.hidden import without_dims
from distill.pruning.importance import measure
from distill.pruning.latency import Clock
from distill.pruning.reconstruction import refit
from distill.pruning.sites import sites_of
from distill.pruning.targets import to_target
from distill.pruning.vocabulary import trim
from distill.recipe import settings
from distill.signals import read, tensors

log = logging.getLogger(__name__)
Tell = Callable[[str], None]
_RELOADED = 1e-6
_PADDED = 1e-4  # largest difference of logits, as a share of their largest value (at least 1)


def prune(
    checkpoint: Checkpoint, words: settings.Prune, *, data: Splits, clock: Clock | None = None, tell: Tell = log.info
) -> Checkpoint:
    """A checkpoint without its least important layers, heads, neurons, hidden dimensions and tokens, its token table
    factorised.

    The one given stays as it was. Importance is measured on training texts alone, a target in latency by `clock`: this
    machine's engine when not said. In the end the result is saved, loaded again, and padded for stock transformers, and
    must answer alike each time. Raises CheckpointError for a family that can't do it, when everything would go, or for
    a target that can't be reached. `tell` is given a sentence on each of: what the tokens kept cover, how much of the
    table its rank holds, and what a target came to. The result is in float32.
    """
    if words.gradually is not None:
        raise CheckpointError("prune.gradually: a recipe's word for several steps; carry out words.rounds() in turn")
    checkpoint, facts = _in_float32(checkpoint), checkpoint.model.config.to_dict()
    anatomy.family_of(facts)
    for what in ("heads", "neurons", "layers", "hidden_size", "vocabulary", "embeddings"):
        reason = anatomy.refuse(facts, "hidden" if what == "hidden_size" else what)
        if getattr(words, what) is not None and reason:
            raise CheckpointError(f"prune.{what}: {reason}")
    rows = _sample(checkpoint, data, words.examples)
    pruned = checkpoint.copy()
    if words.layers is not None:
        pruned = _without_layers(pruned, words.layers, data, rows)
    if words.vocabulary is not None:
        pruned, told = trim(pruned, words.vocabulary, data)
        tell(f"vocabulary: {told}")
        rows = _sample(pruned, data, words.examples)  # blocks may be other ones now
    if words.hidden_size is not None:
        pruned = without_dims(pruned, words, data, rows)
    if words.embeddings is not None:  # of the tokens and dimensions that are left, before what is refitted
        pruned, told = narrow(pruned, words.embeddings, data)
        tell(f"embeddings: {told}")
    whats = [what for what in ("heads", "neurons") if getattr(words, what) is not None]
    if words.to is not None:
        pruned = to_target(pruned, checkpoint, words, data, rows, clock, tell)
    elif whats:
        pruned = _without_units(pruned, whats, words, data, rows)
    _check(pruned, data, rows)
    shape = surgery.shape_of(pruned.model)
    log.info(
        "pruned: %d layers, heads %s, neurons %s; %.2f of %.2f M parameters", len(surgery.layers_of(pruned.model)),
        _told(shape.heads), _told(shape.neurons), pruned.parameters / 1e6, checkpoint.parameters / 1e6,
    )  # fmt: skip
    return pruned


def _sample(checkpoint: Checkpoint, data: Splits, examples: int) -> list[int]:
    """Row numbers of the training split in a checkpoint's tokens, drawn by the seed."""
    number = len(checkpoint.encode(data, "train"))
    return sorted(np.random.default_rng(data.seed).permutation(number)[: min(examples, number)].tolist())


def _without_layers(
    checkpoint: Checkpoint, going: int | Mapping[str, int], data: Splits, rows: Sequence[int]
) -> Checkpoint:
    """Layers go one by one, each time the one without which the answers on training texts change least."""
    try:
        asked = going if isinstance(going, int) else anatomy.by_side(checkpoint.model.config.to_dict(), going)
        gone = least(checkpoint, asked, data, rows)
    except CheckpointError as error:
        raise CheckpointError(f"prune.layers: {error}") from None
    there = len(surgery.layers_of(checkpoint.model))
    kept = [layer for layer in range(1, there + 1) if layer not in gone]
    return Checkpoint(surgery.keep_layers(checkpoint.model, kept), checkpoint.tokenizer)


def _without_units(
    checkpoint: Checkpoint, whats: Sequence[str], words: settings.Prune, data: Splits, rows: Sequence[int]
) -> Checkpoint:
    sites = sites_of(checkpoint.model, whats)
    found = measure(checkpoint, sites, words.by, data, rows)
    kept: dict[str, list[list[int]]] = {}
    for what in whats:
        mine = [(site, importance) for site, importance in zip(sites, found, strict=True) if site.what == what]
        multiple = words.multiple_of if what == "neurons" else 1
        _require_something_left(what, getattr(words, what), [site.units for site, _ in mine], multiple)
        kept[what] = choose_units(mine, getattr(words, what), uniform=words.uniform, multiple=multiple)
        if all(len(stays) == site.units for stays, (site, _) in zip(kept[what], mine, strict=True)):
            log.warning(
                "prune.%s: %g of them rounds to none, of a layer's %s, so all stay; take out more, or leave it out",
                what, getattr(words, what), ", ".join(str(site.units) for site, _ in mine),
            )  # fmt: skip
    smaller = surgery.keep_units(checkpoint.model, kept.get("heads"), kept.get("neurons"))
    pruned = Checkpoint(smaller.eval(), checkpoint.tokenizer)
    if words.reconstruct:
        refit(pruned, checkpoint, whats, data, rows)
    return pruned


def _require_something_left(what: str, share: float, units: Sequence[int], multiple: int) -> None:
    """Each layer keeps a head, or a block of neurons: a share that leaves less than half of that can't be meant."""
    there, least = sum(units), sum(min(multiple, number) for number in units)
    if there * (1 - share) < least / 2:
        raise CheckpointError(
            f"prune.{what}: {share:g} of {there} {what} leaves nothing, but {least} stay at least, some in each layer; "
            f"take out {1 - least / there:.3g} at most, or whole `layers`"
        )


def _check(pruned: Checkpoint, data: Splits, rows: Sequence[int]) -> None:
    """Saved and loaded, and padded for stock transformers, a pruned checkpoint must say the same."""
    some = pruned.encode(data, "train").take(np.asarray(rows[:8]))
    batch = tensors(collate(some, list(range(len(some)))), pruned.model.device)
    with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="distill-pruned-") as scratch:
        expected = read(pruned.model.eval(), batch).logits
        loaded = checkpoints.load(pruned.save(Path(scratch) / "pruned"))
        for model, tolerance, how in (
            (loaded.model, _RELOADED, "loaded again"),
            (surgery.pad(pruned.model), _PADDED, "padded for stock transformers"),
        ):
            difference = float((read(model, batch).logits - expected).abs().max())
            if not difference <= tolerance * max(1.0, float(expected.abs().max())):
                raise CheckpointError(f"prune: the checkpoint {how} answers otherwise, by {difference:.2g}")


def _in_float32(checkpoint: Checkpoint) -> Checkpoint:
    """What is measured and solved for needs more digits than bfloat16 has, and a folder is loaded as float32 again."""
    if checkpoint.model.dtype == torch.float32:
        return checkpoint
    return Checkpoint(copy.deepcopy(checkpoint.model).float(), checkpoint.tokenizer)


def _told(counts: Sequence[int]) -> str:
    if not counts:
        return "as they were"
    return f"{counts[0]} a layer" if len(set(counts)) == 1 else ", ".join(map(str, counts))
