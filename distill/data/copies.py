"""Changed copies of a text: its words apart from what stands between them, and cheap ways to change some of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.data.scripts import WORD

_WORD = re.compile(f"({WORD})")


@dataclass(frozen=True)
class Line:
    """A text in pieces, of which those at `places` are its words; `apart` says that a row holds words, not texts."""

    pieces: tuple[str, ...]
    places: tuple[int, ...]
    apart: bool = False

    @classmethod
    def of(cls, text: str) -> Line:
        """A text's words, and all that stands between them."""
        pieces = tuple(_WORD.split(text))
        return cls(pieces, tuple(range(1, len(pieces), 2)))

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Line:
        """Words alone."""
        return cls(tuple(words), tuple(range(len(words))), apart=True)

    @property
    def words(self) -> list[str]:
        """Its words."""
        return [self.pieces[place] for place in self.places]

    @property
    def text(self) -> str:
        """The text; of words, those that are left, with blanks between them."""
        if self.apart:
            return " ".join(piece for piece in self.pieces if piece)
        return re.sub(r" {2,}", " ", "".join(self.pieces)).strip()

    def put(self, at: Sequence[int], words: Sequence[str]) -> Line:
        """Other words in the place of some; `at` numbers words from 0."""
        pieces = list(self.pieces)
        for number, word in zip(at, words, strict=True):
            pieces[self.places[number]] = word
        return replace(self, pieces=tuple(pieces))


def lines_of(row: tuple[str, ...], *, apart: bool) -> list[Line]:
    """A row's texts; or its words as one."""
    return [Line.of_words(row)] if apart else [Line.of(text) for text in row]


def row_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """The row that these lines are."""
    if lines[0].apart:
        return tuple(piece for piece in lines[0].pieces if piece)
    return tuple(line.text for line in lines)


def chosen(line: Line, share: float, rng: np.random.Generator, least: int = 1) -> list[int]:
    """Which words are changed, at random: a share of them, `least` at least; none where there are fewer."""
    there = len(line.places)
    if there < least:
        return []
    return sorted(rng.permutation(there)[: max(least, round(share * there))].tolist())


def change(line: Line, way: str, share: float, vocabulary: Sequence[str], rng: np.random.Generator) -> Line:
    """A line with a share of its words changed in one way; the same line where it has too few.

    `swap` shifts the chosen ones by a place among themselves, `delete` leaves a word at least, and `replace` draws
    other words from `vocabulary`, which holds a word as often as it is used (after Wei and Zou 2019).
    """
    match way:
        case "swap":
            at = rng.permutation(chosen(line, share, rng, least=2)).tolist()
            return line.put(at, [line.words[number] for number in at[1:] + at[:1]])
        case "delete":
            at = chosen(line, share, rng)[: len(line.places) - 1]
            return line.put(at, [""] * len(at))
        case _:
            at = chosen(line, share, rng)
            return line.put(at, [vocabulary[number] for number in rng.integers(len(vocabulary), size=len(at))])
