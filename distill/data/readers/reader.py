"""What every task's reader can say: what the rows of a source are, and how they become tokens."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from distill.data.encoding import Encoded
from distill.data.readers.columns import MANY, Texts, pages
from distill.data.rows import Rows
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import Task

WRITTEN = 40  # tokens behind a user's text, where a checkpoint doesn't say how many

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Cutter:
    """What cuts a user's texts where a checkpoint is served: its tokenizer, and what the tokenizer doesn't say.

    `longest` is how many tokens the model reads at once, `stride` how many of them windows share,
    `prefix` what stands before each text, `written` how many tokens are written behind one, `mask` what stands for a
    word to be filled in, where that is told; `texts` how many texts a row of a classifier has, where that is.
    """

    tokenizer: Tokenizer
    pad: int
    typed: bool
    longest: int
    stride: int | None = None
    prefix: str = ""
    written: int = WRITTEN
    mask: str | None = None
    texts: int | None = None


class Reader(Protocol):
    """How the rows of one task are read. There is one a task, without state."""

    apart: bool  # whether a row of `Rows` is words, not texts

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], Task]:
        """Each split's rows, and the task that they resolve.

        `known` are a checkpoint's own label names, which the labels follow where they fit. Raises DataError.
        """
        ...

    def kinds(self, rows: Rows, task: Task) -> Sequence[Hashable]:
        """What is kept in proportion when rows are split or sampled: one value a row."""
        ...

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """What tells near-duplicates: one or more texts a row, each alike in two rows that are alike."""
        ...

    def require_enough(self, train: Rows, task: Task) -> None:
        """Raises DataError where nothing can be learned from the training rows."""
        ...

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """What a user should know of the rows."""
        ...

    def unlabelled(self, rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
        """The texts of rows that have no labels, as `Rows` holds them; blank ones among them. Raises DataError."""
        ...

    def unknown(self, texts: Sequence[tuple[str, ...]], task: Task) -> Sequence[Any]:
        """For each of these a label that says nothing: losses on labels leave it out."""
        ...

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """The rows in a tokenizer's ids, none longer than `longest`. Raises CheckpointError, DataError."""
        ...

    def asked(self, texts: Sequence[Any], cutter: Cutter) -> Encoded:
        """What a user asks, in tokens, without anything that is right. Raises DataError."""
        ...


def refuse_idle(data: settings.Data, task: str, words: Sequence[str]) -> None:
    """Raises DataError for settings that are said and mean nothing for a task."""
    for word in words:
        if getattr(data, word) is not None:
            raise DataError(f"data.{word}: means nothing for {task}; leave it out")


def texts_of(rows: Dataset, columns: Sequence[str], setting: str, split: str) -> Sequence[tuple[str, ...]]:
    """The texts of some columns, a tuple a row; of many rows they are read when they are asked for.

    Raises DataError for a missing column or what is no text.
    """
    for column in columns:
        require_column(rows, column, setting, split)
        for start, (values,) in pages(rows, [column], f"read {split}"):
            for position, value in enumerate(values, start=start):
                if not isinstance(value, str):
                    kind = "nothing" if value is None else f"{value!r:.60}, a {type(value).__name__}"
                    where = f"{setting}: row {position} of {split}"
                    parts = list(value) if isinstance(value, dict) else []
                    hint = f"; name one of its parts, such as {column}.{parts[0]}" if parts else ""
                    if isinstance(value, list) and len(rows) == 1:
                        hint = "; where it is a file of columns, write it as rows, an object each"
                    raise DataError(f"{where} holds {kind} in column '{column}', not a text{hint}")
    if len(rows) > MANY:
        return Texts.all_of(rows, columns)
    return list(zip(*(rows[column] for column in columns), strict=True))


def require_column(rows: Dataset, column: str, setting: str, split: str) -> None:
    """Raises DataError when a split has no such column."""
    if column not in rows.column_names:
        raise DataError(f"{setting}: {split} has no column '{column}' (it has: {', '.join(rows.column_names)})")


def short(labels: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")


def plain_texts(rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
    """Texts of rows without labels: those of the text columns; of a text file's lines whatever the column is called."""
    lines = rows.column_names == ["text"] and len(data.text_columns) == 1
    return texts_of(rows, ["text"] if lines else data.text_columns, "data.text", "data.unlabelled")
