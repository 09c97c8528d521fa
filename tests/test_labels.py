"""What labels are: classes, several at once, numbers; and which are refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import write_csv
from datasets import ClassLabel, Dataset, Features, List, Value
from tables import ROWS, TEXTS, every_row, named, read

from distill import Data, load_data
from distill.errors import DataError, DistillError


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (lambda i: "zab"[i % 3], ("a", "b", "z")),
        (lambda i: (10, 9, -1)[i % 3], ("-1", "9", "10")),  # numbers sort as numbers
        (lambda i: i % 3 - 1, ("-1", "0", "1")),  # three opinions
        (lambda i: i % 2 == 0, ("False", "True")),
        (lambda i: ("007", "08")[i % 2], ("007", "08")),  # words too
        (lambda i: (1.0, 2.0)[i % 2], ("1", "2")),
        (lambda i: ("NA", "null")[i % 2], ("NA", "null")),  # words, not empty cells
    ],
    ids=["words", "integers", "opinions", "bools", "leading zeros", "whole floats", "NA and null"],
)
def test_labels_of_any_kind_are_sorted_when_nobody_names_them(csv_of, label, names):
    splits = read(csv_of(label))
    assert splits.task.labels == names
    assert splits.task.problem == "single_label_classification"
    texts = dict(zip(TEXTS, (label(i) for i in range(60)), strict=True))
    plain = {text: str(int(value)) if isinstance(value, float) else str(value) for text, value in texts.items()}
    assert named(splits) == Counter(plain.items())


@pytest.mark.parametrize(
    ("label", "known", "expected"),
    [
        (lambda i: "ab"[i % 2], ["b", "a"], ("b", "a")),
        (lambda i: "ab"[i % 2], ["B", "A"], ("B", "A")),  # whatever their case
        (lambda i: i % 2, ["no", "yes"], ("no", "yes")),  # by number
        (lambda i: i % 2, ["1", "0"], ("1", "0")),  # numbers that are names are names
        (lambda i: "ab"[i % 2], ["c", "a", "b"], ("c", "a", "b")),  # a class that the data lacks
        (lambda i: "ab"[i % 2], ["c", "a"], ("a", "b")),  # they don't fit
        (lambda i: i % 3, ["no", "yes"], ("0", "1", "2")),
        (lambda i: i % 2 == 0, ["False", "True"], ("False", "True")),
        (lambda i: i % 2 == 0, ["True", "False"], ("True", "False")),  # by name, not by number
        (lambda i: i % 2 == 0, ["no", "yes"], ("no", "yes")),
        (lambda i: i % 2 == 0, ["1", "0"], ("1", "0")),
    ],
)
def test_labels_follow_a_checkpoints_names_when_they_fit(jsonl_of, label, known, expected):
    splits = read(jsonl_of(label), names=known)
    assert splits.task.labels == expected
    texts = dict(zip(TEXTS, (label(i) for i in range(60)), strict=True))
    for (text,), index in every_row(splits):
        given = texts[text]
        same = {str(given).casefold(), str(int(given)) if isinstance(given, bool) else ""}
        at = [i for i, word in enumerate(expected) if word.casefold() in same]
        assert index == (at[0] if at else int(given))


def class_labels(tmp_path, values, feature) -> Path:
    features = Features({"text": Value("string"), "label": feature})
    Dataset.from_dict({"text": TEXTS, "label": values}, features=features).to_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_class_numbers_become_the_names_that_the_data_set_gives_them(tmp_path):
    path = class_labels(tmp_path, [i % 2 for i in range(60)], ClassLabel(names=["yes", "no"]))
    splits = read(path)
    assert splits.task.labels == ("no", "yes")
    assert named(splits) == Counter((text, ("yes", "no")[i % 2]) for i, text in enumerate(TEXTS))
    path = class_labels(tmp_path, [[i % 2] if i % 3 else [] for i in range(60)], List(ClassLabel(names=["yes", "no"])))
    assert read(path).task.labels == ("no", "yes")


@pytest.mark.parametrize(
    ("first", "several", "expected"),
    [
        (-1, False, "−1, which marks rows without a label"),
        ([-1], True, "−1, which marks"),
        (None, False, "row 0 of train"),
    ],
)
def test_rows_without_a_class_number_are_refused(tmp_path, first, several, expected):
    feature = ClassLabel(names=["yes", "no"])
    rest = [[i % 2] if several else i % 2 for i in range(59)]
    with pytest.raises(DataError, match=expected):
        read(class_labels(tmp_path, [first, *rest], List(feature) if several else feature))


@pytest.mark.parametrize("kind", [int, float, str, lambda i: ("zero", "one", "two")[i], lambda i: i if i else "zero"])
def test_class_numbers_become_the_names_that_the_recipe_gives_them(jsonl_of, csv_of, kind):
    """In its order, not the alphabet's; a class that no row has is one of them."""
    names = ["zero", "one", "two", "none"]
    for path in (jsonl_of(lambda i: kind(i % 3)), csv_of(lambda i: kind(i % 3))):
        if path.suffix == ".jsonl" and kind(0) == "zero" and kind(1) == 1:
            continue  # texts and numbers in one column are no JSON that is read
        splits = read(path, classes=names)
        assert splits.task.labels == tuple(names)
        assert named(splits) == Counter(zip(TEXTS, (names[i % 3] for i in range(60)), strict=True))
    assert "train holds no row of: none" in splits.notes
    mine = read(csv_of(lambda i: kind(i % 3)), classes=names, names=["none", "two", "one", "zero"])
    assert mine.task.labels == ("none", "two", "one", "zero"), "a checkpoint's own order"


def test_many_labels_may_be_numbers_with_names(csv_of, jsonl_of):
    rows = [[0], [0, 2], [1]]
    for path, more in ((csv_of(lambda i: ";".join(map(str, rows[i % 3]))), {"separator": ";"}),
                       (jsonl_of(lambda i: rows[i % 3]), {})):  # fmt: skip
        splits = read(path, classes=["war", "art", "sea"], **more)
        assert splits.task.labels == ("war", "art", "sea")
        assert {tuple(labels) for _, labels in every_row(splits)} == {(1, 0, 0), (1, 0, 1), (0, 1, 0)}


@pytest.mark.parametrize(
    ("label", "classes", "problem"),
    [
        (lambda i: i % 3, ["no", "yes"], "data.classes: names 2 classes, 0 to 1; train has the label 2"),
        (lambda i: i % 2 + 0.5, ["no", "yes"], "data.classes: names 2 classes, 0 to 1; .* has the label [01].5"),
        (lambda i: "ab"[i % 2], ["no", "yes"], "data.classes: names 2 classes, 0 to 1; .* has the label '[ab]'"),
        (lambda i: i % 2 - 1, ["no", "yes"], "data.label: train holds −1, which marks rows without a label"),
        (lambda i: 1, ["no", "yes"], "one class only"),
    ],
)
def test_numbers_that_name_no_class_are_refused(csv_of, label, classes, problem):
    with pytest.raises(DataError, match=problem):
        read(csv_of(label), classes=classes)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"classes": ["no"]}, "classes"),
        ({"classes": ["no", "no"]}, "each is there once"),
        ({"classes": ["no", " "]}, "not blank"),
        ({"classes": ["no", "yes"], "problem": "regression"}, "a regression has none"),
        ({"classes": ["no", "yes"], "label": ["a", "b"]}, "0/1 columns have names of their own"),
    ],
)
def test_names_of_classes_that_cannot_be_are_refused(words, problem):
    with pytest.raises(ValueError, match=problem):
        Data(source="x.csv", **words)


def test_many_labels_come_as_lists_as_columns_or_in_one_word(tmp_path, jsonl_of, csv_of):
    kinds = [["b", "a"], ["a"], []]
    as_lists = read(jsonl_of(lambda i: kinds[i % 3]))
    as_word = read(csv_of(lambda i: (" b |a", "a", "|")[i % 3]), separator="|")
    lines = [[text, (1, 1, 0)[i % 3], (1, 0, 0)[i % 3]] for i, text in enumerate(TEXTS)]
    as_columns = read(write_csv(tmp_path / "columns.csv", ["text", "a", "b"], lines), label=["a", "b"])
    expected = dict(zip(TEXTS, [([1.0, 1.0], [1.0, 0.0], [0.0, 0.0])[i % 3] for i in range(60)], strict=True))
    for splits in (as_lists, as_word, as_columns):
        assert (splits.task.problem, splits.task.labels) == ("multi_label_classification", ("a", "b"))
        assert {text[0]: label for text, label in every_row(splits)} == expected


def test_label_columns_keep_the_order_of_the_recipe(tmp_path):
    path = write_csv(tmp_path / "r.csv", ["text", "a", "b"], [[text, 1, i % 2] for i, text in enumerate(TEXTS)])
    assert read(path, label=["b", "a"]).task.labels == ("b", "a")
    assert read(path, label=["b", "a"], names=["a", "b"]).task.labels == ("a", "b")


@pytest.mark.parametrize(
    ("label", "problem"), [(lambda i: i / 10, None), (lambda i: i % 5, "regression"), (lambda i: i / 10, "regression")]
)
def test_fractions_are_a_regression_and_numbers_when_the_recipe_says_so(csv_of, label, problem):
    splits = read(csv_of(label), problem=problem)
    assert (splits.task.problem, splits.task.labels) == ("regression", ("label",))
    assert {text[0]: value for text, value in every_row(splits)} == {t: float(label(i)) for i, t in enumerate(TEXTS)}


def test_two_text_columns_make_pairs(tmp_path):
    lines = [[text, text[::-1], label] for text, label in ROWS]
    splits = read(write_csv(tmp_path / "pairs.csv", ["one", "two", "label"], lines), text=["one", "two"])
    assert {texts for texts, _ in every_row(splits)} == {(text, text[::-1]) for text in TEXTS}


@pytest.mark.parametrize(
    ("label", "words", "expected"),
    [
        (lambda i: "x", {}, "one class only"),
        (lambda i: [], {}, "no row of the training split has a label in column 'label'"),
        (lambda i: "a" if i else "", {}, "row 0 of train has no label in column 'label'"),
        (lambda i: "a" if i else None, {}, "row 0 of train has no label in column 'label'"),
        (lambda i: ["a"] if i else None, {}, "row 0 of train has no label in column 'label'"),
        (lambda i: ["a"] if i != 3 else [None], {}, "row 3 of train has no label in column 'label'"),
        (lambda i: {"a": i}, {}, "row 0 of train holds {'a': 0} in column 'label', not labels"),
        (lambda i: "ab"[i % 2], {"label": "lable"}, "train has no column 'lable' (it has: text, label)"),
        (lambda i: "ab"[i % 2], {"label": ["a", "text"]}, "train has no column 'a' (it has: text, label)"),
        (lambda i: i % 3, {"label": ["label"]}, "column 'label' of train holds 2; many-label columns hold 0 or 1"),
        (lambda i: "ab"[i % 2], {"problem": "regression"}, "row 0 of train holds 'a', which is not a number"),
        (lambda i: i % 2 == 0, {"problem": "regression"}, "row 0 of train holds True, which is not a number"),
        (lambda i: i / 2 if i else float("inf"), {}, "row 0 of train holds inf, which is not a number"),
        (lambda i: "ab"[i % 2], {"problem": "multi_label_classification"}, "needs data.separator"),
        (lambda i: ["a"], {"problem": "regression"}, "the label column holds lists of labels"),
        (lambda i: "ab"[i % 2], {"text": "txt"}, "data.text: train has no column 'txt' (it has: text, label)"),
        (lambda i: i % 2, {"text": "label"}, "data.text: row 0 of train holds 0"),
        (lambda i: "a;b" if i else None, {"separator": ";"}, "row 0 of train has no label in column 'label'"),
        (lambda i: ["a;b"], {"separator": ";"}, "holds ['a;b'], not a text to be cut at data.separator"),
        (lambda i: i % 2 if i != 5 else -100, {}, "row 5 of train has the label −100, which marks rows without one"),
        (lambda i: i % 4 - 1, {}, "row 0 of train has the label −1, which marks rows without one"),
        (lambda i: [i % 2] if i != 5 else [0, -100], {}, "row 5 of train has the label −100"),
    ],
)
def test_labels_and_columns_that_cannot_be_are_refused_by_row_and_column(jsonl_of, label, words, expected):
    with pytest.raises(DataError) as caught:
        read(jsonl_of(label), **words)
    assert expected in str(caught.value)


@pytest.mark.parametrize(("value", "expected"), [(None, "holds nothing"), (7, "holds 7")])
def test_a_text_that_is_none_is_refused_by_row(tmp_path, value, expected):
    lines = [{"text": value, "label": "a"}] * 2 if value is not None else [{"text": "x", "label": "a"}, {"label": "b"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=rf"data.text: row \d of train {expected}.* in column 'text', not a text"):
        read(tmp_path / "r.jsonl")


@pytest.mark.parametrize("cell", ["nan", "NA", "inf", "1,5"])
def test_one_cell_that_is_no_number_makes_no_classes_of_scores(csv_of, cell):
    path = csv_of(lambda i: cell if i == 5 else f"{i % 26 / 5}")
    with pytest.raises(DataError, match=f"row 5 of train holds '{cell}' in column 'label', where most are numbers"):
        read(path)
    with pytest.raises(DataError, match=f"row 5 of train holds '{cell}', which is not a number"):
        read(path, problem="regression")
    assert cell in read(path, problem="single_label_classification").task.labels


def test_labels_that_a_checkpoint_takes_for_one_class_are_told(csv_of, caplog):
    path = csv_of(lambda i: ["A", "a", "b"][i % 3])
    splits = load_data(Data(source=str(path)), names=["A", "B"])
    assert splits.task.labels == ("A", "B")
    assert "data.label: 'A', 'a' are one class of the checkpoint, 'A'" in caplog.text


def test_a_file_of_columns_is_told_in_a_line(tmp_path):
    columns = {"text": [f"a text {i}" for i in range(400)], "label": [i % 2 for i in range(400)]}
    (tmp_path / "r.json").write_text(json.dumps(columns))
    with pytest.raises(
        DataError, match=r"holds .*, a list in column 'text', not a text; .* write it as rows"
    ) as caught:
        read(tmp_path / "r.json")
    assert len(str(caught.value)) < 300


def test_words_that_look_like_nothing_stay_texts(csv_of):
    words = ["NA", "null", "None", "nan", "N/A", "true"]
    splits = read(csv_of(lambda i: "ab"[i % 2], texts=[*words, *TEXTS]))
    assert set(words) <= {texts[0] for texts, _ in every_row(splits)}


def test_a_metric_that_does_not_fit_the_labels_is_refused(csv_of):
    with pytest.raises(DistillError, match="metric: spearman does not fit a single label classification"):
        read(csv_of(lambda i: "ab"[i % 2]), metric="spearman")


def test_lists_of_zeros_and_ones_are_the_places_of_labels(tmp_path):
    lines = [
        {"text": f"text number {i} {'abc'[i % 3]}", "label": [int(i % 3 == j) for j in range(3)]} for i in range(30)
    ]
    path = tmp_path / "hot.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    data = load_data(Data(source=str(path)))
    assert data.task.problem == "multi_label_classification"
    assert data.task.labels == ("0", "1", "2")
    assert {tuple(label) for label in data.train.labels} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_two_labels_are_flags_in_every_split_though_none_repeats_one(jsonl_of, tmp_path):
    splits = read(jsonl_of(lambda i: [i % 2, 1 - i % 2]))
    assert splits.task.problem == "multi_label_classification"
    assert {tuple(label) for _, label in every_row(splits)} == {(1.0, 0.0), (0.0, 1.0)}
    held = tmp_path / "held.jsonl"
    lines = [{"text": f"a text held {number} back", "label": [number % 2, 1 - number % 2]} for number in range(6)]
    held.write_text("\n".join(map(json.dumps, lines)))
    splits = read(jsonl_of(lambda i: [i % 2, i % 2]), test=str(held))
    assert [tuple(label) for label in splits.test.labels] == [(0.0, 1.0), (1.0, 0.0)] * 3


def test_a_column_of_a_csv_is_what_all_of_it_is(csv_of, tmp_path):
    """Whatever its first thousands of rows look like."""
    many = [f"text {number} of many" for number in range(10_200)]
    splits = read(csv_of(lambda i: i % 2 if i < 10_100 else 0.5, texts=many))
    assert splits.task.problem == "regression"
    splits = read(csv_of(lambda i: i % 2 if i < 10_100 else "other", texts=many))
    assert splits.task.labels == ("0", "1", "other")
    held = write_csv(tmp_path / "held.csv", ["text", "label"], [[f"held back {i}", "007"] for i in range(4)])
    splits = read(csv_of(lambda i: ("007", "x")[i % 2]), test=str(held))
    assert splits.task.labels == ("007", "x") and splits.test.labels == [0] * 4


def test_what_looks_like_a_date_stays_the_word_that_it_is(jsonl_of):
    assert read(jsonl_of(lambda i: f"202{i % 2}-01-01")).task.labels == ("2020-01-01", "2021-01-01")


def test_numbers_that_are_kept_secret_are_refused_and_those_that_are_all_the_same_told(csv_of, tmp_path):
    for value, expected in ((-1.0, "every row of test has the number −1, which marks rows without"), (2.5, None)):
        held = write_csv(tmp_path / "held.csv", ["text", "label"], [[f"held back {i}", value] for i in range(4)])
        path = csv_of(lambda i: i / 10)
        if expected:
            with pytest.raises(DataError, match=expected):
                read(path, test=str(held))
        else:
            assert "every row of test has the number 2.5: no correlation" in read(path, test=str(held)).notes
