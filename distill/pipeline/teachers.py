"""A recipe's teacher, or its teachers, from their folders to what a student learns from: loaded, fine-tuned, scored."""

from __future__ import annotations

import logging
from pathlib import Path

from distill import checkpoint as checkpoints
from distill import distillation, preflight, student
from distill.checkpoint import Checkpoint
from distill.errors import CheckpointError
from distill.evaluation import Subject, Together
from distill.pipeline.pieces import Guide
from distill.pipeline.underway import Underway
from distill.preflight.ensembles import short_name
from distill.recipe.arms import seeds_of
from distill.tasks import better
from distill.teacher import Ensemble

log = logging.getLogger(__name__)
_SEEDS = 1 << 32


def title_of(place: int) -> str:
    """What a run calls a teacher, by its place in the recipe from 0, and where it is put when it is fine-tuned."""
    return "teacher" if place == 0 else f"teacher-{place + 1}"


def load_models(plan: preflight.Plan) -> tuple[Ensemble, Checkpoint | None]:
    """The teachers, and the student unless it is cut out of the first: what is wrong with any is known at once, with
    nothing written yet.
    """
    recipe, task = plan.recipe, plan.data.task
    teachers = [
        checkpoints.load(one.folder, task, new_head=one.new_head, seed=_seed(recipe.seed, place))
        for place, one in enumerate(plan.teachers)
    ]
    for told, teacher in zip(plan.teachers, teachers, strict=True):
        _require_readable(teacher, plan, told.where)
    guide, data = Ensemble(teachers, [one.words.weight for one in plan.teachers]), plan.data.extended
    learning = [step.distill for step in recipe.steps if step.distill is not None]
    for words in learning if len(guide) > 1 else ():
        distillation.require_alike(guide, words, data)
    if recipe.student.layers is not None:
        return guide, None
    pupil = student.make(recipe.student, guide.first, task, seed=seeds_of(recipe)[0], folder=plan.student_folder)
    _require_readable(pupil, plan, "student")
    distillation.settle(pupil, plan.data)
    for words in learning:
        distillation.require_fit(pupil, guide.first, words, data)
    return guide, pupil


def _require_readable(checkpoint: Checkpoint, plan: preflight.Plan, who: str) -> None:
    try:
        distillation.held_out(checkpoint, plan.data)
    except CheckpointError as error:
        raise CheckpointError(f"{who}: {error}") from None


def make_ready(going: Underway, guide: Ensemble) -> Guide:
    """The teachers as their student meets them, fine-tuned where the recipe says so; each scored, and all as one."""
    ready = [_make_ready(going, place, teacher) for place, teacher in enumerate(guide.teachers)]
    found = Guide(Ensemble([teacher for teacher, _ in ready], guide.weights), tuple(sha256 for _, sha256 in ready))
    if len(ready) > 1:
        _score_together(going, found)
    return found


def _make_ready(going: Underway, place: int, teacher: Checkpoint) -> tuple[Checkpoint, str]:
    """One of them, with a hash of its bytes. Each is trained by a seed of its own."""
    plan, title, told = going.plan, title_of(place), going.plan.teachers[place]
    folder = _folder(going, place)
    if told.words.finetune is None:
        distillation.settle(teacher, plan.data)
    else:
        start = {"bytes": checkpoints.fingerprint(told.folder), "new_head": told.new_head}
        bench = going.bench.seeded(_seed(plan.recipe.seed, place))
        with going.stage(title):
            going.keep(title, bench.trained(title, told.words.finetune, teacher, start_bytes=start, link=folder))
            teacher = checkpoints.load(folder)
    found, subject = checkpoints.fingerprint(folder), Subject(title, "transformers", folder, teacher.tokenizer, teacher)
    quality = going.measure(subject) if place == 0 else going.score(subject)
    going.solo.append(quality)
    going.telling.checkpoint("teacher", subject, quality, sha256=found, parents=[])
    return teacher, found


def _score_together(going: Underway, guide: Guide) -> None:
    """What they score as one, which is what the student is held against; said where one alone does better."""
    quality = going.bench.quality_together(guide)
    parameters = sum(one.parameters for one in guide.ensemble.teachers)
    size = sum(checkpoints.count_bytes(_folder(going, place)) for place in range(len(going.solo)))
    going.together = Together("ensemble", len(going.solo), parameters, size, quality)
    log.info(
        "the ensemble of %d: %s %.4f on %d test examples", len(going.solo), quality.metric, quality.score, quality.n
    )
    lower = going.plan.data.task.lower
    best = (min if lower else max)(range(len(going.solo)), key=lambda place: going.solo[place].score)
    if better(going.solo[best].score, quality.score, lower=lower):
        told = short_name(going.plan.teachers[best])
        going.notes.append(
            f"the ensemble scores {quality.score:.4f} on the test split and {told} alone {going.solo[best].score:.4f}, "
            "so what a student keeps is a smaller share of that teacher's score than of the ensemble's"
        )
        log.warning("%s", going.notes[-1])


def _folder(going: Underway, place: int) -> Path:
    """Where a teacher lies as its student meets it."""
    told = going.plan.teachers[place]
    return told.folder if told.words.finetune is None else going.folder / title_of(place)


def _seed(seed: int, place: int) -> int:
    """A teacher's own seed: twice the same checkpoint, fine-tuned twice, is two teachers."""
    return (seed + place) % _SEEDS
