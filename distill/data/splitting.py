"""Train, validation and test: each class in proportion, near-duplicates on one side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from distill.data import arrays
from distill.data.rows import Alike


def strata(labels: Sequence[object], problem: str) -> Sequence[Hashable]:
    """What is kept in proportion: the class, the rarest of many labels, or the tenth of the range of a number."""
    if len(labels) == 0:
        return []
    if problem == "regression":
        edges = np.quantile(np.asarray(labels, dtype=float), np.linspace(0.1, 0.9, 9))
        return [int(place) for place in np.searchsorted(edges, np.asarray(labels, dtype=float))]
    if problem == "multi_label_classification":
        given = np.asarray(labels, dtype=float)
        rarity = given.sum(0)
        return [int(min(np.flatnonzero(row), key=lambda i: rarity[i])) if row.any() else -1 for row in given]
    return labels


def split(
    groups: Sequence[int] | np.ndarray, kinds: Sequence[Hashable], shares: dict[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Row numbers, rising, for each name in `shares`, and for `train` what is left; whole groups, each kind in
    proportion. Groups are numbers from 0.

    Groups are dealt in a seeded order, each to the emptiest split that still lacks some of its kind; the first of a
    kind goes to training.
    """
    groups = np.asarray(groups)
    first, sizes = _members(groups)
    leaders = arrays.places(len(groups), lambda part: first[groups[part]] == np.arange(part.start, part.stop))
    order = _permutation(len(leaders), seed)
    deal = _Deal({"train": 1 - sum(shares.values()), **shares}, kinds)
    more = {} if isinstance(kinds, Alike) else _others(groups, first, sizes)
    dealt = arrays.zeros(len(sizes), np.int8)
    for part in arrays.portions(len(order)):
        rows = leaders[order[part]]
        for row, number in zip(rows.tolist(), groups[rows].tolist(), strict=True):
            dealt[number] = deal.give(row, int(sizes[number]), more.get(row, ()))
    return {
        name: arrays.places(len(groups), lambda part, place=place: dealt[groups[part]] == place)
        for place, name in enumerate(deal.names)
    }


def _permutation(number: int, seed: int) -> np.ndarray:
    """As NumPy's own of so many numbers, also where they don't fit into memory."""
    order = arrays.filled(number, np.int64, lambda part: np.arange(part.start, part.stop))
    np.random.default_rng(seed).shuffle(order)
    return order


def repeated(groups: np.ndarray) -> int:
    """How many rows share their group with another."""
    _, sizes = _members(groups)
    return int(sum(found[found > 1].sum() for found in (sizes[part] for part in arrays.portions(len(sizes)))))


def _members(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row and the number of rows of each group."""
    most = max((int(groups[part].max()) for part in arrays.portions(len(groups))), default=-1) + 1
    first, sizes = arrays.zeros(most, np.int64), arrays.zeros(most, np.int64)
    for part in reversed(list(arrays.portions(len(groups)))):  # so that a group's first row is written last
        first[groups[part][::-1]] = np.arange(part.stop - 1, part.start - 1, -1)
        np.add.at(sizes, groups[part], 1)
    return first, sizes


def _others(groups: np.ndarray, first: np.ndarray, sizes: np.ndarray) -> dict[int, list[int]]:
    """The rows behind the first of each group that has more than one, by its first."""
    found: dict[int, list[int]] = defaultdict(list)
    for row in arrays.places(len(groups), lambda part: sizes[groups[part]] > 1).tolist():
        if (leader := int(first[groups[row]])) != row:
            found[leader].append(row)
    return found


class _Deal:
    """Who has how many rows so far, of each kind and in all."""

    def __init__(self, wanted: dict[str, float], kinds: Sequence[Hashable]) -> None:
        self.names, self.wanted, self.kinds = list(wanted), list(wanted.values()), kinds
        self.total = {kinds.label: len(kinds)} if isinstance(kinds, Alike) else Counter(kinds)
        self.taken: list[Counter[Hashable]] = [Counter() for _ in self.names]
        self.sizes = [0] * len(self.names)

    def give(self, leader: int, size: int, others: Sequence[int]) -> int:
        """The place of the split that a group goes to; all of its rows are of its first one's kind where `others`,
        those behind it, are not told.
        """
        kind = self.kinds[leader]
        place = self._most_wanting(kind)
        self.sizes[place] += size
        self.taken[place][kind] += size - len(others)
        self.taken[place].update(self.kinds[row] for row in others)
        return place

    def _most_wanting(self, kind: Hashable) -> int:
        """Training (0) while it has none of a kind; else, of the splits that still lack some of it, the emptiest."""
        if self.taken[0][kind] == 0:
            return 0
        share = [wanted * self.total[kind] - taken[kind] for wanted, taken in zip(self.wanted, self.taken, strict=True)]
        lacking = [place for place, left in enumerate(share) if left > 0] or [0]
        rows = len(self.kinds)
        return min(lacking, key=lambda place: self.sizes[place] / (self.wanted[place] * rows))


def sample(kinds: Sequence[Hashable], limit: int, seed: int) -> Sequence[int] | np.ndarray:
    """At most `limit` row numbers, each kind in proportion and none left out while there is room."""
    if len(kinds) <= limit:
        return range(len(kinds))
    if isinstance(kinds, Alike):
        return np.sort(_permutation(len(kinds), seed)[:limit])
    by_kind: dict[Hashable, list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(kinds)):
        by_kind[kinds[row]].append(int(row))
    # Each row's place within its kind, as a share of the kind: taking the smallest keeps kinds in proportion.
    placed = [((place + 0.5) / len(rows), row) for rows in by_kind.values() for place, row in enumerate(rows)]
    firsts = [rows[0] for rows in by_kind.values()][:limit]
    chosen = set(firsts)
    rest = [row for _, row in sorted(placed) if row not in chosen]
    return sorted(firsts + rest[: limit - len(firsts)])
