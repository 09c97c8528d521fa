"""Train, validation and test: each class in proportion, near-duplicates on one side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np


def strata(labels: Sequence[object], problem: str) -> list[Hashable]:
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
    return list(labels)


def split(
    groups: Sequence[int], kinds: Sequence[Hashable], shares: dict[str, float], seed: int
) -> dict[str, list[int]]:
    """Row numbers for each name in `shares`, and for `train` what is left; whole groups, each kind in proportion.

    Groups are dealt in a seeded order, each to the emptiest split that still lacks some of its kind; the first of a
    kind goes to training.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(groups):
        members[number].append(row)
    order = np.random.default_rng(seed).permutation(len(members))
    numbers = list(members)
    total: dict[Hashable, int] = defaultdict(int)
    for kind in kinds:
        total[kind] += 1
    wanted = {"train": 1 - sum(shares.values()), **shares}
    taken: dict[tuple[str, Hashable], int] = defaultdict(int)
    dealt: dict[str, list[int]] = {name: [] for name in wanted}
    for position in order:
        rows = members[numbers[position]]
        kind = kinds[rows[0]]
        sizes = {name: len(rows) for name, rows in dealt.items()}
        name = _most_wanting(wanted, kind, total[kind], taken, sizes, len(kinds))
        dealt[name] += rows
        for row in rows:
            taken[name, kinds[row]] += 1
    return {name: sorted(rows) for name, rows in dealt.items()}


def _most_wanting(
    wanted: dict[str, float], kind: Hashable, of_kind: int, taken: dict[tuple[str, Hashable], int],
    sizes: dict[str, int], rows: int,
) -> str:  # fmt: skip
    """Training while it has none of a kind; else, of the splits that still lack some of the kind, the emptiest."""
    if taken["train", kind] == 0:
        return "train"
    lacking = [name for name in wanted if wanted[name] * of_kind - taken[name, kind] > 0] or ["train"]
    return min(lacking, key=lambda name: sizes[name] / (wanted[name] * rows))


def sample(kinds: Sequence[Hashable], limit: int, seed: int) -> list[int]:
    """At most `limit` row numbers, each kind in proportion and none left out while there is room."""
    if len(kinds) <= limit:
        return list(range(len(kinds)))
    by_kind: dict[Hashable, list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(kinds)):
        by_kind[kinds[row]].append(int(row))
    # Each row's place within its kind, as a share of the kind: taking the smallest keeps kinds in proportion.
    placed = [((place + 0.5) / len(rows), row) for rows in by_kind.values() for place, row in enumerate(rows)]
    firsts = [rows[0] for rows in by_kind.values()][:limit]
    chosen = set(firsts)
    rest = [row for _, row in sorted(placed) if row not in chosen]
    return sorted(firsts + rest[: limit - len(firsts)])
