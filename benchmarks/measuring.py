"""Rows side by side: scored on dev and on test, then timed in one interleaved session, on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from spreads import spread

from distill.checkpoint import read_config
from distill.data import Splits
from distill.engines import Engine
from distill.evaluation import Subject, score, subjects_in
from distill.evaluation.timing import measure_latency
from distill.recipe import Timing
from distill.shipping.preprocessing import open_tokenizer

TIMINGS = (
    Timing(batch=[1], tokens=16, rounds=200),  # what sst2-fast is judged on
    Timing(batch=[8], tokens=64, rounds=30),  # what pruning without retraining is judged on
)
SENTENCES = 200  # of dev, answered with `tokenizers` on both sides
EAGER, GRAPH = "teacher, eager torch", "teacher, ONNX Runtime"  # the two baselines


@dataclass
class Row:
    """One thing that is measured: a checkpoint in one format, of one seed or of several."""

    name: str
    ours: bool
    subjects: list[Subject]
    minutes: list[float] = field(default_factory=list)  # of making it, the teacher's training excluded


def say(what: str) -> None:
    """What begins, with the time."""
    print(f"{time.strftime('%H:%M:%S')} ── {what}", flush=True)


def pick(folder: Path, form: str, name: str | None = None) -> Subject:
    """A folder's checkpoint in one format."""
    return next(found for found in subjects_in(name or folder.name, folder) if found.format == form)


def measure(rows: Sequence[Row], splits: dict[str, Splits], *, quick: bool = False) -> dict[str, Any]:
    """Each row with its scores, kept shares, size, latencies and ratios, seeds listed and their mean beside them.

    `splits` holds `dev` and `test`, each with the rows to score as its test split. The baselines come first in `rows`.
    """
    told = {row.name: _described(row, splits) for row in rows}
    for row in told.values():
        for split in splits:
            base = told[EAGER][split]["mean"]
            row[split]["kept"] = row[split]["mean"] / base
    flat = [(row.name, subject) for row in rows for subject in row.subjects]
    engines = [subject.open(threads=1) for _, subject in flat]
    encoded = [subject.encoded(splits["dev"]) for _, subject in flat]
    for words in TIMINGS:
        say(f"timing: batch {words.batch[0]}, {words.tokens} tokens")
        words = words.model_copy(update={"rounds": 5}) if quick else words
        found = measure_latency(engines, encoded, words)
        _tell(told, [name for name, _ in flat], [one[0].p50_ms for one in found], f"{words.batch[0]} x {words.tokens}")
    say("timing: whole answers")
    texts = [text for (text,) in splits["dev"].test.texts[: 10 if quick else SENTENCES]]
    _tell(told, [name for name, _ in flat], whole_answers(engines, [one for _, one in flat], texts), "with tokenizers")
    return {
        "timing": {
            "threads": 1,
            "rounds": {f"{words.batch[0]} x {words.tokens}": words.rounds for words in TIMINGS},
            "with tokenizers": f"median over {len(texts)} dev sentences, one at a time, tokenizers on every side",
        },
        "rows": list(told.values()),
    }


def _described(row: Row, splits: dict[str, Splits]) -> dict[str, Any]:
    say(f"score: {row.name}")
    told: dict[str, Any] = {"name": row.name, "ours": row.ours, "seeds": len(row.subjects)}
    for split, data in splits.items():
        told[split] = spread([score(subject, data).score for subject in row.subjects]) | {"n": len(data.test)}
    told |= {
        "format": row.subjects[0].format,
        "parameters": spread([subject.parameters for subject in row.subjects]),
        "bytes": spread([subject.bytes for subject in row.subjects]),
        "minutes": spread(row.minutes) if row.minutes else None,
        "ms": {},
    }
    return told


def _tell(told: dict[str, dict[str, Any]], names: Sequence[str], times: Sequence[float], what: str) -> None:
    """Each row's median latency, the mean over its seeds, and how many times the two baselines' it is faster."""
    for name, row in told.items():
        mine = [spent for other, spent in zip(names, times, strict=True) if other == name]
        row["ms"][what] = spread(mine)
    for row in told.values():
        mine = row["ms"][what]["mean"]
        row["ms"][what] |= {
            "faster_than_eager": told[EAGER]["ms"][what]["mean"] / mine,
            "faster_than_onnxruntime": told[GRAPH]["ms"][what]["mean"] / mine,
        }


def whole_answers(engines: Sequence[Engine], subjects: Sequence[Subject], texts: Sequence[str]) -> list[float]:
    """Median milliseconds from a sentence to logits, for each engine: `tokenizers` cuts it, alone in its batch.

    Every sentence is answered by all engines, in an order drawn anew, once to warm up and once to count.
    """
    cutters = [open_tokenizer(subject.folder, read_config(subject.folder)) for subject in subjects]
    order = np.random.default_rng(0)
    spent: list[list[float]] = [[] for _ in engines]
    for counted in (False, True):
        for text in texts:
            for place in order.permutation(len(engines)):
                start = time.perf_counter()
                found = cutters[place].encode(text)
                batch = {
                    "input_ids": np.array([found.ids], dtype=np.int64),
                    "attention_mask": np.array([found.attention_mask], dtype=np.int64),
                    "token_type_ids": np.array([found.type_ids], dtype=np.int64),
                }
                engines[place].answer(batch)
                if counted:
                    spent[place].append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times) for times in spent]
