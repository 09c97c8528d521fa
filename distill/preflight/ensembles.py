"""Several teachers held against each other: the same labels, and of logits by token the same tokens."""

from __future__ import annotations

from pathlib import Path

from distill import checkpoint
from distill.errors import CheckpointError
from distill.preflight.heads import has_head
from distill.preflight.plan import FoundTeacher, Plan
from distill.preflight.tokens import apart_by_token


def check_ensemble(plan: Plan) -> None:
    """Teachers whose answers can be mixed; and what is said of an ensemble, where there is one."""
    if len(plan.teachers) == 1:
        return
    for place, step in enumerate(plan.recipe.steps):
        if step.distill is not None and step.distill.kept not in (None, "whole", "off"):
            raise CheckpointError(
                f"steps.{place}.distill.signals.logits: several teachers have different likeliest tokens, which "
                "can't be mixed; say whole, or off"
            )
    learning = [step.distill.imitate for step in plan.recipe.steps if step.distill is not None]
    if not any(imitate.logits for imitate in learning):
        raise CheckpointError(
            "teacher.ensemble: what several teachers say together are logits, and no `distill` imitates them; give "
            "`logits` a weight, or name one teacher"
        )
    first, *others = plan.teachers
    for other in others:
        _check_labels(plan, first, other)
        if first.folder and other.folder and apart_by_token(plan, first.folder, other.folder):
            raise CheckpointError(
                f"{other.where}: its tokenizer is not that of {first.where}, and a {plan.recipe.task} has logits for "
                "each token, which can't be mixed; take teachers with one tokenizer"
            )
    _note(plan, {term for imitate in learning for term in imitate.by_layer})


def _check_labels(plan: Plan, first: FoundTeacher, other: FoundTeacher) -> None:
    """Heads against each other, where no data is at hand to hold both against."""
    ready = [one for one in (first, other) if one.config and one.words.finetune is None]
    if plan.data is not None or len(ready) < 2 or not all(has_head(one.config, plan.recipe.task) for one in ready):
        return
    mine, theirs = (checkpoint.label_names(one.config) for one in (first, other))
    if mine and theirs and mine != theirs:
        raise CheckpointError(
            f"{other.where}: its labels are {', '.join(theirs[:8])}, those of {first.where} {', '.join(mine[:8])}, so "
            "their answers can't be mixed; take teachers of the same labels in the same order, or give it a `finetune`"
        )


def _note(plan: Plan, terms: set[str]) -> None:
    whole = sum(one.words.weight for one in plan.teachers)
    named = [f"{short_name(one)} {one.words.weight / whole:.2f}" for one in plan.teachers]
    first = short_name(plan.teachers[0])
    plan.notes.append(
        f"teacher: an ensemble of {len(named)} ({', '.join(named)}): the student imitates the weighted mean of their "
        f"probabilities, and what it keeps is held against that mean's score; size and speed are held against the "
        f"first of them alone, {first}"
    )
    if plan.recipe.student.layers is not None:
        plan.notes.append(f"student.layers: cut from the first teacher, {first}")
    if terms:
        told = " and ".join(sorted(terms)).replace("_", " ")
        plan.notes.append(f"imitate: {told} are those of the first teacher, {first}; logits are those of all")


def short_name(teacher: FoundTeacher) -> str:
    """A teacher as a sentence names it."""
    words = teacher.words
    if words.card is not None:
        return Path(words.card).stem
    return teacher.hub_id or Path(words.checkpoint).name
