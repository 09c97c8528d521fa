"""Question answering: what is asked about the requests of snips, a MiniLM and half of it in int8.

A slot becomes a question ("which artist?") whose answer stands in the request; of other slots that requests of its
intent have, one that this request lacks is asked for too, a question without an answer (Du et al. 2021 pose slots as
questions; SQuAD 2 has such pairs). Requests trained on and requests scored are those of the slots' own part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parts.bench import Bench, kept_by_format, rows_of, times_as_fast
from parts.slots import requests_of

SEED = 7
RECIPE: dict[str, Any] = {
    "task": "question-answering",
    "teacher": {"card": "minilm-l6", "finetune": {"epochs": 2, "learning_rate": 3e-4, "batch_size": 64}},
    "student": {"layers": 3},
    "steps": [
        {
            "distill": {
                "imitate": {"logits": 1.0, "hidden_states": 1.0, "labels": 0.5},
                "temperature": 2,
                "epochs": 3,
                "learning_rate": 5e-4,
                "batch_size": 64,
            }
        },
        {"quantize": {}},
    ],
    "timing": {"batch": [1, 32], "tokens": 24, "rounds": 60},
    "seed": SEED,
}


def make(bench: Bench) -> dict[str, Any]:
    """The run's rows, its data, and what each step took."""
    source, test = (write(bench.data / "snips", split, bench.runs) for split in ("train", "validate"))
    data = {"source": str(source), "test": str(test), "text": ["question", "context"], "label": "answers"}
    data |= {"validation": 0.1, "max_length": 64}
    report = bench.carry_out("questions", {**RECIPE, "data": data})
    rows = rows_of(report)
    return {
        "recipe": {**RECIPE, "data": {**data, "source": source.name, "test": test.name}},
        "data": {word: report["data"][word] for word in ("rows", "truncated", "test_sha256")},
        "seconds": {step["name"]: step["seconds"] for step in report["steps"]},
        "parity": report["parity"],
        "kept": kept_by_format(rows),
        "times_as_fast": times_as_fast(rows),
        "rows": rows,
    }


def write(snips: Path, split: str, runs: Path) -> Path:
    """Questions, contexts and answers of one split as jsonl: of each request a slot, and one that it lacks."""
    path = runs / f"questions-{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in _questions(snips, split)), encoding="utf-8")
    return path


def _questions(snips: Path, split: str) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    intents: dict[str, list[list[dict[str, str]]]] = {}
    for intent, chunks in requests_of(snips, split):
        intents.setdefault(intent, []).append(chunks)
    for requests in intents.values():
        known = sorted({chunk["entity"] for chunks in requests for chunk in chunks if "entity" in chunk})
        for chunks in requests:
            text = "".join(chunk["text"] for chunk in chunks)
            answers: dict[str, dict[str, list[Any]]] = {}
            start = 0
            for chunk in chunks:
                said = chunk["text"].strip()
                if "entity" in chunk and said:
                    found = answers.setdefault(chunk["entity"], {"text": [], "answer_start": []})
                    found["text"].append(said)
                    found["answer_start"].append(start + chunk["text"].index(said))
                start += len(chunk["text"])
            lacking = [slot for slot in known if slot not in answers]
            for asked in (sorted(answers), lacking):
                if asked:
                    slot = asked[int(rng.integers(len(asked)))]
                    given = answers.get(slot, {"text": [], "answer_start": []})
                    yield {"question": f"which {slot.replace('_', ' ')}?", "context": text, "answers": given}
