"""All rows in two plots: what is kept of the teacher's score, against size and against latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, OTHERS = "#1f6f8b", "#b5651d"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG. Kept is on dev and test together, each as a share of the teacher's; bars span the seeds."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 5), layout="constrained")
    sides = (
        ("MB on disk (weights, config, tokenizer)", lambda row: row["bytes"]["mean"] / 1e6),
        ("ms, batch 1, 16 tokens, one thread", lambda row: row["ms"]["1 x 16"]["mean"]),
    )
    for axes, (label, cost) in zip(drawn.subplots(1, 2, sharey=True), sides, strict=True):
        points = [(cost(row), 100 * kept(row), row) for row in rows]
        along = front([(at, score) for at, score, _ in points])
        axes.plot(*zip(*along, strict=True), color="#bbbbbb", linewidth=1, zorder=1)
        for at, score, row in points:
            low, high = span(row)
            colour = OURS if row["ours"] else OTHERS
            bars = [[max(score - low, 0)], [max(high - score, 0)]]  # of equal seeds a rounding below nothing
            axes.errorbar(at, score, yerr=bars, color=colour, fmt="o", capsize=2)
            axes.annotate(row["name"], (at, score), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(color="#eeeeee")
    drawn.axes[0].set_ylabel("% of the teacher's score, dev and test")
    drawn.suptitle("SST-2: blue ours, brown others', grey the Pareto front", fontsize=10)
    drawn.savefig(path, dpi=120)


def kept(row: dict[str, Any]) -> float:
    """The mean of both splits' shares."""
    return (row["dev"]["kept"] + row["test"]["kept"]) / 2


def span(row: dict[str, Any]) -> tuple[float, float]:
    """Kept, in hundredths, of the worst and of the best seed."""
    each = [
        100 * (dev * row["dev"]["kept"] / row["dev"]["mean"] + test * row["test"]["kept"] / row["test"]["mean"]) / 2
        for dev, test in zip(row["dev"]["each"], row["test"]["each"], strict=True)
    ]
    return min(each), max(each)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both, the cheapest first."""
    best, along = float("-inf"), []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if score > best:
            best = score
            along.append((cost, score))
    return along
