"""`run`: a recipe's teacher, student and steps, measured side by side, told in a folder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import transformers

from distill import checkpoint as checkpoints
from distill import distillation, preflight, quantization, student
from distill.checkpoint import Checkpoint
from distill.errors import RecipeError
from distill.evaluation import Quality, Subject, add_teacher_graph, make_ledger, score, subjects_in
from distill.recipe import settings, to_yaml
from distill.report import Report
from distill.training import TrainingLog

_SLIVER = 160  # rows of a smoke run
log = logging.getLogger(__name__)


@dataclass
class _Run:
    """A run under way: its folder, and what has been measured so far."""

    plan: preflight.Plan
    folder: Path
    training: list[TrainingLog] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    qualities: list[Quality] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Says what begins, and keeps how long it took."""
        log.info("── %s", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def measure(self, subject: Subject) -> None:
        """Scores a subject on the test split; its turn in the timing session comes at the end."""
        quality = score(subject, self.plan.data)
        self.subjects.append(subject)
        self.qualities.append(quality)
        log.info(
            "%s (%s): %s %.4f on %d test examples",
            subject.name,
            subject.format,
            quality.metric,
            quality.score,
            quality.n,
        )


def run(
    recipe: settings.Recipe,
    folder: Path,
    *,
    name: str = "recipe",
    beside: Path | None = None,
    smoke: bool = False,
) -> Report:
    """Carries a recipe out and leaves checkpoints, recipe.yaml, report.json and report.md in `folder`.

    `beside` is where the recipe's relative paths start; `smoke` does everything on a sliver of the data, to see that it
    works. Raises DistillError before anything expensive when something is wrong.
    """
    recipe = sliver(recipe) if smoke else recipe
    _require_free(folder)
    plan = preflight.prepare(recipe, beside).require()
    for note in plan.notes + plan.data.notes:
        log.info("%s", note)
    transformers.set_seed(recipe.seed)
    teacher, pupil = _load(plan)
    going = _begin(plan, folder)
    teacher = _ready_teacher(going, teacher)
    pupil = pupil or student.make(recipe.student, teacher, plan.data.task, seed=recipe.seed)
    for position, step in enumerate(recipe.steps, start=1):
        pupil = _carry_out(going, f"{position}-{step.kind}", step, pupil, teacher)
    report = _measure(going, name, judged=not smoke)
    report.write(folder)
    return report


def free_folder(name: str, below: Path) -> Path:
    """The first of `name`, `name-2`, `name-3`, … that isn't there yet."""
    taken = 1
    while (folder := below / (name if taken == 1 else f"{name}-{taken}")).exists():
        taken += 1
    return folder


def sliver(recipe: settings.Recipe) -> settings.Recipe:
    """The recipe on so little data, and in so few steps, that a run takes under a minute."""

    def short(words: settings.Training | None) -> settings.Training | None:
        return words and words.model_copy(update={"epochs": 1.0, "max_steps": 4})

    data = recipe.data.model_copy(update={"limit": min(recipe.data.limit or _SLIVER, _SLIVER)})
    teacher = recipe.teacher.model_copy(update={"finetune": short(recipe.teacher.finetune)})
    steps = [
        step if step.kind == "quantize" else step.model_copy(update={step.kind: short(step.settings)})
        for step in recipe.steps
    ]
    timing = recipe.timing.model_copy(update={"rounds": 3, "batch": recipe.timing.batch[:1]})
    return recipe.model_copy(update={"data": data, "teacher": teacher, "steps": steps, "timing": timing})


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"--output {folder}: already there and not empty; name another folder or remove it")


def _load(plan: preflight.Plan) -> tuple[Checkpoint, Checkpoint | None]:
    """The teacher, and the student unless it is cut out of the teacher: what is wrong with either is known at once,
    with nothing written yet.
    """
    recipe, task = plan.recipe, plan.data.task
    teacher = checkpoints.load(plan.teacher_folder, task, new_head=plan.new_head, seed=recipe.seed)
    if recipe.student.layers is not None:
        return teacher, None
    pupil = student.make(recipe.student, teacher, task, seed=recipe.seed, folder=plan.student_folder)
    distillation.set_threshold(pupil, plan.data)
    for step in recipe.steps:
        if step.distill is not None:
            distillation.require_fit(pupil, teacher, step.distill, plan.data)
    return teacher, pupil


def _begin(plan: preflight.Plan, folder: Path) -> _Run:
    with checkpoints.machine_errors(f"writing {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_text(folder / "recipe.yaml", to_yaml(plan.recipe))
    return _Run(plan, folder)


def _ready_teacher(going: _Run, teacher: Checkpoint) -> Checkpoint:
    """The teacher as its student meets it: fine-tuned when the recipe says so, and scored."""
    plan, words, folder = going.plan, going.plan.recipe.teacher.finetune, going.plan.teacher_folder
    if words is None:
        distillation.set_threshold(teacher, plan.data)
    else:
        with going.stage("teacher"):
            teacher = distillation.finetune(teacher, words, data=plan.data, log=going.training, title="teacher")
            folder = teacher.save(going.folder / "teacher")
    going.measure(Subject("teacher", "transformers", folder, teacher.tokenizer, teacher))
    return teacher


def _carry_out(going: _Run, name: str, step: settings.Step, pupil: Checkpoint, teacher: Checkpoint) -> Checkpoint:
    """One step: the checkpoint it makes is saved and scored, and is what the next step gets."""
    folder, data = going.folder / name, going.plan.data
    with going.stage(name):
        if step.quantize is not None:
            quantization.quantize(pupil, step.quantize, data=data, folder=folder)
            for subject in subjects_in(name, folder):
                going.measure(subject)
            return pupil
        if step.distill is not None:
            pupil = distillation.distill(
                pupil, step.distill, data=data, teacher=teacher, log=going.training, title=name
            )
        else:
            pupil = distillation.finetune(pupil, step.finetune, data=data, log=going.training, title=name)
        pupil.save(folder)
        going.measure(Subject(name, "transformers", folder, pupil.tokenizer, pupil))
    return pupil


def _measure(going: _Run, name: str, *, judged: bool) -> Report:
    """The ledger and the report. Where the result is a graph, the teacher is timed as a graph too."""
    plan, parity = going.plan, None
    with going.stage("evaluation"):
        last = going.subjects[-1]
        if last.format != "transformers":
            parity = quantization.read_parity(last.folder)
            subjects = add_teacher_graph(going.subjects, plan.data, going.folder / "teacher-onnx")
            going.qualities[1:1] = [score(added, plan.data) for added in subjects if added not in going.subjects]
            going.subjects = subjects
        ledger = make_ledger(going.subjects, going.qualities, plan.data, plan.recipe.timing)
    data = {
        "rows": {split: len(getattr(plan.data, split)) for split in ("train", "validation", "test")},
        "labels": list(plan.data.task.labels),
        "truncated": plan.data.truncated,
        "sha256": plan.data.fingerprint,
    }
    return Report(
        name,
        plan.recipe,
        ledger,
        going.training,
        data,
        going.seconds,
        judged,
        parity,
        plan.notes + plan.data.notes,
    )
