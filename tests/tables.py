"""Sixty rows, and what is read off splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from conftest import rows

from distill import Data, load_data
from distill.recipe import Source

ROWS = rows(60)
TEXTS = [text for text, _ in ROWS]


def read(path: Path, *, encoding: str | list[str] = "utf-8", names=None, seed: int = 0, metric=None, **words):
    return load_data(
        Data(source=Source(path=str(path), encoding=encoding), **words), names=names, seed=seed, metric=metric
    )


def every_row(splits) -> list[tuple[tuple[str, ...], object]]:
    parts = (splits.train, splits.validation, splits.test)
    return [row for part in parts for row in zip(part.texts, part.labels, strict=True)]


def named(splits) -> Counter:
    """The rows of all splits, with the names of their labels."""
    return Counter((text[0], splits.task.labels[label]) for text, label in every_row(splits))
