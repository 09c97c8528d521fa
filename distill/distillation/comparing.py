"""A student beside its teacher on validation texts: was there something to learn, and how much of it came over?"""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.special import log_expit, log_softmax

from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, TokenBatches, collate
from distill.engines import Engine, Torch, answer_all
from distill.tasks import Task, better
from distill.teacher import Ensemble
from distill.training import TrainingLog

log = logging.getLogger(__name__)
_ROWS, _TOKENS = 64, 8192  # of a batch whose tokens' loss is taken
_NUMBERS = 1 << 26  # of its logits: 256 MB


def compare(
    student: Checkpoint, teacher: Checkpoint | Ensemble, data: Splits, record: TrainingLog,
    dtype: torch.dtype | None = None, mine: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Notes in a training's record how its teacher does on validation, and warns where it does worse than the student.
    Several teachers answer as one. What is noted of both is what an epoch was chosen by: a score, or the loss of tokens
    where answers are texts to write; in the `dtype` that the epochs were scored in. `mine` are the student's
    answers, where they are there already.

    Where labels are given the share of equal answers is noted too, and the mean entropy, in nats, of what the teacher
    gives a label, a tag or one of many labels. Tokens of a vocabulary have neither: agreeing on each is no aim there.
    """
    task, guide = data.task, Ensemble.of(teacher)
    who = "teacher" if len(guide) == 1 else "ensemble of teachers"
    engine, held = guide.engine(data, "validation", dtype), guide.encode(data, "validation")
    if task.generates:
        score = token_loss(engine, held, task)
        record.teacher = {"loss": score}
    else:
        answers = answer_all(engine, held, task)
        threshold = task.choose_threshold(answers, held.labels)
        score = task.score(task.predictions(answers, threshold), held.labels)
        record.teacher = {"score": score}
        if task.head_labels and task.problem != "regression":
            if mine is None:
                mine = answer_all(Torch(student.model, dtype), student.encode(data, "validation"), task)
            own = task.choose_threshold(mine, held.labels)  # each as it is used
            record.teacher["agreement"] = task.agreement(mine, answers, own, threshold)
        if (entropy := entropy_of(task, answers)) is not None:
            record.teacher["entropy"] = entropy
    told = ", ".join(f"{name} {value:.4f}" for name, value in record.teacher.items())
    best = record.best["score"]
    log.info("%s: the %s on validation: %s", record.step, who, told)
    if task.generates and len(held.targets.values) != len(student.encode(data, "validation").targets.values):
        return  # by other tokens, so their losses can't be held against each other
    lower = task.lower or task.generates
    if better(best, score, lower=lower) and abs(best - score) > _clear(score, len(held), lower=lower):
        log.warning(
            "%s: the %s has %.4f on validation and the student %.4f: it imitates what is worse than it can do "
            "itself; train the teacher%s longer, or `finetune`",
            record.step, who, score, best, "s" * (len(guide) > 1),
        )  # fmt: skip


def token_loss(engine: Engine, encoded: Encoded, task: Task) -> float:
    """The mean loss, in nats, of a split's tokens to write, each behind the right ones: what chooses an epoch where
    writing the texts themselves would take too long.
    """
    summed = np.zeros(2)
    classes = len(encoded.tokenizer) if encoded.tokenizer is not None else 1
    for rows in TokenBatches(encoded.work, _ROWS, min(_TOKENS, max(1, _NUMBERS // classes))):
        batch = collate(encoded, rows)
        summed += task.reduce(engine.answer(batch), batch).sum(0)
    return float(summed[0] / summed[1])


def entropy_of(task: Task, answers: np.ndarray) -> float | None:
    """The mean entropy, in nats, of answers that are logits of labels, (…, labels); of many labels that of each flag.
    None for other answers.
    """
    if not task.head_labels or task.windows or task.problem == "regression":
        return None
    logits = answers.reshape(-1, answers.shape[-1]).astype(np.float64)
    logits = logits[np.isfinite(logits).all(-1)]  # of a word that isn't there they are no numbers
    if task.activation == "sigmoid":
        logs = np.stack([log_expit(logits), log_expit(-logits)], axis=-1)
    else:
        logs = log_softmax(logits, axis=-1)
    return float(-(np.exp(logs) * logs).sum(-1).mean())


def _clear(score: float, texts: int, *, lower: bool) -> float:
    """A difference that is hardly chance: two standard errors of a share, a hundredth of what has no upper end."""
    return 0.01 * score if lower else texts**-0.5
