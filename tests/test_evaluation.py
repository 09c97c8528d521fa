"""What is measured is right: scores, intervals, tests, sizes, the ledger's arithmetic, judgement, reports, answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LABELS, load_tiny, make_splits
from scipy import stats
from sklearn import metrics

from distill import Predictor, evaluate, export, load_recipe
from distill.checkpoint import Checkpoint
from distill.distillation import settle
from distill.engines import OnnxRuntime, Torch, answer_all
from distill.errors import CheckpointError, DistillError
from distill.evaluation import Ledger, Row, Subject, make_ledger, quality, score, subjects_in
from distill.evaluation.quality import Quality, calibrate, measure_quality, paired_p_value
from distill.evaluation.timing import Latency, measure_latency
from distill.recipe import settings
from distill.report import Report, judge
from distill.tasks import METRICS, METRICS_OF, TextClassification
from distill.training import TrainingLog

SINGLE, MANY, NUMBER = "single_label_classification", "multi_label_classification", "regression"
TASK = TextClassification(SINGLE, LABELS, "accuracy")
RNG = np.random.default_rng(0)
TRUTH, GUESS = RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)
QUICK = settings.Timing(batch=[1, 3], rounds=3)


@pytest.fixture(scope="module")
def graph(quantized, tmp_path_factory):
    """The fp32 graph alone."""
    folder = shutil.copytree(quantized, tmp_path_factory.mktemp("run") / "graph")
    (folder / "model_int8.onnx").unlink()
    return folder


class Scripted:
    """An engine that answers row by row from a table, by batch size; in its batches it meets the rows in order."""

    name, format = "scripted", "onnx-int8"

    def __init__(self, by_size: dict[int, np.ndarray], batch_dependent: bool = True) -> None:
        self.by_size, self.batch_dependent = by_size, batch_dependent
        self.shapes: list[tuple[int, int]] = []

    def answer(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        self.shapes.append(batch["input_ids"].shape)
        table = self.by_size[1 if len(batch["input_ids"]) == 1 else 32]
        return table[batch["rows"]] if "rows" in batch else np.zeros((len(batch["input_ids"]), 3), np.float32)


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes]


# ------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", float(np.mean(TRUTH == GUESS))),
        ("macro_f1", metrics.f1_score(TRUTH, GUESS, average="macro")),
        ("micro_f1", metrics.f1_score(TRUTH, GUESS, average="micro")),
        ("matthews", metrics.matthews_corrcoef(TRUTH, GUESS)),
    ],
)
def test_metrics_of_one_label(name, expected):
    assert METRICS[name](GUESS, TRUTH) == pytest.approx(expected)


def test_macro_f1_is_the_mean_over_classes_worked_out_by_hand():
    # class 0: precision 2/3, recall 1, F1 4/5; class 1: precision 1, recall 1/2, F1 2/3. Mean 11/15.
    assert METRICS["macro_f1"](np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])) == pytest.approx(11 / 15)


def test_metrics_of_numbers():
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert METRICS["pearson"](2 * truth + 1, truth) == pytest.approx(1)
    assert METRICS["spearman"](truth**3, truth) == pytest.approx(1)
    assert METRICS["pearson"](truth**3, truth) == pytest.approx(float(np.corrcoef(truth**3, truth)[0, 1]))
    assert METRICS["spearman"](np.ones(4), truth) == 0


def test_micro_f1_of_many_labels_worked_out_by_hand():
    given, truth = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[1, 0, 0], [0, 1, 1]])
    assert METRICS["micro_f1"](given, truth) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))  # 2 right, 1 too many, 1 missed


@pytest.mark.parametrize("problem", [SINGLE, MANY, NUMBER])
def test_the_primary_metric_stands_first_beside_the_others(problem):
    task = TextClassification(problem, LABELS, METRICS_OF[problem][1])
    truth = {SINGLE: TRUTH, MANY: RNG.integers(0, 2, (50, 3)), NUMBER: RNG.normal(size=50)}[problem]
    found = task.scores(truth, truth)
    assert next(iter(found)) == METRICS_OF[problem][1]
    assert set(found) == set(METRICS_OF[problem])
    assert all(value == pytest.approx(1) for value in found.values())


def test_the_worst_class_has_the_lowest_recall(data, bert):
    encoded = bert.encode(data, "test")
    wrong = np.where(encoded.labels == 1, 0, encoded.labels)
    wrong[np.flatnonzero(encoded.labels == 1)[0]] = 1
    found = measure_quality(Scripted({1: one_hot(wrong), 32: one_hot(wrong)}), encoded, data.task)
    assert found.worst_class == ("money", pytest.approx(1 / 10))
    assert found.by_class == {"film": 1.0, "money": pytest.approx(0.1), "sport": 1.0}


def test_classes_of_many_labels_are_told_by_f1_and_numbers_have_none():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    given = np.array([[1, 0, 1], [0, 1, 0], [0, 1, 0]])
    found = TextClassification(MANY, LABELS, "micro_f1").by_class(given, truth)
    assert found == {"film": pytest.approx(2 / 3), "money": 1.0}  # nothing is known of a label that no row has
    assert TextClassification(NUMBER, ("degree",), "spearman").by_class(truth, truth) == {}


# ------------------------------------------------------------------------------------- uncertainty


def quality_of(wrong: int, seed: int = 0):
    data = make_splits(number=400)
    from conftest import make_tokenizer

    encoded = data.encode("test", make_tokenizer())
    given = encoded.labels.copy()
    given[:wrong] = (given[:wrong] + 1) % 3
    return measure_quality(Scripted({1: one_hot(given), 32: one_hot(given)}), encoded, data.task, seed=seed)


def test_the_interval_covers_the_score_and_is_that_of_a_share():
    found = quality_of(wrong=40)
    assert (found.n, found.score) == (200, pytest.approx(0.8))
    low, high = found.interval
    assert low < 0.8 < high
    binomial = stats.binom(200, 0.8).ppf([0.025, 0.975]) / 200
    assert (low, high) == pytest.approx(tuple(binomial), abs=0.02)


def test_the_interval_is_seeded():
    assert quality_of(40).interval == quality_of(40).interval
    assert quality_of(40, seed=1).interval != quality_of(40, seed=2).interval


def test_the_interval_of_a_perfect_score_is_a_point():
    assert quality_of(0).interval == (1.0, 1.0)


def test_identical_predictions_have_a_p_value_of_one():
    assert paired_p_value(GUESS, GUESS, TRUTH, TASK) == 1
    one_apart = np.concatenate([[(GUESS[0] + 1) % 3], GUESS[1:]])
    assert paired_p_value(GUESS, one_apart, TRUTH, TASK) == 1


def test_very_different_predictions_have_a_small_p_value():
    assert paired_p_value(TRUTH, GUESS, TRUTH, TASK) < 0.01
    assert paired_p_value(GUESS, TRUTH, TRUTH, TASK) < 0.01


def test_the_p_value_of_few_disagreements_is_that_of_the_sign_test():
    one, other, truth = np.zeros(60, int), np.zeros(60, int), np.zeros(60, int)
    one[:2], other[2:9] = 1, 1  # the first is wrong twice where the other is right, the other seven times
    exact = stats.binomtest(2, 9).pvalue
    assert paired_p_value(one, other, truth, TASK) == pytest.approx(exact, abs=0.04)
    assert paired_p_value(one, other, truth, TASK, seed=4) == paired_p_value(one, other, truth, TASK, seed=4)


def test_the_p_value_of_numbers_and_of_many_labels(monkeypatch):
    monkeypatch.setattr(quality, "_RESAMPLES", 200)  # sklearn's F1 takes its time
    truth = np.arange(40.0)
    number = TextClassification(NUMBER, ("degree",), "spearman")
    assert paired_p_value(truth, truth[::-1].copy(), truth, number) < 0.01
    many = RNG.integers(0, 2, (60, 3))
    assert paired_p_value(many, 1 - many, many, TextClassification(MANY, LABELS, "micro_f1")) < 0.01


# ------------------------------------------------------------------------------------- int8 at batch 1 and 32


@pytest.mark.parametrize(("worse", "batch"), [(1, 1), (32, 32)])
def test_int8_is_scored_at_batch_1_and_32_and_the_worse_counts(data, bert, worse, batch):
    encoded = bert.encode(data, "test")
    right, wrong = one_hot(encoded.labels), one_hot((encoded.labels + 1) % 3)
    engine = Scripted({size: wrong if size == worse else right for size in (1, 32)})
    found = measure_quality(engine, encoded, data.task)
    assert found.score == 0 and found.batch == batch
    assert {rows for rows, _ in engine.shapes} == {1, 30}  # one at a time, and all 30 in a batch of at most 32
    assert (found.predictions == wrong.argmax(-1)).all()


def test_what_does_not_depend_on_its_batch_is_scored_once(data, bert):
    encoded = bert.encode(data, "test")
    engine = Scripted({32: one_hot(encoded.labels)}, batch_dependent=False)
    found = measure_quality(engine, encoded, data.task)
    assert found.score == 1 and found.batch is None


def test_only_the_int8_graph_depends_on_its_batch(quantized, bert):
    assert OnnxRuntime(quantized / "model_int8.onnx").batch_dependent
    assert not OnnxRuntime(quantized / "model.onnx").batch_dependent
    assert not Torch(bert.model).batch_dependent


# ------------------------------------------------------------------------------------- subjects: size, parameters


def test_bytes_are_those_of_the_files_that_one_engine_needs(quantized, bert, tmp_path):
    small, large = (found for found in subjects_in("x", quantized)[::-1])
    assert (small.format, large.format) == ("onnx-int8", "onnx-fp32")
    aside = ("config.json", "tokenizer.json", "tokenizer_config.json")
    rest = sum((quantized / name).stat().st_size for name in aside)
    assert small.bytes == rest + (quantized / "model_int8.onnx").stat().st_size
    assert large.bytes == rest + (quantized / "model.onnx").stat().st_size
    folder = bert.save(tmp_path / "torch")
    (folder / "README.md").write_text("not needed to answer" * 1000)
    (found,) = subjects_in("y", folder)
    sizes = (path.stat().st_size for path in folder.iterdir() if path.name in (*aside, "model.safetensors"))
    assert found.bytes == sum(sizes)


def test_external_data_of_a_graph_counts(quantized, tmp_path):
    folder = shutil.copytree(quantized, tmp_path / "copy")
    before = {found.format: found.bytes for found in subjects_in("x", folder)}
    (folder / "model.onnx.data").write_bytes(b"0" * 1000)
    after = {found.format: found.bytes for found in subjects_in("x", folder)}
    assert after == {"onnx-fp32": before["onnx-fp32"] + 1000, "onnx-int8": before["onnx-int8"]}


def test_the_parameters_of_a_graph_are_about_those_of_torch(quantized, bert):
    assert bert.parameters == sum(parameter.numel() for parameter in bert.model.parameters())
    for found in subjects_in("x", quantized):
        assert found.parameters == pytest.approx(bert.parameters, rel=0.01), found.format


def test_a_folder_that_holds_nothing_to_run_or_other_labels_is_refused(quantized, data, tmp_path):
    with pytest.raises(CheckpointError, match="neither safetensors nor an ONNX graph"):
        (tmp_path / "config.json").write_text((quantized / "config.json").read_text())
        subjects_in("x", tmp_path)
    other = replace(data, task=replace(data.task, labels=("a", "b", "c")))
    with pytest.raises(CheckpointError, match="its labels are film, money, sport, the data's a, b, c"):
        subjects_in("x", quantized, other)


def test_the_threshold_of_the_config_is_the_one_that_is_scored_with(tmp_path):
    data = make_splits(MANY)
    found = load_tiny(tmp_path / "bert", problem_type=MANY)
    found.model.config.threshold = 0.05
    folder = found.save(tmp_path / "saved")
    (subject,) = subjects_in("x", folder, data)
    assert subject.threshold == 0.05
    logits = answer_all(Torch(found.model), found.encode(data, "test"))
    assert (score(subject, data).predictions == (1 / (1 + np.exp(-logits)) >= 0.05)).all()


# ------------------------------------------------------------------------------------- timing


def test_latency_fills_every_cell_and_interleaves(bert, data):
    turns: list[str] = []

    class Named(Scripted):
        def answer(self, batch: dict[str, np.ndarray]) -> np.ndarray:
            turns.append(self.name)
            return super().answer(batch)

    engines = [Named({}), Named({}), Named({})]
    for engine, engine.name in zip(engines, "abc", strict=True):
        engine.by_size = {1: one_hot(np.zeros(1, int)), 32: one_hot(np.zeros(3, int))}
    encoded = bert.encode(data, "test")
    threads = torch.get_num_threads()
    found = measure_latency(engines, [encoded] * 3, QUICK)
    assert torch.get_num_threads() == threads
    tokens = int(np.median(encoded.lengths))
    for row, engine in zip(found, engines, strict=True):
        assert [(cell.engine, cell.batch, cell.tokens, cell.threads, cell.rounds) for cell in row] == [
            (engine.name, 1, tokens, 1, 3), (engine.name, 3, tokens, 1, 3),
        ]  # fmt: skip
        assert all(0 <= cell.p50_ms <= cell.p95_ms and cell.cpu_ms >= 0 for cell in row)
        assert set(engine.shapes) == {(1, tokens), (3, tokens)}
    assert Counter(turns) == {"a": 10, "b": 10, "c": 10}  # two to warm up and three rounds, for two batch sizes
    assert sorted(turns[6:9]) == sorted(turns[9:12]) == ["a", "b", "c"] and turns[6:9] != turns[9:12]


def test_latency_takes_the_tokens_it_was_told(bert, data):
    (cells,) = measure_latency([Torch(bert.model)], [bert.encode(data, "test")], QUICK.model_copy(update={"tokens": 7}))
    assert [(cell.batch, cell.tokens) for cell in cells] == [(1, 7), (3, 7)]


# ------------------------------------------------------------------------------------- the ledger


def row(name: str, form: str, ms: float, **more: object) -> Row:
    engine = "torch" if form == "transformers" else "onnxruntime"
    given = {"metric": "accuracy", "score": 0.8, "interval": (0.7, 0.9), "n": 10, "scores": {"accuracy": 0.8}}
    given |= {"worst_class": {"name": "film", "score": 0.5}, "params": 1000, "bytes": 4000, "memory_mb": 100.0}
    cells = [Latency(engine, batch, 16, 1, 3, ms * batch, ms * batch, ms) for batch in (1, 32)]
    return Row(name, form, **{**given, "latency": cells, **more})


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


# ------------------------------------------------------------------------------------- evaluate


def test_evaluate_holds_every_format_against_the_first(bert, data, quantized, without_memory):
    ledger = evaluate({"teacher": bert, "small": quantized}, data=data, timing=QUICK)
    assert [(found.name, found.format) for found in ledger.rows] == [
        ("teacher", "transformers"), ("teacher", "onnx-fp32"), ("small", "onnx-fp32"), ("small", "onnx-int8"),
    ]  # fmt: skip
    teacher, _, exact, small = ledger.rows
    assert teacher.retained is None and teacher.p_value is None
    assert (exact.retained, exact.p_value) == (1, 1)
    assert small.retained == pytest.approx(small.score / teacher.score)
    assert [found.scored_at_batch is None for found in ledger.rows] == [True, True, True, False]
    assert all(len(found.latency) == 2 and found.memory_mb == 123 and found.n == 30 for found in ledger.rows)
    assert teacher.latency[0].engine == "torch" and small.latency[0].engine == "onnxruntime"
    encoded = bert.encode(data, "test")
    by_hand = (answer_all(Torch(bert.model), encoded).argmax(-1) == encoded.labels).mean()
    assert teacher.score == pytest.approx(float(by_hand))


def test_a_teacher_that_scores_nothing_gives_no_share_kept(bert, data, without_memory, tmp_path):
    folder = bert.save(tmp_path / "a")
    subject = Subject("a", "transformers", folder, bert.tokenizer, bert)
    none, some = (replace(score(subject, data), score=value) for value in (0.0, 0.5))
    ledger = make_ledger([subject, replace(subject, name="b")], [none, some], data, QUICK)
    assert ledger.last.retained is None
    json.dumps(ledger.last.as_dict(), allow_nan=False)


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


# ------------------------------------------------------------------------------------- answers


TEXTS = ["goal match team score", "the bank and the fund", "actor", "a price of the stock and of the trade in it"]


def by_torch(checkpoint: Checkpoint, texts: list) -> np.ndarray:
    columns = [list(column) for column in zip(*texts, strict=True)] if isinstance(texts[0], tuple) else [texts]
    given = checkpoint.tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return checkpoint.model(**given).logits.numpy()


@pytest.mark.parametrize("form", ["transformers", "onnx-fp32", "onnx-int8"])
def test_a_predictor_agrees_with_torch(form, bert, quantized, graph, tmp_path):
    folder = {"onnx-int8": quantized, "onnx-fp32": graph}.get(form) or bert.save(tmp_path / "torch")
    predictor = Predictor(folder)
    assert predictor.engine.format == form
    expected = torch.tensor(by_torch(bert, TEXTS)).softmax(-1).numpy()
    close = 0.02 if form == "onnx-int8" else 1e-5
    for answer, probabilities in zip(predictor.predict(TEXTS), expected, strict=True):
        ((label, probability),) = answer.items()
        assert probability == pytest.approx(float(probabilities[LABELS.index(label)]), abs=close)
        assert probability >= probabilities.max() - close


def test_a_predictor_answers_one_text_as_it_answers_many(graph):
    predictor, many = Predictor(graph), TEXTS * 20  # more than are asked at once
    alone = [predictor.predict([text])[0] for text in TEXTS]
    for found, expected in zip(predictor.predict(many), alone * 20, strict=True):
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_predictor_answers_pairs(bert, graph, tmp_path):
    pairs = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    expected = torch.tensor(by_torch(bert, pairs)).softmax(-1).numpy()
    assert not np.allclose(by_torch(bert, pairs), by_torch(bert, TEXTS), atol=1e-3)
    for folder in (graph, bert.save(tmp_path / "torch")):
        for answer, probabilities in zip(Predictor(folder).predict(pairs), expected, strict=True):
            assert answer == pytest.approx({LABELS[probabilities.argmax()]: float(probabilities.max())}, abs=1e-5)


def test_a_predictor_cuts_texts_as_training_did(bert, graph):
    long = " ".join(TEXTS * 12)
    assert len(bert.tokenizer(long)["input_ids"]) > 48
    expected = torch.tensor(by_torch(bert, [long])).softmax(-1)
    assert list(Predictor(graph).predict([long])[0].values()) == pytest.approx([float(expected.max())], abs=1e-5)


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_predictor_answers_many_labels_by_the_threshold_of_the_config(tmp_path, as_graph):
    data = make_splits(MANY)
    found = load_tiny(tmp_path / "bert", problem_type=MANY)
    settle(found, data)
    expected = 1 / (1 + np.exp(-by_torch(found, TEXTS)))
    found.model.config.threshold = float(np.median(expected))
    folder = tmp_path / "saved"
    export.as_graph(found, data=data, folder=folder) if as_graph else found.save(folder)
    for answer, probabilities in zip(Predictor(folder).predict(TEXTS), expected, strict=True):
        over = {name: float(p) for name, p in zip(LABELS, probabilities, strict=True) if p >= np.median(expected)}
        assert answer == pytest.approx(over, abs=1e-5)
        assert list(answer.values()) == sorted(answer.values(), reverse=True)


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_predictor_answers_a_regression_with_its_number(tmp_path, as_graph):
    data = make_splits(NUMBER)
    found = load_tiny(tmp_path / "bert", labels=("degree",), problem_type=NUMBER)
    folder = tmp_path / "saved"
    export.as_graph(found, data=data, folder=folder) if as_graph else found.save(folder)
    expected = by_torch(found, TEXTS)[:, 0]
    assert [answer["degree"] for answer in Predictor(folder).predict(TEXTS)] == pytest.approx(list(expected), abs=1e-5)


def test_a_predictor_never_imports_torch_where_there_is_a_graph(quantized):
    script = (
        "import sys; from distill import Predictor; "
        f"print(Predictor({str(quantized)!r}).predict(['goal match'])); "
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip()[2:-2].split("'")[1] in LABELS


def test_a_predictor_takes_the_result_of_a_runs_folder(quantized, tmp_path):
    folder = shutil.copytree(quantized, tmp_path / "2-quantize")
    (tmp_path / "report.json").write_text(json.dumps({"rows": [{"name": "teacher"}, {"name": "2-quantize"}]}))
    assert Predictor(tmp_path).folder == folder


def test_a_predictor_reads_long_texts_to_the_end_where_the_model_does(tmp_path):
    found = load_tiny(tmp_path / "bert", max_position_embeddings=700)
    found.tokenizer.model_max_length = 700
    long = " ".join(["of"] * 600 + ["goal"] * 50)
    expected = torch.tensor(by_torch(found, [long])).softmax(-1)
    answer = Predictor(found.save(tmp_path / "saved")).predict([long])[0]
    assert list(answer.values()) == pytest.approx([float(expected.max())], abs=1e-6)


def test_a_folder_that_cannot_answer_is_refused_with_the_reason(tmp_path, body, quantized):
    with pytest.raises(CheckpointError, match="no such folder"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(DistillError, match=r"BertModel.*no head for text-classification"):
        Predictor(body)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("task: text-classification")
    with pytest.raises(CheckpointError, match="a run that did not finish"):
        Predictor(tmp_path / "run")
    mute = shutil.copytree(quantized, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Predictor(mute)


# ---------------------------------------------------------------------------------------- confusion and calibration


def test_the_confusion_counts_true_labels_by_row():
    task = TextClassification("single_label_classification", ("a", "b", "c"), "accuracy")
    predictions, labels = np.array([0, 1, 1, 2, 0, 0]), np.array([0, 1, 0, 0, 0, 1])
    expected = [[0] * 3 for _ in range(3)]
    for predicted, true in zip(predictions, labels, strict=True):
        expected[true][predicted] += 1
    assert task.confusion(predictions, labels) == expected == [[2, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert TextClassification("regression", ("x",), "spearman").confusion(predictions, labels) is None


def test_the_calibration_error_is_the_weighted_gap_of_confidence_and_accuracy():
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65], [1.0, 0.0]])
    found = calibrate(probabilities, np.array([0, 1, 1, 0, 0]))
    assert [(b["low"], b["n"]) for b in found["bins"]] == [(0.6, 2), (0.9, 3)]
    first, last = found["bins"]
    assert (first["confidence"], first["accuracy"]) == (pytest.approx(0.625), pytest.approx(0.5))
    assert (last["confidence"], last["accuracy"]) == (pytest.approx(2.85 / 3), pytest.approx(2 / 3))
    assert found["expected_error"] == pytest.approx((2 * 0.125 + 3 * (0.95 - 2 / 3)) / 5)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_a_quality_survives_json(bert, tmp_path, problem):
    data = make_splits(problem)
    model = load_tiny(tmp_path / "bert", labels=data.task.labels, problem_type=problem)
    found = measure_quality(Torch(model.model), model.encode(data, "test"), data.task)
    again = Quality.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again.predictions.dtype == found.predictions.dtype
    assert (again.predictions == found.predictions).all()
    assert {**vars(again), "predictions": 0} == {**vars(found), "predictions": 0}
    assert (again.confusion is not None) == (again.calibration is not None) == (problem.startswith("single"))
