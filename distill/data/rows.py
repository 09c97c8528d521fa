"""Rows of a split: sequences of texts and of labels, which need not lie in memory to be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data import arrays


@dataclass(frozen=True)
class Rows:
    """One split: `texts` holds one or more texts a row, `labels` what is right; both can be written as JSON."""

    texts: Sequence[tuple[str, ...]]
    labels: Sequence[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, positions: Sequence[int]) -> Rows:
        """Some of the rows, in the order given; texts that are read when they are asked for stay so."""
        return Rows(taken(self.texts, positions), taken(self.labels, positions))


def taken(values: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    """Some of a sequence's values, in the order given; where they are read when they are asked for, so are these."""
    take = getattr(values, "take", None)
    return take(positions) if take else [values[place] for place in positions]


@dataclass(frozen=True)
class Alike(Sequence[Any]):
    """The same label for so many rows."""

    label: Any
    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.label] * len(range(*place.indices(self.number)))
        if not -self.number <= place < self.number:
            raise IndexError(place)
        return self.label

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self.label, self.number)

    def take(self, positions: Sequence[int]) -> Alike:
        """As many as there are positions."""
        return Alike(self.label, len(positions))


class Chain(Sequence[Any]):
    """Sequences one behind the other; each stays where it is."""

    def __init__(self, *parts: Sequence[Any]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.parts else 0

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                return [self[one] for one in range(start, stop, step)]
            return [
                value
                for part, end in zip(self.parts, self.ends.tolist(), strict=True)
                for value in part[max(0, start - end + len(part)) : max(0, min(len(part), stop - end + len(part)))]
            ]
        place = range(len(self))[place]
        number = int(np.searchsorted(self.ends, place, "right"))
        return self.parts[number][place - int(self.ends[number])]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.parts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Of numbers, or of rows of as many numbers each."""
        first = [np.asarray(part[:1], dtype=dtype) for part in self.parts]
        found = arrays.zeros((len(self), *first[0].shape[1:]), np.result_type(*first)) if first else np.zeros(0, dtype)
        for part in arrays.portions(len(self)):
            found[part] = self[part]
        return found
