"""Heads, and losses on what they say, held against the data's labels."""

from __future__ import annotations

from typing import Any

from distill import anatomy, checkpoint
from distill.checkpoint import heads
from distill.errors import CheckpointError
from distill.library import nearest
from distill.preflight.plan import FoundTeacher, Plan
from distill.tasks import TASKS


def check_heads(plan: Plan) -> None:
    """Every teacher's head, and all that is wrong with them at once."""
    for teacher in plan.teachers:
        try:
            _check_head(plan, teacher)
        except CheckpointError as error:
            plan.problems += [str(error)] if str(error) not in plan.problems else []


def _check_head(plan: Plan, teacher: FoundTeacher) -> None:
    """A teacher that isn't fine-tuned needs a head that fits the data; one that is gets a new head where it doesn't."""
    config, words, where = teacher.config, teacher.words, teacher.where
    _check_type(config, plan.recipe.task, where)
    if config is None or (teacher.folder is None and teacher.card is not None and teacher.card.task is None):
        if words.finetune is None and teacher.card is not None:
            raise CheckpointError(_no_head(where, teacher.card.model_type, plan.recipe.task))
        return
    if not has_head(config, plan.recipe.task):
        if words.finetune is None:
            has = ", ".join(config.get("architectures") or ["checkpoint without a named head"])
            raise CheckpointError(_no_head(where, has, plan.recipe.task))
        teacher.new_head = True
        return
    if plan.data is None:
        return
    misfit = plan.data.task.misfit(config)
    if misfit and words.finetune is None:
        raise CheckpointError(
            f"{where}: its head doesn't fit the data: {misfit}; name the data's labels as the head does, or give the "
            "teacher a `finetune`"
        )
    if misfit:
        teacher.new_head = True
        plan.notes.append(f"{where}: a new head is trained, because its own doesn't fit the data: {misfit}")
    elif plan.data.task.labels and checkpoint.label_names(config) is None and plan.data.task.problem != "regression":
        shown = ", ".join(plan.data.task.labels[:8])
        plan.notes.append(f"{where}: its head names no labels; they are taken to be, in its order: {shown}")


def _check_type(config: dict[str, Any] | None, task: str, who: str) -> None:
    """A task that a model of this type can never have, or a type that nobody knows. Raises CheckpointError."""
    if config is None:
        return
    model_type, family, asked = str(config.get("model_type")), _family(config), TASKS[task]
    if (known := heads.model_types()) and model_type not in known:
        own = " without the checkpoint's own code (auto_map), which is never run" if "auto_map" in config else ""
        raise CheckpointError(
            f"{who}: transformers knows no model type '{model_type:.60}'{own or nearest(model_type, sorted(known))}"
        )
    reason = None
    if family is not None and family.kind not in asked.families:
        reason = f"{task} takes {' or '.join(map(_a, asked.families))}, and a {model_type} is {_a(family.kind)}"
    elif not heads.has_class(model_type, asked.auto_class):
        reason = f"transformers has no class for {task} that a {model_type} could be ({asked.auto_class})"
    elif asked.continues:
        reason = anatomy.sees_ahead(config)
    if reason is not None:
        raise CheckpointError(f"{who}: {reason}; tasks of a {model_type}: {', '.join(tasks_of(config)) or 'none'}")


def tasks_of(config: dict[str, Any]) -> list[str]:
    """The tasks that a model of a config's type can have."""
    family, model_type = _family(config), str(config.get("model_type"))
    return [
        name
        for name, task in TASKS.items()
        if (family is None or family.kind in task.families)
        and heads.has_class(model_type, task.auto_class)
        and not (task.continues and anatomy.sees_ahead(config))
    ]


def _family(config: dict[str, Any]) -> anatomy.Family | None:
    return anatomy.FAMILIES.get(str(config.get("model_type")))


def _a(kind: str) -> str:
    return f"{'a' if kind == 'decoder' else 'an'} {kind}"


def _no_head(where: str, what: str, task: str) -> str:
    return f"{where}: a {what} has no head for {task}; give it a `finetune`, which trains one"


def check_student_head(plan: Plan) -> None:
    """A student of a type that can have the task; one whose head must be new needs a step that trains it."""
    if plan.recipe.student.config is not None:
        _check_type(plan.recipe.student.config, plan.recipe.task, "student.config")
    if plan.student_folder is None:
        return
    config = checkpoint.read_config(plan.student_folder)
    _check_type(config, plan.recipe.task, "student")
    if plan.data is None:
        return
    fits = has_head(config, plan.recipe.task) and plan.data.task.misfit(config) is None
    if not fits and not any(step.finetune or step.distill for step in plan.recipe.steps):
        raise CheckpointError("student: its head doesn't fit the data and no step trains a new one; add a `distill`")


def check_losses(plan: Plan) -> None:
    """Losses on logits that make sense for the data's labels, and forms in which a teacher's logits can be kept."""
    for step in plan.recipe.steps:
        if plan.data is not None and step.distill is not None:
            plan.data.task.require_kept(step.distill.signals)
            classes, kept = (plan.teacher_config or {}).get("vocab_size"), step.distill.kept
            if isinstance(kept, int) and isinstance(classes, int) and kept >= classes:
                raise CheckpointError(
                    f"signals.logits: {kept} is no part of {classes} tokens; keep fewer, or say whole"
                )
        if plan.data is not None and step.distill is not None and step.distill.imitate.logits is not None:
            plan.data.task.require_loss(step.distill.imitate.logits.loss)


def has_head(config: dict[str, Any], task: str) -> bool:
    """Whether a checkpoint's config names a head for a task."""
    return any(TASKS[task].serves(architecture) for architecture in config.get("architectures") or [])
