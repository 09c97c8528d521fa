"""Runs that are told to W&B, built in code: their recipe, figures, checkpoints and report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from distill.recipe import Recipe
from distill.tracking import Tracker, offline, start, tracker

KEY = "0123456789abcdef0123456789abcdef01234567"
SECRET = "/somewhere/of mine/private"
LABELS = ["art", "war"]


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch):
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
