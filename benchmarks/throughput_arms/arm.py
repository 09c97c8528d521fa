"""What all arms share: they get a plan, read raw texts, leave final weights, and tell what that took.

An arm is a script of its own, `python ARM.py PLAN.json`, because every library has a Python of its own. Nothing here
imports more than torch and transformers, and no arm imports this project but ours.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

LENGTH = 128  # tokens a text is cut to, in every arm
WARMUP, DECAY, CLIP = 0.1, 0.01, 1.0  # of the loops that have no recipe of their own
PAIRS = {1: 2, 2: 4, 3: 6}  # student layer: teacher layer


@dataclass(frozen=True)
class Plan:
    """What an arm is to do."""

    arm: str
    train: Path
    validation: Path
    dev: Path  # read by none but ours, whose data has a test split
    teacher: Path
    student: Path  # three of the teacher's layers, the same ones for every arm
    output: Path
    batch_size: int
    learning_rate: float
    epochs: int
    seed: int
    steps: int | None = None  # ours alone: where the time of so many steps goes, and no training

    @property
    def weights(self) -> Path:
        """The folder of what is made: a checkpoint that transformers loads."""
        return self.output / "student"

    @classmethod
    def read(cls, path: Path) -> Plan:
        """A plan that was written as JSON."""
        told = json.loads(path.read_text(encoding="utf-8"))
        places = {name: Path(told[name]) for name in ("train", "validation", "dev", "teacher", "student", "output")}
        return cls(**{**told, **places})


def carry_out(train: Callable[[Plan], Any]) -> None:
    """Times an arm from raw text to final weights, imports left out, and writes what it took beside the weights.

    Wall and CPU seconds of this process, which has one thread.
    """
    plan = Plan.read(Path(sys.argv[1]))
    torch.set_num_threads(1)
    transformers.set_seed(plan.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    more = train(plan)
    told = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **(more or {}),
    }
    (plan.output / "told.json").write_text(json.dumps(told), encoding="utf-8")


def rows(path: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of a tsv that the benchmark wrote."""
    with path.open(encoding="utf-8") as file:
        read = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    return [text for text, _ in read], [int(label == "positive") for _, label in read]


def model(folder: Path, **config: Any) -> Any:
    """A checkpoint in float32."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **config)


class Texts(torch.utils.data.Dataset):
    """Texts cut into tokens at once, padded to 128 tokens or, by the collator, to the longest of their batch."""

    def __init__(self, path: Path, tokenizer: Any, *, padded: bool) -> None:
        texts, self.labels = rows(path)
        padding = "max_length" if padded else False
        self.tokens = tokenizer(texts, truncation=True, max_length=LENGTH, padding=padding)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**{name: column[row] for name, column in self.tokens.items()}, "labels": self.labels[row]}
