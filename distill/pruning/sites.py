"""Where a layer's heads and neurons come together: the inputs of two Linear modules, watched and gated from outside.

transformers 5 takes no head mask, so gates are hooks of our own on the module that mixes the heads (`output`) and on
the one that mixes the neurons (`down`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import anatomy, surgery

What = Literal["heads", "neurons"]


@dataclass(frozen=True)
class Site:
    """One layer's heads or neurons: `mixer` is the Linear whose input holds `units` groups of `width` columns."""

    place: int
    what: What
    mixer: nn.Linear
    makers: tuple[nn.Linear, ...]
    width: int

    @property
    def units(self) -> int:
        """How many heads or neurons there are."""
        return self.mixer.in_features // self.width

    def columns(self, units: Sequence[int]) -> Tensor:
        """The columns of some units."""
        return torch.tensor([unit * self.width + i for unit in units for i in range(self.width)])


def sites_of(model: PreTrainedModel, whats: Sequence[What]) -> list[Site]:
    """Every site of a model, in the order in which they are passed: heads before neurons in each layer."""
    layer = anatomy.family_of(model.config.to_dict()).layer
    found = []
    for place, each in enumerate(surgery.layers_of(model)):
        if "heads" in whats:
            makers = tuple(each.get_submodule(name) for name in (layer.query, layer.key, layer.value))
            found.append(Site(place, "heads", each.get_submodule(layer.output), makers, surgery.head_width(model)))
        if "neurons" in whats:
            found.append(Site(place, "neurons", each.get_submodule(layer.down), (each.get_submodule(layer.up),), 1))
    return found


@contextlib.contextmanager
def gated(sites: Sequence[Site], examples: int, device: torch.device) -> Iterator[list[Tensor]]:
    """Gates of one for every example and unit, (examples, units) a site, that multiply what the units give."""
    gates = [torch.ones(examples, site.units, device=device, requires_grad=True) for site in sites]

    def multiply(site: Site, gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, given: (given[0] * gate.repeat_interleave(site.width, 1).unsqueeze(1), *given[1:])

    hooks = [
        site.mixer.register_forward_pre_hook(multiply(site, gate)) for site, gate in zip(sites, gates, strict=True)
    ]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


class ReachedError(Exception):
    """A forward pass has come as far as it was needed."""


@contextlib.contextmanager
def watched(
    sites: Sequence[Site], tell: Callable[[int, Tensor, Tensor], None], *, stop: bool = False
) -> Iterator[None]:
    """Tells what goes into each site's mixer and what comes out, by the site's number; `stop` ends the pass there."""

    def see(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            tell(number, given[0], made)
            if stop:
                raise ReachedError

        return hook

    hooks = [site.mixer.register_forward_hook(see(number)) for number, site in enumerate(sites)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
