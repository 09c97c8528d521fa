"""Rows of tagged words and of questions, made in code."""

from __future__ import annotations

import json
import random
from pathlib import Path

from conftest import FILLER, TOPICS

TAGS = ("B-film", "B-money", "I-film", "I-money", "O")


def tagged(number: int, seed: int = 0) -> list[dict[str, list[str]]]:
    """Sentences of filler, in which one or two words of a topic are an entity of it."""
    rng, found = random.Random(seed), []
    for _ in range(number):
        words, tags = [], []
        for _ in range(rng.randint(3, 6)):
            if rng.random() < 0.4:
                topic, length = rng.choice(("film", "money")), rng.randint(1, 2)
                words += [rng.choice(TOPICS[topic]) for _ in range(length)]
                tags += [f"B-{topic}", f"I-{topic}"][:length]
            words.append(rng.choice(FILLER))
            tags.append("O")
        found.append({"words": words, "tags": tags})
    return found


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """A file with an object a line."""
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def asked(number: int, seed: int = 0, *, unanswerable: bool = False, fillers: int = 6) -> list[dict]:
    """Questions for a film's word in a context of filler and of one word of each topic, each with its answer."""
    rng, found = random.Random(seed), []
    for place in range(number):
        asked_for = "film"
        there = [topic for topic in TOPICS if topic != asked_for or not (unanswerable and place % 4 == 0)]
        words = [rng.choice(FILLER) for _ in range(rng.randint(fillers, 2 * fillers))]
        for topic in rng.sample(there, len(there)):
            words.insert(rng.randint(0, len(words)), rng.choice(TOPICS[topic]))
        context = " ".join(words)
        texts = [word for word in words if word in TOPICS[asked_for]]
        starts = [f" {context} ".index(f" {text} ") for text in texts]
        answers = {"text": texts, "answer_start": starts}
        found.append({"question": f"{TOPICS[asked_for][0]} of it ?", "context": context, "answers": answers})
    return found
