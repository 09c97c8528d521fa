"""`run`: a recipe's teacher, student and steps, measured side by side, told in a folder. What is done is done once."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import transformers

from distill import checkpoint as checkpoints
from distill import preflight, quantization, surgery
from distill.augmentation import read_copies
from distill.checkpoint import Checkpoint
from distill.energy import Meter
from distill.evaluation import Subject, add_teacher_graph, make_ledger, note_of_tokens, subjects_in
from distill.evaluation.ledger import PADDED
from distill.pipeline.controls import Outcome, carry_out_arms, chain_end, describe_arms, stages_of_arms
from distill.pipeline.describing import (
    describe_data,
    describe_energy,
    describe_step,
    describe_student,
    describe_teacher,
    save_predictions,
)
from distill.pipeline.helping import serve_unless_first
from distill.pipeline.pieces import Bench
from distill.pipeline.state import Asked, Stage, State, claim, read_state, require_own
from distill.pipeline.teachers import Guide, load_models, make_ready, title_of
from distill.pipeline.telling import Telling
from distill.pipeline.underway import Underway
from distill.recipe import settings
from distill.recipe.arms import seeds_of
from distill.report import Report
from distill.report.samples import write_samples
from distill.store import Store
from distill.teacher import Ensemble

_SLIVER, _SLIVER_SEEDS = 160, 2  # rows and seeds of a smoke run
log = logging.getLogger(__name__)


def run(
    recipe: settings.Recipe,
    folder: Path,
    *,
    name: str = "recipe",
    beside: Path | None = None,
    smoke: bool = False,
    store: Store | None = None,
) -> Report:
    """Carries a recipe out and leaves checkpoints, recipe.yaml and the report in `folder`.

    Finished steps are taken from the store; a folder in which the same recipe was cut off is gone on with. `beside` is
    where the recipe's relative paths start; `smoke` does everything on a sliver of the data, to see that it works. Of
    several processes that accelerate or torchrun started only the first one returns: the others help it train, and exit
    when it does. Raises DistillError before anything expensive when something is wrong.
    """
    serve_unless_first()
    recipe = sliver(recipe) if smoke else recipe
    asked = Asked.of(recipe, beside)
    require_own(folder, asked)
    plan = preflight.prepare(recipe, beside).require()
    for note in plan.notes + plan.data.notes:
        log.info("%s", note)
    transformers.set_seed(recipe.seed)
    guide, own = load_models(plan)
    store = (store or Store()).prepared()
    with claim(folder, asked):
        going = _begin(plan, folder, name, smoke, store, asked.home_from(folder))
        try:
            report = _carry_out(going, guide, own, name, judged=not smoke)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            with contextlib.suppress(Exception):  # a full disk, most likely the very error
                going.state.end("stopped" if stopped else "failed")
            going.telling.end(None, 130 if stopped else 1)
            raise
        going.state.end("done")
        going.telling.end(report, 1 if report.missed else 0)
    return report


def sliver(recipe: settings.Recipe) -> settings.Recipe:
    """The recipe on so little data, and in so few steps, that a run takes a minute or so."""

    def short(words: settings.Training | None) -> settings.Training | None:
        return words and words.model_copy(update={"epochs": 1.0, "max_steps": 4})

    data = recipe.data.model_copy(update={"limit": min(recipe.data.limit or _SLIVER, _SLIVER)})
    several = recipe.teacher.ensemble and [
        member.model_copy(update={"finetune": short(member.finetune)}) for member in recipe.teacher.ensemble
    ]
    teacher = recipe.teacher.model_copy(update={"finetune": short(recipe.teacher.finetune), "ensemble": several})
    steps = [
        step.model_copy(update={step.kind: short(step.settings)})
        if isinstance(step.settings, settings.Training)
        else step
        for step in recipe.steps
    ]
    timing = recipe.timing.model_copy(update={"rounds": 3, "batch": recipe.timing.batch[:1]})
    seeds = recipe.seeds and seeds_of(recipe)[:_SLIVER_SEEDS]
    told = {"data": data, "teacher": teacher, "steps": steps, "timing": timing, "seeds": seeds}
    return recipe.model_copy(update=told)


def _begin(plan: preflight.Plan, folder: Path, name: str, smoke: bool, store: Store, home: str) -> Underway:
    before = read_state(folder)
    state = State(folder, name, smoke, str(store.folder.absolute()), _stages(plan.recipe), home=home)
    if before is not None:
        state.wandb_id, state.sittings = before.wandb_id, before.sittings + 1
        log.info("%s: goes on; %s", folder, "it was finished before" if before.standing == "done" else "it was cut off")
    state.write()
    telling = Telling.begin(plan, state)
    return Underway(
        plan, folder, state, Bench(plan, store, Meter(plan.recipe.track, folder), telling.training), telling
    )


def _stages(recipe: settings.Recipe) -> list[Stage]:
    """Everything that a run will do, in order."""
    stages = [Stage("augment", "augment")] if _augments(recipe) else []
    members = enumerate(recipe.teacher.members)
    stages += [Stage(title_of(place), "finetune") for place, words in members if words.finetune]
    stages.append(Stage("student", "student"))
    stages += [Stage(f"{place}-{step.kind}", step.kind) for place, step in enumerate(recipe.steps, start=1)]
    stages += stages_of_arms(recipe)
    if recipe.steps[-1].kind == "quantize":
        stages.append(Stage("teacher-onnx", "graph"))
    stages.append(Stage("evaluation", "evaluation"))
    return stages + ([Stage("ship", "ship")] if recipe.ship else [])


def _augments(recipe: settings.Recipe) -> bool:
    """Whether copies of training rows are asked for, and learned from."""
    return recipe.data.augment is not None and any(step.distill for step in recipe.steps)


def _carry_out(going: Underway, guide: Ensemble, own: Checkpoint | None, name: str, *, judged: bool) -> Report:
    if _augments(going.plan.recipe):
        _add_copies(going)
    teacher = make_ready(going, guide)
    pupil, pupil_bytes = _ready_student(going, teacher, own)
    for place, step in enumerate(going.plan.recipe.steps, start=1):
        title = f"{place}-{step.kind}"
        pupil, pupil_bytes = _step(going, title, step, (pupil, pupil_bytes), teacher)
    end = chain_end(going)
    _add_padded(going)
    arms = carry_out_arms(going, end, teacher)
    parity = _add_teacher_graph(going, teacher.bytes[0])
    report = _measure(going, name, parity, arms, judged=judged)
    report.write(going.folder)
    if going.plan.recipe.ship is not None:
        if report.missed:
            old = "; what is in shipped/ is from an earlier measurement" if (going.folder / "shipped").exists() else ""
            log.warning("not shipped: the run missed what its recipe expects%s", old)
            going.state.mark("ship", "left out")
        else:
            with going.stage("ship"):
                going.telling.ship(report, going.subjects)
    return report


def _add_copies(going: Underway) -> None:
    """Changed copies of training rows, made before anything learns."""
    plan, folder = going.plan, going.folder / "augment"
    with going.stage("augment"):
        piece = going.bench.augmented(folder)
        going.keep("augment", piece)
        before = len(plan.data.notes)
        plan.data = read_copies(plan.data, folder, piece.told["copies"])
        for note in plan.data.notes[before:]:
            log.info("%s", note)


def _ready_student(going: Underway, teacher: Guide, own: Checkpoint | None) -> tuple[Checkpoint, str]:
    plan, folder = going.plan, going.folder / "student"
    with going.stage("student"):
        going.keep("student", going.student_bench.student(teacher, folder, own=own))
    own_bytes = checkpoints.fingerprint(plan.student_folder) if plan.student_folder else None
    pupil, found = checkpoints.load(folder), checkpoints.fingerprint(folder)
    parents = [own_bytes] if own_bytes else [teacher.bytes[0]] if plan.recipe.student.layers is not None else []
    fresh = Subject("student", "transformers", folder, pupil.tokenizer, pupil)
    trained = plan.recipe.steps[0].kind != "quantize"
    if not trained:  # no step makes another torch checkpoint: this is what the graphs are of, and what ships
        going.measure(fresh)
    quality = None if trained else going.qualities[-1]
    going.telling.checkpoint("student", fresh, quality, sha256=found, parents=parents)
    return pupil, found


def _step(
    going: Underway, name: str, step: settings.Step, pupil: tuple[Checkpoint, str], teacher: Guide
) -> tuple[Checkpoint, str]:
    """One step: the checkpoint it makes is kept and scored, and is what the next step gets."""
    folder = going.folder / name
    with going.stage(name):
        going.keep(name, going.student_bench.carried_out(name, step, pupil, teacher, link=folder))
        found = subjects_in(name, folder)
        for subject in found:
            going.measure(subject)
            parents = [pupil[1], *(teacher.bytes if step.distill else [])]
            sha256 = checkpoints.fingerprint(folder, subject.weights)
            going.telling.checkpoint(
                step.kind, subject, going.qualities[-1], sha256=sha256, parents=parents,
                result=step is going.plan.recipe.steps[-1] and subject is found[-1],
            )  # fmt: skip
    if step.quantize is not None:
        return pupil
    return found[0].checkpoint, checkpoints.fingerprint(folder)


def _add_padded(going: Underway) -> None:
    """What ships for stock transformers, where the last torch checkpoint has a shape that no config can say."""
    ship, subjects = going.plan.recipe.ship, going.subjects
    place = max(i for i, subject in enumerate(subjects) if subject.format == "transformers")
    last = subjects[place]
    if ship is None or "transformers" not in ship.formats or not (last.folder / surgery.RECORD).is_file():
        return
    name = f"{last.name}{PADDED}"
    going.state.add(Stage(name, "pad"))
    with going.stage(name):
        found = checkpoints.fingerprint(last.folder)
        going.keep(name, going.bench.padded(last.checkpoint, found, going.folder / name))
        (subject,) = subjects_in(name, going.folder / name)
        going.measure(subject, place + 1)
        sha256 = checkpoints.fingerprint(subject.folder)
        going.telling.checkpoint("pad", subject, going.qualities[place + 1], sha256=sha256, parents=[found])


def _add_teacher_graph(going: Underway, teacher_bytes: str) -> dict[str, Any] | None:
    """Where the result is a graph, the teacher is measured as a graph too; the parity of the result's graphs."""
    last = going.subjects[-1]
    if last.format == "transformers":
        return None
    folder = going.folder / "teacher-onnx"

    def write(teacher: Checkpoint) -> Path:
        going.keep("teacher-onnx", going.bench.graph(teacher, teacher_bytes, folder))
        return folder

    with going.stage("teacher-onnx"):
        for place, subject in enumerate(add_teacher_graph(going.subjects, write)):
            if subject not in going.subjects:
                going.measure(subject, place)
    return quantization.read_parity(last.folder)


def _measure(going: Underway, name: str, parity: dict[str, Any] | None, arms: list[Outcome], *, judged: bool) -> Report:
    """The timing session over all subjects, the ledger, and all that the report tells beside it."""
    plan = going.plan
    with going.stage("evaluation"):
        ledger = make_ledger(going.subjects, going.qualities, plan.data, plan.recipe.timing, together=going.together)
    labels = going.subjects[0].encoded(plan.data).labels
    aside = {outcome.predictions_name: outcome.quality.predictions for outcome in arms}
    aside |= {going.together.name: going.together.quality.predictions} if going.together else {}
    save_predictions(going.folder, going.subjects, going.qualities, labels, aside)
    write_samples(going.folder, ledger.samples)
    trained = {title: piece for title, piece in going.pieces.items() if "training" in piece.told}
    told = [f"{title}: {note}" for title, piece in going.pieces.items() for note in piece.told.get("notes", ())]
    return Report(
        name,
        plan.recipe,
        ledger,
        [piece.told["training"] | {"step": title} for title, piece in trained.items()],
        describe_data(plan),
        going.seconds,
        judged,
        parity,
        plan.notes + plan.data.notes + note_of_tokens(going.subjects, plan.data) + going.notes + told,
        describe_teacher(plan, going.solo),
        [describe_step(title, piece) for title, piece in (going.pieces | going.aside).items()],
        describe_energy(plan.recipe, trained, ledger, going.bench.meter),
        describe_arms(going, arms, labels),
        describe_student(plan),
    )
