"""Whole runs on a tiny teacher, through the command line."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import LABELS, save_tiny
from transformers import AutoModelForSequenceClassification

from distill import Distill, checkpoint, cut, distill, preflight
from distill.cli import main
from distill.errors import CheckpointError
from distill.pipeline.pieces import Bench
from distill.recipe import load
from distill.store import Store
from distill.teacher import saved

LEARN = {"distill": {"imitate": {"logits": 1.0}, "epochs": 1}}


def run(recipe: Path, folder: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["run", str(recipe), "--output", str(folder), *more])


def told(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_recipe_runs_from_teacher_to_int8_and_its_result_answers(recipe_file, tmp_path):
    folder = tmp_path / "run"
    done = run(recipe_file(), folder)
    assert done.exit_code == 0, done.output
    report = told(folder)
    assert [row["name"] for row in report["rows"]] == ["teacher", "teacher", "1-distill", "2-quantize", "2-quantize"]
    assert [row["format"] for row in report["rows"]][-2:] == ["onnx-fp32", "onnx-int8"]
    assert all(row["latency"][0]["p50_ms"] > 0 for row in report["rows"])
    assert all(row["memory_mb"] > 10 for row in report["rows"])
    assert report["rows"][-1]["bytes"] < report["rows"][0]["bytes"]
    assert (folder / "report.md").is_file() and (folder / "recipe.yaml").is_file()
    answered = CliRunner().invoke(main, ["predict", str(folder), "the coach and the team win the cup"])
    assert answered.exit_code == 0, answered.output
    assert answered.output.split()[0] in LABELS


def test_steps_follow_each_other_and_each_leaves_a_checkpoint(recipe_file, tmp_path, without_memory):
    steps = [LEARN, {"finetune": {"epochs": 2, "learning_rate": 1e-3}}]
    done = run(recipe_file(steps=steps), tmp_path / "run")
    assert done.exit_code == 0, done.output
    report = told(tmp_path / "run")
    assert [row["name"] for row in report["rows"]] == ["teacher", "1-distill", "2-finetune"]
    assert [log["step"] for log in report["training"]] == ["teacher", "1-distill", "2-finetune"]
    assert list(report["training"][2]["records"][0]["terms"]) == ["labels"]
    for name, layers in (("teacher", 4), ("1-distill", 2), ("2-finetune", 2)):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / name)
        assert model.config.num_hidden_layers == layers
        assert [model.config.id2label[i] for i in range(3)] == list(LABELS)
    assert report["parity"] is None


def test_a_teacher_with_a_head_needs_no_finetune(recipe_file, tmp_path, headed, without_memory):
    done = run(recipe_file(teacher={"checkpoint": str(headed)}, steps=[LEARN]), tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert [log["step"] for log in told(tmp_path / "run")["training"]] == ["1-distill"]
    assert not (tmp_path / "run" / "teacher").exists()


def test_the_student_may_be_a_checkpoint_of_its_own(recipe_file, tmp_path, without_memory):
    own = save_tiny(tmp_path / "own", "distilbert", n_layers=1)
    done = run(recipe_file(student={"checkpoint": str(own)}, steps=[LEARN]), tmp_path / "run")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "1-distill" / "config.json").read_text())
    assert (config["model_type"], config["n_layers"]) == ("distilbert", 1)
    assert config["id2label"] == {str(i): name for i, name in enumerate(LABELS)}


def test_a_student_that_is_only_quantized_is_what_ships_and_what_its_graphs_are_held_against(
    recipe_file, tmp_path, headed, without_memory
):
    own = save_tiny(tmp_path / "own", "distilbert", labels=LABELS, n_layers=1)
    sections = {"teacher": {"checkpoint": str(headed)}, "student": {"checkpoint": str(own)}, "steps": ["quantize"]}
    done = run(recipe_file(**sections, ship=["transformers", "onnx"]), tmp_path / "run")
    assert done.exit_code == 0, done.output
    rows = [(row["name"], row["format"]) for row in told(tmp_path / "run")["rows"]]
    assert rows[2:] == [("student", "transformers"), ("1-quantize", "onnx-fp32"), ("1-quantize", "onnx-int8")]
    shipped = tmp_path / "run" / "shipped"
    assert json.loads((shipped / "transformers" / "config.json").read_text())["model_type"] == "distilbert"
    claims = {claim["name"]: claim["value"] for claim in json.loads((shipped / "manifest.json").read_text())["claims"]}
    assert claims["parity onnx-fp32"] < 1e-4


def test_the_student_may_be_a_config_with_random_weights(recipe_file, tmp_path, without_memory):
    config = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    config |= {"intermediate_size": 16}
    imitate = {"logits": 1.0, "hidden_states": 0.5}  # of another width, through a projection
    steps = [{"distill": {"imitate": imitate, "epochs": 1}}]
    done = run(recipe_file(student={"config": config}, steps=steps), tmp_path / "run")
    assert done.exit_code == 0, done.output
    report = told(tmp_path / "run")
    assert report["rows"][1]["params"] < report["rows"][0]["params"]
    assert list(report["training"][1]["records"][0]["terms"]) == ["logits", "hidden_states"]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "1-distill").config.hidden_size == 16


def test_an_expectation_that_is_missed_is_named_and_exits_with_1(recipe_file, tmp_path, without_memory):
    expect = {"size": "at most 0.01", "parameters": "at most 1"}
    done = run(recipe_file(steps=[LEARN], expect=expect, ship=["transformers"]), tmp_path / "run")
    assert done.exit_code == 1, done.output
    assert "size: at most 0.01" in done.output and "MISSED" in done.output and "\nshipped:" not in done.output
    judged = {line["word"]: line["met"] for line in told(tmp_path / "run")["expect"]}
    assert judged == {"size": False, "parameters": True}
    assert (tmp_path / "run" / "1-distill" / "model.safetensors").is_file()


def test_an_expectation_that_is_met_exits_with_0(recipe_file, tmp_path, without_memory):
    done = run(
        recipe_file(steps=[LEARN], expect={"parameters": "at most 0.9", "score": "at least 0"}), tmp_path / "run"
    )
    assert done.exit_code == 0, done.output
    assert "MISSED" not in done.output


def test_a_folder_that_holds_something_is_refused_with_2_and_left_alone(recipe_file, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    done = run(recipe_file(), folder)
    assert done.exit_code == 2
    assert "already there and not empty" in done.output
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_checkpoint_without_weights_is_never_left(bert, tmp_path, monkeypatch):
    monkeypatch.setattr(type(bert.model), "save_pretrained", lambda *_, **__: None)
    with pytest.raises(CheckpointError, match="wrote no weights"):
        bert.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken(recipe_file, tmp_path, without_memory):
    (tmp_path / "run").mkdir()
    assert run(recipe_file(steps=[LEARN]), tmp_path / "run", "--smoke").exit_code == 0


def test_a_smoke_run_does_everything_on_a_sliver_and_judges_nothing(recipe_file, tmp_path, without_memory):
    steps = [{"distill": {"imitate": {"logits": 1.0}, "epochs": 50}}]
    recipe = recipe_file(steps=steps, expect={"size": "at most 0.0001"}, timing={"batch": [1, 8], "rounds": 50})
    done = run(recipe, tmp_path / "run", "--smoke")
    assert done.exit_code == 0, done.output
    assert "a smoke run" in done.output
    report = told(tmp_path / "run")
    assert report["smoke"] and report["expect"] == []
    assert all(log["records"][-1]["step"] <= 4 for log in report["training"])
    assert [(cell["batch"], cell["rounds"]) for cell in report["rows"][0]["latency"]] == [(1, 3)]
    assert "smoke run" in (tmp_path / "run" / "report.md").read_text()


def test_the_same_recipe_gives_the_same_weights_and_scores_twice(recipe_file, tmp_path, without_memory):
    recipe = recipe_file(steps=[LEARN], student={"layers": 1})
    for name in ("one", "two"):
        assert run(recipe, tmp_path / name).exit_code == 0
    for step in ("teacher", "1-distill"):
        one, two = ((tmp_path / name / step / "model.safetensors").read_bytes() for name in ("one", "two"))
        assert one == two
    scores = [
        [(row["score"], row["interval"], row["p_value"]) for row in told(tmp_path / name)["rows"]]
        for name in ("one", "two")
    ]
    assert scores[0] == scores[1]


def test_the_recipe_as_run_is_kept_and_can_be_run_again(recipe_file, tmp_path, without_memory):
    assert run(recipe_file(steps=[LEARN]), tmp_path / "run", "--set", "seed=3").exit_code == 0
    again = run(tmp_path / "run" / "recipe.yaml", tmp_path / "again", "--smoke")
    assert again.exit_code == 0, again.output
    assert told(tmp_path / "run")["seed"] == told(tmp_path / "again")["seed"] == 3


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"student": {"layers": 9}}, "the teacher has 4 layers"),
        ({"student": {"config": {"model_type": "bertt"}}, "steps": [LEARN]}, "did you mean 'bert'"),
        ({"data": {"source": "nowhere.csv"}}, "nowhere.csv"),
        ({"teacher": {"checkpoint": "./nowhere"}}, "nowhere"),
    ],
)
def test_what_cannot_work_is_told_with_2_before_anything_is_trained(recipe_file, tmp_path, sections, words):
    done = run(recipe_file(**sections), tmp_path / "run")
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize(
    "imitate", [{"logits": 1.0}, {"logits": 1.0, "hidden_states": {"weight": 1.0, "layers": [2, 4]}}]
)
def test_a_teachers_signals_are_worked_out_once_for_all_that_learn_from_them(
    imitate, recipe_file, tmp_path, headed, without_memory, monkeypatch
):
    passes = []
    write = saved.Layout.write

    def counted(layout: saved.Layout, *given: object) -> None:
        passes.append(layout)
        write(layout, *given)

    monkeypatch.setattr(saved.Layout, "write", counted)
    learn = [{"distill": {"imitate": imitate, "epochs": epochs}} for epochs in (2, 3)]
    twice = recipe_file(teacher={"checkpoint": str(headed)}, steps=learn)
    assert run(twice, tmp_path / "run").exit_code == 0
    assert run(twice, tmp_path / "other", "seed=5").exit_code == 0
    assert len(passes) == 2  # the seed draws other splits; the two steps of a run share one pass
    kept = [piece for piece in Store().pieces() if piece.kind == "signals"]
    assert {len(piece.files) for piece in kept} == {1 if len(imitate) == 1 else 3}
    direct = Distill(imitate=imitate, epochs=2)
    data = preflight.prepare(load(twice)).require().data
    small, whole = cut(checkpoint.load(headed), layers=2), checkpoint.load(headed)
    expected = distill(small, direct, data=data, teacher=whole).model.state_dict()
    found = checkpoint.load(tmp_path / "run" / "1-distill").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    for piece in kept:  # a flipped bit is found, and the file made again
        path = piece.folder / sorted(piece.files)[0]
        path.chmod(0o644)
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    before = len(passes)
    learn[0]["distill"]["learning_rate"] = 1e-4
    again = run(recipe_file(teacher={"checkpoint": str(headed)}, steps=learn), tmp_path / "again")
    assert again.exit_code == 0 and "is damaged" in again.output
    assert len(passes) == before + 1


def test_a_disk_that_fills_while_signals_are_written_is_told_and_leaves_none(
    recipe_file, headed, tmp_path, without_memory, monkeypatch
):
    left = [2]  # files for which there is room

    def fill(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", fill, raising=False)
    learn = [{"distill": {"imitate": {"logits": 1.0, "hidden_states": 1.0}, "epochs": 2}}]
    recipe = recipe_file(teacher={"checkpoint": str(headed)}, steps=learn)
    done = run(recipe, tmp_path / "run")
    assert done.exit_code == 3
    assert "hidden_states-" in done.stderr and done.stderr.splitlines()[-1].endswith(": no space left on device")
    assert not [piece for piece in Store().pieces() if piece.kind == "signals"]
    assert not list((Store().folder / "unfinished").rglob("*.npy"))
    left[0] = 100
    assert run(recipe, tmp_path / "run").exit_code == 0
    assert len([piece for piece in Store().pieces() if piece.kind == "signals"]) == 1


def test_each_training_of_a_chain_draws_its_batches_anew(recipe_file):
    steps = [{"finetune": {}}, {"prune": {"neurons": 0.5}}, {"distill": {}}, {"distill": {}}]
    bench = Bench(preflight.prepare(load(recipe_file(steps=steps))).require(), None, None, None)
    titles = ("teacher", "1-finetune", "3-distill", "finetune-0/4-finetune")
    assert [bench._turn(title) for title in titles] == [0, 0, 1, 2]
