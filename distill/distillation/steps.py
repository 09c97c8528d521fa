"""The steps themselves."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from distill import processes
from distill.augmentation import augment
from distill.checkpoint import Checkpoint
from distill.compiling import compiled, require_compiler
from distill.data import Encoded, Splits
from distill.data.more import refusal
from distill.disk import machine_errors
from distill.distillation.asking import ask
from distill.distillation.comparing import compare, token_loss
from distill.distillation.fitting import beginnings, held_out, relation_heads, require_alike, require_fit
from distill.distillation.lesson import Lesson
from distill.distillation.mixing import told
from distill.distillation.writing import taught
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError
from distill.recipe import settings
from distill.tasks import better
from distill.teacher import Ensemble, Keep
from distill.training import Watch, blocks_kept, choose_dtype, fit

log = logging.getLogger(__name__)
_TURN = 1_000_003  # between the seeds of a chain's trainings; far from those that a recipe gives its students


def finetune(
    checkpoint: Checkpoint,
    words: settings.Finetune,
    *,
    data: Splits,
    watch: Watch | None = None,
    turn: int = 0,
) -> Checkpoint:
    """A checkpoint trained on the labels of the training split, at its best epoch on validation.

    The checkpoint given stays as it was; `watch` follows the training and holds its log in the end. `turn` counts the
    trainings that went before: each draws its batches anew, so that a part of an epoch is another part each time.
    Raises TrainingError, and MachineError where there is no compiler and one is wanted.
    """
    require_compiler(words.compile)
    checkpoint = checkpoint.copy()
    checkpoint.model.requires_grad_(True)
    objective = Lesson(checkpoint.model, data.task, settings.Imitate(labels=settings.Term(weight=1.0)))
    with blocks_kept():
        trained, _ = _train(checkpoint, objective, words, data, None, watch or Watch("finetune"), turn)
    return trained


def distill(
    student: Checkpoint,
    words: settings.Distill,
    *,
    data: Splits,
    teacher: Checkpoint | Ensemble,
    watch: Watch | None = None,
    keep: Sequence[Keep | None] = (),
    turn: int = 0,
) -> Checkpoint:
    """A student trained to imitate its teacher, or several as one, on the training split, and on the extra rows that
    the teacher labels, at its best epoch on validation.

    The student given stays as it was; projections that bridge different widths, and learned layer maps, are trained
    beside it and left behind.
    `watch` follows the training and holds its log in the end; `keep` keeps what each teacher says for the next one,
    of which `turn` is the number, as in `finetune`.
    Raises CheckpointError where they don't fit, TrainingError, and MachineError where a compiler is wanted and there is
    none.
    """
    require_compiler(words.compile)
    data, guide = with_more(data, words), Ensemble.of(teacher)
    student, first, keep = student.copy(), guide.first, [*keep] or [None] * len(guide)
    student.model.requires_grad_(True)
    if words.imitate.logits is not None:
        data.task.require_loss(words.imitate.logits.loss)
    require_alike(guide, words, data)
    if words.targets == "teacher":
        data = taught(data, first, choose_dtype(words.dtype), keep[0])
    pairs = require_fit(student, first, words, data)
    imitate = words.imitate
    if imitate.relations is not None:
        heads = relation_heads(imitate.relations, student, first, pairs, data)
        imitate = imitate.model_copy(update={"relations": imitate.relations.model_copy(update={"heads": heads})})
    compared = [one.model.config.get_text_config() for one in (student, first)] if "hidden_states" in pairs else []
    widths = [config.hidden_size for config in compared] or [0, 0]
    torch.manual_seed(_seed(data, turn))  # of the projections; the loop seeds itself
    configs = student.model.config.to_dict(), first.model.config.to_dict()
    objective = Lesson(
        student.model, data.task, imitate, temperature=words.temperature, pairs=pairs,
        start=beginnings(imitate, *configs), widths=widths,
    )  # fmt: skip
    watch = watch or Watch("distill")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch(watch))
        stack.enter_context(_eager([student, first] if "attentions" in pairs else []))
        for one in guide.teachers:
            stack.enter_context(compiled(one.model, words.compile))
        stack.enter_context(blocks_kept())
        source, rows = ask(guide, student, words, data, objective, scratch, keep)
        trained, answers = _train(student, objective, words, data, source, watch, turn, rows)
    watch.log.signals = getattr(source, "told", None) or None
    if objective.maps:
        watch.log.layer_maps = processes.once(lambda: told(objective.maps, *configs, watch.log.step))
    processes.once(lambda: compare(trained, guide, data, watch.log, choose_dtype(words.dtype), answers))
    return trained


def with_more(data: Splits, words: settings.Distill) -> Splits:
    """The data with its extra rows in the training split; copies that nobody has made yet are made now.

    Raises CheckpointError where the step can't learn from rows without labels.
    """
    data = augment(data)
    if data.extra and (reason := refusal(type(data.task), words)):
        raise CheckpointError(reason)
    return data.extended


@contextlib.contextmanager
def _eager(checkpoints: Sequence[Checkpoint]) -> Iterator[None]:
    """Attention that gives its weights away, in some models, for as long as the block lasts: fused attention can't."""
    own = [checkpoint.model.config._attn_implementation for checkpoint in checkpoints]
    if any(name != "eager" for name in own):
        log.info("attentions are imitated, so both run in eager attention while training")
    for checkpoint in checkpoints:
        checkpoint.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for checkpoint, before in zip(checkpoints, own, strict=True):
            checkpoint.model.set_attn_implementation(before)


@contextlib.contextmanager
def _scratch(watch: Watch) -> Iterator[Path]:
    """A folder for the teacher's signals, the same for all processes: in the training's own, where a killed run leaves
    nothing behind for long.
    """

    def begin() -> Path:
        if watch.folder is None:
            return Path(tempfile.mkdtemp(prefix="distill-signals-"))
        folder = watch.folder / "signals"
        shutil.rmtree(folder, ignore_errors=True)
        with machine_errors(f"writing {folder}"):
            folder.mkdir(parents=True)
        return folder

    scratch = processes.once(begin)
    try:
        yield scratch
    finally:
        if processes.is_first():
            shutil.rmtree(scratch, ignore_errors=True)


def _train(
    checkpoint: Checkpoint, objective: Lesson, words: settings.Training, data: Splits, source: object | None,
    watch: Watch, turn: int, rows: Encoded | None = None,
) -> tuple[Checkpoint, np.ndarray | None]:  # fmt: skip
    """The checkpoint at its best epoch, and its answers to the validation split there, where this process has them."""
    model, task, held = checkpoint.model, data.task, held_out(checkpoint, data)
    engine, lower = Torch(model, choose_dtype(words.dtype)), task.lower or task.generates
    best: tuple[float, np.ndarray, int] | None = None  # its score, answers, and place among this sitting's
    asked = 0

    def validate() -> float:
        nonlocal best, asked
        asked += 1
        if task.generates:
            return token_loss(engine, held, task)
        answers = answer_all(engine, held, task)
        score = task.score(task.predictions(answers, task.choose_threshold(answers, held.labels)), held.labels)
        if best is None or better(score, best[0], lower=lower):
            best = score, answers, asked
        return score

    fit(
        objective, rows or checkpoint.encode(data, "train"), words, validate=validate,
        answer=source.signals if source else None, lower=lower, seed=_seed(data, turn), watch=watch,
    )  # fmt: skip
    settle(checkpoint, data)
    if best is None or words.simulate is not None:
        return checkpoint, None
    place = watch.log.epochs.index(watch.log.best) - (len(watch.log.epochs) - asked) + 1
    return checkpoint, best[1] if place == best[2] else None  # the best epoch may be of an earlier sitting


def _seed(data: Splits, turn: int) -> int:
    """That of a chain's training, by how many went before."""
    return (data.seed + turn * _TURN) % (1 << 32)


def settle(checkpoint: Checkpoint, data: Splits) -> None:
    """What answers hang on beside the weights, kept in the config: the probability from which one of many labels, or no
    answer, counts as given, chosen on validation; what windows of a long text share; whether a text is one or two; and
    to how many tokens it is cut.
    """
    if data.max_length is not None:  # whoever loads the checkpoint cuts texts as they are here
        checkpoint.tokenizer.model_max_length = min(data.max_length, checkpoint.tokenizer.model_max_length)
    if data.task.pairs:
        checkpoint.model.config.texts = len(data.train.texts[0])
    data.task.settle(checkpoint.model)
    if data.task.windows:
        checkpoint.model.config.window_stride = data.words.stride
    if data.task.chooses:
        held = checkpoint.encode(data, "validation")
        answers = answer_all(Torch(checkpoint.model), held, data.task)
        checkpoint.model.config.threshold = data.task.choose_threshold(answers, held.labels)
