"""The ledger's arithmetic, what is expected of it, and the report that tells it."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import LABELS

from distill import load_recipe
from distill.evaluation import Ledger, Row
from distill.evaluation.timing import Latency
from distill.recipe import settings
from distill.report import Report, judge
from distill.training import TrainingLog

SINGLE = "single_label_classification"

# ------------------------------------------------------------------------------------- the ledger


def row(name: str, form: str, ms: float, **more: object) -> Row:
    engine = "torch" if form == "transformers" else "onnxruntime"
    given = {"metric": "accuracy", "score": 0.8, "interval": (0.7, 0.9), "n": 10, "scores": {"accuracy": 0.8}}
    given |= {"worst_class": {"name": "film", "score": 0.5}, "params": 1000, "bytes": 4000, "memory_mb": 100.0}
    cells = [Latency(engine, batch, 16, 1, 3, ms * batch, ms * batch, ms) for batch in (1, 32)]
    return Row(name, form, **{**given, "latency": cells, **more})


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (["teacher", "1-prune"], 1),
        (["teacher", "1-prune", "1-prune-padded"], 1),
        (["teacher", "1-prune", "1-prune-padded", "2-quantize"], 3),
        (["mine", "other-padded"], 1),
    ],
)
def test_a_padded_copy_is_not_the_result(names, place):
    rows = [row(name, "transformers", 1.0) for name in names]
    assert Ledger(rows).last is rows[place]


def hand_made() -> Ledger:
    return Ledger(
        [
            row("teacher", "transformers", 8.0),
            row("teacher", "onnx-fp32", 4.0),
            row("1-distill", "transformers", 4.0, params=500, bytes=2000, score=0.72, retained=0.9, p_value=0.25),
            row("2-quantize", "onnx-fp32", 2.0, params=500, bytes=2000, score=0.72, retained=0.9, p_value=0.25),
            row("2-quantize", "onnx-int8", 1.0, params=500, bytes=600, score=0.68, retained=0.85, scored_at_batch=32),
        ]
    )


def test_each_latency_has_two_baselines():
    ledger = hand_made()
    assert [ledger.against_eager(found) for found in ledger.rows] == [1, 0.5, 0.5, 0.25, 0.125]
    assert [ledger.against_same_engine(found) for found in ledger.rows] == [1, 1, 0.5, 0.5, 0.25]
    assert ledger.against_eager(ledger.last, 1) == 0.125
    assert [ledger.ratio_of_size(found) for found in ledger.rows] == [1, 1, 0.5, 0.5, 0.15]


def test_a_ratio_without_its_baseline_is_not_made_up():
    ledger = Ledger([found for found in hand_made().rows if (found.name, found.format) != ("teacher", "onnx-fp32")])
    assert ledger.against_same_engine(ledger.last) is None
    assert ledger.against_eager(ledger.last) == 0.125
    assert ledger.against_eager(ledger.last, 2) is None
    untimed = Ledger([row("teacher", "transformers", 1.0, latency=[]), row("x", "onnx-int8", 1.0, latency=[])])
    assert untimed.against_eager(untimed.last) is None and untimed.against_same_engine(untimed.last) is None


def test_the_table_shows_speed_against_both_baselines():
    head, body = hand_made().cells()
    last = dict(zip(head, body[-1], strict=True))
    assert all(len(cells) == len(head) for cells in body)
    assert body[-1][0] == "2-quantize · onnx-int8"
    assert (last["kept"], last["of teacher"], last["memory"]) == ("85.0 %", "0.150", "100 MB")
    place = head.index("ms, batch 1")
    assert body[-1][place : place + 3] == ["1.00", "8.00x", "4.00x"]


@pytest.mark.parametrize(
    ("word", "measured", "held", "missed"),
    [
        ("retained", 0.85, "at least 0.85", "at least 0.86"),
        ("score", 0.68, "at least 0.6", "at least 0.7"),
        ("size", 0.15, "at most 0.15", "at most 0.1"),
        ("parameters", 0.5, "at most 0.5", "at most 0.49"),
        ("latency_vs_eager", 0.125, "at most 0.2", "at most 0.1"),
        ("latency_same_engine", 0.25, "at most 0.25", "at most 0.2"),
    ],
)
def test_every_word_of_expect_is_judged_on_the_last_row(word, measured, held, missed):
    (found,) = judge(settings.Expect(**{word: held}), hand_made())
    assert (found.word, found.measured, found.met) == (word, pytest.approx(measured), True)
    (found,) = judge(settings.Expect(**{word: missed}), hand_made())
    assert not found.met and "MISSED" in str(found) and word in str(found)


def test_every_word_of_expect_has_a_test():
    words = next(mark for mark in test_every_word_of_expect_is_judged_on_the_last_row.pytestmark).args[1]
    assert {line[0] for line in words} == set(settings.Expect.model_fields)


def test_what_was_not_measured_is_not_met():
    ledger = hand_made()
    ledger.last.latency = []
    (found,) = judge(settings.Expect(latency_vs_eager="at most 99"), ledger)
    assert not found.met and "not measured" in str(found)
    assert judge(settings.Expect(), ledger) == []


# ------------------------------------------------------------------------------------- reports


@pytest.fixture
def report(recipe_file):
    told = TrainingLog("1-distill", "float32", best_epoch=2.0, seconds=1.0, samples_per_second=99.0)
    told.epochs = [{"epoch": 1.0, "score": 0.5}, {"epoch": 2.0, "score": 0.75}]
    term = {"value": 0.3, "weight": 1.0, "share": 1.0}
    told.records = [{"step": 4, "epoch": 2.0, "learning_rate": 1e-5, "loss": 0.3, "terms": {"logits": term}}]
    graph = {"largest_difference": 1e-6, "agreement": 1.0, "score": {"batch 1": 0.7, "batch 32": 0.7}}
    parity = {"rows": 9, "split": "validation", "metric": "accuracy", "torch": {"score": 0.7}}
    recipe = load_recipe(recipe_file(expect={"retained": "at least 0.8", "size": "at most 0.1"}))
    facts = {
        "name": "topics.csv", "rows": {"train": 72, "validation": 24, "test": 24}, "labels": list(LABELS),
        "problem": SINGLE, "truncated": {}, "sha256": "0" * 64, "test_sha256": "1" * 64, "licence": None, "note": None,
    }  # fmt: skip
    return Report(
        "tiny", recipe, hand_made(), [told.as_dict()], facts, {"evaluation": 1.25},
        parity={**parity, "onnx-fp32": graph, "onnx-int8": graph}, notes=["a note on the data"],
    )  # fmt: skip


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_report_json_has_the_keys_of_its_schema(report, tmp_path):
    report.write(tmp_path)
    found = strict((tmp_path / "report.json").read_text())
    assert {"schema", "run", "recipe", "recipe_sha256", "versions", "machine", "seed", "rows", "training", "expect",
            "teacher", "steps", "energy", "parity", "notes", "data", "smoke", "seconds"} == set(found)  # fmt: skip
    assert found["schema"] == 2 and found["run"] == "tiny"
    for line in found["rows"]:
        assert {"name", "format", "score", "metric", "interval", "n", "retained", "p_value", "worst_class", "params",
                "bytes", "latency", "memory_mb"} <= set(line)  # fmt: skip
        for cell in line["latency"]:
            assert {"engine", "batch", "tokens", "threads", "p50_ms", "p95_ms", "cpu_ms"} <= set(cell)
    assert [(line["word"], line["met"]) for line in found["expect"]] == [("retained", True), ("size", False)]
    assert found["training"][0]["records"][0]["terms"]["logits"]["share"] == 1
    assert found["versions"]["torch"] == torch.__version__
    assert settings.Recipe.model_validate(found["recipe"]) == report.recipe


def test_a_row_is_read_back_from_report_json(report):
    for row in report.ledger.rows:
        assert Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row


def test_report_md_tells_how_long_this_run_took_and_what_was_made_before(report, tmp_path):
    report.steps = [
        {"name": "1-distill", "kind": "distill", "seconds": 2289.4, "reused": True, "machine": None},
        {"name": "2-quantize", "kind": "quantize", "seconds": 9, "reused": False, "machine": None},
    ]
    report.training[0]["samples_per_second"] = 0.23
    report.write(tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "* this run took: evaluation 1.2 s" in lines
    assert "* from the store, made before: 1-distill 38 min 09 s" in lines
    assert any(line.startswith("| 1-distill | 2 |") and line.endswith("| 0.230 | float32 |") for line in lines)


def test_report_md_tells_both_baselines_what_was_missed_and_the_notes(report, tmp_path):
    report.write(tmp_path)
    found = (tmp_path / "report.md").read_text()
    assert "vs eager" in found and "vs same engine" in found
    assert "teacher in eager torch" in found and "on the same engine in fp32" in found
    assert "size: at most 0.1, measured 0.15: MISSED" in found
    assert "a note on the data" in found and "1-distill" in found and "onnx-int8" in found
    lines = [line for line in found.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:7]}) == 1


def test_a_smoke_report_judges_nothing(report):
    report.judged = False
    assert report.expectations == [] and report.missed == []
    assert "smoke run" in report.markdown() and report.as_dict()["smoke"]
