"""Near-duplicates: texts so alike that one in training gives away the other in a test.

Two texts are alike when they are equal after normalisation, or when the Jaccard similarity of their sets of five-word
runs is at least 0.8. The join is exact, not sampled: pairs are found through their rarest runs (prefix filtering,
Chaudhuri et al. 2006; Bayardo et al. 2007), so that a corpus is never compared pair by pair.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill.bars import bar
from distill.data import arrays
from distill.data.encoding import Ragged
from distill.data.scripts import ALONE, MARKS

LARGE = 200_000  # rows; among more only equal ones are looked for
SIMILARITY = 0.8
RUN = 5
_WAITING = 1 << 16  # bytes of hashes
_PLAIN = re.compile(r"\w+")
_WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+(?:[{MARKS}]+[^\W{ALONE}]*)*")


def normalise(text: str) -> str:
    """Case, punctuation and spacing folded away; a blank between words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = (_PLAIN if folded.isascii() else _WORD).findall(folded)
    return " ".join(words) or folded.strip()  # a text of signs alone is itself


def group(texts: Iterable[Sequence[str]]) -> np.ndarray:
    """A group number for each row; rows that are near-duplicates, directly or through others, share one.

    A row is one or two texts; two rows are alike when they are alike in each of their texts. Of a text its hash and
    those of its runs are held, of large corpora in mapped files.
    """
    rows = _Hashed(texts)
    first = first_equal(rows.digests)
    again = np.flatnonzero(first != np.arange(len(rows)))
    pairs = np.array(_similar(rows, first), dtype=np.int64).reshape(-1, 2)
    ones, others = np.concatenate([pairs, np.stack([first[again], again], axis=1)]).T
    graph = coo_array((np.ones(len(ones), np.int8), (ones, others)), shape=(len(rows), len(rows)))
    return connected_components(graph, directed=False)[1]


def group_equal(texts: Iterable[Sequence[str]], number: int) -> np.ndarray:
    """As `group`, of texts that are equal after normalisation alone; each row's group is the first row of its kind.

    16 bytes a row are held, and no text; of many rows in a mapped file.
    """
    return first_equal(marks_of(bar(texts, title="duplicates", total=number)))


def marks_of(rows: Iterable[Sequence[str]]) -> np.ndarray:
    """(rows, 2) numbers that are the same of rows whose texts are equal after normalisation."""
    found = Marks()
    for row in rows:
        found.add([normalise(text) for text in row])
    return found.whole()


class Marks:
    """Hashes of rows whose texts are normalised, 16 bytes each; of many rows in a mapped file."""

    def __init__(self) -> None:
        self.found, self.waiting = arrays.Growing(np.uint64), bytearray()

    def add(self, clean: Sequence[str]) -> None:
        """One more row."""
        self.waiting += _digest("\0".join(clean))
        if len(self.waiting) >= _WAITING:
            self._gather()

    def _gather(self) -> None:
        self.found.add(np.frombuffer(bytes(self.waiting), dtype=np.uint64))
        self.waiting.clear()

    def whole(self) -> np.ndarray:
        """All of them, (rows, 2)."""
        self._gather()
        return self.found.whole().reshape(-1, 2)


def first_equal(digests: np.ndarray) -> np.ndarray:
    """For each row of hashes, (rows, hashes), the first row that is equal; a share of them is sorted at a time."""
    found = arrays.zeros(len(digests), np.int64)
    shares = np.uint64(-(-len(digests) // arrays.PORTION) or 1)
    for share in range(int(shares)):
        rows = arrays.places(len(digests), lambda part, share=share: digests[part, 0] % shares == share)
        mine = digests[rows]
        order = np.lexsort(mine.T)  # stable: of equal ones the first row comes first
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (mine[order[1:]] != mine[order[:-1]]).any(1)
        found[rows[order]] = rows[order][np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
    return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Hashed:
    """Rows by hashes alone: of each of its texts a hash, and those of its runs, rising, which differ from text to text
    of a row. `runs` has them end to end, all texts of a row behind one another.
    """

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        digests, runs, lengths, self.parts = arrays.Growing(np.uint64), arrays.Growing(np.int64), arrays.Growing(int), 1
        for row in bar(texts, title="near-duplicates"):
            self.parts = len(row)
            for part, text in enumerate(row):
                clean = normalise(text)
                digests.extend(np.frombuffer(_digest(clean), dtype=np.uint64).tolist())
                found = np.array(sorted({hash((part, run)) for run in runs_of(clean)}), dtype=np.int64)
                runs.add(found)
                lengths.extend((len(found),))
        self.digests = digests.whole().reshape(-1, 2 * self.parts)
        self.runs = Ragged(runs.whole(), arrays.ends(lengths.whole()))

    def __len__(self) -> int:
        return len(self.digests)

    def of_row(self, row: int) -> np.ndarray:
        """The runs of a row, of all of its texts."""
        offsets = self.runs.offsets
        return self.runs.values[offsets[row * self.parts] : offsets[(row + 1) * self.parts]]

    def alike(self, one: int, other: int) -> bool:
        """Whether two rows are, in each of their texts."""
        same = (self.digests[one] == self.digests[other]).reshape(-1, 2).all(1)
        return all(equal or self._near(one, other, part) for part, equal in enumerate(same.tolist()))

    def _near(self, one: int, other: int, part: int) -> bool:
        mine, theirs = (self.runs[row * self.parts + part] for row in (one, other))
        shared = len(np.intersect1d(mine, theirs, assume_unique=True))
        union = len(mine) + len(theirs) - shared
        return union > 0 and shared >= SIMILARITY * union


def _similar(rows: _Hashed, first: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows that are near-duplicates; of equal ones the first alone is looked at."""
    lengths = np.diff(rows.runs.offsets[:: rows.parts])
    ordered_runs = arrays.filled(len(rows.runs.values), np.int64, lambda part: rows.runs.values[part])
    ordered_runs.sort()
    holders: dict[int, list[int]] = defaultdict(list)
    pairs = []
    for position in np.argsort(lengths, kind="stable").tolist():
        mine = rows.of_row(position)
        if not len(mine) or first[position] != position:
            continue
        often = np.searchsorted(ordered_runs, mine, "right") - np.searchsorted(ordered_runs, mine)
        # Rows alike in each text share at least this many runs over all, so one is among the rarest few.
        rarest = np.lexsort((mine, often))[: len(mine) - ceil(SIMILARITY * len(mine)) + 1]
        prefix = mine[rarest[often[rarest] > 1]].tolist()
        candidates = {other for run in prefix for other in holders[run] if lengths[other] >= SIMILARITY * len(mine)}
        pairs += [(other, position) for other in candidates if rows.alike(position, other)]
        for run in prefix:
            holders[run].append(position)
    return pairs


def runs_of(text: str) -> set[int]:
    """The five-word runs of a normalised text."""
    words = text.split()
    return {hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1)}
