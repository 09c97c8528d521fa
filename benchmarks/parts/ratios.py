"""What the distillation benchmark decides by itself: settings out of a grid, ratios between arms, goals, the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goals import judge_one
from spreads import spread

HALF_A_POINT = 0.005
MINE = "ours"
# Against which arm: how many times its speed must be reached, is aimed at, and would be beyond expectation.
BARS = {
    "trainer-padded": (12, 20, 40),
    "trainer-dynamic": (3, 6, 8),
    "textbrewer": (3, 5, None),
    "torchdistill": (3, 5, None),
}
OF_THE_LIMIT = 0.5
OURS, OTHERS = "#1f6f8b", "#b5651d"


def choose(tried: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fastest setting that is at most half a point behind the best on validation: for every arm the same rule."""
    best = max(one["validation"] for one in tried)
    good = [one for one in tried if one["validation"] >= best - HALF_A_POINT - 1e-9]
    return min(good, key=lambda one: one["cpu_seconds"])


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An arm's seeds: seconds from raw text to final weights, of the whole process, texts a second, the score on dev.

    Texts count once for each epoch that they are learned from.
    """
    seen = [run["texts"] * run["epochs"] for run in runs]
    return {
        "seconds": spread([run["seconds"] for run in runs]),
        "cpu_seconds": spread([run["cpu_seconds"] for run in runs]),
        "process": {
            word: spread([run["process"][word] for run in runs]) for word in ("seconds", "cpu_seconds")
        },
        "texts_a_second": sum(seen) / sum(run["seconds"] for run in runs),
        "texts_a_cpu_second": sum(seen) / sum(run["cpu_seconds"] for run in runs),
        "dev": spread([run["dev"] for run in runs]),
    }  # fmt: skip


def compare(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How many times an arm's speed another one has, of the same texts, and how far it is ahead in points.

    Of wall and CPU time the smaller ratio counts. Each ratio is of means over the rounds; `rounds` are the ratios
    within each round, by CPU time.
    """
    wall, cpu = (other[word]["mean"] / mine[word]["mean"] for word in ("seconds", "cpu_seconds"))
    ahead = mine["dev"]["mean"] - other["dev"]["mean"]
    each = zip(mine["cpu_seconds"]["each"], other["cpu_seconds"]["each"], strict=True)
    return {
        "wall": wall, "cpu": cpu, "counts": min(wall, cpu), "rounds": [slow / fast for fast, slow in each],
        "points_ahead": 100 * ahead, "equal_score": ahead >= -HALF_A_POINT - 1e-9,
    }  # fmt: skip


def judge(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each bar, with what was measured; faster at a lower score is a miss, and an arm that can't run isn't judged."""
    found = []
    rows = {row["name"]: row for row in told["rows"]}
    for name, (must, aim, beyond) in BARS.items():
        against = rows[MINE].get("against", {}).get(name) if MINE in rows else None
        if against is None:
            continue
        title = rows[name]["title"]
        found.append(judge_one(f"times the speed: {title}", against["counts"], least=(must, aim), beyond=beyond))
        found.append(judge_one(f"points ahead on dev: {title}", against["points_ahead"], least=(-0.5, -0.5)))
        if not against["equal_score"]:
            found[-2] |= {"met": False, "aim_met": False, "beyond_met": False}
    if told.get("limit"):
        share = told["limit"]["share_of_the_limit"]
        found.append(judge_one("share of the arithmetic limit", share, least=(0, OF_THE_LIMIT)))
    if told["quick"]:
        found = [{**goal, "met": None, "aim_met": None, "beyond_met": None} for goal in found]
    return found


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a PNG: texts a second of every arm that ran, and how many times the slowest's that is."""
    from matplotlib.figure import Figure

    ran = sorted((row for row in rows if "texts_a_second" in row), key=lambda row: row["texts_a_second"])
    drawn = Figure(figsize=(9, 0.6 * len(ran) + 1.2), layout="constrained")
    axes = drawn.subplots()
    speeds = [row["texts_a_second"] for row in ran]
    bars = axes.barh([row["title"] for row in ran], speeds, color=[OURS if row["ours"] else OTHERS for row in ran])
    said = [
        f" {speed:.0f}/s · {speed / speeds[0]:.1f}x · {100 * row['dev']['mean']:.1f} on dev"
        for speed, row in zip(speeds, ran, strict=True)
    ]
    axes.bar_label(bars, said, fontsize=8)
    axes.set_xlim(0, 1.35 * speeds[-1])
    axes.set_xlabel("texts learned from in a second, one thread, from raw text to final weights")
    axes.spines[["top", "right"]].set_visible(False)
    drawn.savefig(path, dpi=120)
