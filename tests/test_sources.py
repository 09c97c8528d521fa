"""Where rows come from: files of every format, folders, encodings, the Hub."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from conftest import rows, write_csv
from datasets import ClassLabel, Dataset, Features, Value
from tables import ROWS, TEXTS, every_row, named, read

from distill import Data, load_data
from distill.data import sources
from distill.errors import DataError
from distill.recipe import Source


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
            r"not a format that is read here \(.csv, .tsv, .json, .jsonl, .parquet, .txt, .conll, .* called .conll",
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


def nested(path: Path, first: int, last: int, **more: str) -> Path:
    """A jsonl file of translations, as the Hub's sets have them."""
    pairs = [{"id": i, "translation": {"en": TEXTS[i], "de": TEXTS[i][::-1], **more}} for i in range(first, last)]
    path.write_text("\n".join(map(json.dumps, pairs)))
    return path


def test_a_dot_leads_into_a_column(tmp_path):
    first, second = nested(tmp_path / "a.jsonl", 0, 30), nested(tmp_path / "b.jsonl", 30, 50, fr="un mot")
    test = nested(tmp_path / "c.jsonl", 50, 60)
    words = {"source": str(first), "further": [str(second)], "test": str(test)}
    found = load_data(Data(**words, text="translation.en", label="translation.de"), task="translation")
    assert sorted(every_row(found)) == sorted(((text,), text[::-1]) for text in TEXTS)
    with pytest.raises(DataError, match=r"no column 'translation.fr' \(it has: id, translation.en, transl"):
        load_data(Data(source=str(first), text="translation.en", label="translation.fr"), task="translation")
    with pytest.raises(
        DataError, match=r"a dict in column 'translation', not a text; name one of its parts, such as t"
    ):
        load_data(Data(source=str(first), text="translation", label="translation.de"), task="translation")


def test_a_column_of_that_very_name_comes_first():
    features = Features({"pair": datasets.Translation(["de", "en"]), "pair.en": Value("string"), "n": Value("int32")})
    made = Dataset.from_dict({"pair": [{"de": "ja", "en": "yes"}], "pair.en": ["no"], "n": [1]}, features=features)
    found = sources.reached(made, Data(source="made", text="pair.en", label="pair.de"))
    assert found[0] == {"pair.en": "no", "n": 1, "pair.de": "ja"}
    for label in ("n.x", "label"):  # no dict, or no such column: told by whoever looks for it
        assert sources.reached(made, Data(source="made", text="pair.en", label=label)) is made


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
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text(
        "".join(json.dumps({"text": text, "label": i % 2}) + "\n" for i, (text, _) in enumerate(rows(40)))
    )
    words = write_csv(tmp_path / "words.csv", ["text", "label"], [list(row) for row in rows(30, seed=1)])
    with pytest.raises(DataError, match=r"data.further.0: its columns hold other kinds of values"):
        load_data(Data(source=str(numbers), further=[str(words)]))


def test_one_row_is_too_few(tmp_path):
    with pytest.raises(DataError, match="one class only"):
        read(write_csv(tmp_path / "one.csv", ["text", "label"], [["a text", "x"]]))
    with pytest.raises(DataError, match=r"too few rows for three splits \(train 2, validation 0, test 0\)"):
        read(write_csv(tmp_path / "two.csv", ["text", "label"], [["a text", "x"], ["one more", "y"]]))


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


def test_the_mark_of_utf_8_is_no_part_of_a_text(tmp_path):
    (tmp_path / "rows.conll").write_bytes(b"\xef\xbb\xbfthe O\nball B-x\n")
    assert sources.read(Source(path=str(tmp_path / "rows.conll")))[0] == {"text": "the O"}
    for label in "ab":
        (tmp_path / "kinds" / label).mkdir(parents=True)
        (tmp_path / "kinds" / label / "1.txt").write_bytes(b"\xef\xbb\xbfa text")
    assert sources.read(Source(path=str(tmp_path / "kinds")))["text"] == ["a text"] * 2


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


def test_of_a_hub_data_set_only_the_first_rows_are_streamed_and_kept(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows(90)]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked, whole = [], datasets.load_dataset_builder

    def hub(name, config, *, revision):
        asked.append((name, config, revision))
        return whole(str(folder))

    monkeypatch.setattr("datasets.load_dataset_builder", hub)
    source = Source(hub="org/topics", revision="abc123", first=50)
    found = sources.read(source)
    assert asked == [("org/topics", None, "abc123")]
    assert list(found["text"]) == [text for text, _ in rows(90)[:50]]
    assert sources.read(source).cache_files == found.cache_files  # mapped from where they were streamed to
    (folder / "train.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    assert sources.read(source)["text"][0] == rows(90)[-1][0]  # another state of the set is streamed anew
    with pytest.raises(DataError, match=r"data\.source: the Hub data set org/topics can't be loaded: .*nowhere"):
        sources.read_split("nowhere", source, None, "data.source")


def test_a_hub_data_set_that_cannot_be_had_is_one_clear_error(monkeypatch):
    def hub(*_, **__):
        raise ConnectionError("Couldn't reach 'org/topics' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", hub)
    with pytest.raises(DataError, match="the Hub data set org/topics can't be loaded: Couldn't reach"):
        load_data(Data(source=Source(hub="org/topics")))
