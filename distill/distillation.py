"""The training steps: `distill` imitates a teacher, `finetune` learns from labels alone; one objective serves both."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill import anatomy
from distill.checkpoint import Checkpoint
from distill.data import NO_TARGET, Encoded, Rows, Splits, TokenBatches, collate
from distill.disk import machine_errors
from distill.engines import Engine, Torch, answer_all
from distill.errors import CheckpointError, DataError
from distill.losses import LOSSES, in_portions, to_targets
from distill.recipe import settings
from distill.signals import Signals, read
from distill.tasks import Task
from distill.teacher import Keep, answering, fingerprint
from distill.training import Objective, Watch, choose_dtype, fit

log = logging.getLogger(__name__)
_HELD, _HELD_TOKENS = 64, 8192


def finetune(
    checkpoint: Checkpoint,
    words: settings.Finetune,
    *,
    data: Splits,
    watch: Watch | None = None,
) -> Checkpoint:
    """A checkpoint trained on the labels of the training split, at its best epoch on validation.

    The checkpoint given stays as it was; `watch` follows the training and holds its log in the end. Raises
    TrainingError.
    """
    checkpoint = checkpoint.copy()
    checkpoint.model.requires_grad_(True)
    objective = Lesson(checkpoint.model, data.task, labels=settings.Term(weight=1.0))
    return _train(checkpoint, objective, words, data, None, watch or Watch("finetune"))


def distill(
    student: Checkpoint,
    words: settings.Distill,
    *,
    data: Splits,
    teacher: Checkpoint,
    watch: Watch | None = None,
    keep: Keep | None = None,
) -> Checkpoint:
    """A student trained to imitate its teacher on the training split, at its best epoch on validation.

    The student given stays as it was; projections that bridge different widths are trained beside it and left behind.
    `watch` follows the training and holds its log in the end; `keep` keeps the teacher's logits for the next one.
    Raises CheckpointError where the two don't fit, TrainingError.
    """
    student = student.copy()
    student.model.requires_grad_(True)
    asked = words.imitate.hidden_states
    if words.imitate.logits is not None:
        data.task.require_loss(words.imitate.logits.loss)
    if words.targets == "teacher":
        data = taught(data, teacher, choose_dtype(words.dtype), keep)
    pairs = require_fit(student, teacher, words, data)
    if data.task.head_labels and teacher.model.config.num_labels != len(data.task.labels):
        raise CheckpointError(
            f"the teacher's head has {teacher.model.config.num_labels} labels, the data {len(data.task.labels)}; "
            "give the teacher a `finetune`"
        )
    mine, theirs = student.encode(data, "train"), teacher.encode(data, "train")
    widths = (student.model.config.hidden_size, teacher.model.config.hidden_size)
    torch.manual_seed(data.seed)  # of the projections; the loop seeds itself
    objective = Lesson(
        student.model,
        data.task,
        words.imitate.labels,
        words.imitate.logits,
        asked,
        words.temperature,
        pairs,
        widths,
    )
    with _scratch(watch) as scratch:
        same_ids = _same_ids(mine, theirs)  # not behind a trimmed vocabulary, where the teacher can't read along
        source = answering(
            teacher, theirs, sorted({layer for _, layer in pairs}), epochs=words.epochs,
            dtype=choose_dtype(words.dtype), scratch=scratch, by_token=data.task.by_token, live=same_ids, keep=keep,
        )  # fmt: skip
        rows = theirs if pairs and same_ids and mine.types is None else mine  # a live teacher may want token types
        return _train(student, objective, words, data, source, watch or Watch("distill"), rows)


@contextlib.contextmanager
def _scratch(watch: Watch | None) -> Iterator[Path]:
    """A folder for the teacher's signals: in the training's own, where a killed run leaves nothing behind for long."""
    if watch is None or watch.folder is None:
        with tempfile.TemporaryDirectory(prefix="distill-signals-") as scratch:
            yield Path(scratch)
        return
    scratch = watch.folder / "signals"
    shutil.rmtree(scratch, ignore_errors=True)
    with machine_errors(f"writing {scratch}"):
        scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Lesson(Objective):
    """A student, the projections its loss needs, and the terms of that loss."""

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        labels: settings.Term | None = None,
        logits: settings.LogitsTerm | None = None,
        hidden_states: settings.HiddenStatesTerm | None = None,
        temperature: float = 1.0,
        pairs: list[tuple[int, int]] | None = None,
        widths: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.student, self.task, self.temperature, self.pairs = student, task, temperature, pairs or []
        self.asked = {"logits": logits, "hidden_states": hidden_states, "labels": labels}
        self.weights = {name: term.weight for name, term in self.asked.items() if term is not None}
        different = widths[0] != widths[1]
        self.projections = nn.ModuleDict(
            {str(mine): nn.Linear(*widths, bias=False) for mine, _ in self.pairs} if different else {}
        ).to(student.device)

    def forward(self, batch: dict[str, Tensor], signals: Signals | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term before its weight."""
        found = read(self.student, batch, [mine for mine, _ in self.pairs])
        terms = {}
        if "logits" in self.weights:
            terms["logits"] = self._logits(found.logits, signals.logits, batch)
        if "hidden_states" in self.weights:
            terms["hidden_states"] = self._hidden(found, signals, batch)
        if "labels" in self.weights:
            terms["labels"] = to_targets(self.task, found.logits, batch)
        return sum(self.weights[name] * value for name, value in terms.items()), terms

    def _logits(self, student: Tensor, teacher: Tensor, batch: dict[str, Tensor]) -> Tensor:
        asked = self.asked["logits"]
        name, words = self.task.soft_loss(asked.loss), dict(asked.words)
        student, teacher = (self.task.imitated(logits, batch) for logits in (student, teacher))
        if not self.task.head_labels:  # vocabularies are often padded, and to different sizes
            common = min(student.shape[-1], teacher.shape[-1])
            student, teacher = student[:, :common], teacher[:, :common]
        if name == "mse":
            return in_portions(LOSSES[name], student, teacher)
        if name == "decoupled_kl":
            return LOSSES[name](student, teacher, self.temperature, labels=self.task.targets(batch), **words)
        return in_portions(partial(LOSSES[name], temperature=self.temperature, **words), student, teacher)

    def _hidden(self, student: Signals, teacher: Signals, batch: dict[str, Tensor]) -> Tensor:
        """The mean over the pairs of layers, on real tokens: of the text that is read, or of the one to write."""
        loss, config = LOSSES[self.asked["hidden_states"].loss], self.student.config.to_dict()
        losses = []
        for mine, theirs in self.pairs:
            written = anatomy.is_written(config, mine)
            mask = batch["labels"] != NO_TARGET if written else batch["attention_mask"]
            states = student.hidden_states[mine]
            if str(mine) in self.projections:
                states = self.projections[str(mine)](states)
            losses.append(loss(states, teacher.hidden_states[theirs], mask))
        return torch.stack(losses).mean()


def require_fit(
    student: Checkpoint, teacher: Checkpoint, words: settings.Distill, data: Splits
) -> list[tuple[int, int]]:
    """The pairs of layers that a student follows; none when it imitates no hidden states.

    Raises CheckpointError when the layers aren't there, or when the two cut texts into different tokens.
    """
    if not data.task.head_labels:
        _require_same_vocabulary(student, teacher, data)
    asked = words.imitate.hidden_states
    by_token = data.task.by_token and data.task.head_labels and words.imitate.logits is not None
    if by_token and not _same_tokens(student, teacher, data):
        raise CheckpointError(
            "imitate.logits: student and teacher cut texts into different tokens, or to different lengths, so their "
            "logits can't be compared token by token; take a student with the teacher's tokenizer, or keep the tokens "
            "that training texts use (`vocabulary: used`)"
        )
    if asked is None:
        return []
    pairs = layer_pairs(asked, student.model.config.to_dict(), teacher.model.config.to_dict())
    if not _same_tokens(student, teacher, data):
        raise CheckpointError(
            "imitate.hidden_states: student and teacher cut texts into different tokens, or to different lengths, so "
            "their hidden states can't be compared token by token; imitate logits alone, or set data.max_length"
        )
    return pairs


def _require_same_vocabulary(student: Checkpoint, teacher: Checkpoint, data: Splits) -> None:
    """Where the classes are the vocabulary a student can follow its teacher in the same one alone."""
    mine, theirs = (checkpoint.encode(data, "train") for checkpoint in (student, teacher))
    if mine is not theirs and not _same_ids(mine, theirs):
        raise CheckpointError(
            "imitate: student and teacher cut the same texts into different tokens, and their logits are over those "
            "tokens; take a student with the teacher's tokenizer and positions, trim `vocabulary` after the last "
            "`distill`, or `finetune` without a teacher"
        )
    least = min(checkpoint.model.config.vocab_size for checkpoint in (student, teacher))
    if least < len(student.tokenizer):
        raise CheckpointError(
            f"imitate: the tokenizer has {len(student.tokenizer)} tokens, but one of the two models knows {least}"
        )


def layer_pairs(
    asked: settings.HiddenStatesTerm, student: dict[str, object], teacher: dict[str, object]
) -> list[tuple[int, int]]:
    """Which of a student's hidden states follows which of its teacher's, from the configs. Raises CheckpointError."""
    for config in (student, teacher):
        if reason := anatomy.refuse(config, "hidden_states"):
            raise CheckpointError(f"imitate.hidden_states: {reason}")
    return anatomy.state_pairs(asked.layers, asked.side, student, teacher)


def _same_ids(one: Encoded, other: Encoded) -> bool:
    if one is other:
        return True
    same = [one.ids.shape == other.ids.shape and bool((one.ids == other.ids).all())]
    if one.decoder_start is not None and other.decoder_start is not None:
        mine, theirs = one.targets.values, other.targets.values
        same += [one.decoder_start == other.decoder_start, mine.shape == theirs.shape and bool((mine == theirs).all())]
    return all(same)


def _same_tokens(one: Checkpoint, other: Checkpoint, data: Splits) -> bool:
    """Whether both cut every training text into the same tokens, whatever their numbers."""
    mine, theirs = one.encode(data, "train"), other.encode(data, "train")
    if _same_ids(mine, theirs):
        return True
    if mine.ids.shape != theirs.ids.shape or not (mine.offsets == theirs.offsets).all():
        return False
    pairs = np.unique(np.stack([mine.ids, theirs.ids]), axis=1).tolist()
    tokens = [
        checkpoint.tokenizer.convert_ids_to_tokens(ids) for checkpoint, ids in zip((one, other), pairs, strict=True)
    ]
    return tokens[0] == tokens[1]


def _train(
    checkpoint: Checkpoint, objective: Lesson, words: settings.Training, data: Splits, source: object | None,
    watch: Watch, rows: Encoded | None = None,
) -> Checkpoint:  # fmt: skip
    model, task, held = checkpoint.model, data.task, checkpoint.encode(data, "validation")
    engine = Torch(model, choose_dtype(words.dtype))

    def validate() -> float:
        if task.generates:
            return token_loss(engine, held, task)
        answers = answer_all(engine, held, task)
        return task.score(task.predictions(answers, task.choose_threshold(answers, held.labels)), held.labels)

    fit(
        objective, rows or checkpoint.encode(data, "train"), words, validate=validate,
        answer=source.signals if source else None, lower=task.lower or task.generates, seed=data.seed, watch=watch,
    )  # fmt: skip
    if data.max_length is not None:  # whoever loads the checkpoint cuts texts as its training did
        checkpoint.tokenizer.model_max_length = min(data.max_length, checkpoint.tokenizer.model_max_length)
    settle(checkpoint, data)
    return checkpoint


def token_loss(engine: Engine, encoded: Encoded, task: Task) -> float:
    """The mean loss, in nats, of a split's tokens to write, each behind the right ones: what chooses an epoch where
    writing the texts themselves would take too long.
    """
    summed = np.zeros(2)
    for rows in TokenBatches(encoded.work, _HELD, _HELD_TOKENS):
        batch = collate(encoded, rows)
        summed += task.reduce(engine.answer(batch), batch).sum(0)
    return float(summed[0] / summed[1])


def cut_off(share: float, task: Task) -> str:
    """Says of texts that did not end."""
    return (
        f"{100 * share:.1f} % of them don't end before generation.max_new_tokens = {task.words.max_new_tokens}, where "
        "they are cut off"
    )


def taught(data: Splits, teacher: Checkpoint, dtype: torch.dtype, keep: Keep | None = None) -> Splits:
    """The data with the texts that a teacher writes for its training split in place of its own (Kim and Rush 2016).

    Validation and test stay as they are. `keep` keeps the texts for the next training. Raises DataError for a task
    whose answers are no texts.
    """
    task = data.task
    if not task.generates:
        raise DataError(f"distill.targets: {task.name} writes no texts that a student could learn from")
    encoded = teacher.encode(data, "train")

    def write() -> np.ndarray:
        texts = answer_all(Torch(teacher.model, dtype), encoded, task, title="the teacher writes")
        if cut := task.unended(texts):
            log.warning("the teacher's texts: %s", cut_off(cut, task))
        return np.frombuffer(json.dumps(task.predictions(texts).tolist()).encode(), dtype=np.uint8)

    facts = {"texts": fingerprint(encoded), "dtype": str(dtype), "written": task.words.model_dump(mode="json")}
    texts = json.loads((keep(facts, write) if keep else write()).tobytes())
    same = sum(mine == theirs for mine, theirs in zip(texts, data.train.labels, strict=True))
    log.info("the teacher's texts stand for the data's: %s", f"{same} of {len(texts)} are the same")
    return replace(data, train=Rows(data.train.texts, texts), _encoded={})


def settle(checkpoint: Checkpoint, data: Splits) -> None:
    """What answers hang on beside the weights, kept in the config: the probability from which one of many labels, or no
    answer, counts as given, chosen on validation; and what windows of a long text share.
    """
    data.task.settle(checkpoint.model)
    if data.task.windows:
        checkpoint.model.config.window_stride = data.words.stride
    if data.task.chooses:
        held = checkpoint.encode(data, "validation")
        answers = answer_all(Torch(checkpoint.model), held, data.task)
        checkpoint.model.config.threshold = data.task.choose_threshold(answers, held.labels)
