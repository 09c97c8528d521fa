"""Taking out hidden dimensions: the same ones everywhere, for the residual stream runs through all layers.

How important one is, is measured where the stream enters each layer and where it leaves the last: by a gate of each
example on the dimension in all those places at once, by its size there, or by all weights that hang on it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import anatomy, surgery
from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.errors import CheckpointError
from distill.losses import to_targets
from distill.pruning.choosing import removal, summed
from distill.pruning.importance import Importance, batches, measure
from distill.pruning.reconstruction import refit
from distill.pruning.sites import reals, sites_of
from distill.recipe import settings
from distill.signals import read
from distill.surgery import hidden_axes, least_hidden

log = logging.getLogger(__name__)


def without_dims(checkpoint: Checkpoint, words: settings.Prune, data: Splits, rows: Sequence[int]) -> Checkpoint:
    """A checkpoint without the least important share of its hidden dimensions; the one given stays as it was.

    The number is the nearest that a config of the family can say. Where heads are as wide as the hidden size by their
    number, layers with more heads than that leaves room for lose their least important ones.
    """
    facts = checkpoint.model.config.to_dict()
    hidden, multiple = anatomy.size(facts, "hidden_size"), anatomy.hidden_multiple(facts)
    number = min(hidden, max(multiple, multiple * round(hidden * (1 - words.hidden_size) / multiple)))
    if hidden * (1 - words.hidden_size) < multiple / 2:
        raise CheckpointError(
            f"prune.hidden_size: {words.hidden_size:g} of {hidden} dimensions leaves nothing, but {multiple} stay at "
            f"least; take out {1 - multiple / hidden:.3g} at most"
        )
    if number == hidden:
        log.warning(
            "prune.hidden_size: %g of %d dimensions rounds to none, as they go in steps of %d, so all stay; take out "
            "%.3g or more, or leave it out", words.hidden_size, hidden, multiple, multiple / hidden,
        )  # fmt: skip
        return checkpoint
    roomy = _with_room(checkpoint, number, words, data, rows)
    going, _ = removal(importance_of_dims(roomy, words.by, data, rows))
    dims = sorted(going[len(going) - number :])
    pruned = Checkpoint(surgery.keep_hidden(roomy.model, dims).eval(), checkpoint.tokenizer)
    log.info("prune: %d of %d hidden dimensions stay", number, hidden)
    whats = [what for what in ("heads", "neurons") if anatomy.refuse(facts, what) is None]
    if words.reconstruct and whats:
        refit(pruned, checkpoint, whats, data, rows, dims)
    return pruned


def _with_room(
    checkpoint: Checkpoint, number: int, words: settings.Prune, data: Splits, rows: Sequence[int]
) -> Checkpoint:
    """A checkpoint whose layers have no more heads than a hidden size has room for."""
    if least_hidden(checkpoint.model) <= number:
        return checkpoint
    sites = sites_of(checkpoint.model, ["heads"])
    found = measure(checkpoint, sites, words.by, data, rows)
    kept = []
    for site, importance in zip(sites, found, strict=True):
        if site.shared_heads is not None:  # which keep the same heads, by their importance together
            alike = zip(sites, found, strict=True)
            importance = summed([theirs for other, theirs in alike if other.shared_heads == site.shared_heads])
        room = max(1, min(site.units, number // site.width))
        going, _ = removal(importance)
        kept.append(site.heads(sorted(going[len(going) - room :])))
        if room < site.units:
            log.info("prune: layer %d keeps %d of %d heads", site.place + 1, room, site.units)
    return Checkpoint(surgery.keep_units(checkpoint.model, kept, None).eval(), checkpoint.tokenizer)


def importance_of_dims(checkpoint: Checkpoint, by: str, data: Splits, rows: Sequence[int]) -> Importance:
    """The importance of every hidden dimension, (hidden size,)."""
    if by == "magnitude":
        return Importance(_magnitude(checkpoint.model))
    if by == "activations":
        return Importance(_activations(checkpoint, data, rows))
    derivatives = _derivatives(checkpoint, data, rows)
    if by == "taylor":
        return Importance(derivatives.abs().mean(0))
    return Importance(derivatives.square().mean(0), derivatives)


def _magnitude(model: PreTrainedModel) -> Tensor:
    """The norm of all weights that hang on a dimension, each tensor relative to its mean."""
    weights, total = model.state_dict(), 0
    for name, axes in hidden_axes(model).items():
        for axis in axes:
            squares = (
                weights[name].detach().float().square().movedim(axis, 0).reshape(weights[name].shape[axis], -1).sum(1)
            )
            total = total + (squares / squares.mean().clamp(min=torch.finfo(torch.float32).tiny)).cpu()
    return total.sqrt()


@torch.no_grad()
def _activations(checkpoint: Checkpoint, data: Splits, rows: Sequence[int]) -> Tensor:
    """The mean size of a dimension, relative to the mean of each place where it is looked at."""
    sums: dict[int, Tensor] = {}
    real: tuple[Tensor, Tensor] | None = None
    first = len(surgery.stacks_of(checkpoint.model)[0])

    def add(place: int, states: Tensor) -> Tensor:
        kept = states.flatten(0, -2)[real[place > first]]
        sums[place] = sums.get(place, 0) + kept.float().abs().sum(0).cpu()
        return states

    with _stream(checkpoint.model, add):
        for batch in batches(checkpoint, data, rows, "activations"):
            real = reals(batch)
            read(checkpoint.model.eval(), batch)
    return torch.stack([found / found.mean() for found in sums.values()]).sum(0)


def _derivatives(checkpoint: Checkpoint, data: Splits, rows: Sequence[int]) -> Tensor:
    """Each example's derivative of its own loss by a gate on each dimension everywhere, (examples, hidden size)."""
    task, model, found = data.task, checkpoint.model.eval(), []
    hidden = anatomy.size(model.config.to_dict(), "hidden_size")
    for batch in batches(checkpoint, data, rows, "importance"):
        labels = batch["labels"]
        gate = torch.ones(len(labels), hidden, device=model.device, requires_grad=True)

        def multiply(_: int, states: Tensor, gate: Tensor = gate) -> Tensor:
            return (states.view(len(gate), -1, states.shape[-1]) * gate.unsqueeze(1)).view_as(states)

        with _stream(model, multiply), torch.enable_grad():
            loss = to_targets(task, read(model, batch).logits, batch) * len(labels)
            (slope,) = torch.autograd.grad(loss, [gate])
        found.append(slope.float().cpu())
    return torch.cat(found)


@contextlib.contextmanager
def _stream(model: PreTrainedModel, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Lets the residual stream be seen, and changed, where it enters each layer and where it leaves the last one of a
    stack. These places are counted from 0 over all stacks, of which each has one more than it has layers.
    """

    def entering(place: int) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if given:
                return (change(place, given[0]), *given[1:]), named
            return given, {**named, "hidden_states": change(place, named["hidden_states"])}

        return hook

    def leaving(place: int) -> Callable[..., Any]:
        def hook(_: nn.Module, __: tuple[Any, ...], made: Any) -> Any:
            if isinstance(made, tuple):
                return change(place, made[0]), *made[1:]
            return change(place, made)

        return hook

    hooks, place = [], 0
    for layers in surgery.stacks_of(model):
        for layer in layers:
            hooks.append(layer.register_forward_pre_hook(entering(place), with_kwargs=True))
            place += 1
        hooks.append(layers[-1].register_forward_hook(leaving(place)))
        place += 1
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
