"""Where a layer's heads and neurons come together: the inputs of modules, watched and gated from outside.

transformers 5 takes no head mask, so gates are hooks of our own on the module that mixes the heads (`output`) and on
the one that mixes the neurons (`down`). Heads that share a key head are one unit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import surgery
from distill.signals import real_tokens
from distill.surgery.modules import Mixing, ranges, takes, weights
from distill.surgery.parts import Maker, Part, attentions_of, neurons_of

What = Literal["heads", "neurons"]


@dataclass(frozen=True)
class Site:
    """One attention's heads or one layer's neurons: `mixer` is the module whose input holds `units` groups of `width`
    columns; `decoder` tells whose tokens go through it.

    `group` heads, which share a key head, are one unit. Sites with the same `shared_heads` add one table of position
    biases to their scores, and must keep the same heads.
    """

    place: int
    what: What
    mixer: Mixing
    makers: tuple[Maker, ...]
    width: int
    group: int = 1
    shared_heads: int | None = None
    decoder: bool = False

    @property
    def units(self) -> int:
        """How many units there are."""
        return takes(self.mixer) // self.width

    def columns(self, units: Sequence[int]) -> Tensor:
        """The columns of some units."""
        return ranges(units, self.width)

    def heads(self, units: Sequence[int]) -> list[int]:
        """The heads (or neurons) that some units are, as `surgery.keep_units` takes them."""
        return [unit * self.group + i for unit in units for i in range(self.group)]

    @property
    def mixing(self) -> Tensor:
        """The mixer's weight as (outputs, units · width), in the memory of its own."""
        return weights(self.mixer)

    def made(self) -> Tensor:
        """The sum of squares of the weights that make each unit, (units,)."""
        sums = torch.zeros(self.units)
        for maker in self.makers:
            rows = weights(maker.module).detach().float().square().sum(1).view(maker.parts, self.units, -1)
            sums += rows.sum((0, 2)).cpu()
        return sums


def sites_of(model: PreTrainedModel, whats: Sequence[What]) -> list[Site]:
    """Every site of a model, in the order in which they are passed: an encoder's layers before a decoder's, and in each
    its self-attention, its cross-attention, its neurons.
    """
    attentions = attentions_of(model) if "heads" in whats else []
    neurons = neurons_of(model) if "neurons" in whats else []
    tables = {id(part.table): part.stack for part in attentions if part.table is not None}
    found = []
    for place in range(len(surgery.layers_of(model))):
        for what, parts in (("heads", attentions), ("neurons", neurons)):
            found += [_site(what, part, tables.get(id(part.table))) for part in parts if part.place == place]
    return found


def _site(what: What, part: Part, shared: int | None) -> Site:
    return Site(part.place, what, part.mixer, part.makers, part.width * part.group, part.group, shared, part.stack > 0)


@contextlib.contextmanager
def gated(sites: Sequence[Site], examples: int, device: torch.device) -> Iterator[list[Tensor]]:
    """Gates of one for every example and unit, (examples, units) a site, that multiply what the units give."""
    gates = [torch.ones(examples, site.units, device=device, requires_grad=True) for site in sites]

    def multiply(site: Site, gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            wide = gate.repeat_interleave(site.width, 1).unsqueeze(1)
            states = given[0].view(examples, -1, given[0].shape[-1])  # OPT puts the tokens of all texts in one row
            return (states * wide).view_as(given[0]), *given[1:]

        return hook

    hooks = [
        site.mixer.register_forward_pre_hook(multiply(site, gate)) for site, gate in zip(sites, gates, strict=True)
    ]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def reals(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which tokens are no padding, (tokens of all texts,): those of the texts, and those that go through a decoder."""
    return real_tokens(batch), real_tokens(batch, decoder=True)


class ReachedError(Exception):
    """A forward pass has come as far as it was needed."""


@contextlib.contextmanager
def watched(
    sites: Sequence[Site], tell: Callable[[int, Tensor, Tensor], None], *, stop: bool = False
) -> Iterator[None]:
    """Tells what goes into each site's mixer and what comes out, by the site's number; `stop` ends the pass there.

    Both are (tokens of all texts, width).
    """

    def see(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            tell(number, given[0].flatten(0, -2), made.flatten(0, -2))
            if stop:
                raise ReachedError

        return hook

    hooks = [site.mixer.register_forward_hook(see(number)) for number, site in enumerate(sites)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
