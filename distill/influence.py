"""Which layers a model can best do without, measured on training texts alone.

Layers go one by one. A layer that hardly turns what runs through it (one minus the cosine between what enters and what
leaves it, as in ShortGPT, Men et al. 2024) is a candidate; of a few candidates that one goes without which the answers
change least. A layer is left out by a hook that passes on what it was given, so no model is built on the way.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from distill import anatomy, surgery
from distill.bars import bar
from distill.checkpoint import Checkpoint
from distill.data import Splits, TokenBatches, collate
from distill.errors import CheckpointError
from distill.losses import LOSSES
from distill.signals import read, real_tokens, tensors

log = logging.getLogger(__name__)
_CANDIDATES = 4
_TOKENS = 1024  # of training texts that layers are measured on
_BATCH, _BATCH_TOKENS = 32, 512  # few, because a language model's logits are wide
_Seen = Callable[[int, Tensor, Tensor], None]


def least(
    checkpoint: Checkpoint, going: int | Mapping[int, int], data: Splits, rows: Sequence[int] | None = None
) -> list[int]:
    """The layers that go, counted from 1 over all stacks, in the order in which they go.

    `going` is how many, wherever they matter least, or how many of each stack. Each stack keeps at least one. `rows`
    are training rows to measure on, some drawn by the seed when not said. A first layer that lacks what the others have
    (ModernBERT's norm) stays. Raises CheckpointError.
    """
    model, gone = checkpoint.model.eval(), []
    stacks = [place for place, layers in enumerate(surgery.stacks_of(model)) for _ in layers]
    _require_some_left(going, stacks)
    family = anatomy.family_of(model.config.to_dict())
    stay = {stacks.index(place) + 1 for place, stack in enumerate(family.stacks) if stack.not_in_first}
    batches = _batches(checkpoint, data, rows)
    with _leaving_out(model) as (shut, watch):
        while candidates := [layer for layer in _candidates(going, stacks, gone) if layer not in stay]:
            turned = _turned(model, batches, shut, gone, watch)
            few = sorted(candidates, key=turned.__getitem__)[:_CANDIDATES]
            changes = _changes(model, batches, shut, gone, few, data)
            gone.append(min(few, key=changes.__getitem__))
            log.info("layer %d of %d matters least (answers change by %.3g)", gone[-1], len(stacks), changes[gone[-1]])
    return gone


def _require_some_left(going: int | Mapping[int, int], stacks: Sequence[int]) -> None:
    counts = {place: stacks.count(place) for place in set(stacks)}
    asked = going if isinstance(going, Mapping) else {}
    whole = isinstance(going, int) and going > len(stacks) - len(counts)
    for place, number in asked.items():
        whole = whole or number >= counts[place]
    if whole:
        told = going if isinstance(going, int) else " and ".join(f"{number}" for number in asked.values())
        there = " and ".join(map(str, counts.values()))
        each = " on each side" if len(counts) > 1 else ""
        raise CheckpointError(f"{told} of {there} layers can't be taken out; keep at least one{each}")


def _candidates(going: int | Mapping[int, int], stacks: Sequence[int], gone: Sequence[int]) -> list[int]:
    """The layers of which the next one can be chosen; none when enough are gone."""
    lost = [stacks[layer - 1] for layer in gone]
    if isinstance(going, int):
        open_ = {place for place in set(stacks) if lost.count(place) < stacks.count(place) - 1}
        open_ = open_ if len(gone) < going else set()
    else:
        open_ = {place for place, number in going.items() if lost.count(place) < number}
    return [layer for layer, place in enumerate(stacks, start=1) if place in open_ and layer not in gone]


def _batches(checkpoint: Checkpoint, data: Splits, rows: Sequence[int] | None) -> list[dict[str, Tensor]]:
    """Training texts up to a number of tokens, on the model's device."""
    encoded = checkpoint.encode(data, "train")
    if rows is None:
        rows = np.random.default_rng(data.seed).permutation(len(encoded)).tolist()
    order = np.random.default_rng(data.seed).permutation(np.asarray(rows))
    enough = int(np.searchsorted(np.cumsum(encoded.lengths[order]), _TOKENS)) + 1
    some = encoded.take(np.sort(order[:enough]))
    places = TokenBatches(some.lengths, _BATCH, _BATCH_TOKENS)
    return [tensors(collate(some, place), checkpoint.model.device) for place in places]


@torch.no_grad()
def _turned(
    model: PreTrainedModel, batches: Sequence[dict[str, Tensor]], shut: set[int], gone: Sequence[int],
    watch: list[_Seen],
) -> dict[int, float]:  # fmt: skip
    """How much each layer turns what runs through it: 1 − cosine, mean over real tokens."""
    sums: dict[int, float] = {}
    batch: dict[str, Tensor] = {}
    first = len(surgery.stacks_of(model)[0])

    def see(layer: int, given: Tensor, made: Tensor) -> None:
        distance = 1 - F.cosine_similarity(given.float(), made.float(), dim=-1)
        real = real_tokens(batch, decoder=layer > first).view_as(distance)
        sums[layer] = sums.get(layer, 0.0) + float(distance[real].sum())

    shut.clear()
    shut.update(gone)
    watch.append(see)
    try:
        for batch in batches:
            read(model, batch)
    finally:
        watch.clear()
    return sums


@torch.no_grad()
def _changes(
    model: PreTrainedModel, batches: Sequence[dict[str, Tensor]], shut: set[int], gone: Sequence[int],
    few: Sequence[int], data: Splits,
) -> dict[int, float]:  # fmt: skip
    """How much the whole model's answers change when one more layer is left out, for each of a few."""
    task, sums, places = data.task, dict.fromkeys(few, 0.0), 0
    loss = LOSSES[task.soft_loss("kl")]
    for batch in bar(batches, title="layers"):
        shut.clear()
        expected = task.imitated(read(model, batch).logits, batch)
        for layer in few:
            shut.clear()
            shut.update((*gone, layer))
            found = task.imitated(read(model, batch).logits, batch)
            sums[layer] += float(loss(found, expected)) * len(expected)
        places += len(expected)
    shut.clear()
    return {layer: total / max(1, places) for layer, total in sums.items()}


@contextlib.contextmanager
def _leaving_out(model: PreTrainedModel) -> Iterator[tuple[set[int], list[_Seen]]]:
    """A set of layers, counted from 1, that pass on what they are given; and who sees what the others take and give."""
    shut: set[int] = set()
    watch: list[_Seen] = []

    def around(layer: int) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], made: Any) -> Any:
            states = given[0] if given else named["hidden_states"]
            if layer in shut:
                return (states, *made[1:]) if isinstance(made, tuple) else states
            for see in watch:
                see(layer, states, made[0] if isinstance(made, tuple) else made)
            return None

        return hook

    layers = enumerate(surgery.layers_of(model), start=1)
    hooks = [layer.register_forward_hook(around(number), with_kwargs=True) for number, layer in layers]
    try:
        yield shut, watch
    finally:
        for hook in hooks:
            hook.remove()
