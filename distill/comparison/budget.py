"""The best under a budget: bounds on size, what is kept, latency and memory, and what fits or comes nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.comparison.entries import Entry
from distill.comparison.groups import Group
from distill.report import headline
from distill.tasks import LOWER


@dataclass(frozen=True)
class Budget:
    """Bounds that a checkpoint has to keep; None asks for nothing.

    `size` in bytes, `memory` in MB, `retained` over the teacher's score, `latency` over the teacher's in eager torch,
    `latency_ms` in milliseconds; both of the first batch that was timed.
    """

    size: float | None = None
    retained: float | None = None
    score: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    memory: float | None = None

    def __bool__(self) -> bool:
        return any(bound is not None for bound in self._bounds().values())

    def _bounds(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def misses(self, entry: Entry) -> dict[str, float]:
        """By how much a checkpoint misses each bound that it doesn't keep, as a share of the bound.

        What was not measured misses by infinity.
        """
        row = entry.row
        found = {
            "size": row.bytes, "retained": row.retained, "score": row.score, "latency": entry.against_eager,
            "latency_ms": row.latency[0].p50_ms if row.latency else None, "memory": row.memory_mb,
        }  # fmt: skip
        missed = {}
        for name, bound in self._bounds().items():
            value = found[name]
            if bound is None:
                continue
            over = float("inf") if value is None else value - bound
            turned = name == "retained" or (name == "score" and row.metric not in LOWER)
            if turned and value is not None:
                over = -over
            if over > 0:
                missed[name] = over / abs(bound) if bound else over
        return missed

    def __str__(self) -> str:
        words = {
            "size": "at most {}", "retained": "retained at least {:g}", "score": "score {:g} or better",
            "latency": "at most {:g} of the teacher's latency in eager torch", "latency_ms": "at most {:g} ms",
            "memory": "at most {:g} MB of memory",
        }  # fmt: skip
        told = self._bounds() | {"size": None if self.size is None else headline.size(self.size)}
        return ", ".join(words[name].format(bound) for name, bound in told.items() if bound is not None)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a budget chooses from one group: the best that fits, or what comes nearest with what it misses."""

    group: Group
    best: Entry | None
    nearest: Entry | None = None
    missed: dict[str, float] | None = None

    def __str__(self) -> str:
        if self.best is not None:
            row = self.best.row
            return f"{self.best.title}: {row.metric.replace('_', ' ')} {row.score:.4f}, {headline.size(row.bytes)}"
        if self.nearest is None:
            return "there is nothing to choose from: only teachers and smoke runs"
        return f"nothing fits; nearest comes {self.nearest.title}, which misses {describe(self.missed or {})}"


def describe(missed: dict[str, float]) -> str:
    """The bounds that are missed, and by how much."""
    return ", ".join(
        f"{name.replace('_ms', ' in ms')} (not measured)" if share == float("inf")
        else f"{name.replace('_ms', ' in ms')} by {100 * share:.1f} %"
        for name, share in missed.items()
    )  # fmt: skip


def choose(budget: Budget, group: Group, entries: Sequence[Entry]) -> Choice:
    """The best score that keeps the budget, the smallest where scores are equal; else the least sum of misses."""
    fitting = [entry for entry in entries if not budget.misses(entry)]
    if fitting:
        return Choice(group, min(fitting, key=lambda entry: (-entry.row.merit, entry.row.bytes, entry.title)))
    nearest = min(entries, default=None, key=lambda entry: (sum(budget.misses(entry).values()), -entry.row.merit))
    return Choice(group, None, nearest, budget.misses(nearest) if nearest else None)
