"""Language modelling's rows: texts, read when they are asked for, and nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import numpy as np

from distill.data.encoding import Encoded, Rows
from distill.data.masking import masking_for
from distill.data.packing import encode_texts
from distill.data.readers.reader import require_column
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import LanguageModelling, MaskedLanguageModelling, Task, choose_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 1000
_BLOCK = 512  # tokens, where neither the recipe nor the model says less


class Texts(Sequence[tuple[str, ...]]):
    """Some rows of a data set's column, which stays where it is: a corpus need not fit into memory."""

    def __init__(self, rows: Dataset, column: str, positions: np.ndarray) -> None:
        self.rows, self.column, self.positions = rows, column, positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, place: int) -> tuple[str, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[str, ...]]: ...

    def __getitem__(self, place: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(place, slice):
            return [(text,) for text in self.rows[self.positions[place].tolist()][self.column]]
        return (self.rows[int(self.positions[place])][self.column],)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def take(self, places: Sequence[int]) -> Texts:
        """Some of them, in the order given."""
        return Texts(self.rows, self.column, self.positions[np.asarray(places, dtype=np.int64)])


class LanguageReader:
    """One text column; blank rows are left out."""

    def __init__(self, task: type[LanguageModelling], problem: settings.Problem) -> None:
        self.task, self.problem = task, problem

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], LanguageModelling]:
        """Texts alone. Raises DataError for a missing column, what is no text, and words about labels."""
        for word in ("label", "separator", "problem"):
            if getattr(data, word) != type(data).model_fields[word].default:  # a recipe may write defaults out
                raise DataError(f"data.{word}: {self.task.name} learns from the texts alone; leave it out")
        if len(data.text_columns) != 1:
            raise DataError(f"data.text: {self.task.name} takes one text column")
        if data.mask is not None and self.task is not MaskedLanguageModelling:
            raise DataError("data.mask: only masked-language-modelling masks; leave it out")
        splits = {name: _texts(rows, data.text_columns[0], name) for name, rows in raw.items()}
        task = self.task(self.problem, (), choose_metric(self.problem, metric))
        return {name: Rows(texts, [0] * len(texts)) for name, texts in splits.items()}, task

    def kinds(self, rows: Rows, task: Task) -> list[Hashable]:
        """All of one kind."""
        return list(rows.labels)

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """The texts themselves."""
        return rows.texts

    def require_enough(self, train: Rows, task: Task) -> None:
        """Whether the texts make a block is known when they are tokens."""

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """Nothing beyond the numbers of rows."""
        return []

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """Blocks, or a text a row. Raises CheckpointError without a mask token where one is needed."""
        masked = self.task is MaskedLanguageModelling
        masking = masking_for(tokenizer, words.mask or settings.Mask()) if masked else None
        longest = longest if words.max_length is not None else min(longest, _BLOCK)
        found = encode_texts(rows, tokenizer, longest, title, packed=words.packed is not False, masking=masking)
        return found if masked else replace(found, targets=found.tokens)


def _texts(rows: Dataset, column: str, split: str) -> Texts:
    """The rows that have a text. Raises DataError."""
    require_column(rows, column, "data.text", split)
    kept, texts = [], rows.select_columns(column)
    for start in range(0, len(texts), _AT_ONCE):
        for position, value in enumerate(texts[start : start + _AT_ONCE][column], start=start):
            if value is not None and not isinstance(value, str):
                kind = f"{value!r}, a {type(value).__name__}"
                raise DataError(f"data.text: row {position} of {split} holds {kind} in column '{column}', not a text")
            if value and not value.isspace():
                kept.append(position)
    if not kept:
        raise DataError(f"data.text: no row of {split} has a text in column '{column}'")
    return Texts(texts, column, np.array(kept))
