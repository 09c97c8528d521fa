"""Recipes for encoder-decoders: what a check says of them, and whole runs until a shipped folder answers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from conftest import write_csv
from writers import lines, save_writer, write_lines

from distill import Predictor, Recipe, checkpoint, library, load_recipe, run
from distill.cli import main

CUT = {"bart": {"decoder": 1}, "t5": {"encoder": 1}}  # which leaves more layers on the other side
FAST = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 8}


@pytest.fixture
def writing_recipe(tmp_path):
    """Writes a small recipe for a tiny encoder-decoder; keyword arguments replace or add to whole sections."""

    def write(name: str, **sections: object):
        recipe = {
            "task": "translation",
            "teacher": {"checkpoint": str(save_writer(tmp_path / name, name)), "finetune": FAST},
            "student": {"checkpoint": str(save_writer(tmp_path / "student", name))},
            "data": {"source": str(write_lines(tmp_path / "lines.csv")), "max_length": 16, "target_length": 12},
            "generation": {"max_new_tokens": 8},
            "steps": [{"distill": {"imitate": {"logits": 1.0, "hidden_states": 0.5}, **FAST}}],
            "timing": {"batch": [1], "rounds": 3},
            "track": {"wandb": "off", "energy": False},
        }
        for key, value in sections.items():
            recipe[key] = (
                recipe[key] | value if isinstance(value, dict) and isinstance(recipe.get(key), dict) else value
            )
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        return path

    return write


def model_card_code(folder, title: str) -> str:
    card = (folder / "README.md").read_text()
    return card.partition(f"### {title}")[2].partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "text-classification"}, "data.target_length: text-classification has no use for it"),
        ({"data": {"target_length": 50}}, "data.target_length: 50 tokens, but the teacher has 40 positions"),
        ({"generation": {"max_new_tokens": 41}}, "generation.max_new_tokens: 41 tokens, but the teacher has 40"),
        ({"generation": None}, "generation.max_new_tokens: 128 tokens, but the teacher has 40"),
        ({"metric": "accuracy"}, "metric: accuracy does not fit a translation; these do: chrf"),
        ({"data": {"label": ["label", "text"]}}, "data: translation reads one column"),
        (
            {"teacher": {"checkpoint": "BERT"}},
            "teacher: translation takes an encoder-decoder, and a bert is an encoder",
        ),
        (
            {"steps": [{"distill": {"imitate": {"hidden_states": {"weight": 1, "layers": [1]}}}}]},
            "lists 1 teacher layers for a student of 2",
        ),
    ],
)
def test_check_says_what_can_not_be(changed, said, writing_recipe, body):
    text = json.dumps(changed).replace("BERT", str(body))
    done = CliRunner().invoke(main, ["check", str(writing_recipe("bart", **json.loads(text)))])
    assert done.exit_code == 2 and said in done.output, done.output


def test_a_recipe_that_can_be_is_found_good(writing_recipe):
    done = CliRunner().invoke(main, ["check", str(writing_recipe("t5"))])
    assert done.exit_code == 0, done.output
    assert "words or more, and" in done.output


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_run_from_teacher_to_a_shipped_folder_that_answers(name, writing_recipe, tmp_path, without_memory):
    steps = [
        {"distill": {"targets": "teacher", "imitate": {"labels": 1.0, "logits": 1.0, "hidden_states": 0.1}, **FAST}},
        {"prune": {"neurons": 0.25, "heads": 0.25, "examples": 16}},
    ]
    path = writing_recipe(
        name, student={"layers": CUT[name], "checkpoint": None}, steps=steps, ship=["transformers"],
        data={"prefix": "the "},
    )  # fmt: skip
    done = CliRunner().invoke(main, ["run", str(path), "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]][:3] == ["teacher", "1-distill", "2-prune"]
    assert report["rows"][2]["params"] < report["rows"][1]["params"] < report["rows"][0]["params"]
    assert all(row["latency"][0]["tokens_per_second"] > 0 for row in report["rows"])
    shipped = tmp_path / "run" / "shipped"
    assert not (shipped / "predictions.npz").exists()  # the data's own texts
    shown = (tmp_path / "run" / "samples.md").read_text()
    assert "## Example" in shown and "**teacher**" in shown and "2-prune" in shown
    assert not (shipped / "samples.md").exists()
    found = CliRunner().invoke(main, ["verify", str(shipped), "--quick"])
    assert found.exit_code == 0 and "FAILS" not in found.output, found.output
    texts = ["the goal match", "team score league ball"]
    answers = Predictor(shipped).predict(texts)
    assert all(isinstance(text, str) for text in answers)
    code = model_card_code(shipped, "transformers alone")
    spoken = subprocess.run(
        [sys.executable, "-c", code.replace("texts = [", f"texts = {texts!r} or [")], cwd=shipped,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert spoken.stdout.strip().splitlines()[-1] == str(answers)


def test_the_shipped_recipe_trains_two_steps_with_a_tiny_teacher(tmp_path, without_memory):
    recipe = load_recipe(library.find("recipes", "distilbart")).model_dump(mode="json", exclude_none=True)
    teacher = save_writer(tmp_path / "teacher", "bart", encoder_layers=12, decoder_layers=12)
    write_csv(tmp_path / "news.csv", ["article", "highlights"], [list(line) for line in lines(40)])
    recipe["teacher"] = {"checkpoint": str(teacher)}
    recipe["data"] |= {"source": {"path": str(tmp_path / "news.csv")}, "validation": 0.2, "test": 0.2}
    recipe["data"] |= {"max_length": 16, "target_length": 12}
    recipe["generation"] |= {"max_new_tokens": 6}
    recipe["steps"][0]["finetune"] |= {"max_steps": 2, "batch_size": 4}
    recipe |= {"expect": {}, "track": {"wandb": "off", "energy": False}, "ship": None}
    recipe["timing"] = {"batch": [1], "rounds": 3, "tokens": 8, "new_tokens": 4}
    report = run(Recipe(**recipe), tmp_path / "run", beside=tmp_path)
    assert report.training[0]["records"][-1]["step"] == 2
    assert [row.metric for row in report.ledger.rows] == ["rouge2", "rouge2"]
    made, before = (checkpoint.load(tmp_path / "run" / name).model.state_dict() for name in ("1-finetune", "student"))
    moved = {name for name, tensor in made.items() if not torch.equal(tensor, before[name])}
    assert moved and all("decoder.layers" in name or "layernorm" in name for name in moved), moved


def test_graphs_that_write_ship_and_answer_without_torch(writing_recipe, tmp_path, without_memory):
    steps = [{"distill": {"imitate": {"logits": 1.0, "labels": 1.0}, **FAST}}, "quantize"]
    path = writing_recipe("t5", steps=steps, ship=["transformers", "onnx"], data={"prefix": "the "})
    done = CliRunner().invoke(main, ["run", str(path), "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "run" / "report.json").read_text())["rows"]
    assert {row["format"] for row in rows} == {"transformers", "onnx-fp32", "onnx-int8"}
    same = {(row["name"], row["format"]): row["scores"]["chrf"] for row in rows}
    assert same["teacher", "onnx-fp32"] == pytest.approx(same["teacher", "transformers"])
    shipped = tmp_path / "run" / "shipped"
    found = CliRunner().invoke(main, ["verify", str(shipped), "--quick"])
    assert found.exit_code == 0 and "FAILS" not in found.output, found.output
    texts = ["the goal match", "team score league ball"]
    fp32 = Predictor(shipped, "onnx-fp32").predict(texts)
    assert fp32 == Predictor(shipped, "transformers").predict(texts)
    code = model_card_code(shipped, "onnxruntime and tokenizers alone").replace("_int8.onnx", ".onnx")
    spoken = subprocess.run(
        [sys.executable, "-c", code.replace("texts = [", f"texts = {texts!r} or [")], cwd=shipped,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert spoken.stdout.strip().splitlines()[-1] == str(fp32)
