"""The arms beside a run's own chain: the recipe with other seeds, the same student without its teacher, or from random
weights. Each is carried out up to its last torch checkpoint, which is scored on the test split and nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill import checkpoint as checkpoints
from distill.data import Splits, TokenBatches
from distill.evaluation import Quality, Subject, measure_gain
from distill.pipeline.pieces import Guide
from distill.pipeline.state import ARMS, Stage
from distill.pipeline.underway import Underway
from distill.recipe import settings
from distill.recipe.arms import RECIPE, Arm, arms_of, seeds_of
from distill.report.controls import in_words
from distill.store import Piece

_START = "student"
_ROUNDING = 1e-9  # so that epochs times steps, rounded up, are not one step more


@dataclass(frozen=True)
class Outcome:
    """What came of an arm: the quality of its last torch checkpoint, and the pieces that led to it."""

    arm: Arm
    quality: Quality
    pieces: Sequence[Piece]

    @property
    def predictions_name(self) -> str:
        """Under which name predictions.npz has its predictions."""
        return f"arm.{self.arm.kind}.{self.arm.seed}"


def stages_of_arms(recipe: settings.Recipe) -> list[Stage]:
    """What the arms of a recipe will do, in order."""
    stages = []
    for arm in arms_of(recipe):
        stages.append(Stage(f"{arm.name}/{_START}", "student"))
        stages += [Stage(f"{arm.name}/{title}", step.kind) for title, step in arm.steps(recipe)]
    return stages


def chain_end(going: Underway) -> tuple[Subject, Quality]:
    """The last torch checkpoint of the steps so far."""
    place = max(i for i, subject in enumerate(going.subjects) if subject.format == "transformers")
    return going.subjects[place], going.qualities[place]


def carry_out_arms(going: Underway, end: tuple[Subject, Quality], teacher: Guide) -> list[Outcome]:
    """Every arm of the recipe, its own chain (whose last torch checkpoint is `end`) first; none where it has no others.

    What ships stays the own chain's: no arm is chosen, least of all on the test split.
    """
    recipe = going.plan.recipe
    if not (arms := arms_of(recipe)):
        return []
    own = Outcome(Arm(seeds_of(recipe)[0]), end[1], list(_led_to(going)))
    return [own, *(_carry_out(going, arm, teacher) for arm in arms)]


def _led_to(going: Underway) -> list[Piece]:
    """The pieces of the recipe's own chain, which the teacher's training is no part of."""
    titles = [_START, *(title for title, _ in Arm(going.plan.recipe.seed).steps(going.plan.recipe))]
    return [going.pieces[title] for title in titles]


def _carry_out(going: Underway, arm: Arm, teacher: Guide) -> Outcome:
    """One arm, piece by piece, each in the store under a key of its own (or of equal work done elsewhere)."""
    bench, below = going.bench.seeded(arm.seed), going.folder / ARMS / arm.name
    folder, title = below / _START, f"{arm.name}/{_START}"
    with going.stage(title):
        going.keep(title, bench.student(teacher, folder, from_random=arm.control == "random-init"))
    for name, step in arm.steps(going.plan.recipe, partial(_growth, going.plan.data, folder)):
        pupil = checkpoints.load(folder), checkpoints.fingerprint(folder)
        title, folder = f"{arm.name}/{name}", below / name
        with going.stage(title):
            going.keep(title, bench.carried_out(title, step, pupil, teacher, link=folder))
    made = checkpoints.load(folder)
    quality = going.score(Subject(arm.name, "transformers", folder, made.tokenizer, made))
    return Outcome(arm, quality, [piece for title, piece in going.aside.items() if title.startswith(f"{arm.name}/")])


def _growth(data: Splits, student: Path, words: settings.Distill) -> float:
    """How many times the optimizer steps an epoch has with the extra rows, as a student reads them."""
    if not data.extra:
        return 1.0
    pupil = checkpoints.load(student)
    steps = []
    for rows in (data, data.extended):
        batches = len(TokenBatches(pupil.encode(rows, "train").work, words.batch_size, words.batch_tokens))
        steps.append(-(-batches // words.accumulate))
    return steps[1] / steps[0] * (1 - _ROUNDING)


def describe_arms(going: Underway, outcomes: Sequence[Outcome], labels: np.ndarray) -> dict[str, Any] | None:
    """The `controls` of a report: each arm's scores with their mean and spread, and what the recipe has over them."""
    if not outcomes:
        return None
    task, kinds = going.plan.data.task, dict.fromkeys(outcome.arm.kind for outcome in outcomes)
    held = {kind: [outcome for outcome in outcomes if outcome.arm.kind == kind] for kind in kinds}
    gains = []
    for kind in list(held)[1:]:  # the first is the recipe itself
        ours, theirs = ([outcome.quality.predictions for outcome in held[name]] for name in (RECIPE, kind))
        gain = measure_gain(ours, theirs, labels, task, going.plan.recipe.seed)
        gains.append({"over": kind, "gain": gain.value, "interval": list(gain.interval), "each": list(gain.each)})
    told = {
        "metric": task.metric,
        "n": outcomes[0].quality.n,
        "seeds": seeds_of(going.plan.recipe),
        "start": "layers" if going.plan.recipe.student.layers is not None else "checkpoint",
        "arms": [_describe(kind, found) for kind, found in held.items()],
        "gains": gains,
    }
    return told | {"in_words": in_words(told)}


def _describe(kind: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    scores = [outcome.quality.score for outcome in outcomes]
    pieces = [piece for outcome in outcomes for piece in outcome.pieces]
    spent = [record["kwh"] for piece in pieces for record in piece.told.get("energy", ())]
    return {
        "arm": kind,
        "scores": scores,
        "mean": float(np.mean(scores)),
        "spread": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "seconds": round(sum(piece.seconds for piece in pieces), 1),
        "kwh": sum(spent) if spent else None,
    }
