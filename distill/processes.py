"""Several processes that train one student, each on its share of every batch: accelerate or torchrun started them.

The first one, the leader, does all else. The others wait at `once` for what it says. Whatever is named by a path must
lie where all of them see it: on one machine, or on a file system that the machines share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from torch import distributed as dist

Found = TypeVar("Found")
# How long processes wait for what the leader does alone, such as labelling a corpus. Within a training's steps the
# launcher's own, shorter patience holds.
_PATIENCE = timedelta(days=7)


def device() -> torch.device:
    """Where accelerate places this process's models."""
    return _state().device


def number() -> int:
    """How many processes there are."""
    return _state().num_processes


def place() -> int:
    """Which of them this one is; the leader is 0."""
    return _state().process_index


def is_first() -> bool:
    """Whether this process is the leader, or the only one."""
    return place() == 0


def once(make: Callable[[], Found]) -> Found:
    """What the leader makes, given to every process; each must ask for it, in the same order."""
    if number() == 1:
        return make()
    found = [make() if is_first() else None]
    dist.broadcast_object_list(found, src=0, group=_patient())
    return found[0]


def share_of(rows: Sequence[int]) -> list[int]:
    """This process's part of a batch. Where there are fewer rows than processes some are taken by more than one."""
    mine = rows[place() :: number()]
    return list(mine) if len(mine) else [rows[place() % len(rows)]]


def is_spare(rows: int | Tensor | None) -> bool:
    """Whether this process's share of a batch of so many rows is another's too, because there are too few of them."""
    return rows is not None and place() >= int(rows)


def shares(counts: Tensor) -> Tensor:
    """What this process's means weigh beside the others', so that their mean over processes is the mean over all.

    `counts` says over how many places each mean was taken here.
    """
    everywhere = counts.clone()
    dist.all_reduce(everywhere)
    return counts * number() / everywhere.clamp(min=1)


def mean(values: Sequence[float]) -> list[float]:
    """The mean over all processes of each number."""
    if number() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(summed)
    return (summed / number()).tolist()


def widest(bounds: Tensor) -> Tensor:
    """The lowest and the highest over all processes of (low, high)."""
    if number() == 1:
        return bounds
    turned = torch.stack([bounds[0], -bounds[1]])
    dist.all_reduce(turned, op=dist.ReduceOp.MIN)
    return torch.stack([turned[0], -turned[1]])


def _state() -> PartialState:
    """Accelerate's own; without an accelerator it joins several processes only where a CPU is asked for."""
    return PartialState(cpu=not torch.accelerator.is_available())


@functools.cache
def _patient() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=_PATIENCE)
