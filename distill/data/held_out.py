"""What must never be trained on: texts of validation and test, and all that gives one of them away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

from distill.data.overlap import RUN, SIMILARITY, normalise, runs_of

EQUAL, NEAR = "equal or contain a validation or test example", "near-duplicates of one"
_Row = tuple[str, ...]


class HeldOut:
    """Rows of one or more texts, indexed once so that any number of other rows can be held against them.

    A row is out when each of its texts equals or contains that of a held-out row, word by word after normalisation, or
    is alike to it as `overlap` has it. As there the join is exact: rows meet through their first words and through
    their rarest runs (prefix filtering).
    """

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        self.rows = list(dict.fromkeys(tuple(normalise(text) for text in row) for row in rows))
        self.runs = [[runs_of(text) for text in row] for row in self.rows]
        self.frequency = Counter(run for parts in self.runs for run in _whole(parts))
        self.beginning: dict[_Row, list[int]] = defaultdict(list)  # the first words of each row's longest text
        self.holders: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, row in enumerate(self.rows):
            if longest := max((text.split() for text in row), key=len):
                self.beginning[tuple(longest[:RUN])].append(number)
            for run in self._rarest(_whole(self.runs[number])):
                self.holders[run].append(number)
        self.equal = set(self.rows)
        self.lengths = sorted({len(words) for words in self.beginning})  # most have RUN words, and few have fewer

    def tells(self, row: Sequence[str]) -> str | None:
        """Why a row gives a held-out one away, EQUAL or NEAR; None where it doesn't."""
        clean = tuple(normalise(text) for text in row)
        if clean in self.equal or self._contains(clean):
            return EQUAL
        runs = [runs_of(text) for text in clean]
        near = {number for run in self._rarest(_whole(runs)) for number in self.holders.get(run, ())}
        return NEAR if any(self._alike(clean, runs, number) for number in near) else None

    def _contains(self, row: _Row) -> bool:
        padded = [f" {text} " for text in row]
        return any(
            all(not held or f" {held} " in text for held, text in zip(self.rows[number], padded, strict=True))
            for text in row
            for number in self._beginning_in(text.split())
        )

    def _beginning_in(self, words: Sequence[str]) -> set[int]:
        """The held-out rows whose longest text may begin somewhere among these words."""
        return {
            number
            for length in self.lengths
            for start in range(len(words) - length + 1)
            for number in self.beginning.get(tuple(words[start : start + length]), ())
        }

    def _rarest(self, whole: set[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of two rows that are alike, one of each one's rarest runs is among the other's."""
        ordered = sorted(whole, key=lambda run: (self.frequency[run], run))
        return ordered[: len(ordered) - ceil(SIMILARITY * len(ordered)) + 1]

    def _alike(self, row: _Row, runs: Sequence[set[int]], number: int) -> bool:
        return all(
            a == b or (bool(mine or theirs) and len(mine & theirs) >= SIMILARITY * len(mine | theirs))
            for a, b, mine, theirs in zip(row, self.rows[number], runs, self.runs[number], strict=True)
        )


def _whole(parts: Sequence[set[int]]) -> set[tuple[int, int]]:
    """The runs of all of a row's texts, each with the text that it is of."""
    return {(part, run) for part, runs in enumerate(parts) for run in runs}
