"""What a report says distillation bought, counted again from the kept predictions of its arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.report.controls import in_words
from distill.verification.finding import Finding

if TYPE_CHECKING:
    from distill.tasks import Task

_CLOSE = 1e-6


def check_controls(task: Task, told: Mapping[str, Any] | None, kept: Mapping[str, np.ndarray]) -> list[Finding]:
    """What fails of the scores of the arms, their means, the gains over controls, and the sentences that tell them;
    nothing where all of it holds or there were no arms. The intervals are not drawn again.
    """
    if not told:
        return []
    findings, means = [], {}
    for arm in told["arms"]:
        names = [f"arm.{arm['arm']}.{seed}" for seed in told["seeds"]]
        if absent := [name for name in names if name not in kept]:
            return [Finding("controls", "FAILS", why=f"no predictions were kept of {', '.join(absent)}")]
        scores = [task.score(kept[name], kept["labels"]) for name in names]
        means[arm["arm"]] = float(np.mean(scores))
        spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
        findings += _differ(f"scores of {arm['arm']}", arm["scores"], scores)
        findings += _differ(f"mean of {arm['arm']}", [arm["mean"]], [means[arm["arm"]]])
        findings += _differ(f"spread of {arm['arm']}", [arm["spread"]], [spread])
    for gain in told["gains"]:
        apart = (means["recipe"] - means[gain["over"]]) * (-1 if task.lower else 1)
        findings += _differ(f"gain over {gain['over']}", [gain["gain"]], [apart])
    if told["in_words"] != in_words(told):
        findings.append(Finding("controls", "FAILS", why="the sentences say other figures than the report has"))
    return findings


def _differ(name: str, claimed: list[float | None], counted: list[float | None]) -> list[Finding]:
    same = len(claimed) == len(counted) and all(
        one == other or (one is not None and other is not None and abs(one - other) <= _CLOSE)
        for one, other in zip(claimed, counted, strict=True)
    )
    return [] if same else [Finding(name, "FAILS", str(claimed), str(counted), "of the kept predictions")]
