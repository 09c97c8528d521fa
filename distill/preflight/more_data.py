"""Rows without labels held against the steps that are to learn from them."""

from __future__ import annotations

from distill.data.more import refusal
from distill.errors import CheckpointError
from distill.preflight.plan import Plan
from distill.tasks import TASKS


def check_more_data(plan: Plan) -> None:
    """Every `distill` can learn from rows without labels, and knows their tokens."""
    recipe = plan.recipe
    if recipe.data.unlabelled is None and recipe.data.augment is None:
        return
    task, trimmed = TASKS[recipe.task], False
    for position, step in enumerate(recipe.steps):
        trimmed |= step.prune is not None and step.prune.vocabulary is not None
        if step.distill is None:
            continue
        if reason := refusal(task, step.distill):
            raise CheckpointError(f"steps.{position}.distill: {reason}")
        if trimmed and (step.distill.imitate.by_layer or task.by_token or not task.head_labels):
            raise CheckpointError(
                f"steps.{position}.distill: `prune: {{vocabulary: …}}` before it keeps the tokens of labelled training "
                "texts, so rows of data.unlabelled and data.augment are cut into other tokens than the teacher's, and "
                "can't be compared token by token; prune the vocabulary after the last `distill`"
            )
