"""Recipe, card, checkpoints and data held against each other before anything expensive, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import anatomy, card, checkpoint, packages, safety
from distill.data.loading import Splits, load
from distill.errors import CheckpointError, DistillError, RecipeError
from distill.library import is_path, leads_out
from distill.recipe import settings
from distill.tasks import TASKS

Config = dict[str, Any]


@dataclass
class Plan:
    """What was found: folders and data for a run to go on with, and what is wrong, missing or unchecked.

    `problems` can never work; `missing` is what this machine lacks for a run, with what gets it; `unchecked`
    needs a network that could not be reached, or waits for a run.
    """

    recipe: settings.Recipe
    beside: Path | None = None
    card: card.Card | None = None
    teacher_folder: Path | None = None
    student_folder: Path | None = None
    teacher_config: Config | None = None
    data: Splits | None = None
    new_head: bool = False
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def require(self) -> Plan:
        """This plan, when a run can go on with it. Raises RecipeError with everything that is wrong or missing."""
        if self.problems or self.missing:
            raise RecipeError(self.problems + self.missing)
        return self


def prepare(recipe: settings.Recipe, beside: Path | None = None, *, fetch: bool = True) -> Plan:
    """Finds and reads all that a recipe names, and tells everything wrong at once.

    `beside` is the recipe's folder. Without `fetch` nothing is downloaded: what lies on the Hub is left unchecked.
    """
    plan = Plan(recipe, beside)
    _find_teacher(plan, fetch)
    _find_student(plan, fetch)
    _read_data(plan, fetch)
    _note_idle_words(plan)
    for check in (_check_head, _check_student_head, _check_layers, _check_pruning, _check_hidden_states, _check_length):
        try:
            check(plan)
        except DistillError as error:
            plan.problems += [str(error)] if str(error) not in plan.problems else []
    return plan


# ------------------------------------------------------------------------------------------ finding and reading


def _find_teacher(plan: Plan, fetch: bool) -> None:
    choice = plan.recipe.teacher
    try:
        if choice.card is None:
            plan.teacher_folder = _locate(choice.checkpoint, choice.revision, plan, fetch)
        else:
            plan.card = card.load_card(_near(choice.card, plan) if is_path(choice.card) else choice.card)
            plan.teacher_folder = _locate_card(plan.card, choice.card, plan, fetch)
    except RecipeError as error:
        plan.problems += error.problems
    except DistillError as error:
        plan.problems.append(f"teacher: {error}")
    if plan.teacher_folder is not None:
        plan.teacher_config = checkpoint.read_config(plan.teacher_folder)
    elif plan.card is not None:
        word = anatomy.FAMILIES[plan.card.model_type].key("layers") if plan.card.model_type in anatomy.FAMILIES else ""
        plan.teacher_config = {"model_type": plan.card.model_type, word: plan.card.layers}
        plan.teacher_config |= {"id2label": dict(enumerate(plan.card.labels))} if plan.card.labels else {}
        plan.teacher_config |= {"architectures": [TASKS[plan.card.task].head]} if plan.card.task in TASKS else {}
    if plan.card is not None:
        plan.notes += [f"teacher: {note}" for note in (plan.card.note,) if note]
        if plan.card.hub and plan.card.hub.revision == "main":
            plan.notes.append(f"teacher: the card's Hub revision is `main`, so {plan.card.hub.id} may change under it")


def _locate_card(found: card.Card, name: str, plan: Plan, fetch: bool) -> Path | None:
    """The card's folder; None when the package isn't there and nothing may be fetched."""
    here = (found.package and packages.is_installed(found.package.name)) or found.folder
    if not here and not fetch:
        if found.package is not None:
            plan.missing.append(f"teacher: {packages.not_installed(found.package.name)}")
        plan.unchecked.append(f"teacher: the files of card {name} against its hashes")
        return None
    return card.locate(found, name)


def _locate(name: str, revision: str | None, plan: Plan, fetch: bool) -> Path | None:
    name = _near(name, plan)
    if not fetch and not checkpoint.looks_like_folder(name):
        plan.unchecked.append(f"{name}: a checkpoint on the Hub; a run fetches it")
        return None
    return checkpoint.locate(name, revision)


def _near(name: str, plan: Plan) -> str:
    """A relative path as it stands beside the recipe, when it is there; any other name as it is.

    A relative path stays below the folder that it starts in; what is written in full is the user's own choice. Raises
    CheckpointError.
    """
    given = Path(name).expanduser()
    if given.is_absolute():
        return name
    beside = plan.beside is not None and (plan.beside / given).exists()
    folder = plan.beside if beside else Path.cwd()
    if (beside or given.exists() or ".." in given.parts) and leads_out(folder / given, folder):
        raise CheckpointError(f"{name} leads out of {folder.resolve()}; name it by its full path")
    return str(folder / given) if beside else name


def _find_student(plan: Plan, fetch: bool) -> None:
    choice = plan.recipe.student
    if choice.checkpoint is None:
        return
    try:
        plan.student_folder = _locate(choice.checkpoint, choice.revision, plan, fetch)
    except CheckpointError as error:
        plan.problems.append(f"student: {error}")


def _read_data(plan: Plan, fetch: bool) -> None:
    recipe, source = plan.recipe, plan.recipe.data.source
    if source.package is not None and not packages.is_installed(source.package):
        plan.missing.append(f"data: {packages.not_installed(source.package)}")
        return
    if source.hub is not None and not fetch:
        plan.unchecked.append(f"{source.hub}: a data set on the Hub; a run fetches it")
        return
    try:
        names = _head_names(plan)
        plan.data = load(recipe.data, names=names, metric=recipe.metric, seed=recipe.seed, beside=plan.beside)
    except DistillError as error:
        plan.problems.append(str(error))


def _head_names(plan: Plan) -> list[str] | None:
    """The teacher's own label names, when it has a head for this task."""
    config = plan.teacher_config
    return checkpoint.label_names(config) if config and _has_head(config, plan.recipe.task) else None


def _has_head(config: Config, task: str) -> bool:
    return any(TASKS[task].head in architecture for architecture in config.get("architectures") or [])


# ------------------------------------------------------------------------------------- held against each other


def _check_head(plan: Plan) -> None:
    """A teacher that isn't fine-tuned needs a head that fits the data; one that is gets a new head where it doesn't."""
    config, choice = plan.teacher_config, plan.recipe.teacher
    if config is None or (plan.teacher_folder is None and plan.card is not None and plan.card.task is None):
        if choice.finetune is None and plan.card is not None:
            raise CheckpointError(_no_head(plan.card.model_type, plan.recipe.task))
        return
    if not _has_head(config, plan.recipe.task):
        if choice.finetune is None:
            has = ", ".join(config.get("architectures") or ["checkpoint without a named head"])
            raise CheckpointError(_no_head(has, plan.recipe.task))
        plan.new_head = True
        return
    if plan.data is None:
        return
    misfit = plan.data.task.misfit(config)
    if misfit and choice.finetune is None:
        raise CheckpointError(
            f"teacher: its head doesn't fit the data: {misfit}; name the data's labels as the head does, or give the "
            "teacher a `finetune`"
        )
    if misfit:
        plan.new_head = True
        plan.notes.append(f"teacher: a new head is trained, because its own doesn't fit the data: {misfit}")
    elif checkpoint.label_names(config) is None and plan.data.task.problem != "regression":
        shown = ", ".join(plan.data.task.labels[:8])
        plan.notes.append(f"teacher: its head names no labels; they are taken to be, in its order: {shown}")


def _no_head(what: str, task: str) -> str:
    return f"teacher: a {what} has no head for {task}; give it a `finetune`, which trains one"


def _check_student_head(plan: Plan) -> None:
    """A student checkpoint whose head must be new needs a step that trains it."""
    if plan.student_folder is None or plan.data is None:
        return
    config = checkpoint.read_config(plan.student_folder)
    fits = _has_head(config, plan.recipe.task) and plan.data.task.misfit(config) is None
    if not fits and not any(step.finetune or step.distill for step in plan.recipe.steps):
        raise CheckpointError("student: its head doesn't fit the data and no step trains a new one; add a `distill`")


def _note_idle_words(plan: Plan) -> None:
    """Settings that are allowed and do nothing in this recipe."""
    student = plan.recipe.student
    if "choose" in student.model_fields_set and not isinstance(student.layers, int) and student.choose != "even":
        plan.notes.append("student.choose does nothing here: it chooses when `layers` is a number")
    is_number = plan.data is not None and plan.data.task.problem == "regression"
    for position, step in enumerate(plan.recipe.steps):
        if step.distill is None:
            continue
        logits, where = step.distill.imitate.logits, f"steps.{position}.distill"
        if logits is not None and logits.loss == "kl" and is_number:
            plan.notes.append(
                f"{where}: a number has no distribution, so logits are compared by mse, without temperature"
            )
        elif "temperature" in step.distill.model_fields_set and (logits is None or logits.loss != "kl"):
            plan.notes.append(f"{where}.temperature does nothing here: no term compares logits by kl")


def _check_layers(plan: Plan) -> None:
    student, config = plan.recipe.student, plan.teacher_config
    if student.layers is None or config is None:
        return
    family = anatomy.family_of(config)
    if reason := anatomy.refuse(config, "layers"):
        raise CheckpointError(f"student.layers: {reason}")
    there = anatomy.size(config, "layers")
    if there is None:
        keys = " and ".join(sorted(family.config_keys("layers")))
        raise CheckpointError(f"student.layers: the teacher's config doesn't say {keys}")
    anatomy.with_layers(config, anatomy.choose_layers(student.layers, student.choose, there))


def _check_pruning(plan: Plan) -> None:
    """What the student's family can't lose, and shares and layers that would leave too little."""
    config = _student_config(plan)
    if config is None:
        return
    left = anatomy.size(config, "layers")
    for position, step in enumerate(plan.recipe.steps):
        if step.prune is None:
            continue
        anatomy.family_of(config)
        where = f"steps.{position}.prune"
        refused = {what: anatomy.refuse(config, what) for what in ("heads", "neurons", "layers")}
        for what, reason in {**refused, "hidden_size": anatomy.refuse(config, "hidden")}.items():
            if getattr(step.prune, what) is not None and reason:
                raise CheckpointError(f"{where}.{what}: {reason}")
        if step.prune.to is not None and refused["heads"] and refused["neurons"]:
            raise CheckpointError(f"{where}.to: {refused['neurons']}")
        _check_something_left(config, step.prune, where)
        if step.prune.layers is not None and left is not None:
            if step.prune.layers >= left:
                raise CheckpointError(
                    f"steps.{position}.prune.layers: {step.prune.layers} of {left} layers can't go; keep at least one"
                )
            left -= step.prune.layers


def _check_something_left(config: Config, words: settings.Prune, where: str) -> None:
    """A layer keeps a head and a block of neurons: a share that leaves less than that can't be meant."""
    for what, least in (("heads", 1), ("neurons", words.multiple_of)):
        share, there = getattr(words, what), anatomy.size(config, what)
        if share is None or there is None:
            continue
        least = min(least, there)
        if there * (1 - share) < least / 2:
            raise CheckpointError(
                f"{where}.{what}: {share:g} of {there} {what} a layer leaves nothing, but each layer keeps {least} at "
                f"least; take out {1 - least / there:.3g} at most, or whole `layers`"
            )
    hidden = anatomy.size(config, "hidden_size")
    if words.hidden_size is not None and hidden is not None and hidden * (1 - words.hidden_size) < 1:
        raise CheckpointError(f"{where}.hidden_size: {words.hidden_size:g} of {hidden} dimensions leaves none of them")


def _check_hidden_states(plan: Plan) -> None:
    asked = [
        step.distill.imitate.hidden_states
        for step in plan.recipe.steps
        if step.distill is not None and step.distill.imitate.hidden_states is not None
    ]
    student, config = _student_config(plan), plan.teacher_config
    if not asked or student is None or config is None:
        return
    for facts in (student, config):
        if reason := anatomy.refuse(facts, "hidden_states"):
            raise CheckpointError(f"imitate.hidden_states: {reason}")
    counts = [anatomy.size(facts, "layers") for facts in (student, config)]
    for term in asked:
        if None not in counts:
            anatomy.layer_map(term.layers, *counts)
    if (
        plan.student_folder
        and plan.teacher_folder
        and not checkpoint.same_tokenizer(plan.student_folder, plan.teacher_folder)
    ):
        raise CheckpointError(
            "imitate.hidden_states: student and teacher have different tokenizers, so their hidden states can't be "
            "compared token by token; imitate logits alone"
        )


def _student_config(plan: Plan) -> Config | None:
    choice = plan.recipe.student
    if choice.config is not None:
        words = {"vocab_size": (plan.teacher_config or {}).get("vocab_size"), **choice.config}
        safety.check_buildable(words, "student.config")
        return choice.config
    if plan.student_folder is not None:
        return checkpoint.read_config(plan.student_folder)
    if choice.layers is None or plan.teacher_config is None:
        return None
    family, there = anatomy.family_of(plan.teacher_config), anatomy.size(plan.teacher_config, "layers")
    if len(family.stacks) == 1 or there is None:
        kept = len(choice.layers) if isinstance(choice.layers, list) else choice.layers
        return {**plan.teacher_config, family.key("layers"): kept}
    try:
        kept = anatomy.choose_layers(choice.layers, choice.choose, there)
        return anatomy.with_layers(plan.teacher_config, kept)
    except CheckpointError:  # which the check of the layers tells
        return None


def _check_length(plan: Plan) -> None:
    recipe = plan.recipe
    for who, config in (("teacher", plan.teacher_config), ("student", _student_config(plan))):
        positions = anatomy.size(config, "positions") if config else None
        asked = {"timing.tokens": recipe.timing.tokens}
        if who == "teacher":  # a student with fewer positions sees texts cut to its own
            asked["data.max_length"] = recipe.data.max_length
        for setting, tokens in asked.items():
            if positions is not None and tokens is not None and tokens > positions:
                raise CheckpointError(f"{setting}: {tokens} tokens, but the {who} has {positions} positions")
