"""Data: read from any source, labelled, kept apart, tokenised, batched."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tokenizer, rows, write_csv
from datasets import ClassLabel, Dataset, Features, List, Value

from distill import Data, load_data
from distill.data import TokenBatches, collate, encode, overlap, splitting
from distill.data.encoding import Rows
from distill.errors import CheckpointError, DataError, DistillError
from distill.recipe import Source

ROWS = rows(60)
TEXTS = [text for text, _ in ROWS]


@pytest.fixture
def csv_of(tmp_path):
    """A csv of the sixty texts with a label each, from a list or from a function of the row's number."""

    def write(labels, texts=TEXTS, name="rows.csv") -> Path:
        given = labels if isinstance(labels, list) else [labels(i) for i in range(len(texts))]
        return write_csv(tmp_path / name, ["text", "label"], [list(row) for row in zip(texts, given, strict=True)])

    return write


@pytest.fixture
def jsonl_of(tmp_path):
    """A jsonl file of the sixty texts with a label each."""

    def write(labels, texts=TEXTS, name="rows.jsonl") -> Path:
        given = labels if isinstance(labels, list) else [labels(i) for i in range(len(texts))]
        lines = [{"text": text, "label": label} for text, label in zip(texts, given, strict=True)]
        (tmp_path / name).write_text("\n".join(json.dumps(line) for line in lines))
        return tmp_path / name

    return write


def read(path: Path, *, encoding: str | list[str] = "utf-8", names=None, seed: int = 0, metric=None, **words):
    return load_data(
        Data(source=Source(path=str(path), encoding=encoding), **words), names=names, seed=seed, metric=metric
    )


def every_row(splits) -> list[tuple[tuple[str, ...], object]]:
    parts = (splits.train, splits.validation, splits.test)
    return [row for part in parts for row in zip(part.texts, part.labels, strict=True)]


def named(splits) -> Counter:
    """The rows of all splits, with the names of their labels."""
    return Counter((text[0], splits.task.labels[label]) for text, label in every_row(splits))


# ------------------------------------------------------------------------------------------------------ formats


def as_csv(folder: Path) -> Path:
    return write_csv(folder / "rows.csv", ["text", "label"], [list(row) for row in ROWS])


def as_tsv(folder: Path) -> Path:
    (folder / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))
    return folder / "rows.tsv"


def as_jsonl(folder: Path) -> Path:
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def as_json(folder: Path) -> Path:
    (folder / "rows.json").write_text(json.dumps([{"text": text, "label": label} for text, label in ROWS], indent=1))
    return folder / "rows.json"


def as_parquet(folder: Path) -> Path:
    Dataset.from_dict({"text": TEXTS, "label": [label for _, label in ROWS]}).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def as_folder(folder: Path) -> Path:
    for number, (text, label) in enumerate(ROWS):
        (folder / "rows" / label).mkdir(parents=True, exist_ok=True)
        (folder / "rows" / label / f"{number}.txt").write_text(text)
    (folder / "rows" / ".hidden").mkdir()
    return folder / "rows"


@pytest.mark.parametrize("write", [as_csv, as_tsv, as_json, as_jsonl, as_parquet, as_folder])
def test_every_format_gives_the_same_rows(tmp_path, write):
    splits = read(write(tmp_path))
    assert named(splits) == Counter(ROWS)
    assert splits.task.labels == ("film", "money", "sport")
    assert splits.task.problem == "single_label_classification"


def test_paths_start_beside_the_recipe_then_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "beside").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = Data(source="rows.csv")
    with pytest.raises(
        DataError, match=r"data.source: no such file or folder: rows.csv \(looked in .*beside and .*here"
    ):
        load_data(data, beside=tmp_path / "beside")
    as_csv(tmp_path / "here")
    assert named(load_data(data, beside=tmp_path / "beside")) == Counter(ROWS)
    write_csv(
        tmp_path / "beside" / "rows.csv", ["text", "label"], [[text, "ab"[i % 2]] for i, text in enumerate(TEXTS)]
    )
    assert load_data(data, beside=tmp_path / "beside").task.labels == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.csv", "", "holds no rows"),
        ("rows.csv", "text,label\n", "holds no rows"),
        ("rows.jsonl", "", "holds no rows"),
        ("rows.json", "{nope", "can't be read as json: "),
        ("rows.parquet", "nope", "can't be read as parquet: "),
        ("rows.csv", "text,label\na,b\nc,d,e,f\n", "can't be read as csv: "),
        (
            "rows.doc",
            "text",
            r"not a format that is read here \(.csv, .tsv, .json, .jsonl, .parquet, .txt, .conll, or a folder",
        ),
    ],
)
def test_a_file_that_holds_nothing_readable_is_named(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{tmp_path / name}: {expected}"):
        read(tmp_path / name)


def test_a_folder_without_classes_or_a_class_without_texts_is_named(tmp_path):
    with pytest.raises(DataError, match=r"expected one folder a class with .txt files in it"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: a class without a single .txt file"):
        read(tmp_path)


def test_the_rows_of_several_sources_are_split_as_those_of_one(tmp_path, write_two):
    first, second = write_two
    found = load_data(Data(source=str(first), further=[str(second)]))
    both = [*rows(40), *rows(30, seed=1)]
    assert sorted(every_row(found)) == sorted(((text,), found.task.labels.index(label)) for text, label in both)
    assert load_data(Data(source=str(first))).fingerprint != found.fingerprint


@pytest.fixture
def write_two(tmp_path) -> tuple[Path, Path]:
    """A csv, and a jsonl with its columns in another order and one more."""
    first = write_csv(tmp_path / "first.csv", ["text", "label"], [list(row) for row in rows(40)])
    second = tmp_path / "second.jsonl"
    lines = [json.dumps({"id": i, "label": label, "text": text}) for i, (text, label) in enumerate(rows(30, seed=1))]
    second.write_text("\n".join(lines))
    return first, second


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        (["sentence", "label"], ["a text", "sport"], r"data.further.0: has no column 'text'.*it has: sentence, label"),
        (["text", "kind"], ["a text", "sport"], "data.further.0: has no column 'label'"),
    ],
)
def test_a_further_source_without_the_columns_is_named(tmp_path, write_two, header, line, message):
    other = write_csv(tmp_path / "other.csv", header, [line] * 5)
    with pytest.raises(DataError, match=message):
        load_data(Data(source=str(write_two[0]), further=[str(other)]))


def test_a_further_source_with_other_kinds_of_values_is_named(tmp_path):
    numbers = write_csv(
        tmp_path / "numbers.csv", ["text", "label"], [[text, i % 2] for i, (text, _) in enumerate(rows(40))]
    )
    words = write_csv(tmp_path / "words.csv", ["text", "label"], [list(row) for row in rows(30, seed=1)])
    with pytest.raises(DataError, match=r"data.further.0: its columns hold other kinds of values"):
        load_data(Data(source=str(numbers), further=[str(words)]))


def test_one_row_is_too_few(tmp_path):
    with pytest.raises(DataError, match="one class only"):
        read(write_csv(tmp_path / "one.csv", ["text", "label"], [["a text", "x"]]))
    with pytest.raises(DataError, match=r"too few rows for three splits \(train 2, validation 0, test 0\)"):
        read(write_csv(tmp_path / "two.csv", ["text", "label"], [["a text", "x"], ["one more", "y"]]))


# ---------------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "folder"])
def test_a_wrong_encoding_names_the_file_and_the_setting(tmp_path, suffix):
    path = file = tmp_path / f"rows.{suffix}"
    if suffix == "folder":
        file = path / "x" / "1.txt"
        file.parent.mkdir(parents=True)
    line = '{"text": "café", "label": "x"}' if suffix == "jsonl" else "text,label\ncafé,x\n"
    file.write_bytes(line.encode("latin-1"))
    with pytest.raises(DataError, match=rf"{file}: not utf-8 text; set data.source.encoding .* \[utf-8, cp1252\]"):
        read(path)
    with pytest.raises(DataError, match=rf"{file}: not ascii nor utf-8 text; .* \[ascii, utf-8, cp1252\]"):
        read(path, encoding=["ascii", "utf-8"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", ["utf-8", "cp1252"], ["ascii", "utf-8"], "utf-8-sig"])
def test_texts_are_read_in_the_encoding_that_is_set(tmp_path, encoding):
    content = "text,label\n" + "".join(f"café {i} {text},{label}\n" for i, (text, label) in enumerate(ROWS))
    written = encoding if isinstance(encoding, str) else encoding[-1]
    (tmp_path / "rows.csv").write_bytes(content.encode(written))
    splits = read(tmp_path / "rows.csv", encoding=encoding)
    assert all(texts[0].startswith("café ") for texts, _ in every_row(splits))


@pytest.mark.parametrize("encoding", ["cp1252", ["utf-8", "cp1252"]])
def test_jsonl_is_read_in_the_encoding_that_is_set(tmp_path, encoding):
    lines = [json.dumps({"text": f"café {text}", "label": label}, ensure_ascii=False) for text, label in ROWS]
    (tmp_path / "rows.jsonl").write_bytes("\n".join(lines).encode("cp1252"))
    splits = read(tmp_path / "rows.jsonl", encoding=encoding)
    assert all(texts[0].startswith("café ") for texts, _ in every_row(splits))


def test_of_a_list_of_encodings_each_file_takes_the_first_that_fits(tmp_path):
    for number, (text, label) in enumerate(ROWS):
        file = tmp_path / label / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(f"é {text}".encode(("utf-8", "cp1252")[number % 2]))
    splits = read(tmp_path, encoding=["utf-8", "cp1252"])
    assert all(texts[0].startswith("é ") for texts, _ in every_row(splits))


# ------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (lambda i: "zab"[i % 3], ("a", "b", "z")),
        (lambda i: (10, 9, -1)[i % 3], ("-1", "9", "10")),  # numbers sort as numbers
        (lambda i: i % 2 == 0, ("0", "1")),
        (lambda i: (1.0, 2.0)[i % 2], ("1", "2")),
        (lambda i: ("NA", "null")[i % 2], ("NA", "null")),  # words, not empty cells
    ],
    ids=["words", "integers", "bools", "whole floats", "NA and null"],
)
def test_labels_of_any_kind_are_sorted_when_nobody_names_them(csv_of, label, names):
    splits = read(csv_of(label))
    assert splits.task.labels == names
    assert splits.task.problem == "single_label_classification"
    texts = dict(zip(TEXTS, (label(i) for i in range(60)), strict=True))
    plain = {text: str(int(value)) if not isinstance(value, str) else value for text, value in texts.items()}
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
    ],
)
def test_labels_follow_a_checkpoints_names_when_they_fit(jsonl_of, label, known, expected):
    splits = read(jsonl_of(label), names=known)
    assert splits.task.labels == expected
    texts = dict(zip(TEXTS, (label(i) for i in range(60)), strict=True))
    for (text,), index in every_row(splits):
        given = texts[text]
        name = str(int(given) if isinstance(given, bool) else given)
        at = [i for i, word in enumerate(expected) if word.casefold() == name.casefold()]
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


def test_words_that_look_like_nothing_stay_texts(csv_of):
    words = ["NA", "null", "None", "nan", "N/A", "true"]
    splits = read(csv_of(lambda i: "ab"[i % 2], texts=[*words, *TEXTS]))
    assert set(words) <= {texts[0] for texts, _ in every_row(splits)}


def test_a_metric_that_does_not_fit_the_labels_is_refused(csv_of):
    with pytest.raises(DistillError, match="metric: spearman does not fit a single label classification"):
        read(csv_of(lambda i: "ab"[i % 2]), metric="spearman")


# -------------------------------------------------------------------------------------------- splits and notes


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


# --------------------------------------------------------------------------------------------- near-duplicates


def alike(one: str, other: str) -> bool:
    """The definition, word for word."""
    words = [overlap.normalise(text).split() for text in (one, other)]
    if words[0] == words[1]:
        return True
    mine, theirs = ({tuple(found[i : i + 5]) for i in range(len(found) - 4)} for found in words)
    return bool(mine | theirs) and len(mine & theirs) / len(mine | theirs) >= 0.8


def brute_force(texts: list[tuple[str, ...]]) -> list[int]:
    """For each row the first row of its group, by comparing all pairs."""
    group = list(range(len(texts)))
    for i, row in enumerate(texts):
        for j in range(i):
            if group[i] != group[j] and all(alike(*pair) for pair in zip(row, texts[j], strict=True)):
                low, high = sorted((group[i], group[j]))
                group = [low if number == high else number for number in group]
    return group


def mutated(rng: random.Random, words: list[str]) -> list[str]:
    """The words with a few changed, dropped or put behind."""
    found = list(words)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = rng.choice("xyz")
            case 1 if len(found) > 1:
                del found[at]
            case 2:
                found.append(rng.choice("xyz"))
            case _:
                found = [word.upper() for word in found]
    return found


def random_text(rng: random.Random, bases: list[list[str]]) -> str:
    return rng.choice((" ", "  ", ", ")).join(mutated(rng, rng.choice(bases)))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_of_comparing_every_pair(columns, seed):
    rng = random.Random(seed)
    bases = [[rng.choice("abcdefgh") for _ in range(rng.choice((1, 4, 5, 9, 14, 24, 40)))] for _ in range(12)]
    texts = [tuple(random_text(rng, bases) for _ in range(columns)) for _ in range(160)]
    found, expected = overlap.group(texts), brute_force(texts)
    assert len(found) == len(texts)
    assert len(set(expected)) < len(texts)
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


@pytest.mark.parametrize(
    ("runs", "shared", "expected"), [(9, 8, True), (18, 16, True), (18, 15, False), (90, 80, True)]
)
def test_the_threshold_itself_counts_as_alike(runs, shared, expected):
    """Two texts of `runs` runs each that share `shared`: 8 of 10 is exactly 0.8."""
    one = [f"w{i}" for i in range(runs + 4)]
    other = [*one[runs - shared :], *(f"v{i}" for i in range(runs - shared))]
    assert (shared / (2 * runs - shared) >= 0.8) is expected
    assert (len(set(overlap.group([(" ".join(one),), (" ".join(other),)]))) == 1) is expected


@pytest.mark.parametrize(
    ("one", "other"), [("Ｆｕｌｌ width", "full WIDTH!"), ("a-b  c", "A B, c."), ("STRASSE", "straße")]
)
def test_case_width_punctuation_and_spacing_make_no_difference(one, other):
    assert len(set(overlap.group([(one,), (other,), ("something else",)]))) == 2


def test_texts_without_words_are_alike_only_when_they_are_equal():
    assert overlap.group([("",), ("?!",), ("🙂",), (" ?!",)]).tolist() == [0, 1, 2, 1]


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


@pytest.mark.parametrize("classes", [50, 77, 150])
def test_many_classes_of_few_rows_leave_no_split_empty(classes):
    kinds = [i % classes for i in range(4 * classes)]
    dealt = splitting.split(range(len(kinds)), kinds, {"validation": 0.1, "test": 0.2}, seed=3)
    shares = {name: len(found) / len(kinds) for name, found in dealt.items()}
    assert {kinds[row] for row in dealt["train"]} == set(range(classes))
    assert shares["validation"] == pytest.approx(0.1, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)


def test_pairs_are_alike_only_in_both_texts():
    long = " ".join(f"w{i}" for i in range(40))
    rows_of = [(long, "a"), (long + " end", "a"), (long, "b"), ("a", long)]
    assert overlap.group(rows_of).tolist() == [0, 0, 1, 2]


# -------------------------------------------------------------------------------------------------- tokenising


def test_texts_that_are_cut_are_counted():
    tokenizer = make_tokenizer()
    texts = [("goal " * n,) for n in (1, 5, 6, 7, 30)]
    encoded = encode(Rows(texts, [0] * 5), tokenizer, 8)
    assert encoded.truncated == 2  # two of the eight are [CLS] and [SEP]
    assert encoded.lengths.tolist() == [3, 7, 8, 8, 8]
    pairs = encode(Rows([("goal " * 9, "ball"), ("goal", "ball")], [0, 0]), tokenizer, 8)
    assert (pairs.truncated, pairs.lengths.tolist()) == (1, [8, 5])


def test_encoded_rows_are_what_the_tokenizer_says_and_lie_end_to_end(topics):
    tokenizer = make_tokenizer()
    encoded = topics.encode("train", tokenizer)
    for row, (text,) in enumerate(topics.train.texts):
        expected = tokenizer(text, truncation=True, max_length=16)["input_ids"]
        assert encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist() == expected
    assert topics.encode("train", make_tokenizer()) is encoded
    assert topics.encode("train", tokenizer, positions=8).lengths.max() == 8
    some = encoded.take(np.array([5, 2]))
    assert some.lengths.tolist() == encoded.lengths[[5, 2]].tolist()
    assert collate(some, [1])["input_ids"].tolist() == collate(encoded, [2])["input_ids"].tolist()
    assert some.labels.tolist() == encoded.labels[[5, 2]].tolist()


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(CheckpointError, match="no pad token"):
        encode(Rows([("a",)], [0]), tokenizer, 8)


def test_collate_pads_to_the_longest_and_masks_the_padding():
    encoded = encode(Rows([("goal", "ball"), ("goal goal goal", "ball ball")], [1, 0]), make_tokenizer(), 16)
    batch = collate(encoded, [1, 0])
    assert {name: array.shape for name, array in batch.items()} == {
        "input_ids": (2, 8), "attention_mask": (2, 8), "token_type_ids": (2, 8), "labels": (2,), "rows": (2,),
    }  # fmt: skip
    assert batch["attention_mask"].tolist() == [[1] * 8, [1] * 5 + [0] * 3]
    assert batch["token_type_ids"].tolist() == [[0] * 5 + [1] * 3, [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batch["input_ids"][1, 5:].tolist() == [encoded.pad] * 3
    assert batch["input_ids"][1, [0, 2, 4]].tolist() == [2, 3, 3]
    assert (batch["labels"].tolist(), batch["rows"].tolist()) == ([0, 1], [1, 0])


# ------------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize(("batch_size", "batch_tokens"), [(8, 10_000), (64, 256), (1, 10), (7, 100), (5, 16)])
@pytest.mark.parametrize("seed", [0, None])
def test_batches_hold_every_row_once_and_keep_both_limits(batch_size, batch_tokens, seed):
    lengths = np.random.default_rng(0).integers(3, 60, 333)
    batches = TokenBatches(lengths, batch_size, batch_tokens, seed=seed)
    for epoch in range(3):
        batches.set_epoch(epoch)
        dealt = list(batches)
        assert len(dealt) == len(batches)
        assert sorted(row for batch in dealt for row in batch) == list(range(333))
        for batch in dealt:
            assert 1 <= len(batch) <= batch_size
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= batch_tokens


def test_batches_follow_seed_and_epoch_alone():
    lengths = np.random.default_rng(1).integers(3, 40, 200)

    def deal(seed: int | None, epoch: int) -> list[list[int]]:
        batches = TokenBatches(lengths, 16, 512, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert deal(3, 1) == deal(3, 1)
    assert deal(3, 0) != deal(3, 1) != deal(4, 1)
    assert {frozenset(batch) for batch in deal(3, 0)} != {frozenset(batch) for batch in deal(3, 1)}
    assert deal(None, 0) == deal(None, 1)
    in_order = [int(np.ceil(lengths[row] / 4)) for batch in deal(None, 0) for row in batch]
    assert in_order == sorted(in_order)


def test_batches_of_like_lengths_waste_little_padding():
    lengths = np.random.default_rng(2).integers(3, 120, 500)
    batches = TokenBatches(lengths, 32, 4096, seed=0)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.15 * lengths.sum()


def test_a_hub_data_set_is_asked_for_by_id_config_revision_and_split(monkeypatch):
    asked = []

    def hub(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        topics = Features({"sentence": Value("string"), "topic": ClassLabel(names=["sport", "money", "film"])})
        lines = rows(60, seed=len(asked))
        names = ["sport", "money", "film"]
        return Dataset.from_dict(
            {"sentence": [text for text, _ in lines], "topic": [names.index(topic) for _, topic in lines]}, topics
        )

    monkeypatch.setattr("datasets.load_dataset", hub)
    source = Source(hub="org/topics", config="small", revision="abc123")
    data = load_data(Data(source=source, text="sentence", label="topic", test="held_out"))
    assert asked == [("org/topics", "small", "train", "abc123"), ("org/topics", "small", "held_out", "abc123")]
    assert data.task.labels == ("film", "money", "sport")
    assert len(data.test) == 60


def test_a_hub_data_set_that_cannot_be_had_is_one_clear_error(monkeypatch):
    def hub(*_, **__):
        raise ConnectionError("Couldn't reach 'org/topics' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", hub)
    with pytest.raises(DataError, match="the Hub data set org/topics can't be loaded: Couldn't reach"):
        load_data(Data(source=Source(hub="org/topics")))
