"""SST-2 as the benchmark uses it: validation and training that share no phrase, nor part of one, with what is scored.

SST-2's training rows are phrases cut out of sentences, so that a row can hold another, or lie in it. A row that
contains a held-out phrase, or is contained in one, word for word, tells of its label; those are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Row = tuple[str, int]  # text, label
LABELS = ("negative", "positive")


@dataclass
class Phrases:
    """Rows by split, and what was left out on the way."""

    train: list[Row]
    validation: list[Row]
    dev: list[Row]
    test: list[Row]
    told: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """One tsv a split, columns `text` and `label`, in a folder that is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train", "validation", "dev", "test"):
            lines = [f"{text}\t{LABELS[label]}\n" for text, label in getattr(self, name)]
            (folder / f"{name}.tsv").write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
        return folder


def load(folder: Path, *, validation: int = 1000, limit: int | None = None, seed: int = 0) -> Phrases:
    """SST-2 out of `train.tsv`, `dev.tsv` and `test.tsv` (label, tab, text).

    Validation are whole sentences, as dev and test are: training rows that lie in no other row, drawn by `seed`.
    `limit` keeps so many training rows, for a try.
    """
    train, dev, test = (read(folder / f"{name}.tsv") for name in ("train", "dev", "test"))
    rows = len(train)
    apart = keep_apart(train, [text for text, _ in dev + test])
    roots = whole(apart)
    drawn = sorted(np.random.default_rng(seed).permutation(len(roots))[:validation].tolist())
    held = [roots[place] for place in drawn]
    kept = keep_apart(apart, [text for text, _ in held])
    told = {
        "train_rows": rows,
        "dropped_for_dev_and_test": rows - len(apart),
        "dropped_for_validation": len(apart) - len(kept),
        "train": len(kept[:limit]),
        "validation": len(held),
        "dev": len(dev),
        "test": len(test),
    }
    return Phrases(kept[:limit], held, dev, test, told)


def read(path: Path) -> list[Row]:
    """Rows of a tsv with a header, label first; line ends of any kind, no quoting."""
    with path.open(encoding="utf-8", newline=None) as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(lines)
        return [(" ".join(text.split()), int(label)) for label, text in lines]


def keep_apart(rows: Sequence[Row], held: Iterable[str]) -> list[Row]:
    """The rows that contain no held-out text and are contained in none, word for word, in any case."""
    held = [words(text) for text in held]
    whole_texts = {" ".join(text) for text in held}
    parts = {run for text in held for run in runs(text)}
    longest = max(map(len, held), default=0)
    return [
        row
        for row in rows
        if " ".join(words(row[0])) not in parts
        and not any(run in whole_texts for run in runs(words(row[0]), longest))
    ]  # fmt: skip


def whole(rows: Sequence[Row]) -> list[Row]:
    """The rows that lie in no other row, each text once, in their order."""
    distinct = list({" ".join(words(text)): (text, label) for text, label in rows}.items())
    inner = {run for text, _ in distinct for run in runs(text.split()) if len(run) < len(text)}
    return [row for text, row in distinct if text not in inner]


def words(text: str) -> list[str]:
    """Lower case, cut at white space."""
    return text.lower().split()


def runs(text: Sequence[str], longest: int | None = None) -> Iterator[str]:
    """Every run of words in a text, the whole included; none longer than `longest` words."""
    for start in range(len(text)):
        last = len(text) if longest is None else min(len(text), start + longest)
        for end in range(start + 1, last + 1):
            yield " ".join(text[start:end])
