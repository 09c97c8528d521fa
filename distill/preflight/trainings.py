"""Trainings held against the models that they train: parts to freeze that a model doesn't have."""

from __future__ import annotations

from distill import anatomy
from distill.errors import CheckpointError
from distill.preflight.plan import Plan
from distill.preflight.shapes import student_config


def check_freezing(plan: Plan) -> None:
    """Parts that a training is to freeze, which its model has."""
    student = student_config(plan)
    trained = [(f"{one.where}.finetune", one.words.finetune, one.config) for one in plan.teachers]
    trained += [
        (f"steps.{place}.{step.kind}", step.finetune or step.distill, student)
        for place, step in enumerate(plan.recipe.steps)
    ]
    for where, words, config in trained:
        for part in words.freeze if words is not None and config is not None else ():
            try:
                anatomy.freezable(config, part)
            except CheckpointError as error:
                raise CheckpointError(f"{where}.{error}") from None
