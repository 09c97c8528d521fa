"""Students with a third of their teacher's decoder: how they learn, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from parts.bench import Bench, kept_by_format, rows_of, times_as_fast

TRAINING = {"learning_rate": 2e-3, "schedule": "cosine", "batch_size": 128, "batch_tokens": 4096, "dropout": 0.1}
STUDENT = {**TRAINING, "epochs": 6, "learning_rate": 1e-3, "dropout": 0.0}
WORDS, ALONE = "word-level", "without its teacher"
MUST, AIM = {"kept": 0.98, "speed": 2.0}, {"kept": 0.99, "speed": 4.0}


def steps_of(student: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The three ways to learn, on equal epochs: by logits on the data's texts, by the teacher's own texts, alone."""
    return {
        WORDS: [{"distill": {"imitate": {"logits": 1.0, "labels": 1.0}, **student}}, "quantize"],
        "sequence-level": [{"distill": {"targets": "teacher", "imitate": {"logits": 1.0, "labels": 0.5}, **student}}],
        ALONE: [{"finetune": dict(student)}],
    }


def compare(
    bench: Bench, title: str, recipe: Callable[[list[Any]], dict[str, Any]], steps: Mapping[str, list[Any]],
    judged: str = WORDS,
) -> dict[str, Any]:  # fmt: skip
    """Each student's rows, what it keeps and how much faster it writes, with the goals of the one that is judged."""
    told: dict[str, Any] = {}
    for name, each in steps.items():
        report = bench.carry_out(f"{title}-{name.replace(',', '').replace(' ', '-')}", recipe(each))
        rows = rows_of(report)
        kept, fast = kept_by_format(rows), times_as_fast(rows)
        told[name] = {
            "rows": rows, "kept": kept["transformers"], "kept_by_format": kept,
            "speed": next(iter(fast["transformers"].values())), "times_as_fast": fast, "seconds": report["seconds"],
        }  # fmt: skip
    found = told[judged]
    told["goals"] = {
        what: {"measured": found[what], "must": MUST[what], "aim": AIM[what], "met": found[what] >= MUST[what]}
        for what in MUST
    }
    teacher = found["rows"][0]["score"]
    control = max(each["rows"][-1]["score"] for name, each in told.items() if name.startswith(ALONE))
    if control > teacher:
        told["goals"]["kept"]["met"] = None
        told["note"] = (
            "the teacher is not trained out: a student that goes on from its weights without it passes it, so what is "
            "kept of its score says nothing; train it longer"
        )
    return told
