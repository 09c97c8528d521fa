"""Texts that are words with a tag each: where each word begins among the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill.tasks import NO_TARGET

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True)
class Words:
    """A row's words, and the place of each one's first token; −1 for a word that has none: one that was cut off, or of
    which the tokenizer makes nothing.
    """

    words: tuple[str, ...]
    first: np.ndarray


def joined(words: Sequence[str]) -> str:
    """Words as the text that tokenizers read: as a user would write it, so that a sentence is cut the same way."""
    return " ".join(words)


def first_tokens(words: Sequence[str], encoding: Encoding) -> np.ndarray:
    """The place of the first token that has a part in each word, (words,); −1 where there is none.

    Places in the text tell, so it works for every tokenizer: WordPiece, byte-level BPE, SentencePiece. A token that
    reaches over several words is the first one of them.
    """
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    starts = ends - [len(word) for word in words]
    begins, stops = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    word = np.minimum(np.searchsorted(ends, begins, side="right"), len(words) - 1)
    inside = np.flatnonzero((begins < stops) & (starts[word] < stops) & (begins < ends[word]))[::-1]
    first = np.full(len(words), -1, dtype=np.int64)
    first[word[inside]] = inside  # from the last to the first, which stays
    return first


def targets_of(first: np.ndarray, tags: Sequence[int], tokens: int) -> np.ndarray:
    """Each word's tag at its first token, NO_TARGET at every other, (tokens,)."""
    found = np.full(tokens, NO_TARGET, dtype=np.int32)
    seen = first >= 0
    found[first[seen]] = np.asarray(tags, dtype=np.int32)[seen]
    return found


def by_word(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Rows of tags side by side, (rows, most words), filled up on the right."""
    found = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found
