"""Who answers in a training: a teacher, or several as one, each asked in the cheaper way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill import processes
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, TokenBatches
from distill.distillation.fitting import asks_teacher, same_ids, wanted_of
from distill.distillation.lesson import Lesson
from distill.errors import CheckpointError
from distill.recipe import settings
from distill.signals import NOTHING
from distill.tasks import Task
from distill.teacher import Keep, Live, Teacher, answering
from distill.teacher.ensemble import Ensemble, Mixture
from distill.teacher.labelling import Pass
from distill.teacher.renumbering import numbers_between
from distill.teacher.worth import Asked
from distill.training import choose_dtype


def name_of(place: int, number: int) -> str:
    """What a training calls one of its teachers; places count from 0."""
    return "the teacher" if number == 1 else f"teacher {place + 1}"


def ask(
    guide: Ensemble, student: Checkpoint, words: settings.Distill, data: Splits, lesson: Lesson, scratch: Path,
    keep: Sequence[Keep | None],
) -> tuple[Teacher | None, Encoded]:  # fmt: skip
    """What answers for the training split, nothing where texts that the teacher wrote are all that is learned; and the
    split as the student reads it.

    A teacher is asked live only where it reads the student's ids, or is asked in its own numbers for them; of several
    each one's signals are kept apart, and mixed when they are looked up. `lesson` says what is asked for; hidden
    states, attentions and vectors are the first teacher's.
    """
    mine = student.encode(data, "train")
    if not asks_teacher(words):
        return None, mine
    several = guide.teachers if words.imitate.logits is not None else guide.teachers[:1]
    label_pass = _label_pass(words, data.task)  # an engine is held to its logits
    needed = data.task.head_labels or words.imitate.logits is not None
    epochs = epochs_of(words, mine)
    sources, read = [], [teacher.encode(data, "train") for teacher in several]
    for place, (teacher, theirs) in enumerate(zip(several, read, strict=True)):
        wanted = wanted_of(lesson.asked, lesson.pairs, teacher=True) if place == 0 else NOTHING
        wanted = replace(wanted, logits=needed)
        alike, along = same_ids(mine, theirs), data.task.reads_along(words.imitate)
        if not alike and (reason := data.task.refuse_other_ids(words)):
            raise CheckpointError(reason)
        numbers = numbers_between(student, teacher, data) if along and not alike else None
        source = answering(
            teacher, mine if numbers else theirs, wanted, epochs=epochs, dtype=choose_dtype(words.dtype),
            scratch=_shelf(scratch, place), live=alike or numbers is not None, keep=keep[place],
            asked=_asked(words, data.task, student, teacher), off=words.kept == "off",
            label_pass=label_pass, who=name_of(place, len(guide)), numbers=numbers,
        )  # fmt: skip
        sources.append(source)
    live = any(isinstance(source, Live) for source in sources)
    typed = [theirs for theirs in read if theirs.types is not None and same_ids(mine, theirs)]
    rows = typed[0] if mine.types is None and typed and (lesson.pairs or live) else mine  # they may want token types
    if len(sources) == 1:
        return sources[0], rows
    raw = data.task.soft_loss(words.imitate.logits.loss) == "mse"
    return Mixture(sources, guide.weights, data.task, temperature=words.temperature, raw=raw), rows


def epochs_of(words: settings.Training, encoded: Encoded) -> float:
    """How often a training reads its rows: as often as the recipe says, or as its steps make it."""
    if words.max_steps is None:
        return words.epochs
    batches = len(TokenBatches(encoded.work, words.batch_size, words.batch_tokens))
    return words.max_steps / -(-batches // words.accumulate)


def _shelf(scratch: Path, place: int) -> Path:
    """Where one teacher's signals lie during a training."""
    if place == 0:
        return scratch
    shelf = scratch / f"{place + 1}"
    processes.once(lambda: shelf.mkdir())
    return shelf


def _asked(words: settings.Distill, task: Task, student: Checkpoint, teacher: Checkpoint) -> Asked | None:
    """How a recipe wants logits over a vocabulary kept, where it says so. Raises CheckpointError."""
    task.require_kept(words.signals)
    if task.head_labels or words.kept in (None, "off") or words.imitate.logits is None:
        return None
    classes = min(model.config.vocab_size for model in (student.model, teacher.model))
    return Asked(words.kept, words.temperature, classes, student.model, words.imitate.logits.needs_whole)


def _label_pass(words: settings.Distill, task: Task) -> Pass | None:
    """How a recipe wants saved signals computed, where it says so."""
    asked = words.signals
    return Pass(asked, words.temperature, task) if asked is not None and asked.engine is not None else None
