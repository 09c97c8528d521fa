"""What is told of texts that checkpoints write: some of them, how many are the teacher's own, and whether they end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill.data import Encoded, cut_alike
from distill.engines import Engine
from distill.evaluation.quality import Quality
from distill.recipe import settings
from distill.tasks import Task

if TYPE_CHECKING:
    from distill.data import Splits

log = logging.getLogger(__name__)
_PROMPTS, _AT_ONCE = 64, 16
_SHOWN = 8


@dataclass(frozen=True)
class Sample:
    """A test text, what was to be written of it (of a decoder: how the text goes on), and what each checkpoint writes,
    by the title of its row.
    """

    row: int
    read: str
    expected: str
    written: dict[str, str]


def write_texts(
    engines: Sequence[Engine], qualities: Sequence[Quality], encoded: Sequence[Encoded], task: Task,
    timing: settings.Timing,
) -> list[np.ndarray | None]:  # fmt: skip
    """What each engine writes: (rows,) texts where those are what is scored.

    A decoder goes on from the beginning of up to 64 test rows, as the task's words say: (rows, new tokens) ids. None of
    one that cuts the test texts otherwise than the first, and so goes on from others, nor where no row is as long as
    `timing.tokens`.
    """
    if task.generates:
        return [one.predictions for one in qualities]
    found = []
    for engine, rows in zip(engines, encoded, strict=True):
        alike = bool(_long(rows, timing)) and cut_alike(rows, encoded[0])
        found.append(_go_on(engine, rows, task.words, timing) if alike else None)
    return found


def agreements(written: Sequence[np.ndarray | None], encoded: Sequence[Encoded], task: Task) -> list[float | None]:
    """How much of what each engine writes is what the first one, the teacher, writes.

    Of whole texts the share that are the same to the letter; of a decoder's tokens, which may have other ids where a
    vocabulary was pruned, the share that have the same name, place by place.
    """
    named = [
        texts if texts is None or task.generates else _names(rows, texts)
        for texts, rows in zip(written, encoded, strict=True)
    ]
    return [None if one is None else float((one == named[0]).mean()) for one in named]


def draw_samples(
    written: Mapping[str, np.ndarray | None], encoded: Sequence[Encoded], data: Splits, timing: settings.Timing
) -> list[Sample]:
    """Some test texts drawn by the seed, and what is written of them under each title; `encoded` are the test rows as
    each of the titles' checkpoints cuts them.
    """
    told = {title: texts for title, texts in written.items() if texts is not None}
    if not told:
        return []
    readers = {title: rows.tokenizer for title, rows in zip(written, encoded, strict=True)}
    first = encoded[0]
    rows = list(range(len(data.test))) if data.task.generates else _long(first, timing)
    drawn = np.random.default_rng(data.seed).permutation(len(rows))[:_SHOWN]
    found = []
    for place in sorted(drawn.tolist()):
        row = rows[place]
        if data.task.generates:
            (read, *_), expected = data.test.texts[row], str(data.test.labels[row])
            mine = {title: str(texts[place]) for title, texts in told.items()}
        else:
            ids = first.tokens[row]
            parts = ids[: timing.tokens], ids[timing.tokens :][: timing.new_tokens]
            read, expected = (first.tokenizer.decode(part.tolist()) for part in parts)
            mine = {title: readers[title].decode(texts[place].tolist()) for title, texts in told.items()}
        found.append(Sample(row, read, expected, mine))
    return found


def _long(encoded: Encoded, timing: settings.Timing) -> list[int]:
    """The rows that a decoder is asked to go on from."""
    return [row for row in range(len(encoded)) if encoded.lengths[row] >= timing.tokens][:_PROMPTS]


def _go_on(engine: Engine, encoded: Encoded, words: settings.Generation, timing: settings.Timing) -> np.ndarray:
    """(rows, new tokens) ids that are written behind the first tokens of the long rows."""
    long = _long(encoded, timing)
    found = []
    for start in range(0, len(long), _AT_ONCE):
        ids = np.stack([encoded.tokens[row][: timing.tokens] for row in long[start : start + _AT_ONCE]])
        batch = {"input_ids": ids.astype(np.int64), "attention_mask": np.ones(ids.shape, dtype=np.int64)}
        found += engine.generate(batch, words, forced=timing.new_tokens)
    return np.array(found, dtype=np.int64).reshape(len(long), timing.new_tokens)


def _names(encoded: Encoded, ids: np.ndarray) -> np.ndarray:
    names = encoded.tokenizer.convert_ids_to_tokens(ids.ravel().tolist())
    return np.array([str(name) for name in names]).reshape(ids.shape)


def warn_of_unended(name: str, share: float | None, task: Task) -> None:
    """Says of texts that were cut off, which a score takes as they are."""
    if share:
        log.warning(
            "%s: %.1f %% of the texts have generation.max_new_tokens = %d tokens and are cut off there",
            name, 100 * share, task.words.max_new_tokens,
        )  # fmt: skip
