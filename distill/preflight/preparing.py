"""`prepare`: finds all that a recipe names, and holds it against each other."""

from __future__ import annotations

from pathlib import Path

from distill.errors import DistillError
from distill.preflight.ensembles import check_ensemble
from distill.preflight.finding import find_compiler, find_engine, find_masked_lm, find_student, find_teacher, read_data
from distill.preflight.heads import check_heads, check_losses, check_student_head
from distill.preflight.more_data import check_more_data
from distill.preflight.notes import note_arms, note_idle_words
from distill.preflight.plan import FoundTeacher, Plan
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
    note_idle_words(plan)
    note_arms(plan)
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
