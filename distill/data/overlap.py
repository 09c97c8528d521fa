"""Near-duplicates: texts so alike that one in training gives away the other in a test.

Two texts are alike when they are equal after normalisation, or when the Jaccard similarity of their sets of five-word
runs is at least 0.8. The join is exact, not sampled: pairs are found through their rarest runs (prefix filtering,
Chaudhuri et al. 2006; Bayardo et al. 2007), so that a corpus is never compared pair by pair.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

LARGE = 200_000  # rows; among more only equal ones are looked for
SIMILARITY = 0.8
RUN = 5
_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """Case, punctuation and spacing folded away."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()  # a text of signs alone is itself


def group(texts: Sequence[Sequence[str]]) -> list[int]:
    """A group number for each row; rows that are near-duplicates, directly or through others, share one.

    A row is one or two texts; two rows are alike when they are alike in each of their texts.
    """
    pairs = _alike(texts)
    if not pairs:
        return list(range(len(texts)))
    rows, columns = zip(*pairs, strict=True)
    graph = coo_array(([1] * len(pairs), (rows, columns)), shape=(len(texts), len(texts)))
    return connected_components(graph, directed=False)[1].tolist()


def group_equal(texts: Iterable[Sequence[str]], number: int) -> list[int]:
    """As `group`, of texts that are equal after normalisation alone; 16 bytes a row are held, and no text."""
    found = np.empty((number, 2), dtype=np.uint64)
    for position, row in enumerate(tqdm(texts, desc="duplicates", total=number, leave=False)):
        whole = "\0".join(normalise(text) for text in row).encode("utf-8", "surrogatepass")
        found[position] = np.frombuffer(hashlib.blake2b(whole, digest_size=16).digest(), dtype=np.uint64)
    return np.unique(found, axis=0, return_inverse=True)[1].ravel().tolist()


def _alike(texts: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Pairs of row numbers that are near-duplicates, each chain of equal rows told once."""
    clean = [tuple(normalise(text) for text in row) for row in tqdm(texts, desc="near-duplicates", leave=False)]
    first_of: dict[tuple[str, ...], int] = {}
    pairs = []
    for position, row in enumerate(clean):
        first = first_of.setdefault(row, position)
        if first != position:
            pairs.append((first, position))
    distinct = list(first_of.values())
    runs = {position: [runs_of(text) for text in clean[position]] for position in distinct}
    return pairs + _similar({position: rows for position, rows in runs.items() if any(rows)}, clean)


def _similar(runs: dict[int, list[set[int]]], clean: Sequence[tuple[str, ...]]) -> list[tuple[int, int]]:
    whole = {
        position: set().union(*({(part, run) for run in found} for part, found in enumerate(parts)))
        for position, parts in runs.items()
    }
    frequency = Counter(run for found in whole.values() for run in found)
    holders: dict[tuple[int, int], list[int]] = defaultdict(list)
    pairs = []
    for position in sorted(whole, key=lambda at: len(whole[at])):
        ordered = sorted(whole[position], key=lambda run: (frequency[run], run))
        # Rows alike in each text share at least this many runs over all, so one is among the rarest few.
        prefix = [run for run in ordered[: len(ordered) - ceil(SIMILARITY * len(ordered)) + 1] if frequency[run] > 1]
        candidates = {
            other for run in prefix for other in holders[run] if len(whole[other]) >= SIMILARITY * len(ordered)
        }
        pairs += [(other, position) for other in candidates if _each_alike(position, other, runs, clean)]
        for run in prefix:
            holders[run].append(position)
    return pairs


def _each_alike(one: int, other: int, runs: dict[int, list[set[int]]], clean: Sequence[tuple[str, ...]]) -> bool:
    return all(
        a == b or (bool(mine or theirs) and len(mine & theirs) >= SIMILARITY * len(mine | theirs))
        for a, b, mine, theirs in zip(clean[one], clean[other], runs[one], runs[other], strict=True)
    )


def runs_of(text: str) -> set[int]:
    """The five-word runs of a normalised text."""
    words = text.split()
    return {hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1)}
