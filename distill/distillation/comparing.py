"""A student beside its teacher on validation texts: was there something to learn, and how much of it came over?"""

from __future__ import annotations

import logging

import numpy as np
from scipy.special import log_softmax

from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.engines import Torch, answer_all
from distill.ensemble import Ensemble
from distill.tasks import better
from distill.training import TrainingLog

log = logging.getLogger(__name__)


def compare(student: Checkpoint, teacher: Checkpoint | Ensemble, data: Splits, record: TrainingLog) -> None:
    """Notes in a training's record how its teacher does on validation, and warns where it does worse than the student.
    Several teachers answer as one.

    Nothing is noted for tasks whose answers are texts to write: there a training is judged by the loss of tokens.
    """
    task = data.task
    if task.generates:
        return
    guide = Ensemble.of(teacher)
    who = "teacher" if len(guide) == 1 else "ensemble of teachers"
    answers = answer_all(guide.engine(data, "validation"), held := guide.encode(data, "validation"), task)
    threshold = task.choose_threshold(answers, held.labels)
    score = task.score(task.predictions(answers, threshold), held.labels)
    record.teacher = {"score": score}
    if task.problem == "single_label_classification":
        mine = answer_all(Torch(student.model), student.encode(data, "validation"), task)
        logs = log_softmax(answers.astype(np.float64), axis=-1)
        record.teacher["agreement"] = task.agreement(mine, answers, threshold)
        record.teacher["entropy"] = float(-(np.exp(logs) * logs).sum(-1).mean())
    told = ", ".join(f"{name} {value:.4f}" for name, value in record.teacher.items())
    best = record.best["score"]
    log.info("%s: the %s on validation: %s", record.step, who, told)
    if better(best, score, lower=task.lower) and abs(best - score) > _clear(score, len(held), lower=task.lower):
        log.warning(
            "%s: the %s scores %.4f on validation and the student %.4f: it imitates what is worse than it can do "
            "itself; train the teacher%s longer, or `finetune`",
            record.step, who, score, best, "s" * (len(guide) > 1),
        )  # fmt: skip


def _clear(score: float, texts: int, *, lower: bool) -> float:
    """A difference that is hardly chance: two standard errors of a share, a hundredth of what has no upper end."""
    return 0.01 * score if lower else texts**-0.5
