"""Answers in a text: windows, spans and SQuAD's scores against hand-worked values, errors, and the whole chain."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_tasks import asked, write_jsonl

from distill import Data, load_data
from distill import recipe as recipes
from distill.pipeline import run
from distill.tasks import QuestionAnswering

WORDS = {"text": ["question", "context"], "label": "answers", "validation": 0.2, "test": 0.2}
TASK = QuestionAnswering("question_answering", ("start", "end"), "f1")


@pytest.fixture(scope="module")
def asked_file(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("asked") / "asked.jsonl", asked(150, unanswerable=True))


def of(path: Path, **words: object):
    """A file's rows, loaded and split."""
    return load_data(Data(**{**WORDS, "source": str(path), **words}), task="question-answering")


def recipe_of(recipe_file, body, source, *steps, **sections):
    return recipe_file(
        task="question-answering",
        teacher={
            "checkpoint": str(body),
            "finetune": {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "warmup": 0},
        },
        data={**WORDS, "source": str(source), "max_length": 16, "stride": 4},
        steps=list(steps),
        **sections,
    )


def taught(**imitate: float) -> dict[str, object]:
    return {"distill": {"imitate": imitate, "epochs": 2, "learning_rate": 3e-3, "batch_size": 16}}


def test_answers_go_through_the_whole_chain(recipe_file, body, asked_file, tmp_path, without_memory):
    path = recipe_of(
        recipe_file, body, asked_file,
        taught(logits=1.0, hidden_states=1.0),
        {"prune": {"heads": 0.5, "neurons": 0.5, "vocabulary": "used", "examples": 32}},
        taught(logits=1.0),
        "quantize",
        ship=["transformers", "onnx"],
    )  # fmt: skip
    report = run(recipes.load(path), tmp_path / "run", beside=path.parent)
    assert report.ledger.rows
