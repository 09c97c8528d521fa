"""How fast: every checkpoint in one session, answers interleaved, so that the machine's mood falls on all alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.bars import bar
from distill.data import Batch, Encoded
from distill.engines import Engine
from distill.recipe import settings

_WARM_UP = 2


@dataclass(frozen=True)
class Latency:
    """Wall and CPU time of one engine's answers to batches of one shape, in milliseconds; the tokenizer excluded.

    Where an answer is a text, it is written from end to end with `new_tokens` for each example; `prefill_ms` is the
    time to the first of them, `tokens_per_second` how many of all the batch's are written from then on.
    """

    engine: str
    batch: int
    tokens: int
    threads: int
    rounds: int
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    new_tokens: int | None = None
    prefill_ms: float | None = None
    tokens_per_second: float | None = None


def measure_latency(
    engines: Sequence[Engine],
    inputs: Sequence[Encoded],
    timing: settings.Timing,
    words: settings.Generation | None = None,
) -> list[list[Latency]]:
    """For each engine one Latency a batch size, in the order of `timing.batch`.

    `inputs` is each engine's own encoded split, whose tokens fill the batches. With `words` a text of
    `timing.new_tokens` is written for each example, whatever would end it. In every round each engine answers
    once, in an order drawn anew each round. CPU time is the process's, over all its threads.
    """
    tokens = timing.tokens or int(np.median(inputs[0].sequences))
    order = np.random.default_rng(0)
    times: dict[tuple[int, int], list[tuple[float, float]]] = {}
    first: dict[tuple[int, int], list[float]] = {}

    def answer(engine: Engine, batch: Batch, tokens: int | None) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        if words is None:
            engine.answer(batch)
        else:
            engine.generate(batch, words, forced=tokens)
        return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)

    with (
        _threads(timing.threads),
        bar(title="timing", leave=True, total=len(timing.batch) * timing.rounds, unit="round") as shown,
    ):
        for size in timing.batch:
            batches = [_fill(encoded, size, tokens) for encoded in inputs]
            for engine, batch in zip(engines, batches, strict=True):
                for _ in range(_WARM_UP):
                    answer(engine, batch, timing.new_tokens)
            for _ in range(timing.rounds):
                for place in order.permutation(len(engines)):
                    spent = answer(engines[place], batches[place], timing.new_tokens)
                    times.setdefault((int(place), size), []).append(spent)
                    if words is not None:
                        first.setdefault((int(place), size), []).append(answer(engines[place], batches[place], 1)[0])
                shown.update()
    return [
        [
            _summary(engine.name, size, tokens, timing, times[place, size], first.get((place, size)))
            for size in timing.batch
        ]
        for place, engine in enumerate(engines)
    ]


def _summary(
    engine: str, size: int, tokens: int, timing: settings.Timing, spent: list[tuple[float, float]],
    first: list[float] | None,
) -> Latency:  # fmt: skip
    wall, cpu = np.array(spent).T
    found = Latency(
        engine, size, tokens, timing.threads, timing.rounds,
        round(float(np.median(wall)), 3), round(float(np.percentile(wall, 95)), 3), round(float(np.median(cpu)), 3),
    )  # fmt: skip
    if first is None:
        return found
    prefill = float(np.median(first))
    rest = max(found.p50_ms - prefill, 1e-3)  # the clock's own fineness
    speed = 1e3 * size * (timing.new_tokens - 1) / rest
    return replace(found, new_tokens=timing.new_tokens, prefill_ms=round(prefill, 3), tokens_per_second=round(speed, 1))


def _fill(encoded: Encoded, size: int, tokens: int) -> Batch:
    """A batch of real tokens of exactly one shape, without padding."""
    ids = np.resize(encoded.ids, size * tokens).reshape(size, tokens).astype(np.int64)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if encoded.decoder_start is not None:  # an encoder-decoder answers at as many tokens as it reads
        batch["decoder_input_ids"] = ids
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
