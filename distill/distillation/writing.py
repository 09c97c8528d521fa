"""Sequence-level distillation: the texts that a teacher writes stand for the data's own."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from distill import processes
from distill.checkpoint import Checkpoint
from distill.data import Rows, Splits
from distill.disk import write_text
from distill.engines import Torch, answer_all
from distill.errors import DataError
from distill.tasks import Task
from distill.teacher.saved import Keep, fingerprint

log = logging.getLogger(__name__)
_TEXTS = "texts.json"


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

    def write(folder: Path) -> None:
        texts = answer_all(Torch(teacher.model, dtype), encoded, task, title="the teacher writes")
        if cut := task.unended(texts):
            log.warning("the teacher's texts: %s", cut_off(cut, task))
        write_text(folder / _TEXTS, json.dumps(task.predictions(texts).tolist()))

    def kept() -> list[str]:
        with tempfile.TemporaryDirectory(prefix="distill-texts-") as scratch:
            folder = Path(scratch) / "texts"
            if keep is None:
                folder.mkdir()
                write(folder)
            else:
                keep(facts, write, folder)
            return json.loads((folder / _TEXTS).read_text(encoding="utf-8"))

    facts = {
        "texts": fingerprint(encoded, written=False),
        "dtype": str(dtype),
        "written": task.words.model_dump(mode="json"),
    }
    texts = processes.once(kept)
    same = sum(mine == theirs for mine, theirs in zip(texts, data.train.labels, strict=True))
    there = sum(bool(text) for text in data.train.labels)  # rows without labels have none
    log.info("the teacher's texts stand for the data's: %s", f"{same} of {there} are the same")
    return replace(data, train=Rows(data.train.texts, texts), _encoded={})
