"""W&B: what a run tells it, and a run that goes on."""

from __future__ import annotations

import json

import numpy as np
import psutil
import pytest
import tracked
from tracked import begin, make_report, train

from distill.tracking import offline, tracker
from distill.tracking.findings import read as findings

no_account, recipe = tracked.no_account, tracked.recipe  # fixtures; imported, they would look unused
run_folder, told = tracked.run_folder, tracked.told

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


def test_predictions_that_are_texts_of_the_data_are_not_sent(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    np.savez(tmp_path / "run" / "predictions.npz", labels=np.array(["a text", "another"]))
    told.finish(make_report(recipe, tmp_path / "run"), tmp_path / "run", 0)
    saved = offline.read(tmp_path / "run").saved
    assert "report.json" in saved and "predictions.npz" not in saved


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
