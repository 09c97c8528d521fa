"""What is told of texts that checkpoints write: how much of them is the teacher's own, and whether they end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from distill.data import Encoded, cut_alike
from distill.engines import Engine
from distill.evaluation.quality import Quality
from distill.recipe import settings
from distill.tasks import Task

log = logging.getLogger(__name__)
_PROMPTS, _AT_ONCE = 64, 16


def agreements(
    engines: Sequence[Engine], qualities: Sequence[Quality], encoded: Sequence[Encoded], task: Task,
    timing: settings.Timing,
) -> list[float | None]:  # fmt: skip
    """How much of what each engine writes is what the first one, the teacher, writes.

    Where texts are what is scored, the share of test texts that are the same to the letter. A decoder goes on from the
    beginning of up to 64 test rows, as the task's words say; the share of tokens that are the same, place by place.
    None of one that cuts the test texts otherwise, and so goes on from others, nor where no row is as long as
    `timing.tokens`.
    """
    if task.generates:
        return [float((one.predictions == qualities[0].predictions).mean()) for one in qualities]
    found: list[float | None] = []
    first = None
    for engine, rows in zip(engines, encoded, strict=True):
        if not cut_alike(rows, encoded[0]):
            found.append(None)
            continue
        written = _go_on(engine, rows, task.words, timing)
        first = written if first is None else first
        found.append(float((written == first).mean()) if written.size else None)
    return found


def _go_on(engine: Engine, encoded: Encoded, words: settings.Generation, timing: settings.Timing) -> np.ndarray:
    """(rows, new tokens) tokens, by name, that are written behind the first tokens of some rows."""
    long = [row for row in range(len(encoded)) if encoded.lengths[row] >= timing.tokens][:_PROMPTS]
    found = []
    for start in range(0, len(long), _AT_ONCE):
        ids = np.stack([encoded.tokens[row][: timing.tokens] for row in long[start : start + _AT_ONCE]])
        batch = {"input_ids": ids.astype(np.int64), "attention_mask": np.ones(ids.shape, dtype=np.int64)}
        found += engine.generate(batch, words, forced=timing.new_tokens)
    ids = np.array(found, dtype=np.int64).reshape(len(long), timing.new_tokens)
    names = encoded.tokenizer.convert_ids_to_tokens(ids.ravel().tolist())
    return np.array([str(name) for name in names]).reshape(ids.shape)


def warn_of_unended(name: str, share: float | None, task: Task) -> None:
    """Says of texts that were cut off, which a score takes as they are."""
    if share:
        log.warning(
            "%s: %.1f %% of the texts have generation.max_new_tokens = %d tokens and are cut off there",
            name, 100 * share, task.words.max_new_tokens,
        )  # fmt: skip
