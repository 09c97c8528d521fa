"""Where the time of our training steps goes, and how far they are from what the arithmetic alone would take.

The same steps are taken three times, with the same batches: as they are, with their products counted, and profiled.
The terms' gradients are held against each other as seldom as in the whole training that the steps are a part of.
The limit is the counted floating point operations over the best rate at which this machine multiplies large matrices
in the same dtype, on one thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import transformers
from arm import Plan, carry_out, rows
from ours import teach
from shares import where
from torch.autograd.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from distill.teacher import saved
from distill.training import choose_dtype
from distill.training import trainer as loop

_WARM = 0.2  # share of the steps that come before those that count
_SECONDS = 0.5  # that each rate is measured for


def train(plan: Plan) -> dict[str, Any]:
    """What is told of the steps."""
    first, last = int(_WARM * plan.steps), plan.steps - 1
    plain, counter = Watched(first, last), FlopCounterMode(display=False)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    profiled = Watched(first, last, profiler)
    with mock.patch.object(loop, "_PULLS", pulls(plan)):
        with plain:
            _, watch = teach(plan)
        with Watched(first, last, counter):
            teach(plan)
        with profiled, _ranges():
            teach(plan)
    steps, dtype = last - first, choose_dtype("auto")
    rates = {shape: rate(*map(int, shape.split(" x ")), dtype) for shape in shapes(plan, plain.tokens / steps)}
    best = max(rates.values())
    operations = counter.get_total_flops()
    shares = where(profiler.events(), profiled.seconds)
    return {
        "dtype": watch.log.dtype,
        "steps": steps,
        "batch_size": plan.batch_size,
        "seconds_a_step": plain.seconds / steps,
        "padded_tokens_a_step": plain.tokens / steps,
        "flops_a_step": operations / steps,
        "gemm_flops_a_second": rates,
        "limit_seconds_a_step": operations / steps / best,
        "share_of_the_limit": operations / best / plain.seconds,
        "profile": shares,
        "profiled_seconds_a_step": profiled.seconds / steps,
        "table": table(profiler),
    }


def pulls(plan: Plan) -> int:
    """How often the terms' gradients are held against each other in so many steps, once at the least."""
    whole = plan.epochs * len(rows(plan.train)[0]) / plan.batch_size
    return max(1, round(loop._PULLS * plan.steps / whole))


def shapes(plan: Plan, tokens: float) -> list[str]:
    """A step's own products, and a large one: rows, inner size, columns."""
    config = transformers.AutoConfig.from_pretrained(plan.student)
    lines, hidden, wide = round(tokens), config.hidden_size, config.intermediate_size
    return [f"{lines} x {hidden} x {hidden}", f"{lines} x {hidden} x {wide}", f"{lines} x {wide} x {hidden}",
            "2048 x 2048 x 2048"]  # fmt: skip


def rate(lines: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Floating point operations a second of one matrix product, the best of many tries."""
    one, other = torch.randn(lines, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    torch.mm(one, other)
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - start)
    return 2 * lines * inner * columns / best


class Watched:
    """Steps of a Trainer between two numbers: how long they took, their tokens, and a context held open over them."""

    def __init__(self, first: int, last: int, context: Any = None) -> None:
        self.first, self.last, self.context = first, last, context or contextlib.nullcontext()
        self.step, self.tokens, self.start, self.seconds = 0, 0, 0.0, 0.0
        self.open = contextlib.ExitStack()
        inner = transformers.Trainer.training_step
        self.patch = mock.patch.object(transformers.Trainer, "training_step", self._around(inner))

    def _around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(trainer: Any, model: Any, inputs: Any, *more: Any) -> Any:
            if self.step == self.first:
                self.open.enter_context(self.context)
                self.start = time.perf_counter()
            if self.step == self.last:
                self.seconds = time.perf_counter() - self.start
                self.open.close()
            if self.first <= self.step < self.last:
                self.tokens += inputs["input_ids"].numel()
            self.step += 1
            return inner(trainer, model, inputs, *more)

        return training_step

    def __enter__(self) -> None:
        self.patch.start()

    def __exit__(self, *_: Any) -> None:
        self.patch.stop()
        if not self.seconds:
            raise RuntimeError(f"the training ended after {self.step} steps, before the {self.last} to be watched")


@contextlib.contextmanager
def _ranges() -> Iterator[None]:
    """Names two of the loop's parts in the profile; torch names the optimizer and the data loader itself."""

    def named(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def around(*given: Any, **words: Any) -> Any:
            with record_function(name):
                return inner(*given, **words)

        return around

    with (
        mock.patch.object(loop.Trainer, "_tell", named("telling", loop.Trainer._tell)),
        mock.patch.object(saved.Saved, "signals", named("signals", saved.Saved.signals)),
    ):
        yield


def table(profiler: Any, rows: int = 25) -> list[dict[str, Any]]:
    """The operators that take longest by themselves, in milliseconds over all profiled steps."""
    found = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)[:rows]
    return [
        {"operator": event.key, "ms": event.self_cpu_time_total / 1e3, "calls": event.count} for event in found
    ]  # fmt: skip


if __name__ == "__main__":
    carry_out(train)
