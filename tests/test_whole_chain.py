"""Every named family, from a teacher to a shipped folder: cut, taught, pruned, taught again, quantized, asked."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
import torch
import transformers
from conftest import LABELS
from writers import write_lines

from distill import Predictor, anatomy
from distill.pipeline import run
from distill.recipe import load as load_recipe
from distill.verification import verify

NAMED = (
    "bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "gpt2", "llama", "qwen3", "opt", "bart",
    "t5-gated",
)  # fmt: skip
FEW = {"epochs": 1, "max_steps": 2}
BOTH = {"logits": 1.0, "hidden_states": 1.0}
TEXTS = {"encoder": ["the [MASK] of a goal", "a [MASK] match"], "decoder": ["the goal", "team score league ball"]}
TASKS = {
    "encoder": ("masked-language-modelling", 2),
    "decoder": ("causal-language-modelling", 2),
    "encoder-decoder": ("translation", {"encoder": 2, "decoder": 1}),
}


def recipe_for(kind: str, teacher: Path, source: Path) -> dict[str, object]:
    task, layers = TASKS[kind]
    writes = kind != "encoder"
    return {
        "task": task,
        "teacher": {"checkpoint": str(teacher)},
        "student": {"layers": layers},
        "data": {"source": str(source), "validation": 0.2, "test": 0.2, "max_length": 20},
        **({"generation": {"max_new_tokens": 6}} if kind == "encoder-decoder" else {}),
        "steps": [
            {"distill": {"imitate": BOTH, **FEW}},
            {"prune": {"heads": 0.25, "neurons": 0.25, "vocabulary": "used", "examples": 16}},
            {"distill": {"imitate": BOTH, **FEW}},
            "quantize",
        ],
        "ship": ["transformers", "onnx"],
        "timing": {"batch": [1], "rounds": 3, "tokens": 8, **({"new_tokens": 3} if writes else {})},
        "track": {"wandb": "off", "energy": False},
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_family_goes_through_the_whole_chain(name, corpus, tmp_path, without_memory):
    kind = anatomy.FAMILIES[families.CONFIGS[name][0]].kind
    source = write_lines(tmp_path / "lines.csv") if kind == "encoder-decoder" else corpus
    teacher = families.save(tmp_path / "teacher", name)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_for(kind, teacher, source)))
    report = run(load_recipe(path), tmp_path / "run", beside=tmp_path)

    rows = {(row.name, row.format): row for row in report.ledger.rows}
    whole, *_, small = (rows[step, "transformers"] for step in ("teacher", "1-distill", "2-prune", "3-distill"))
    assert small.params < rows["1-distill", "transformers"].params < whole.params
    assert rows["4-quantize", "onnx-fp32"].score == pytest.approx(small.score, rel=1e-3)

    shipped = tmp_path / "run" / "shipped"
    assert [finding for finding in verify(shipped, quick=True) if finding.outcome == "FAILS"] == []
    texts = TEXTS.get(kind, TEXTS["decoder"])
    asked = {form: Predictor(shipped, form).predict(texts) for form in ("transformers", "onnx-fp32", "onnx-int8")}
    assert all(len(answers) == len(texts) for answers in asked.values())
    if kind == "encoder":
        for mine, theirs in zip(asked["onnx-fp32"], asked["transformers"], strict=True):
            assert [guess for guess, *_ in map(list, mine)] == [guess for guess, *_ in map(list, theirs)]
    else:
        assert asked["onnx-fp32"] == asked["transformers"]

    (architecture,) = json.loads((shipped / "transformers" / "config.json").read_text())["architectures"]
    stock = getattr(transformers, architecture).from_pretrained(shipped / "transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(shipped / "transformers")
    with torch.no_grad():
        ids = tokenizer(["the goal of the match"], return_tensors="pt")["input_ids"]
        given = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :2]} if kind == "encoder-decoder" else {})
        assert stock(**given).logits.isfinite().all()


@pytest.mark.parametrize("name", ["gpt2", "bart", "t5-gated"])
def test_a_classifier_of_a_family_that_writes_goes_through_the_whole_chain(name, topics_csv, tmp_path, without_memory):
    heads = {"id2label": dict(enumerate(LABELS)), "label2id": {label: place for place, label in enumerate(LABELS)}}
    teacher = families.save(tmp_path / "teacher", name, "SequenceClassification", **heads)
    words = {
        "task": "text-classification",
        "teacher": {"checkpoint": str(teacher)},
        "student": {"layers": 2 if name == "gpt2" else {"encoder": 2, "decoder": 1}},
        "data": {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 20},
        "steps": [{"distill": {"imitate": BOTH, **FEW}}, {"prune": {"heads": 0.25, "examples": 16}}, "quantize"],
        "ship": ["transformers", "onnx"],
        "timing": {"batch": [1, 8], "rounds": 3},
        "track": {"wandb": "off", "energy": False},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(words))
    report = run(load_recipe(path), tmp_path / "run", beside=tmp_path)
    rows = {(row.name, row.format): row for row in report.ledger.rows}
    assert rows["3-quantize", "onnx-fp32"].score == pytest.approx(rows["2-prune", "transformers"].score, abs=1e-3)
    shipped = tmp_path / "run" / "shipped"
    assert [finding for finding in verify(shipped, quick=True) if finding.outcome == "FAILS"] == []
    texts = ["team score league ball", "the goal [SEP] of a match"]  # ended in its midst, too
    asked = {form: Predictor(shipped, form).predict(texts) for form in ("transformers", "onnx-fp32")}
    best = {form: [next(iter(answer))[0] for answer in answers] for form, answers in asked.items()}
    assert best["onnx-fp32"] == best["transformers"]
