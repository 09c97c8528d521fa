"""The plan of a run: all that its recipe names, found and held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import card
from distill.data.loading import Splits
from distill.errors import DistillError, RecipeError
from distill.preflight.ensembles import check_ensemble
from distill.preflight.finding import find_compiler, find_engine, find_masked_lm, find_student, find_teacher, read_data
from distill.preflight.heads import check_heads, check_losses, check_student_head
from distill.preflight.more_data import check_more_data
from distill.preflight.shapes import (
    check_graphs,
    check_imitated_layers,
    check_layers,
    check_length,
    check_pruning,
    check_ranks,
    check_student_config,
)
from distill.preflight.tokens import check_signals, check_special_tokens, check_tokens, note_endless
from distill.preflight.trainings import check_freezing
from distill.recipe import settings
from distill.recipe.arms import Arm, arms_of, seeds_of, trainings_in


@dataclass
class FoundTeacher:
    """A teacher that a recipe names: its settings, where in the recipe they stand, and what was found."""

    words: settings.Member
    where: str = "teacher"
    card: card.Card | None = None
    folder: Path | None = None
    config: dict[str, Any] | None = None
    new_head: bool = False
    hub_id: str | None = None


@dataclass
class Plan:
    """What was found: folders and data for a run to go on with, and what is wrong, missing or unchecked.

    `teachers` is one, or those of an ensemble. `problems` can never work; `missing` is what this machine lacks for a
    run, with what gets it; `unchecked` needs a network that could not be reached, or waits for a run.
    """

    recipe: settings.Recipe
    beside: Path | None = None
    teachers: list[FoundTeacher] = field(default_factory=list)
    student_folder: Path | None = None
    student_hub_id: str | None = None
    masked_lm_folder: Path | None = None
    data: Splits | None = None
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def card(self) -> card.Card | None:
        """That of the teacher, or of the first."""
        return self.teachers[0].card

    @property
    def teacher_folder(self) -> Path | None:
        """That of the teacher, or of the first."""
        return self.teachers[0].folder

    @property
    def teacher_config(self) -> dict[str, Any] | None:
        """That of the teacher, or of the first: the one that a student's layers are cut from."""
        return self.teachers[0].config

    @property
    def new_head(self) -> bool:
        """Whether the teacher, or the first, has its head trained anew."""
        return self.teachers[0].new_head

    def require(self) -> Plan:
        """This plan, when a run can go on with it. Raises RecipeError with everything that is wrong or missing."""
        if self.problems or self.missing:
            raise RecipeError(self.problems + self.missing)
        return self


def prepare(recipe: settings.Recipe, beside: Path | None = None, *, fetch: bool = True) -> Plan:
    """Finds and reads all that a recipe names, and tells everything wrong at once.

    `beside` is the recipe's folder. Without `fetch` nothing is downloaded: what lies on the Hub is left unchecked.
    """
    members = recipe.teacher.members
    where = ["teacher"] if len(members) == 1 else [f"teacher.ensemble.{place}" for place in range(len(members))]
    plan = Plan(recipe, beside, [FoundTeacher(*told) for told in zip(members, where, strict=True)])
    for teacher in plan.teachers:
        find_teacher(plan, teacher, fetch)
    find_student(plan, fetch)
    read_data(plan, fetch)
    find_masked_lm(plan, fetch)
    find_engine(plan)
    find_compiler(plan)
    _note_idle_words(plan)
    _note_arms(plan)
    for check in (
        check_heads, check_ensemble, check_student_head, check_student_config, check_layers, check_pruning,
        check_ranks, check_imitated_layers, check_freezing, check_special_tokens, check_tokens, check_signals,
        check_losses, check_more_data, check_graphs, check_length, note_endless,
    ):  # fmt: skip
        try:
            check(plan)
        except DistillError as error:
            plan.problems += [str(error)] if str(error) not in plan.problems else []
    return plan


def _note_idle_words(plan: Plan) -> None:
    """Settings that are allowed and do nothing in this recipe."""
    student = plan.recipe.student
    asked = student.layers.values() if isinstance(student.layers, dict) else [student.layers]
    counted = any(isinstance(number, int) for number in asked)
    if "choose" in student.model_fields_set and not counted and student.choose != "even":
        plan.notes.append("student.choose does nothing here: it chooses when `layers` is a number")
    more = [word for word in ("unlabelled", "augment") if getattr(plan.recipe.data, word) is not None]
    if more and not any(step.distill for step in plan.recipe.steps):
        plan.notes.append(f"data.{' and data.'.join(more)}: nothing is done with it here: no step is a `distill`")
    is_number = plan.data is not None and plan.data.task.problem == "regression"
    for teacher in plan.teachers:
        if teacher.words.finetune is not None and teacher.words.finetune.simulate is not None:
            where = f"{teacher.where}.finetune.simulate"
            plan.notes.append(f"{where} does nothing for the result: the teacher is not quantized")
    last = len(plan.recipe.steps) - 1
    small = plan.recipe.steps[last].quantize  # which comes last
    if small is not None:
        plan.notes += [f"steps.{last}.quantize.{word} does nothing here: {why}" for word, why in _idle(small)]
    for position, step in enumerate(plan.recipe.steps):
        training = step.distill or step.finetune
        if training is not None and training.simulate is not None:
            where = f"steps.{position}.{step.kind}.simulate"
            if small is None:
                plan.notes.append(f"{where} does nothing here: no `quantize` follows")
            elif small.weights != "int8":
                plan.notes.append(f"{where} rounds weights to 8 bits, but `quantize` will give them {small.weights}")
        if step.distill is None:
            continue
        logits, where = step.distill.imitate.logits, f"steps.{position}.distill"
        if step.distill.kept in ("whole", "auto") and plan.data is not None and plan.data.task.head_labels:
            plan.notes.append(f"{where}.signals.logits does nothing here: a logit is a label's, and always kept")
        if logits is not None and logits.loss != "mse" and is_number:
            plan.notes.append(
                f"{where}: a number has no distribution, so logits are compared by mse, without temperature"
            )
        elif "temperature" in step.distill.model_fields_set and (logits is None or logits.loss == "mse"):
            plan.notes.append(f"{where}.temperature does nothing here: no term compares softened logits")


def _idle(small: settings.Quantize) -> Iterator[tuple[str, str]]:
    """Words about fewer bits that were said for nothing, and why."""
    told = small.model_fields_set
    if "activations" in told and small.activations == "static" and not small.is_static:
        yield "activations", "with int4 weights they are always scaled by token"
    if "calibration" in told and not small.is_static:
        yield "calibration", "no range is measured"
    if "group" in told and "int4" not in (small.weights, small.embeddings):
        yield "group", "no weight becomes int4"


def _note_arms(plan: Plan) -> None:
    """What `control` and `seeds` add to a run, and what they can't show."""
    recipe, arms = plan.recipe, arms_of(plan.recipe)
    if not arms:
        return
    growth = plan.data.growth if plan.data is not None else 1.0
    own = trainings_in(recipe, Arm(seeds_of(recipe)[0]))
    more = [training for arm in arms for training in trainings_in(recipe, arm, lambda _: growth)]
    epochs, usual = (sum(words.epochs for _, words in trainings) for trainings in (more, own))
    texts = f" over {len(plan.data.train):,} texts" if plan.data is not None else ""
    plan.notes.append(
        f"control, seeds: {_many(len(arms), 'more chain')} ({', '.join(arm.name for arm in arms)}) with "
        f"{_many(len(more), 'training')}, up to {epochs:g} epochs{texts} beside the recipe's own {usual:g}; each is "
        "scored once, as its last torch checkpoint, and none is timed or shipped"
    )
    for place, step in enumerate(recipe.steps):
        frozen = getattr(step.settings, "freeze", [])
        if "random-init" in (recipe.control or ()) and frozen:
            plan.notes.append(
                f"steps.{place}.{step.kind}.freeze: in the control random-init {' and '.join(frozen)} stay random"
            )


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
