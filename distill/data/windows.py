"""Questions with the text that answers them: long texts are read in windows that share some tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Encoding

START, END = 1, 2  # flags of a token in a window's targets: the answer begins here, and ends here
_LEAST_ROOM = 4  # tokens of the context that a window holds, or a quarter of it; the question makes room


@dataclass(frozen=True)
class Passage:
    """A row's context, and where its tokens are in it: `places` (tokens of all windows, 2) are the characters that each
    is made of, −1 for tokens of the question and special ones.
    """

    context: str
    places: np.ndarray


@dataclass(frozen=True)
class Windows:
    """A row as a model reads it: ids, token types and places of all windows end to end."""

    ids: np.ndarray
    types: np.ndarray
    places: np.ndarray
    lengths: tuple[int, ...]
    cut: bool  # whether the question itself was


def windows_of(encoding: Encoding, longest: int, stride: int | None) -> Windows:
    """Cuts a question with its context, encoded whole, into windows of `longest` tokens, each with the whole question.

    Neighbours share `stride` tokens of the context (a third of `longest` when None), but at most half of what a window
    holds of it. A question that leaves the context no room loses its end. Raises DataError where nothing fits.
    """
    side = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    ids, types, places = np.array(encoding.ids), np.array(encoding.type_ids), np.array(encoding.offsets)
    inside = np.flatnonzero(side == 1)
    start, stop = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (len(ids) - 1, len(ids) - 1)
    frame = [np.arange(start), np.arange(stop, len(ids))]
    least = min(max(_LEAST_ROOM, longest // 4), max(1, stop - start))
    over = sum(map(len, frame)) + least - longest
    asked = np.flatnonzero(side == 0)
    if over > 0:
        if over >= len(asked):
            raise DataError(f"data.max_length: {longest} tokens hold no question with a part of its context; give more")
        frame = [np.setdiff1d(part, asked[-over:]) for part in frame]
    room = longest - sum(map(len, frame))
    shared = min(shared_tokens(longest, stride), room // 2)
    begins = range(start, max(stop - shared, start + 1), room - shared)
    found = [np.concatenate([frame[0], np.arange(at, min(at + room, stop)), frame[1]]) for at in begins]
    order = np.concatenate(found)
    known = np.where((side == 1)[:, None], places, -1)
    return Windows(ids[order], types[order], known[order], tuple(map(len, found)), over > 0)


def shared_tokens(longest: int, stride: int | None) -> int:
    """How many tokens two windows share: what is said, or a third of a window."""
    return longest // 3 if stride is None else stride


def span_targets(windows: Windows, answer: tuple[int, int] | None) -> np.ndarray:
    """Flags for each token, (tokens of all windows,): START and END of the answer's characters in a window that holds
    all of it, both at the first token of one that doesn't, or where there is no answer.
    """
    found = np.zeros(len(windows.ids), dtype=np.int32)
    at = 0
    for length in windows.lengths:
        begin, end = windows.places[at : at + length].T
        first = last = 0
        if answer is not None and (begin >= 0).any():
            inside = np.flatnonzero((begin < answer[1]) & (end > answer[0]) & (begin >= 0) & (begin < end))
            whole = begin[begin >= 0].min() <= answer[0] and end.max() >= answer[1]
            if whole and len(inside):
                first, last = inside[0], inside[-1]
        found[at + first] |= START
        found[at + last] |= END
        at += length
    return found
