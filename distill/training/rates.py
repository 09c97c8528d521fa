"""Learning rates of their own: for what is trained beside a student, and starts where the student does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn


class Rate(NamedTuple):
    """Parameters with the highest learning rate of their schedule; its shape is that of all others.

    `decays` says whether AdamW makes them smaller, as it does weights.
    """

    parameters: Sequence[nn.Parameter]
    highest: float
    decays: bool = True


def set_apart(optimizer: torch.optim.Optimizer, rates: Iterable[Rate]) -> None:
    """Moves some parameters of an optimizer that has taken no step yet into groups with learning rates of their own."""
    decay = max(group["weight_decay"] for group in optimizer.param_groups)
    for rate in rates:
        moved = {id(parameter) for parameter in rate.parameters}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in moved]
        group = {"params": list(rate.parameters), "lr": rate.highest, "weight_decay": decay if rate.decays else 0.0}
        optimizer.add_param_group(group)
