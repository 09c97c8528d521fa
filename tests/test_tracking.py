"""W&B: what a run tells it, what it never tells it, and that W&B can neither stop nor hold up a run."""

from __future__ import annotations

import gzip
import http.server
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zlib
from getpass import getuser
from pathlib import Path

import numpy as np
import psutil
import pytest

from distill.errors import DataError
from distill.recipe import Recipe
from distill.redaction import page_without_paths, without_paths
from distill.tracking import Tracker, mode, offline, start, tracker
from distill.tracking.findings import read as findings

KEY = "0123456789abcdef0123456789abcdef01234567"
SECRET = "/somewhere/of mine/private"
LABELS = ["art", "war"]


@pytest.fixture(autouse=True)
def _no_account(tmp_path, monkeypatch):
    """Whatever W&B knows of the one who runs the tests stays out of them."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-config"))


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return make_recipe(tmp_path)


def make_recipe(home: Path, **track: object) -> Recipe:
    return Recipe.model_validate(
        {
            "task": "text-classification",
            "teacher": {"checkpoint": f"{home}/teachers/bert"},
            "student": {"layers": 2},
            "data": {"source": {"path": f"{SECRET}/rows.csv"}, "test": f"{home}/held out.csv"},
            "steps": [{"distill": {"imitate": {"logits": {"weight": 1.0}}}}, {"quantize": {}}],
            "track": {"tags": ["mine"], **track},
        }
    )


def make_row(name: str, form: str, score: float, size: int, milliseconds: float, retained: float | None) -> dict:
    return {
        "name": name, "format": form, "metric": "accuracy", "score": score, "interval": [score - 0.1, score + 0.1],
        "n": 10, "scores": {"accuracy": score, "macro_f1": score - 0.01}, "worst_class": {"name": "war", "score": 0.5},
        "params": size // 4, "bytes": size, "retained": retained, "p_value": None if retained is None else 0.25,
        "scored_at_batch": None, "by_class": {"art": 0.9, "war": 0.5}, "confusion": [[4, 1], [2, 3]],
        "calibration": {"expected_error": 0.1, "bins": [
            {"low": 0.5, "high": 1.0, "n": 10, "confidence": 0.8, "accuracy": score}]},
        "latency": [{"engine": "onnx" if "onnx" in form else "torch", "batch": 1, "tokens": 16, "threads": 1,
                     "rounds": 3, "p50_ms": milliseconds, "p95_ms": milliseconds * 2, "cpu_ms": milliseconds}],
        "memory_mb": 100.0,
    }  # fmt: skip


def make_report(recipe: Recipe, folder: Path) -> dict:
    return {
        "schema": 2, "run": "topics", "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "recipe_sha256": "e" * 64, "versions": {"torch": "2"}, "machine": {"processor": "any"}, "seed": 0,
        "smoke": False,
        "data": {"rows": {"train": 70, "validation": 10, "test": 10}, "labels": LABELS,
                 "problem": "single_label_classification", "truncated": {}, "sha256": "d" * 64,
                 "test_sha256": "f" * 64, "name": "rows.csv", "licence": None, "note": None},
        "teacher": {"name": "bert", "licence": None, "source": "https://huggingface.co/org/bert", "revision": None,
                    "sha256": "a" * 64, "finetuned": False},
        "rows": [
            make_row("teacher", "transformers", 0.8, 4000, 8.0, None),
            make_row("teacher", "onnx-fp32", 0.8, 4000, 4.0, 1.0),
            make_row("1-distill", "transformers", 0.7, 2000, 4.0, 0.875),
            make_row("2-quantize", "onnx-int8", 0.6, 500, 1.0, 0.75),
        ],
        "training": [{"step": "1-distill", "dtype": "float32", "best_epoch": 2, "seconds": 2.0,
                      "samples_per_second": 35.0, "records": [],
                      "epochs": [{"epoch": 1.0, "score": 0.6}, {"epoch": 2.0, "score": 0.7}]}],
        "steps": [{"name": "1-distill", "kind": "distill", "key": "k", "seconds": 2.0, "reused": False,
                   "finished": "2026-01-01T00:00:00", "sha256": "b" * 64, "machine": None}],
        "parity": None,
        "expect": [{"word": "retained", "bound": "at least 0.9", "measured": 0.75, "met": False},
                   {"word": "size", "bound": "at most 0.2", "measured": 0.125, "met": True}],
        "seconds": {"evaluation": 1.0}, "notes": [f"data: {folder}/rows.csv has 90 rows; art/war is a class"],
        "energy": {"method": "estimated", "how": "by load",
                   "training": [{"step": "1-distill", "seconds": 2.0, "kwh": 0.25, "co2_kg": None}],
                   "watts_per_cpu": 5.0, "per_1000_requests": [], "break_even_requests": 1000.0, "country": None},
    }  # fmt: skip


def begin(recipe: Recipe, folder: Path, run_id: str = "abcd1234") -> Tracker:
    folder.mkdir(exist_ok=True)
    tags = [recipe.task, "bert", "x" * 70]
    config = recipe.model_dump(mode="json", exclude_none=True)
    return start(recipe, folder, name="topics", run_id=run_id, config=config, tags=tags)


def train(told: Tracker, steps: range) -> None:
    for step in steps:
        told.metrics(
            "1-distill",
            {"step": step, "epoch": step / 10, "loss": 1 / (step + 1), "learning_rate": 1e-4, "steps": 20,
             "logits/value": 0.5 * step, "logits/share": 1.0, "samples_per_second": 33.0},
        )  # fmt: skip
    told.metrics("1-distill", {"step": steps[-1], "epoch": 1.0, "validation_score": 0.6 + steps[-1] / 100})


def checkpoints(told: Tracker, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"w" * 1000)
    facts = {"bytes": 1000, "score": 0.5}
    told.artifact("teacher", "teacher", [weights], facts={**facts, "sha256": "a" * 64}, parents=[], weights=False)
    made = {**facts, "sha256": "b" * 64}
    told.artifact("1-distill", "student", [weights], facts=made, parents=["c" * 64, "a" * 64], weights=False)
    made = {**facts, "sha256": "d" * 64}
    told.artifact("2-quantize-onnx-int8", "quantized", [weights], facts=made, parents=["1-distill"], weights=True)


def whole(recipe: Recipe, folder: Path) -> None:
    """A run from beginning to end."""
    told = begin(recipe, folder)
    train(told, range(4))
    checkpoints(told, folder)
    report = make_report(recipe, folder)
    (folder / "report.html").write_text(f"<p>{report['notes'][0]}</p><a href='https://a.b/c'>{SECRET}/rows.csv</a>")
    np.savez(folder / "predictions.npz", labels=np.array([0, 1]))
    told.finish(report, folder, 1)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """The folder of a whole offline run; PATIENCE is generous, for machines that are busy."""
    folder = tmp_path_factory.mktemp("runs") / "topics"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "PATIENCE", 120.0)
        patch.setenv("WANDB_MODE", "offline")
        whole(make_recipe(folder.parent), folder)
    return folder


@pytest.fixture(scope="module")
def told(run_folder) -> offline.OfflineRun:
    return offline.read(run_folder)


# ------------------------------------------------------------------------------- an offline run, read back


def test_it_says_what_it_is(told):
    assert (told.run_id, told.name, told.group, told.project) == ("abcd1234", "topics", "topics", "distill")
    assert told.job_type == "distill+quantize"
    assert told.tags == ["text-classification", "bert", "x" * 64, "mine"]
    assert told.exit_code == 1
    assert told.folder.name.startswith("offline-run-")
    assert told.folder.name.endswith("-abcd1234")


def test_the_resolved_recipe_is_its_config(told):
    assert told.config["steps"][0]["distill"]["temperature"] == 2.0
    assert told.config["1-distill"]["learning_rate"] == told.config["steps"][0]["distill"]["learning_rate"] == 5e-5
    assert told.config["2-quantize"]["weights"] == "int8"
    assert told.config["data"]["source"]["path"] == "rows.csv"
    assert told.config["data"]["test"] == "held out.csv"
    assert told.config["teacher"]["checkpoint"] == "bert"


def test_every_figure_of_training_is_its_history(told):
    assert told.history("1-distill/loss") == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert told.history("1-distill/logits/value") == [0, 0.5, 1.0, 1.5]
    assert told.history("1-distill/logits/share") == [1, 1, 1, 1]
    assert told.history("1-distill/learning_rate") == [1e-4] * 4
    assert told.history("1-distill/samples_per_second") == [33] * 4
    assert told.history("1-distill/validation_score") == [0.63]
    assert told.history("1-distill/step") == [0, 1, 2, 3, 3]
    assert told.step_metrics == {"1-distill/*": "1-distill/step"}


def test_the_ledger_is_a_table_and_its_last_row_the_summary(told):
    ledger = told.table("ledger")
    rows = [dict(zip(ledger["columns"], cells, strict=True)) for cells in ledger["data"]]
    assert [(row["checkpoint"], row["format"], row["score"]) for row in rows] == [
        ("teacher", "transformers", 0.8), ("teacher", "onnx-fp32", 0.8),
        ("1-distill", "transformers", 0.7), ("2-quantize", "onnx-int8", 0.6),
    ]  # fmt: skip
    assert (rows[3]["size"], rows[3]["vs_eager, batch 1"], rows[3]["vs_same_engine, batch 1"]) == (1 / 8, 1 / 8, 1 / 4)
    assert rows[0]["retained"] is None
    expected = {
        "score": 0.6, "retained": 0.75, "size": 0.125, "parameters": 0.125, "latency_vs_eager": 0.125,
        "latency_same_engine": 0.25, "checkpoint": "2-quantize", "format": "onnx-int8", "bytes": 500, "params": 125,
        "expectations_missed": 1, "training_kwh": 0.25, "break_even_requests": 1000, "scores/macro_f1": 0.59,
    }  # fmt: skip
    assert {word: told.summary.get(word) for word in expected} == pytest.approx(expected)


def test_what_a_sweep_optimises_is_logged_too(told):
    for word in ("retained", "score", "size", "parameters", "latency_vs_eager", "latency_same_engine"):
        assert told.history(word) == [told.summary[word]]


def test_the_other_tables_are_there(told):
    assert told.table("validation")["data"] == [["1-distill", 1.0, 0.6], ["1-distill", 2.0, 0.7]]
    assert told.table("by_class")["data"][-1] == ["2-quantize · onnx-int8", "war", 0.5]
    assert told.table("expectations")["data"] == [
        ["retained", "at least 0.9", 0.75, False],
        ["size", "at most 0.2", 0.125, True],
    ]
    assert told.table("energy")["data"] == [["1-distill", 2.0, 0.25, None, "estimated"]]
    assert len(told.table("latency")["data"]) == 4
    assert told.table("calibration")["data"][0] == ["teacher", 0.5, 1.0, 10, 0.8, 0.8]


def test_the_plots_are_there_with_the_tables_that_they_draw(told):
    assert set(told.plots) == {
        "score_by_size", "score_by_checkpoint", "score_by_latency", "reliability", "confusion_teacher",
        "confusion_result",
    }  # fmt: skip
    confusion = told.table("confusion_result_table")
    assert confusion["data"] == [["art", "art", 4], ["art", "war", 1], ["war", "art", 2], ["war", "war", 3]]
    size = told.table("score_by_size_table")
    assert size["data"][3][:2] == [0.125, 0.6]


def test_system_metrics_are_those_of_this_process(told):
    """Its memory is far above that of the worker, which has loaded neither torch nor NumPy."""
    found = [sample["proc.memory.rssMB"] for sample in told.system if "proc.memory.rssMB" in sample]
    assert found
    assert found[-1] > 0.5 * psutil.Process().memory_info().rss / 2**20


def test_artifacts_tell_the_lineage(told):
    made = {artifact.metadata["checkpoint"]: artifact for artifact in told.artifacts if artifact.kind != "run_table"}
    assert {name: (artifact.name, artifact.kind, artifact.used) for name, artifact in made.items()} == {
        "teacher": ("topics-teacher", "teacher", True),
        "1-distill": ("topics-1-distill", "student", False),
        "2-quantize-onnx-int8": ("topics-2-quantize-onnx-int8", "quantized", False),
    }
    assert made["1-distill"].metadata["made_from"] == [
        {"name": None, "sha256": "c" * 64},
        {"name": "teacher", "sha256": "a" * 64},
    ]
    assert made["2-quantize-onnx-int8"].metadata["made_from"] == [{"name": "1-distill", "sha256": "b" * 64}]
    assert made["1-distill"].metadata["score"] == 0.5


def test_weights_go_along_where_they_should(told):
    files = {artifact.metadata["checkpoint"]: set(artifact.files) for artifact in told.artifacts if artifact.metadata}
    assert files["2-quantize-onnx-int8"] == {"checkpoint.json", "model.safetensors"}
    assert files["teacher"] == files["1-distill"] == {"checkpoint.json"}


def test_notes_tell_what_was_met_and_missed(told):
    assert "MISSED: retained at least 0.9, measured 0.75" in told.notes
    assert "met: size at most 0.2, measured 0.125" in told.notes


def test_the_report_is_saved_without_paths(told):
    assert set(told.saved) >= {"report.json", "report.html", "predictions.npz"}
    report = json.loads(told.file("report.json").read_text())
    assert report["rows"][3]["score"] == 0.6
    assert report["recipe"]["data"]["source"]["path"] == "rows.csv"
    page = told.file("report.html").read_text()
    assert page == "<p>data: rows.csv has 90 rows; art/war is a class</p><a href='https://a.b/c'>rows.csv</a>"
    assert list(np.load(told.file("predictions.npz"))) == ["labels"]


# ----------------------------------------------------------------------------------------------- privacy


def private(folder: Path) -> list[bytes]:
    """What must never be told. The user's name counts as a path's part: `root` alone is a common word."""
    words = [str(Path.home()), str(Path.cwd()), str(folder), str(folder.parent), sys.executable, SECRET, KEY]
    words += [f"/{getuser()}", f'"{getuser()}"', f'"{socket.gethostname()}"', os.environ.get("PATH", "?" * 9)]
    return [word.encode() for word in words if len(word) > 2]


def test_what_would_be_uploaded_names_no_place_and_nobody(run_folder, told):
    files = [offline.find(run_folder), *(path for path in (told.folder / "files").rglob("*") if path.is_file())]
    files += [path for path in (told.folder / "checkpoints").rglob("*") if path.is_file()]
    files += [path for path in (run_folder / "wandb" / "artifacts").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        for word in private(run_folder):
            assert word not in path.read_bytes(), path


def test_no_code_no_arguments_no_environment_is_caught(run_folder, told):
    from wandb.proto.wandb_internal_pb2 import Record

    kinds = set()
    for data in offline.records(offline.find(run_folder)):
        record = Record()
        record.ParseFromString(data)
        kinds.add(record.WhichOneof("record_type"))
        if record.WhichOneof("record_type") == "run":
            assert record.run.host == ""
    assert not kinds & {"environment", "output", "output_raw"}
    assert not (told.folder / "files" / "requirements.txt").exists()
    assert not (told.folder / "files" / "wandb-metadata.json").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/home/ann/data/rows.csv", "rows.csv"),
        ("see /home/ann/rows.csv, line 3", "see rows.csv, line 3"),
        ("(/home/ann/rows.csv)", "(rows.csv)"),
        ("at C:\\Users\\ann\\rows.csv.", "at rows.csv."),
        ("file:///home/ann/rows.csv", "rows.csv"),
        ("~/rows/a.csv and ../up/b.csv and ./c.csv", "a.csv and b.csv and c.csv"),
        ("~ann/rows/a.csv", "a.csv"),
        ("bbcnews/data: 3 and/or 1/2 of it", "bbcnews/data: 3 and/or 1/2 of it"),
        ("https://huggingface.co/org/name", "https://huggingface.co/org/name"),
        ("train / test", "train / test"),
        (3, 3),
        (None, None),
        ({"a": ["/x/y/z"]}, {"a": ["z"]}),
        ({"/x/y": 1}, {"y": 1}),
        ({"path": "data/of mine/rows.csv"}, {"path": "rows.csv"}),
        ({"package": "corpus", "path": "corpus/bbc/data"}, {"package": "corpus", "path": "corpus/bbc/data"}),
        ({"checkpoint": "org/name"}, {"checkpoint": "org/name"}),
        ({"checkpoint": "models/of/mine"}, {"checkpoint": "mine"}),
        ({"checkpoint": "./mine"}, {"checkpoint": "mine"}),
        ({"card": "cards/mine.yaml"}, {"card": "mine.yaml"}),
        ({"source": "https://a.b/c"}, {"source": "https://a.b/c"}),
        ({"validation": 0.1, "test": "in/rows.csv"}, {"validation": 0.1, "test": "rows.csv"}),
    ],
)
def test_paths_are_cut_to_their_last_name(given, expected):
    assert without_paths(given) == expected


def test_home_and_working_directory_are_cut_even_with_spaces_in_them(tmp_path, monkeypatch):
    home = tmp_path / "ann smith"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    assert without_paths(f"read {home}/rows.csv and {home}/work/b.csv of {home}") == "read rows.csv and b.csv of ~"
    assert page_without_paths(f"<b>{home}/rows.csv</b></p>", {"a": f"{home}/rows.csv"}) == "<b>~/rows.csv</b></p>"


def test_a_folder_that_is_there_is_a_path_though_it_looks_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert without_paths({"checkpoint": "org/name"}) == {"checkpoint": "name"}


# ------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("word", "environment", "expected"),
    [
        ("off", {"WANDB_API_KEY": KEY}, "off"),
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "auto"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
        ("online", {"WANDB_API_KEY": KEY}, "online"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "offline"),
        ("off", {"WANDB_MODE": "online"}, "off"),
        ("offline", {"RANK": "1"}, "off"),
        ("offline", {"RANK": "0"}, "offline"),
    ],
)
def test_the_quieter_of_recipe_and_environment_wins(tmp_path, word, environment, expected):
    assert mode.choose(word, {"NETRC": str(tmp_path / "none"), **environment}) == (expected, None)


def test_online_without_a_key_goes_offline_and_says_so(tmp_path):
    chosen, warning = mode.choose("online", {"NETRC": str(tmp_path / "none")})
    assert chosen == "offline"
    assert "WANDB_API_KEY" in warning


def test_a_key_in_the_netrc_file_counts_for_its_own_server(tmp_path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    environment = {"NETRC": str(tmp_path / "netrc")}
    assert mode.choose("auto", environment) == ("auto", None)
    assert mode.choose("auto", {**environment, "WANDB_BASE_URL": "https://wandb.own.org"}) == ("offline", None)
    (tmp_path / "netrc").write_text("machine\nmachine")
    assert not mode.has_key(environment)


def test_off_writes_nothing_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    told = begin(make_recipe(tmp_path, wandb="off"), tmp_path / "run")
    train(told, range(3))
    told.artifact("teacher", "teacher", [], facts={}, parents=[], weights=True)
    told.finish({}, tmp_path / "run", 0)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_process_that_trains_never_imports_wandb(tmp_path):
    script = (
        "import sys; from pathlib import Path; from test_tracking import *; "
        f"whole(make_recipe(Path({str(tmp_path)!r}), wandb='offline'), Path({str(tmp_path / 'run')!r}) / '.'); "
        "print('wandb' in sys.modules)"
    )
    (tmp_path / "run").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stderr


# --------------------------------------------------------------------------------- sittings and sweeps


def test_a_run_that_goes_on_keeps_its_id_and_counts_on(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    folder = tmp_path / "run"
    first = begin(recipe, folder)
    train(first, range(3))
    first.finish(None, folder, 130)
    again = begin(recipe, folder)
    again.metrics("2-distill", {"step": 0, "loss": 0.5})
    again.finish(make_report(recipe, folder), folder, 0)
    one, two = (offline.read(path) for path in sorted((folder / "wandb").glob("offline-run-*")))
    assert one.run_id == two.run_id == "abcd1234"
    assert (one.exit_code, two.exit_code) == (130, 0)
    assert two.rows[0]["_step"] > one.rows[-1]["_step"]
    assert two.summary["1-distill/loss"] == pytest.approx(1 / 3)
    assert two.summary["retained"] == 0.75
    assert offline.read(folder).folder == two.folder


def test_a_sweep_agents_run_id_project_and_settings_win(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    chosen = tmp_path / "sweep.yaml"
    chosen.write_text("wandb_version: 1\nsteps.0.distill.temperature:\n  desc: null\n  value: 3.0\n")
    for name, value in {
        "WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agent1", "WANDB_PROJECT": "theirs",
        "WANDB_SWEEP_PARAM_PATH": str(chosen),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    begin(recipe, tmp_path / "run").finish(None, tmp_path / "run", 0)
    told = offline.read(tmp_path / "run")
    assert (told.run_id, told.project) == ("agent1", "theirs")
    assert told.config["steps.0.distill.temperature"] == 3.0


# -------------------------------------------------------------------------- a W&B that fails, or hangs

RUN = "class Run:\n    dir = 'x'; url = None; offline = True\n    def finish(self, **_): time.sleep({finish})\n"
FAKES = {
    "fails at import": "raise RuntimeError('broken wandb')",
    "exits at import": "raise SystemExit(3)",
    "fails to open": "class Settings:\n    def __init__(self, **_): ...\n"
    "class Artifact:\n    def add_file(self): ...\n"
    "def init(**_): raise RuntimeError('broken wandb')",
    "hangs at import": "import time; time.sleep(3600)",
    "hangs at the end": "import time\nclass Settings:\n    def __init__(self, **_): ...\n"
    "class Artifact:\n    def add_file(self): ...\n" + RUN.format(finish=3600) + "def init(**_): return Run()",
    "is killed": "import os; os.kill(os.getpid(), 9)",
}  # fmt: skip


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """Puts another wandb in the worker's way."""

    def put(code: str) -> None:
        package = tmp_path / "fake" / "wandb"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        monkeypatch.setattr(tracker, "PATIENCE", 3.0)

    return put


@pytest.mark.parametrize("what", FAKES)
def test_a_wandb_that_fails_or_hangs_costs_a_run_one_warning(tmp_path, recipe, fake_wandb, caplog, what):
    fake_wandb(FAKES[what])
    before = psutil.Process().children(recursive=True)  # of other tests
    told = begin(recipe, tmp_path / "run")
    train(told, range(3))
    checkpoints(told, tmp_path / "run")
    told.finish(make_report(recipe, tmp_path / "run"), tmp_path / "run", 0)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ("did not finish within 3 s" if "hangs" in what else "not everything was logged") in warning
    assert not set(psutil.Process().children(recursive=True)) - set(before)
    if what == "hangs at the end":
        assert "wandb sync" in warning
    if what.startswith("fails"):
        assert "broken wandb" in warning


def test_a_full_disk_stops_tracking_with_one_warning(tmp_path, monkeypatch, recipe, caplog):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    train(told, range(3))
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if descriptor == told._spool:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    train(told, range(3))
    told.finish(make_report(recipe, tmp_path / "run"), tmp_path / "run", 0)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "No space left on device" in warning
    assert len(offline.read(tmp_path / "run").history("1-distill/loss")) == 3


def test_a_folder_that_cannot_be_written_stops_tracking_with_one_warning(tmp_path, recipe, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("in the way")
    told = begin(recipe, tmp_path / "run")
    train(told, range(3))
    told.finish(None, tmp_path / "run", 0)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "tracking stops, the run goes on" in warning


def test_a_report_that_cannot_be_told_is_no_reason_to_fail(tmp_path, monkeypatch, recipe, caplog):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    told.metrics("1-distill", {"step": np.int64(1), "loss": np.float32(0.5)})
    told.finish({"rows": "nonsense"}, tmp_path / "run", 0)
    assert "could not be told" in caplog.text
    assert offline.read(tmp_path / "run").history("1-distill/loss") == [0.5]


@pytest.mark.parametrize("wandb", ["real", "hangs at import"])
def test_the_worker_ends_when_the_run_is_killed(tmp_path, fake_wandb, wandb):
    if wandb != "real":
        fake_wandb(FAKES[wandb])
    script = (
        "import sys, time; sys.path.insert(0, {tests!r}); from test_tracking import *; "
        "tracker.PATIENCE = {patience}; home = Path({home!r}); told = begin(make_recipe(home), home / 'run'); "
        "train(told, range(3)); print(told._worker.pid, flush=True); time.sleep(3600)"
    ).format(tests=str(Path(__file__).parent), home=str(tmp_path), patience=120 if wandb == "real" else 1)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        worker = psutil.Process(int(run.stdout.readline()))
        if wandb == "real":
            wait_for(lambda: list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")))
        family = [worker, *worker.children(recursive=True)]
        run.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=300)
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    if wandb == "real":
        told = offline.read(tmp_path / "run")
        assert told.exit_code == 137
        assert len(told.history("1-distill/loss")) == 3


def wait_for(what) -> None:
    for _ in range(3000):
        if what():
            return
        threading.Event().wait(0.1)
    raise AssertionError("waited in vain")


def test_the_terminals_interrupt_does_not_reach_the_worker(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    assert os.getpgid(told._worker.pid) != os.getpgid(0)
    train(told, range(2))
    wait_for(lambda: list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")))
    told._worker.send_signal(signal.SIGINT)
    train(told, range(2, 4))
    told.finish(None, tmp_path / "run", 130)
    assert len(offline.read(tmp_path / "run").history("1-distill/loss")) == 4


# ----------------------------------------------------------------- what goes over the wire, to a server of our own


class Server(http.server.ThreadingHTTPServer):
    """As much of a W&B server as an upload needs; keeps all that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, dict]] = []  # GraphQL operations with their variables
        self.uploads: dict[str, bytes] = {}
        self.everything: list[bytes] = []
        self.lines = 0  # of history

    def answer(self, operation: str, told: dict) -> dict:
        def link(name: str) -> dict:
            return {"id": name, "name": name, "displayName": name, "uploadUrl": f"{self.url}/up/{name}"} | {
                "uploadHeaders": [], "storagePath": name, "uploadMultipartUrls": None, "artifact": {"id": "a"},
            }  # fmt: skip

        project = {"id": "p", "name": told.get("project"), "entity": {"id": "e", "name": "team"}}
        bucket = {"id": "b", "name": told.get("name"), "displayName": told.get("displayName"), "description": None}
        bucket |= {"config": "{}", "sweepName": None, "historyLineCount": self.lines, "project": project}
        wanted = told.get("input", {}).get("artifactFiles", [])
        manifest = {"artifactManifest": {"id": "m", "file": link("manifest")}}
        return {
            "Viewer": {"viewer": {"id": "v", "entity": "team", "username": "u", "flags": "{}", "teams": {"edges": []}}},
            "RunResumeStatus": {"model": {**project, "bucket": None}},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "CreateRunFiles": {
                "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": [*map(link, told.get("files", []))]}
            },
            "CreateArtifact": {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": {
                "id": "s", "latestArtifact": None}}}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifactManifest": {"createArtifactManifest": manifest},
            "UpdateArtifactManifest": {"updateArtifactManifest": manifest},
            "CreateArtifactFiles": {
                "createArtifactFiles": {"files": {"edges": [{"node": link(file["name"])} for file in wanted]}}
            },
            "CommitArtifact": {"commitArtifact": {"artifact": {"id": "a", "digest": "x"}}},
            "UseArtifact": {"useArtifact": {"artifact": {"id": "a"}}},
            "RunStoppedStatus": {"project": {"run": {"stopped": False}}},
        }.get(operation, {})  # fmt: skip

    def handle_error(self, *_: object) -> None:
        """A client that hangs up."""

    def of(self, operation: str) -> list[dict]:
        """What was asked with an operation."""
        return [told for name, told in self.asked if name == operation]


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.take()
        if self.path != "/graphql":
            files = json.loads(body).get("files") or {}
            self.server.lines += len(files.get("wandb-history.jsonl", {}).get("content", []))
            return self.give({})
        asked = json.loads(body)
        operation = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
        told = asked.get("variables") or {}
        self.server.asked.append((operation, told))
        return self.give({"data": self.server.answer(operation, told)})

    def do_PUT(self) -> None:
        name = self.path.removeprefix("/up/")
        self.server.uploads[name if name not in self.server.uploads else f"{name} {len(self.server.uploads)}"] = (
            self.take()
        )
        self.give({})

    def do_GET(self) -> None:
        self.give({})

    def take(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.everything.append(self.path.encode() + b"\n" + body)
        return body

    def give(self, told: dict) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        yield found
        found.shutdown()


def nothing_private(server: Server, folder: Path) -> None:
    assert len(server.everything) > 15
    for sent in server.everything:
        for word in [*private(folder), b'local_path":"/']:
            assert word not in sent, sent[:2000]


def sync(folder: Path) -> None:
    """The command that a run's last line tells."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes"]
    environment = os.environ | {"WANDB_PROGRAM": "distill", "WANDB_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Finished syncing" in done.stderr, done.stderr


def test_an_offline_run_that_was_copied_elsewhere_uploads_whole_and_tells_nothing_private(server, run_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run_folder / "wandb", elsewhere / "wandb", symlinks=True)
    hidden = run_folder.rename(run_folder.with_name("gone"))
    try:
        sync(elsewhere)
    finally:
        hidden.rename(run_folder)
    first = server.of("UpsertBucket")[0]
    assert (first["name"], first["groupName"], first["jobType"]) == ("abcd1234", "topics", "distill+quantize")
    assert first["program"] == "distill"
    assert set(server.uploads) >= {
        "report.json",
        "report.html",
        "predictions.npz",
        "model.safetensors",
        "checkpoint.json",
    }
    assert server.uploads["model.safetensors"] == b"w" * 1000
    assert len(server.of("UseArtifact")) == 1
    assert server.lines == 6
    nothing_private(server, run_folder)


def test_two_sittings_are_uploaded_into_one_run_one_behind_the_other(server, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    folder = tmp_path / "run"
    for steps in (range(3), range(3, 5)):
        monkeypatch.setenv("WANDB_MODE", "offline")
        told = begin(recipe, folder)
        train(told, steps)
        told.finish(None, folder, 0)
        threading.Event().wait(1.1)  # W&B tells the order of folders by the second in which they were begun
    sync(folder)
    assert {asked["name"] for asked in server.of("UpsertBucket")} == {"abcd1234"}
    streams = [json.loads(sent.split(b"\n", 1)[1]) for sent in server.everything if b"/file_stream" in sent[:200]]
    parts = [part["files"]["wandb-history.jsonl"] for part in streams if "wandb-history.jsonl" in part.get("files", {})]
    place = 0
    for part in parts:  # each goes on where the one before ended
        assert part["offset"] == place
        place += len(part["content"])
    steps = [json.loads(line)["1-distill/step"] for part in parts for line in part["content"]]
    assert steps == [0, 1, 2, 2, 3, 4, 4]
    counted = [json.loads(line)["_step"] for part in parts for line in part["content"]]
    assert counted == sorted(set(counted))


def test_an_online_run_tells_nothing_private(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    caplog.set_level(logging.INFO, "distill")
    recipe = make_recipe(tmp_path, wandb="online", weights="all")
    whole(recipe, tmp_path / "run")
    assert f"W&B: {server.url}/team/distill/runs/abcd1234" in caplog.text
    assert {"report.json", "report.html", "model.safetensors", "config.yaml"} <= set(server.uploads)
    assert "wandb-metadata.json" not in server.uploads
    assert len(server.of("CommitArtifact")) >= 3
    nothing_private(server, tmp_path / "run")


def test_a_server_that_takes_calls_and_never_answers_holds_nobody_up(tmp_path, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(tracker, "PATIENCE", 120.0)
        whole(make_recipe(tmp_path), tmp_path / "run")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "so the run was logged offline; upload it with:" in warning
    assert offline.read(tmp_path / "run").summary["retained"] == 0.75


def test_online_without_a_server_in_reach_goes_offline_with_one_warning(tmp_path, monkeypatch, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(tracker, "PATIENCE", 120.0)
        whole(make_recipe(tmp_path), tmp_path / "run")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "was not reached (ConnectionRefusedError), so the run was logged offline; upload it with:" in warning
    told = offline.read(tmp_path / "run")
    assert told.summary["retained"] == 0.75
    assert KEY.encode() not in offline.find(tmp_path / "run").read_bytes()


# --------------------------------------------------------------------------------------- reading, and damage


def copy_of(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(offline.find(run_folder), tmp_path / "run-abcd1234.wandb"))


def test_long_records_go_over_blocks(tmp_path):
    long = bytes(range(256)) * 400  # 100 KiB: more than three blocks
    body, left, kinds = b"", offline._BLOCK - 7, iter([2, 3, 3, 4])
    start = 0
    while start < len(long):
        data = long[start : start + left - 7]
        kind = next(kinds)
        body += zlib.crc32(bytes([kind]) + data).to_bytes(4, "little") + len(data).to_bytes(2, "little")
        body += bytes([kind]) + data
        start, left = start + len(data), offline._BLOCK
    path = tmp_path / "a.wandb"
    path.write_bytes(b":W&B\xe1\xbe\x00" + body)
    assert list(offline.records(path)) == [long]


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(run_folder, tmp_path):
    path = copy_of(run_folder, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = offline.read(tmp_path)
    assert cut.exit_code is None
    assert cut.history("1-distill/loss")


@pytest.mark.parametrize("place", [200, 3000])
def test_a_flipped_byte_is_found(run_folder, tmp_path, place):
    path = copy_of(run_folder, tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        offline.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b":W&", b"PK\x03\x04 not a run", b":W&B\xe1\xbe\x01"])
def test_what_is_no_wandb_file_is_refused(tmp_path, content):
    (tmp_path / "a.wandb").write_bytes(content)
    with pytest.raises(DataError, match="not a W&B run"):
        offline.read(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="no offline W&B run in it"):
        offline.read(tmp_path)


def test_files_outside_the_run_are_not_read(told):
    for name in ("../../spool/1.jsonl", "/etc/passwd", "none.json"):
        with pytest.raises(DataError, match="holds no file"):
            told.file(name)
    with pytest.raises(DataError, match="holds no table none"):
        told.table("none")


# ------------------------------------------------------------------------------------------------ findings


def test_a_report_without_classes_graphs_or_energy_is_told_too(recipe, tmp_path):
    report = make_report(recipe, tmp_path)
    rows = [row | {"confusion": None, "calibration": None, "by_class": {}, "worst_class": None, "latency": []}
            for row in report["rows"][::2]]  # fmt: skip
    told = findings(report | {"rows": rows, "energy": None, "expect": [], "notes": [], "smoke": True, "training": []})
    assert set(told["tables"]) == {"ledger", "steps"}
    assert [plot["key"] for plot in told["plots"]] == ["score_by_size", "score_by_checkpoint"]
    assert "latency_vs_eager" not in told["summary"]
    assert told["notes"] == "a smoke run: its figures mean nothing"
    assert json.loads(json.dumps(told)) == told


# ----------------------------------------------------------------------------------------- a real run's telling


def test_a_real_run_is_told_whole_and_no_text_of_its_data_is(tmp_path, recipe_file, monkeypatch):
    """Teacher, student, graph; every training text holds a word that must not turn up anywhere."""
    from distill.pipeline import run
    from distill.recipe import load

    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    texts = tmp_path / "secret texts.csv"
    lines = [f"{word} xyzzyword number {n},{word}" for n in range(60) for word in ("goal", "vote")]
    texts.write_text("\n".join(["text,label", *lines]) + "\n")
    data = {"source": str(texts), "validation": 0.2, "test": 0.2, "max_length": 16}
    path = recipe_file(data=data, track={"wandb": "offline", "energy": False})
    folder = tmp_path / "run"
    report = run(load(path), folder, name="topics", beside=path.parent)

    told = offline.read(folder)
    assert told.exit_code == 0
    for training in report.training:
        step = training["step"]
        assert told.history(f"{step}/loss") == pytest.approx([record["loss"] for record in training["records"]])
        for name in training["records"][0]["terms"]:
            assert len(told.history(f"{step}/{name}/value")) == len(training["records"])
        assert told.history(f"{step}/learning_rate")
        assert told.history(f"{step}/samples_per_second")
        scores = [epoch["score"] for epoch in training["epochs"]]
        assert told.history(f"{step}/validation_score") == pytest.approx(scores)
    assert [row[0] for row in told.table("ledger")["data"]] == [row.name for row in report.ledger.rows]
    assert told.summary["retained"] == pytest.approx(report.ledger.last.retained)
    kinds = [artifact.kind for artifact in told.artifacts if artifact.kind != "run_table"]
    assert kinds[0] == "teacher"
    assert {"student", "quantized"} <= set(kinds)
    assert json.loads(told.file("report.json").read_text())["data"]["sha256"] == report.data["sha256"]

    for found in (found for found in (folder / "wandb").rglob("*") if found.is_file()):
        assert b"xyzzyword" not in found.read_bytes(), found
    for found in [offline.find(folder), *(path for path in (told.folder / "files").rglob("*") if path.is_file())]:
        assert str(tmp_path).encode() not in found.read_bytes(), found


def test_a_path_with_spaces_that_a_setting_names_is_cut_in_sentences_too():
    place = "/srv/some folder/my rows.csv"
    told = without_paths({"recipe": {"data": {"source": {"path": place}}}, "notes": [f"3 rows of {place} dropped"]})
    assert told == {"recipe": {"data": {"source": {"path": "my rows.csv"}}}, "notes": ["3 rows of my rows.csv dropped"]}


def test_a_label_that_looks_like_a_path_is_told_as_it_is(tmp_path):
    from distill.redaction import own_words

    keep = own_words({"text": "text", "label": ["/r/news", "rude"]}, ["/r/news", "/r/python"])
    told = {
        "labels": ["/r/news", "/r/python"], "by_class": {"/r/python": 0.5}, "note": "labels: /r/news, /r/python",
        "path": "/r/secret/rows.csv", "said": "rows of /r/secret/rows.csv and /r/news",
    }  # fmt: skip
    assert without_paths(told, keep) == {
        **told, "path": "rows.csv", "said": "rows of rows.csv and /r/news",
    }  # fmt: skip
    assert without_paths(told)["labels"] == ["news", "python"]
