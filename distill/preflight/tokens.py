"""Tokenizers held against what is imitated: of another one a student learns text by text, never token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distill import checkpoint, generation
from distill.data.encoding import LACKING
from distill.data.readers import READERS
from distill.errors import CheckpointError, first_line
from distill.preflight.heads import tasks_of
from distill.preflight.plan import Plan
from distill.recipe import settings
from distill.tasks import TASKS

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_TEXTS = 64  # training texts that two tokenizers are tried on


def check_special_tokens(plan: Plan) -> None:
    """Tokenizers with the special tokens that the task can't do without, as far as their files tell."""
    readers = [*((one.where, one.folder) for one in plan.teachers), ("student", plan.student_folder)]
    for who, folder in readers:
        if folder is None or plan.recipe.task not in tasks_of(checkpoint.read_config(folder)):  # which is told already
            continue
        for name in TASKS[plan.recipe.task].special:
            if checkpoint.lacks_token(folder, name):
                raise CheckpointError(f"{who}: {LACKING[name]}")


def note_endless(plan: Plan) -> None:
    """A decoder that writes, and whose generation_config.json names no token that ends a text."""
    recipe, folder = plan.recipe, plan.student_folder or plan.teacher_folder
    if recipe.generation is None or not TASKS[recipe.task].continues or recipe.student.config or folder is None:
        return
    told = generation.read_config(folder)
    if told and not generation.rules_of(told).ends:
        plan.notes.append(
            f"generation: {folder / 'generation_config.json'} names no eos_token_id, so nothing ends a text that is "
            "written before max_new_tokens do"
        )


def check_signals(plan: Plan) -> None:
    """A teacher that can be asked as a step says by a student with other token ids: its own, or trimmed before."""
    folders = plan.student_folder, plan.teacher_folder
    other = None not in folders and not checkpoint.same_tokenizer(*folders)
    for place, step in enumerate(plan.recipe.steps):
        other |= step.prune is not None and step.prune.vocabulary is not None
        reason = TASKS[plan.recipe.task].refuse_other_ids(step.distill) if other and step.distill is not None else None
        if reason:
            raise CheckpointError(f"steps.{place}.distill.{reason}")


def check_tokens(plan: Plan) -> None:
    """A student of another tokenizer imitates what is said of whole texts alone; that it reads its own is told."""
    student, teacher = plan.student_folder, plan.teacher_folder
    if student is None or teacher is None or checkpoint.same_tokenizer(student, teacher):
        return
    learning = [(f"steps.{place}.distill", step.distill) for place, step in enumerate(plan.recipe.steps)]
    for where, words in [(where, words) for where, words in learning if words is not None]:
        for term in words.imitate.by_layer:
            raise CheckpointError(
                f"imitate.{term}: student and teacher have different tokenizers, so their {term.replace('_', ' ')} "
                "can't be compared token by token; imitate logits alone"
            )
        _check_logits(plan, words, f"{where}.imitate.logits", student, teacher)
        if TASKS[plan.recipe.task].head_labels and not TASKS[plan.recipe.task].by_token:
            plan.notes.append(
                f"{where}: the student's tokenizer is not the teacher's, so each reads a text in its own tokens, cut "
                "to its own length, and their logits are compared text by text"
            )


def _check_logits(plan: Plan, words: settings.Distill, where: str, student: Path, teacher: Path) -> None:
    """Logits by token, of a tokenizer that is known to cut texts otherwise."""
    task = TASKS[plan.recipe.task]
    if words.imitate.logits is None or not apart_by_token(plan, student, teacher):
        return
    fix = ", or `finetune` without a teacher" if task.head_labels else _without_logits(task.generates)
    raise CheckpointError(
        f"{where}: student and teacher have different tokenizers, and a {plan.recipe.task} has logits for each token"
        f"{'' if task.head_labels else ', over the tokens that there are'}, which can't be compared; take a student "
        f"with the teacher's tokenizer{fix}"
    )


def apart_by_token(plan: Plan, one: Path, other: Path) -> bool:
    """Whether two checkpoints are known to have logits of other tokens; a run looks at every text in any case."""
    task = TASKS[plan.recipe.task]
    files = [folder / "tokenizer.json" for folder in (one, other)]
    if not (task.by_token or not task.head_labels) or not all(file.is_file() for file in files):
        return False
    return not checkpoint.same_tokenizer(one, other) and not _cut_alike(plan, *files, within=not task.head_labels)


def _without_logits(writes: bool) -> str:
    if not writes:
        return ", or `finetune` without a teacher"
    return ", or let it learn the teacher's texts alone (`targets: teacher`, `imitate: {labels: 1}`)"


def _open(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # what Rust's code raises has no kind of its own
        raise CheckpointError(f"{file}: not a tokenizer that can be read: {first_line(error)}") from None


def _cut_alike(plan: Plan, one: Path, other: Path, *, within: bool) -> bool:
    """Whether two tokenizers cut some training texts into the same tokens, as one with a trimmed vocabulary does;
    `within` asks too that the first has no token of its own.
    """
    cutters = [_open(file) for file in (one, other)]
    if within and not cutters[0].get_vocab().keys() <= cutters[1].get_vocab().keys():
        return False
    if plan.data is None:
        return True
    texts = READERS[plan.recipe.task].texts(plan.data.train.take(range(min(_TEXTS, len(plan.data.train)))))
    return all(
        cutters[0].encode(text, add_special_tokens=False).tokens
        == cutters[1].encode(text, add_special_tokens=False).tokens
        for row in texts
        for text in row
    )
