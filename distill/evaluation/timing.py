"""How fast: every checkpoint in one session, answers interleaved, so that the machine's mood falls on all alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from distill.data import Batch, Encoded
from distill.engines import Engine
from distill.recipe import settings

_WARM_UP = 2


@dataclass(frozen=True)
class Latency:
    """Wall and CPU time of one engine's answers to batches of one shape, in milliseconds; the tokenizer excluded."""

    engine: str
    batch: int
    tokens: int
    threads: int
    rounds: int
    p50_ms: float
    p95_ms: float
    cpu_ms: float


def measure_latency(
    engines: Sequence[Engine], inputs: Sequence[Encoded], timing: settings.Timing
) -> list[list[Latency]]:
    """For each engine one Latency a batch size, in the order of `timing.batch`.

    `inputs` is each engine's own encoded split, whose tokens fill the batches. In every round each engine answers
    once, in an order drawn anew each round. CPU time is the process's, over all its threads.
    """
    tokens = timing.tokens or int(np.median(inputs[0].lengths))
    order = np.random.default_rng(0)
    times: dict[tuple[int, int], list[tuple[float, float]]] = {}
    with (
        _threads(timing.threads),
        tqdm(total=len(timing.batch) * timing.rounds, desc="timing", unit="round") as bar,
    ):
        for size in timing.batch:
            batches = [_fill(encoded, size, tokens) for encoded in inputs]
            for engine, batch in zip(engines, batches, strict=True):
                for _ in range(_WARM_UP):
                    engine.answer(batch)
            for _ in range(timing.rounds):
                for place in order.permutation(len(engines)):
                    wall, cpu = time.perf_counter(), time.process_time()
                    engines[place].answer(batches[place])
                    spent = (1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu))
                    times.setdefault((int(place), size), []).append(spent)
                bar.update()
    return [
        [_summary(engine.name, size, tokens, timing, times[place, size]) for size in timing.batch]
        for place, engine in enumerate(engines)
    ]


def _summary(engine: str, size: int, tokens: int, timing: settings.Timing, spent: list[tuple[float, float]]) -> Latency:
    wall, cpu = np.array(spent).T
    return Latency(
        engine, size, tokens, timing.threads, timing.rounds,
        round(float(np.median(wall)), 3), round(float(np.percentile(wall, 95)), 3), round(float(np.median(cpu)), 3),
    )  # fmt: skip


def _fill(encoded: Encoded, size: int, tokens: int) -> Batch:
    """A batch of real tokens of exactly one shape, without padding."""
    ids = np.resize(encoded.ids, size * tokens).reshape(size, tokens).astype(np.int64)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if encoded.types is not None:
        batch["token_type_ids"] = np.zeros_like(ids)
    return batch


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Torch's thread count for as long as the block lasts; ONNX Runtime's sessions are opened with theirs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
