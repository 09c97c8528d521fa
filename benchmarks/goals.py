"""What was aimed at, as data: each goal with its must, its aim, and whether what was measured reaches them."""

from __future__ import annotations

from typing import Any

ALONE, TOGETHER = "1 x 16", "8 x 64"


def judge(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Every goal whose part was measured. A miss stands as a miss; a quick run is not judged (`met` is None)."""
    rows = {row["name"]: row for row in told["rows"]}
    found = [judge_one("teacher on dev", rows["teacher, eager torch"]["dev"]["mean"], least=(0.90, 0.90))]
    if compact := rows.get("sst2-compact, int8"):
        found += [
            judge_one("sst2-compact: kept on dev", compact["dev"]["kept"], least=(0.99, 0.99)),
            judge_one("sst2-compact: parameters, millions", compact["parameters"]["mean"] / 1e6, most=(6, 3)),
            judge_one("sst2-compact: megabytes", compact["bytes"]["mean"] / 1e6, most=(6, 3)),
        ]
    if fast := rows.get("sst2-fast, int8"):
        speed = fast["ms"][ALONE]
        found += [
            judge_one("sst2-fast: kept on dev", fast["dev"]["kept"], least=(0.98, 0.98)),
            judge_one("sst2-fast: times the eager teacher's speed", speed["faster_than_eager"], least=(16, 30)),
            judge_one("sst2-fast: times ONNX Runtime's speed", speed["faster_than_onnxruntime"], least=(8, 15)),
        ]
    if pruned := rows.get("teacher, pruned, not trained again"):
        speed = pruned["ms"][TOGETHER]["faster_than_onnxruntime"]
        found += [
            judge_one("without retraining: times ONNX Runtime's speed", speed, least=(1.3, 2.0)),
            judge_one("without retraining: lost on dev", 1 - pruned["dev"]["kept"], most=(0.01, 0.01)),
            judge_one("without retraining: CPU-minutes", told["without_retraining"]["cpu_minutes_in_all"], most=(5, 5)),
        ]
    for lost in told.get("int8", []):
        name = f"int8: points lost, {lost['checkpoint']} ({lost['data']})"
        found.append(judge_one(name, lost["points_lost"], most=(0.3, 0.1)))
    if told["quick"]:
        found = [{**goal, "met": None, "aim_met": None} for goal in found]
    return found


def judge_one(
    name: str, measured: float, *, least: tuple[float, float] | None = None, most: tuple[float, float] | None = None,
    beyond: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`least` or `most`: what must be reached, and what is aimed at; `beyond`: what was hoped for on top of that."""
    must, aim = least or most
    reached = [measured >= bound if least else measured <= bound for bound in (must, aim)]
    hoped = (
        {} if beyond is None else {"beyond": beyond, "beyond_met": measured >= beyond if least else measured <= beyond}
    )
    return {
        "goal": name, "side": "least" if least else "most", "must": must, "aim": aim, "measured": measured,
        "met": reached[0], "aim_met": reached[1], **hoped,
    }  # fmt: skip


def spell(goal: dict[str, Any]) -> str:
    """A goal in a line."""
    word = {True: "met", False: "MISSED", None: "not judged"}[goal["met"]]
    aim = {True: ", the aim too", False: f", the aim of {goal['aim']:g} missed", None: ""}[goal["aim_met"]]
    aim = "" if goal["aim"] == goal["must"] else aim
    if goal.get("beyond_met"):
        aim = f", and beyond: {goal['beyond']:g}"
    return f"{goal['goal']}: at {goal['side']} {goal['must']:g}, measured {goal['measured']:.4g}: {word}{aim}"
