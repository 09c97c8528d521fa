"""Columns of a data set as the rows of a split: read when they are asked for, or kept as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from distill.bars import bar
from distill.data import arrays

if TYPE_CHECKING:
    from datasets import Dataset

AT_ONCE = 1000  # rows that are read at once
MANY = 50_000  # rows; of more, texts stay where they are, and labels are numbers in an array
NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)  # as .csv files have them
_DISTINCT = 10_000  # labels that are told apart; where there are more, all are kept as they are


def is_number(value: Any) -> bool:
    """Whether a text is a number."""
    return isinstance(value, str) and NUMBER.fullmatch(value.strip()) is not None


class Texts(Sequence[tuple[str, ...]]):
    """Some rows of a data set's columns, which stay where they are: a corpus need not fit into memory."""

    def __init__(self, rows: Dataset, columns: Sequence[str], positions: np.ndarray) -> None:
        self.rows, self.columns, self.positions = rows, tuple(columns), positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, place: int) -> tuple[str, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[str, ...]]: ...

    def __getitem__(self, place: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(place, slice):
            found = self.rows[self.positions[place].tolist()]
            return list(zip(*(found[column] for column in self.columns), strict=True))
        found = self.rows[int(self.positions[place])]
        return tuple(found[column] for column in self.columns)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def take(self, places: Sequence[int]) -> Texts:
        """Some of them, in the order given."""
        chosen = np.asarray(places, dtype=np.int64)
        taken = arrays.filled(len(chosen), np.int64, lambda part: self.positions[chosen[part]])
        return Texts(self.rows, self.columns, taken)

    @classmethod
    def all_of(cls, rows: Dataset, columns: Sequence[str]) -> Texts:
        """Every row."""
        return cls(
            rows.select_columns(list(columns)),
            columns,
            arrays.filled(len(rows), np.int64, lambda part: np.arange(part.start, part.stop)),
        )


class Values(Sequence[Any]):
    """Values of which few are different: the different ones, and for each row which of them it is."""

    def __init__(self, distinct: Sequence[Any], codes: np.ndarray) -> None:
        self.distinct, self.codes = list(distinct), codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.distinct[code] for code in self.codes[place].tolist()]
        return self.distinct[self.codes[place]]

    def __iter__(self) -> Iterator[Any]:
        for part in arrays.portions(len(self)):
            yield from self[part]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Of numbers."""
        kinds = np.array(self.distinct, dtype=dtype)
        return arrays.filled(len(self), kinds.dtype.type, lambda part: kinds[self.codes[part]])

    def take(self, places: Sequence[int]) -> Values:
        """Those of some rows, in the order given."""
        chosen = np.asarray(places, dtype=np.int64)
        return Values(self.distinct, arrays.filled(len(chosen), np.int32, lambda part: self.codes[chosen[part]]))

    def changed(self, change: Callable[[Any], Any]) -> Values:
        """Each value made into another."""
        return Values([change(value) for value in self.distinct], self.codes)


def changed(values: Sequence[Any], change: Callable[[Any], Any] | None) -> Sequence[Any]:
    """Each value made into another, if there is anything to make of it."""
    if change is None:
        return values
    return values.changed(change) if isinstance(values, Values) else [change(value) for value in values]


def distinct(values: Sequence[Any]) -> Sequence[Any]:
    """Values without those that are known to be there twice."""
    return values.distinct if isinstance(values, Values) else values


def pages(rows: Dataset, columns: Sequence[str], title: str) -> Iterator[tuple[int, list[list[Any]]]]:
    """Some rows at a time: the number of the first, and each column's values."""
    chosen = rows.select_columns(list(columns))
    for start in bar(range(0, len(rows), AT_ONCE), title=title, shown=len(rows) > MANY):
        found = chosen[start : start + AT_ONCE]
        yield start, [found[column] for column in columns]


def values_of(rows: Dataset, column: str) -> Sequence[Any]:
    """A column's values: all of them, or, of many rows that have few different ones, as numbers."""
    if len(rows) <= MANY:
        return list(rows[column])
    places: dict[tuple[type, Any], int] = {}
    codes = arrays.Growing(np.int32)
    for _, (found,) in pages(rows, [column], f"read {column}"):
        if any(isinstance(value, list | dict) for value in found):
            return list(rows[column])
        codes.extend([places.setdefault((type(value), value), len(places)) for value in found])
        if len(places) > _DISTINCT:
            return list(rows[column])
    return Values([value for _, value in places], codes.whole())
