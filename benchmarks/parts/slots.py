"""Token classification: the slots of snips (seven intents of spoken requests), a MiniLM and half of it in int8.

The data is `snips/{train,validate}_INTENT.json` (Coucke et al. 2018): the train files are trained on and, a tenth of
them, chosen on; the validate files are only ever scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts.bench import Bench, rows_of

SEED = 7
RECIPE: dict[str, Any] = {
    "task": "token-classification",
    "teacher": {"card": "minilm-l6", "finetune": {"epochs": 2, "learning_rate": 5e-4, "batch_size": 128}},
    "student": {"layers": 3},
    "steps": [
        {
            "distill": {
                "imitate": {"logits": 1.0, "hidden_states": 1.0, "labels": 0.5},
                "temperature": 2,
                "epochs": 3,
                "learning_rate": 1e-3,
                "batch_size": 128,
            }
        },
        {"quantize": {}},
    ],
    "timing": {"batch": [1, 32], "tokens": 16, "rounds": 60},
    "seed": SEED,
}


def make(bench: Bench) -> dict[str, Any]:
    """The run's rows, its data, and what each step took."""
    source, test = (write(bench.data / "snips", split, bench.runs) for split in ("train", "validate"))
    data = {"source": str(source), "test": str(test), "text": "words", "label": "tags", "max_length": 64}
    report = bench.carry_out("slots", {**RECIPE, "data": {**data, "validation": 0.1, "licence": "CC0-1.0"}})
    return {
        "recipe": {**RECIPE, "data": {**data, "source": source.name, "test": test.name}},
        "data": {word: report["data"][word] for word in ("rows", "truncated", "test_sha256")},
        "tags": len(report["data"]["labels"]),
        "seconds": {step["name"]: step["seconds"] for step in report["steps"]},
        "parity": report["parity"],
        "rows": rows_of(report),
    }


def write(snips: Path, split: str, runs: Path) -> Path:
    """All intents' requests of one split as jsonl, a list of words and one of tags a line."""
    path = runs / f"snips-{split}.jsonl"
    lines = [
        json.dumps({"words": words, "tags": tags})
        for words, tags in (tag(chunks) for _, chunks in requests_of(snips, split))
        if words
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def requests_of(snips: Path, split: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """All requests of one split with their intents: pieces of text, some of which fill a slot (`entity`)."""
    files = sorted(snips.glob(f"{split}_*.json"))
    if not files:
        raise SystemExit(f"{snips}: no {split}_*.json in it")
    for file in files:
        content = file.read_bytes()
        try:
            told = json.loads(content.decode("utf-8"))
        except UnicodeDecodeError:
            told = json.loads(content.decode("latin-1"))
        for intent, requests in told.items():
            for request in requests:
                yield intent, request["data"]


def tag(chunks: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """A request's words with their tags: a word belongs to the first slot that has a letter of it."""
    text, slots = "", []
    for chunk in chunks:
        if "entity" in chunk:
            slots.append((len(text), len(text) + len(chunk["text"]), chunk["entity"]))
        text += chunk["text"]
    words, tags, end, before = text.split(), [], 0, None
    for word in words:
        start = text.index(word, end)
        end = start + len(word)
        mine = next((slot for slot in slots if slot[0] < end and slot[1] > start), None)
        tags.append("O" if mine is None else f"{'I' if mine == before else 'B'}-{mine[2]}")
        before = mine
    return words, tags
