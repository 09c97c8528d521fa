"""Scores are right: metrics, their intervals, paired tests, confusion and calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import LABELS, load_tiny, make_splits
from scipy import stats
from scripted import Scripted, one_hot
from sklearn import metrics

from distill.engines import Torch
from distill.evaluation import quality
from distill.evaluation.quality import Quality, calibrate, measure_quality, paired_p_value
from distill.tasks import METRICS, METRICS_OF, TextClassification

SINGLE, MANY, NUMBER = "single_label_classification", "multi_label_classification", "regression"
TASK = TextClassification(SINGLE, LABELS, "accuracy")
RNG = np.random.default_rng(0)
TRUTH, GUESS = RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)

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
