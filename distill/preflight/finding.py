"""What a recipe names or needs, found and read: the teacher, the student, the data, the engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from distill import card, checkpoint, gguf, packages
from distill.compiling import lacking
from distill.data.loading import load
from distill.data.more import MASKED_LM, require_masked_lm
from distill.disk import expanded
from distill.errors import CheckpointError, DistillError, RecipeError
from distill.library import is_path, leads_out
from distill.preflight.heads import has_head
from distill.preflight.plan import FoundTeacher, Plan
from distill.tasks import TASKS


def find_teacher(plan: Plan, teacher: FoundTeacher, fetch: bool) -> None:
    """A teacher's card, folder and config; where no folder is at hand, the card's facts stand for the config."""
    choice, where = teacher.words, teacher.where
    try:
        if choice.card is None:
            teacher.hub_id = choice.checkpoint if _on_hub(_near(choice.checkpoint, plan)) else None
            teacher.folder = _locate(choice.checkpoint, choice.revision, plan, fetch)
            _note_grid(teacher, plan)
        else:
            teacher.card = card.load_card(_near(choice.card, plan) if is_path(choice.card) else choice.card)
            teacher.folder = _locate_card(teacher, plan, fetch)
    except RecipeError as error:
        plan.problems += error.problems
    except DistillError as error:
        plan.problems.append(f"{where}: {error}")
    if teacher.folder is not None:
        teacher.config = checkpoint.read_config(teacher.folder)
    elif teacher.card is not None:
        teacher.config = teacher.card.config()
        known = TASKS.get(teacher.card.task)
        teacher.config |= {"architectures": [known.head]} if known else {}
    if teacher.card is not None:
        plan.notes += [f"{where}: {note}" for note in (teacher.card.note,) if note]
        if teacher.card.hub and teacher.card.hub.revision == "main":
            hub = teacher.card.hub.id
            plan.notes.append(f"{where}: the card's Hub revision is `main`, so {hub} may change under it")


def _note_grid(teacher: FoundTeacher, plan: Plan) -> None:
    """Weights that were stored in few bits are on a grid already, so storing them so once more loses nothing."""
    name = teacher.words.checkpoint
    if gguf.is_gguf(name) and (grid := gguf.grid(expanded(_near(name, plan)))) is not None:
        plan.notes.append(
            f"{teacher.where}: the weights in {Path(name).name} are on the grid of {grid}, so results in as few bits "
            "look lossless on them and mean nothing"
        )


def _locate_card(teacher: FoundTeacher, plan: Plan, fetch: bool) -> Path | None:
    """The card's folder; None when the package isn't there and nothing may be fetched."""
    found, name, where = teacher.card, teacher.words.card, teacher.where
    here = (found.package and packages.is_installed(found.package.name)) or found.folder
    if not here and not fetch:
        if found.package is not None:
            plan.missing.append(f"{where}: {card.missing_package(found)}")
        plan.unchecked.append(f"{where}: the files of card {name} against its hashes")
        return None
    folder = card.locate(found, name, convert=fetch)
    if folder is None:
        plan.unchecked.append(f"{where}: {found.gguf} is converted by the first run")
    return folder


def _locate(name: str, revision: str | None, plan: Plan, fetch: bool) -> Path | None:
    name = _near(name, plan)
    if not fetch and _on_hub(name):
        plan.unchecked.append(f"{name}: a checkpoint on the Hub; a run fetches it")
        return None
    if gguf.is_gguf(name) and not fetch:
        if (folder := gguf.find(expanded(name))) is None:
            plan.unchecked.append(f"{name}: a GGUF file, which the first run converts")
        return folder
    return gguf.locate(name, revision)


def _on_hub(name: str) -> bool:
    return not gguf.is_gguf(name) and not checkpoint.looks_like_folder(name)


def _near(name: str, plan: Plan) -> str:
    """A relative path as it stands beside the recipe, when it is there; any other name as it is.

    A relative path stays below the folder that it starts in; what is written in full is the user's own choice. Raises
    CheckpointError.
    """
    given = expanded(name)
    if given.is_absolute():
        return name
    beside = plan.beside is not None and (plan.beside / given).exists()
    folder = plan.beside if beside else Path.cwd()
    if (beside or given.exists() or ".." in given.parts) and leads_out(folder / given, folder):
        raise CheckpointError(f"{name} leads out of {folder.resolve()}; name it by its full path")
    return str(folder / given) if beside else name


def find_student(plan: Plan, fetch: bool) -> None:
    """The folder of a student that is a checkpoint of its own."""
    choice = plan.recipe.student
    if choice.checkpoint is None:
        return
    try:
        plan.student_hub_id = choice.checkpoint if _on_hub(_near(choice.checkpoint, plan)) else None
        plan.student_folder = _locate(choice.checkpoint, choice.revision, plan, fetch)
    except CheckpointError as error:
        plan.problems.append(f"student: {error}")


def find_masked_lm(plan: Plan, fetch: bool) -> None:
    """The folder of what replaces words in copies of training rows."""
    augment = plan.recipe.data.augment
    if augment is None or augment.masked_lm is None:
        return
    words = augment.masked_lm
    try:
        plan.masked_lm_folder = _locate(words.checkpoint, words.revision, plan, fetch)
        if plan.masked_lm_folder is not None:
            require_masked_lm(checkpoint.read_config(plan.masked_lm_folder), words.checkpoint)
    except CheckpointError as error:
        where = f"{MASKED_LM}.checkpoint: "
        plan.problems.append(where + str(error).removeprefix(where))


def read_data(plan: Plan, fetch: bool) -> None:
    """The splits, with the labels in the order of the teacher's own head."""
    recipe = plan.recipe
    away = [source.package for source in recipe.data.sources if source.package is not None]
    away = [name for name in away if not packages.is_installed(name)]
    plan.missing += [f"data: {packages.not_installed(name)}" for name in away]
    on_hub = [source.hub for source in recipe.data.sources if source.hub is not None and not fetch]
    plan.unchecked += [f"{name}: a data set on the Hub; a run fetches it" for name in on_hub]
    if away or on_hub:
        return
    try:
        names, words, more = _head_names(plan), recipe.data, recipe.data.unlabelled
        if more is not None and more.hub is not None and not fetch:
            plan.unchecked.append(f"data.unlabelled: {more.hub}, a data set on the Hub; a run fetches it")
            words = words.model_copy(update={"unlabelled": None})
        plan.data = load(
            words, task=recipe.task, names=names, metric=recipe.metric, generation=recipe.generation,
            seed=recipe.seed, beside=plan.beside,
        )  # fmt: skip
    except DistillError as error:
        plan.problems.append(str(error))


def find_engine(plan: Plan) -> None:
    """ONNX Runtime, where a graph is made, timed or shipped: told missing once, with the first place of each kind.

    The module is looked for and not the distribution, because builds for other hardware ship it under other names.
    """
    places: dict[str, str] = {}
    for position, step in enumerate(plan.recipe.steps):
        if step.quantize is not None:
            places.setdefault("quantize", f"steps.{position}.quantize")
        elif step.prune is not None and step.prune.to is not None and step.prune.to.latency is not None:
            places.setdefault("latency", f"steps.{position}.prune.to.latency")
        elif step.distill is not None and step.distill.labelled_by_graph:
            places.setdefault("labels", f"steps.{position}.distill.signals.engine")
    if plan.recipe.ship is not None and "onnx" in plan.recipe.ship.formats:
        places["ship"] = "ship.formats"
    if places and importlib.util.find_spec("onnxruntime") is None:
        plan.missing.append(f"{', '.join(places.values())}: {packages.not_installed('onnxruntime')}")


def find_compiler(plan: Plan) -> None:
    """What `compile` needs, told missing once with the first training that asks for it."""
    steps = [(f"steps.{place}.{step.kind}", step.settings) for place, step in enumerate(plan.recipe.steps)]
    teachers = [(f"{teacher.where}.finetune", teacher.words.finetune) for teacher in plan.teachers]
    for where, words in (*teachers, *steps):
        if getattr(words, "compile", None) and (reason := lacking()):
            plan.missing.append(f"{where}.compile: {reason}")
            return


def _head_names(plan: Plan) -> list[str] | None:
    """A teacher's own label names, of the first one that has a head for this task."""
    heads = [one.config for one in plan.teachers if one.config and has_head(one.config, plan.recipe.task)]
    return next((names for config in heads if (names := checkpoint.label_names(config))), None)
