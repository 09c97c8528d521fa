"""What a recipe says for nothing, and what its `control` and `seeds` add to a run: notes, nothing that is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from distill.preflight.plan import Plan
from distill.recipe import settings
from distill.recipe.arms import Arm, arms_of, seeds_of, trainings_in


def note_idle_words(plan: Plan) -> None:
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


def note_arms(plan: Plan) -> None:
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
        f"{_many(len(more), 'training')}, up to {round(epochs, 1):g} epochs{texts} beside the recipe's own {usual:g}; "
        "each is scored once, as its last torch checkpoint, and none is timed or shipped"
    )
    for place, step in enumerate(recipe.steps):
        frozen = getattr(step.settings, "freeze", [])
        if "random-init" in (recipe.control or ()) and frozen:
            plan.notes.append(
                f"steps.{place}.{step.kind}.freeze: in the control random-init {' and '.join(frozen)} stay random"
            )


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
