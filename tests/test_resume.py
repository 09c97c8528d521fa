"""Nothing is lost: runs are killed at many points, and the same command again ends as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import rows, write_csv

from distill.cli import main

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["distill.pipeline", "transformers.trainer", "torch.onnx", "onnxruntime"])
FEW, MANY = 6, 14  # kills of a run with graphs, and of one without
TRAIN = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8}
DISTIL = {"distill": {"imitate": {"logits": 1.0, "hidden_states": 0.5}, **TRAIN}}
LIGHT = {"steps": [DISTIL, {"finetune": TRAIN}]}
WHOLE = {"steps": [{"distill": {"imitate": {"logits": 1.0}, **TRAIN}}, "quantize"], "ship": ["transformers", "onnx"]}


def _carry_out(store: str, recipe: Path, folder: Path, kill_at: int | None, told: Path, save_every: float) -> None:
    """In a process of its own: the command, killed with -9 at its n-th write, link, rename or training step."""
    import sys

    import transformers

    import distill.evaluation

    os.environ["DISTILL_STORE"] = store
    assert distill.evaluation
    sys.modules["distill.evaluation.session"].peak_memory = lambda _: 1.0
    sys.modules["distill.training.trainer"].SAVE_EVERY = save_every
    events = 0

    def dying(before):
        def call(*given, **words):
            nonlocal events
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*given, **words)

        return call

    for name in ("mkdir", "rename", "replace", "chmod", "unlink"):
        setattr(Path, name, dying(getattr(Path, name)))
    os.link, os.utime = dying(os.link), dying(os.utime)
    for name in ("training_step", "_save_checkpoint", "_save_rng_state", "_load_best_model"):
        setattr(transformers.Trainer, name, dying(getattr(transformers.Trainer, name)))
    done = CliRunner().invoke(main, ["run", str(recipe), "--output", str(folder)])
    output = done.output + (repr(done.exc_info) if done.exc_info else "")
    told.write_text(json.dumps({"exit": done.exit_code, "output": output, "events": events}))


def carry_out(recipe: Path, folder: Path, kill_at: int | None = None, save_every: float = 1e9) -> dict | None:
    """What the command told; None when it was killed."""
    told = folder.with_name("told.json")
    told.parent.mkdir(exist_ok=True)
    told.unlink(missing_ok=True)
    words = (os.environ["DISTILL_STORE"], recipe, folder, kill_at, told, save_every)
    process = PROCESSES.Process(target=_carry_out, args=words)
    process.start()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if kill_at else 0)
    return None if kill_at else json.loads(told.read_text())


def result(folder: Path) -> tuple[list, dict[str, bytes], dict[str, np.ndarray]]:
    """Scores, weights and predictions of a run."""
    report = json.loads((folder / "report.json").read_text())
    scores = [(row["name"], row["format"], row["score"], row["interval"], row["p_value"]) for row in report["rows"]]
    weights = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in ("*/*.safetensors", "*/*.onnx")
        for path in sorted(folder.glob(pattern))
    }
    with np.load(folder / "predictions.npz", allow_pickle=False) as kept:
        return scores, weights, {name: kept[name] for name in kept.files}


@pytest.fixture(scope="module")
def place(tmp_path_factory, body) -> Path:
    """A folder with the data and the recipes."""
    folder = tmp_path_factory.mktemp("resume")
    write_csv(folder / "topics.csv", ["text", "label"], [list(row) for row in rows(120)])
    for name, sections in {"light": LIGHT, "whole": WHOLE}.items():
        recipe = {
            "task": "text-classification",
            "teacher": {"checkpoint": str(body), "finetune": TRAIN},
            "student": {"layers": 2},
            "data": {"source": str(folder / "topics.csv"), "validation": 0.2, "test": 0.2, "max_length": 16},
            "timing": {"batch": [1], "rounds": 3},
            "track": {"wandb": "off", "energy": False},
            **sections,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def undisturbed(place) -> dict[str, tuple[int, tuple]]:
    """For each recipe the number of points at which it can be killed, and its result when it isn't."""
    found = {}
    for name in ("light", "whole"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DISTILL_STORE", str(place / f"store-{name}"))
            told = carry_out(place / f"{name}.yaml", place / name / "run")
            assert told["exit"] == 0, told["output"]
            found[name] = told["events"], result(place / name / "run")
    return found


POINTS = [("light", k / MANY) for k in range(MANY)] + [("whole", (k + 0.5) / FEW) for k in range(FEW)]


@pytest.mark.parametrize(
    ("name", "at"), POINTS, ids=lambda value: f"{value:.2f}" if isinstance(value, float) else value
)
def test_a_killed_run_ends_as_if_nothing_had_happened(place, undisturbed, tmp_path, monkeypatch, name, at):
    events, (scores, weights, predictions) = undisturbed[name]
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "store"))
    folder = tmp_path / "run"
    carry_out(place / f"{name}.yaml", folder, kill_at=1 + int(at * events), save_every=0.0)
    finished = {path.parent.name: path.read_bytes() for path in (tmp_path / "store").glob("*-*/entry.json")}
    inside_training = any((tmp_path / "store" / "unfinished").glob("*/workshop/checkpoint-*"))
    told = carry_out(place / f"{name}.yaml", folder, save_every=0.0)
    assert told["exit"] == 0, told["output"]
    after = {path.parent.name: path.read_bytes() for path in (tmp_path / "store").glob("*-*/entry.json")}
    assert finished.items() <= after.items()  # no finished step was made again
    assert not any((tmp_path / "store" / "unfinished").iterdir())
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} <= {".lock"}
    now = result(folder)
    if inside_training:
        assert [row[2] for row in now[0]] == pytest.approx([row[2] for row in scores], abs=0.005)
    else:
        assert now[0] == scores
        assert now[1] == weights
        assert all((now[2][key] == predictions[key]).all() for key in predictions)


def test_a_run_killed_twice_within_a_training_goes_on_each_time(place, undisturbed, tmp_path, monkeypatch):
    events, (scores, _, _) = undisturbed["light"]
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "store"))
    recipe, folder = place / "light.yaml", tmp_path / "run"
    for _ in range(3):
        carry_out(recipe, folder, kill_at=events // 4, save_every=0.0)
    told = carry_out(recipe, folder)
    assert told["exit"] == 0, told["output"]
    assert [row[2] for row in result(folder)[0]] == pytest.approx([row[2] for row in scores], abs=0.005)
    report = json.loads((folder / "report.json").read_text())
    assert any(log["sittings"] > 1 for log in report["training"])
    state = json.loads((folder / "run.json").read_text())
    assert state["sittings"] == 4 and state["standing"] == "done"
    for log in report["training"]:  # the record is whole: each step once, in order
        steps = [record["step"] for record in log["records"]]
        assert steps == sorted(set(steps))
        assert len(log["epochs"]) == TRAIN["epochs"]


def test_a_later_step_that_changes_repeats_only_what_follows(place, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "store"))
    recipe = json.loads((place / "light.yaml").read_text())
    reused = []
    for number, rate in enumerate((1e-3, 5e-4)):
        recipe["steps"][1]["finetune"]["learning_rate"] = rate
        path = tmp_path / f"recipe-{number}.yaml"
        path.write_text(json.dumps(recipe))
        told = carry_out(path, tmp_path / f"run-{number}")
        assert told["exit"] == 0, told["output"]
        report = json.loads((tmp_path / f"run-{number}" / "report.json").read_text())
        reused.append({step["name"]: step["reused"] for step in report["steps"]})
    assert not any(reused[0].values())
    assert reused[1] == {"teacher": True, "student": True, "1-distill": True, "2-finetune": False}


@pytest.mark.parametrize(
    "sections",
    [{"track": {"wandb": "off", "energy": False, "tags": ["x"]}}, {"expect": {"score": "at least 0"}}],
    ids=["track", "expect"],
)
def test_what_is_only_told_or_expected_repeats_nothing(place, undisturbed, tmp_path, monkeypatch, sections):
    monkeypatch.setenv("DISTILL_STORE", str(place / "store-light"))
    recipe = json.loads((place / "light.yaml").read_text()) | sections
    (tmp_path / "moved").mkdir()
    data = tmp_path / "moved" / "renamed.csv"  # nor does the data's place
    data.write_bytes((place / "topics.csv").read_bytes())
    recipe["data"]["source"] = str(data)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    told = carry_out(tmp_path / "recipe.yaml", tmp_path / "run")
    assert told["exit"] == 0, told["output"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert all(step["reused"] for step in report["steps"])
    assert result(tmp_path / "run")[0] == undisturbed["light"][1][0]


@pytest.mark.parametrize("change", [{"seed": 3}, {"student": {"layers": 1}}, {"metric": "macro_f1"}], ids=str)
def test_what_matters_makes_new_pieces(place, undisturbed, tmp_path, monkeypatch, change):
    monkeypatch.setenv("DISTILL_STORE", str(place / "store-light"))
    (tmp_path / "recipe.yaml").write_text(json.dumps(json.loads((place / "light.yaml").read_text()) | change))
    told = carry_out(tmp_path / "recipe.yaml", tmp_path / "run")
    assert told["exit"] == 0, told["output"]
    steps = json.loads((tmp_path / "run" / "report.json").read_text())["steps"]
    assert {step["name"]: step["reused"] for step in steps}["1-distill"] is False


def test_two_runs_at_once_share_the_store(place, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "store"))
    processes = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        words = (
            str(tmp_path / "store"),
            place / "light.yaml",
            tmp_path / str(number) / "run",
            None,
            tmp_path / f"told-{number}",
            1e9,
        )
        processes.append(PROCESSES.Process(target=_carry_out, args=words))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    told = [json.loads((tmp_path / f"told-{number}").read_text()) for number in range(2)]
    assert [run["exit"] for run in told] == [0, 0], told
    found = [result(tmp_path / str(number) / "run") for number in range(2)]
    assert found[0][0] == found[1][0] == undisturbed["light"][1][0]
    assert found[0][1] == found[1][1]
    steps = [json.loads((tmp_path / str(n) / "run" / "report.json").read_text())["steps"] for n in range(2)]
    for one, other in zip(*steps, strict=True):
        assert one["reused"] != other["reused"], (one, other)  # each was made by one of the two


def test_a_damaged_training_checkpoint_is_left_out(tmp_path):
    from distill.training.continuing import latest, seal
    from distill.training.record import TrainingLog

    for number in (2, 10, 11):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights" * 10)
        if number != 11:  # the last one was never sealed
            seal(folder, TrainingLog("train", "float32", samples=number))
    found, record = latest(tmp_path)
    assert (found.name, record.samples) == ("checkpoint-10", 10)
    assert not (tmp_path / "checkpoint-11").exists()
    weights = tmp_path / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(b"W" + weights.read_bytes()[1:])
    assert latest(tmp_path)[0].name == "checkpoint-2"
    (tmp_path / "checkpoint-2" / "complete.json").write_text("{")
    assert latest(tmp_path) is None


@pytest.mark.parametrize("words", [{"epochs": 1.5}, {"max_steps": 6}])
def test_a_training_that_ended_within_an_epoch_takes_no_step_more(words, bert, data, tmp_path, monkeypatch):
    from transformers import Trainer

    from distill import Finetune, finetune
    from distill.training import Watch

    step = Finetune(**words, learning_rate=1e-3, warmup=0.0, dtype="float32", dropout=0.0, batch_size=8)

    def learn(folder: str):
        watch = Watch(folder=tmp_path / folder)
        watch.folder.mkdir(exist_ok=True)
        made = finetune(bert, step, data=data, watch=watch)
        return made.model.state_dict(), watch.log.epochs

    expected, epochs = learn("whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_load_best_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            learn("cut off")
    weights, again = learn("cut off")
    assert again == epochs and all(torch.equal(weights[name], expected[name]) for name in expected)


def test_training_checkpoints_that_were_moved_count(tmp_path):
    """Trainer writes down where the best epoch's checkpoint lay."""
    from distill.training.continuing import latest, seal
    from distill.training.record import TrainingLog

    record = TrainingLog("train", "float32", samples=8)
    for number, best in ((2, "checkpoint-2"), (4, "checkpoint-2"), (6, "checkpoint-5")):
        folder = tmp_path / "here" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        told = {"global_step": number, "best_model_checkpoint": str(tmp_path / "here" / best)}
        (folder / "trainer_state.json").write_text(json.dumps(told))
        seal(folder, record)
    there = (tmp_path / "here").rename(tmp_path / "there")
    for _ in range(2):
        found, again = latest(there)
        assert (found, again) == (there / "checkpoint-4", record)
        told = json.loads((found / "trainer_state.json").read_text())
        assert told == {"global_step": 4, "best_model_checkpoint": str(there / "checkpoint-2")}
    assert not (there / "checkpoint-6").exists(), "its best epoch is gone"


def test_a_record_of_another_version_is_read():
    from distill.training.record import TrainingLog

    told = TrainingLog("train", "float32", samples=8)
    newer = {**told.as_dict(), "not_known_yet": 1}
    older = {name: value for name, value in told.as_dict().items() if name not in ("layer_maps", "sittings")}
    assert [TrainingLog.read(words) for words in (newer, older)] == [told, told]


@pytest.mark.parametrize("name", ["vocab.txt", "sentencepiece.bpe.model", "added_tokens.json", "target_tokenizer.json"])
def test_another_vocabulary_is_another_checkpoint(tmp_path, name):
    from distill.checkpoint import fingerprint

    found = []
    for content in ("one", "other"):
        for file in ("config.json", "model.safetensors", name):
            (tmp_path / file).write_text(content if file == name else "same")
        found.append(fingerprint(tmp_path))
    assert found[0] != found[1]


@pytest.mark.parametrize("name", [
    ".3-distill-padded-4711", ".teacher-2-4711", ".teacher-onnx-4711", ".samples.md-x7", ".report.json-x7", ".run.json",
])  # fmt: skip
def test_what_a_killed_run_leaves_behind_is_known_by_its_name(name):
    from distill.pipeline.state import _UNFINISHED

    assert _UNFINISHED.fullmatch(name)
    assert not _UNFINISHED.fullmatch(".git") and not _UNFINISHED.fullmatch(".samples")
