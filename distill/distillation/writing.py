"""Sequence-level distillation: the texts that a teacher writes stand for the data's own."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import torch

from distill.checkpoint import Checkpoint
from distill.data import Rows, Splits
from distill.engines import Torch, answer_all
from distill.errors import DataError
from distill.tasks import Task
from distill.teacher import Keep, fingerprint

log = logging.getLogger(__name__)


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
