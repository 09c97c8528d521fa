"""Splits: disjoint, in proportion, by the seed."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from tables import every_row, read

from distill.data import splitting
from distill.errors import DataError


def distinct(number: int, seed: int = 0) -> list[str]:
    """Texts of which no two are alike."""
    rng = random.Random(seed)
    return [" ".join([f"w{i}", *(f"w{rng.randrange(500)}" for _ in range(9))]) for i in range(number)]


def test_splits_are_disjoint_stratified_and_follow_the_seed(csv_of):
    path = csv_of([("a", "a", "a", "b", "b", "c")[i % 6] for i in range(600)], distinct(600))
    splits = read(path, validation=0.1, test=0.2)
    assert Counter(text[0] for text, _ in every_row(splits)) == Counter(distinct(600))
    for part, share in ((splits.train, 0.7), (splits.validation, 0.1), (splits.test, 0.2)):
        for kind, total in enumerate((300, 200, 100)):
            assert abs(Counter(part.labels)[kind] - share * total) <= 1
    assert read(path, validation=0.1, test=0.2).fingerprint == splits.fingerprint
    assert read(path, validation=0.1, test=0.2, seed=1).fingerprint != splits.fingerprint


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_rare_labels_and_numbers_are_spread_over_the_splits(problem):
    rng = np.random.default_rng(0)
    if problem == "regression":
        labels = rng.normal(size=500).tolist()
    else:
        labels = [[1.0, float(i % 3 == 0), float(i % 10 == 0)] for i in range(500)]
    kinds = splitting.strata(labels, problem)
    dealt = splitting.split(list(range(500)), kinds, {"validation": 0.1, "test": 0.2}, seed=3)
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        counts = Counter(kinds[row] for row in dealt[name])
        assert all(abs(counts[kind] - share * total) <= 1 for kind, total in Counter(kinds).items())
    assert sorted(row for name in dealt for row in dealt[name]) == list(range(500))


def test_near_duplicates_stay_on_one_side(csv_of):
    texts = distinct(200)
    copies = [f"{text.upper()}!" for text in texts[:40]]  # equal once normalised
    tails = [" ".join(f"t{i}x{word}" for word in range(40)) for i in range(20)]
    longer = [f"{text} more" for text in tails]  # 36 of 37 runs shared
    labels = ["ab"[i % 2] for i in (*range(200), *range(40), *range(20), *range(20))]
    splits = read(csv_of(labels, [*texts, *copies, *tails, *longer]))
    side = {text[0]: name for name in ("train", "validation", "test") for text in getattr(splits, name).texts}
    pairs = [*zip(texts, copies, strict=False), *zip(tails, longer, strict=True)]
    assert all(side[one] == side[other] for one, other in pairs)
    assert {side[one] for one, _ in pairs} == {"train", "validation", "test"}
    assert any("120 of 280 rows have near-duplicates" in note for note in splits.notes)


def test_a_given_test_file_is_left_whole_and_its_near_duplicates_leave_training(csv_of, tmp_path):
    texts = distinct(100)
    train = csv_of(lambda i: "ab"[i % 2], texts)
    held = [f"  {text.title()}." for text in texts[:15]] + distinct(15, seed=9)
    test = csv_of(lambda i: "ab"[i % 2], held, name="test.csv")
    splits = read(train, test=str(test))
    assert [text[0] for text in splits.test.texts] == held
    assert set(splits.train.texts + splits.validation.texts) == {(text,) for text in texts[15:]}
    assert any(note.startswith("15 of 100 train rows dropped: near-duplicates") for note in splits.notes)


def test_a_given_validation_file_gives_way_to_the_test_file(csv_of):
    texts = distinct(90)
    train = csv_of(lambda i: "ab"[i % 2], texts[:40])
    validation = csv_of(lambda i: "ab"[i % 2], texts[30:70], name="validation.csv")
    test = csv_of(lambda i: "ab"[i % 2], texts[60:], name="test.csv")
    splits = read(train, validation=str(validation), test=str(test))
    assert [text[0] for text in splits.test.texts] == texts[60:]
    assert [text[0] for text in splits.validation.texts] == texts[30:60]
    assert [text[0] for text in splits.train.texts] == texts[:30]


@pytest.mark.parametrize("label", [lambda i: "ab"[i % 2], lambda i: i / 7], ids=["classes", "numbers"])
def test_a_test_file_that_is_the_training_file_leaves_nothing_to_train_on(csv_of, label):
    path = csv_of(label)
    with pytest.raises(DataError, match="train 0, validation 0, test 60"):
        read(path, test=str(path))


def test_a_label_that_training_never_saw_is_named(csv_of):
    train = csv_of(lambda i: "ab"[i % 2])
    test = csv_of(lambda i: "abc"[i % 3], name="test.csv")
    with pytest.raises(DataError, match="test has the label 'c', which is none of the known ones: a, b"):
        read(train, test=str(test))


def test_splits_that_leave_nothing_to_train_on_or_are_not_there_are_refused(csv_of):
    path = csv_of(lambda i: "ab"[i % 2])
    with pytest.raises(DataError, match=r"validation and test together take 1.1 of the rows"):
        read(path, validation=0.5, test=0.6)
    with pytest.raises(DataError, match=r"data.test: no such file or folder: nope.csv"):
        read(path, test="nope.csv")


def test_the_notes_tell_of_imbalance_and_of_classes_that_a_split_lacks(csv_of):
    splits = read(csv_of(["rare"] * 2 + ["b"] * 58, distinct(60)))
    assert any("classes are imbalanced: " in note and " of rare; read macro_f1" in note for note in splits.notes)
    assert any(note == "validation holds no row of: rare" for note in splits.notes)
    assert not any("imbalanced" in note for note in read(csv_of(lambda i: "ab"[i % 2])).notes)
    assert read(csv_of(lambda i: "ab"[i % 2]), note="mind the licence").notes[-1] == "mind the licence"


def test_a_hundred_and_fifty_classes_are_all_in_every_split(csv_of):
    splits = read(csv_of([f"class {i % 150}" for i in range(1500)], distinct(1500)), validation=0.1, test=0.2)
    assert len(splits.task.labels) == 150
    assert [Counter(part.labels) for part in (splits.train, splits.validation, splits.test)] == [
        Counter(dict.fromkeys(range(150), count)) for count in (7, 1, 2)
    ]


@pytest.mark.parametrize("limit", [10, 61, 300, 1000])
def test_a_limit_keeps_classes_in_proportion_and_leaves_none_out(limit):
    kinds = ["a"] * 400 + ["b"] * 190 + ["c"] * 9 + ["d"]
    taken = splitting.sample(kinds, limit, seed=0)
    assert len(taken) == len(set(taken)) == min(limit, 600)
    counts = Counter(kinds[row] for row in taken)
    assert set(counts) == set("abcd")
    assert abs(counts["a"] - limit * 400 / 600) <= 4 or limit > 600
    assert taken == splitting.sample(kinds, limit, seed=0)


@pytest.mark.parametrize("classes", [50, 77, 150])
def test_many_classes_of_few_rows_leave_no_split_empty(classes):
    kinds = [i % classes for i in range(4 * classes)]
    dealt = splitting.split(range(len(kinds)), kinds, {"validation": 0.1, "test": 0.2}, seed=3)
    shares = {name: len(found) / len(kinds) for name, found in dealt.items()}
    assert {kinds[row] for row in dealt["train"]} == set(range(classes))
    assert shares["validation"] == pytest.approx(0.1, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
