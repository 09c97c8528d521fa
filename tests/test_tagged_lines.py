"""Files with a word and its tag a line (CoNLL): sentences, columns, comments, and which of them are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill import Data, load_data
from distill.errors import DataError


@pytest.mark.parametrize("suffix", ["conll", "iob2", "conllu"])
def test_a_conll_file_is_sentences(tmp_path, suffix):
    lines = ["-DOCSTART- -X- O", "", "the DT O", "cup NN B-x", "", "", "a\tDT\tO", "match\tNN\tB-x", ""]
    path = tmp_path / f"rows.{suffix}"
    path.write_text("\n".join([*lines, *(f"row O\nnumber{i} B-x\n" for i in range(8))]))
    data = load_data(Data(source=str(path), validation=0.2, test=0.2), task="token-classification")
    every = [text for split in ("train", "validation", "test") for text in getattr(data, split).texts]
    assert ("the", "cup") in every
    assert ("a", "match") in every
    assert len(every) == 10
    path.write_text("the O\ncup\n")
    with pytest.raises(DataError, match="line 2 of train is 'cup', not a word and its tag"):
        load_data(Data(source=str(path)), task="token-classification")


@pytest.mark.parametrize("suffix", ["conll", "txt"])
def test_the_last_sentence_of_a_file_ends_where_a_further_one_begins(tmp_path, suffix):
    for name in ("one", "two"):
        sentences = [f"{name} O\nplace{i} B-x" for i in range(8)]
        (tmp_path / f"{name}.{suffix}").write_text("\n\n".join(sentences))
    files = {"source": str(tmp_path / f"one.{suffix}"), "further": [str(tmp_path / f"two.{suffix}")]}
    data = load_data(Data(**files, validation=0.2, test=0.2), task="token-classification")
    found = [words for split in (data.train, data.validation, data.test) for words in split.texts]
    assert sorted(found) == sorted((name, f"place{i}") for name in ("one", "two") for i in range(8))


def test_sources_without_a_column_in_common_are_told_so(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"tokens": ["the", "cup"], "ner_tags": ["O", "B-x"]}\n')
    (tmp_path / "two.txt").write_text("the O\ncup B-x\n")
    files = {"source": str(tmp_path / "one.jsonl"), "further": [str(tmp_path / "two.txt")]}
    with pytest.raises(DataError, match=r"data.further.0: has no column 'tokens', .* \(it has: text\)"):
        load_data(Data(**files, validation=0.2, test=0.2), task="token-classification")


def sentences_of(path: Path, blocks: list[str], **words: object) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """All sentences of a file of lines with their tags."""
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    data = load_data(Data(source=str(path), validation=0.2, test=0.2, **words), task="token-classification")
    splits = [getattr(data, name) for name in ("train", "validation", "test")]
    return {
        (texts, tuple(data.task.labels[tag] for tag in tags))
        for rows in splits
        for texts, tags in zip(rows.texts, rows.labels, strict=True)
    }


@pytest.mark.parametrize("more", ["", "\tNN", "\tO"])
def test_a_tsv_of_words_and_tags_is_read_as_lines(tmp_path, more):
    """As many sets of named entities come: a word, its tag, a blank line between sentences, no header."""
    blocks = [f"the{more}\tO\nplace{i}{more}\tB-x" for i in range(9)]
    found = sentences_of(tmp_path / "rows.tsv", blocks)
    assert found == {(("the", f"place{i}"), ("O", "B-x")) for i in range(9)}
    (tmp_path / "more.tsv").write_text("\n\n".join(blocks))
    words = {"validation": 0.2, "test": 0.2}
    for name in ("more.tsv", "rows.tsv"):
        with pytest.raises(DataError, match="lines of words with their tags are no unlabelled texts"):
            load_data(
                Data(**words, source=str(tmp_path / "rows.tsv"), unlabelled=str(tmp_path / name)),
                task="token-classification",
            )
    both = Data(**words, source=str(tmp_path / "more.tsv"), further=[str(tmp_path / "rows.tsv")])
    data = load_data(both, task="token-classification")
    assert {len(words) for rows in (data.train, data.validation, data.test) for words in rows.texts} == {2}


@pytest.mark.parametrize("name", ["rows.conll", "rows.jsonl"])
def test_numbers_of_tags_take_the_names_that_the_recipe_gives_them(tmp_path, name):
    if name == "rows.conll":
        (tmp_path / name).write_text("\n\n".join(f"the 0\nplace{i} 1\nnear 2" for i in range(9)))
        columns = {}
    else:
        lines = ({"words": ["the", f"place{i}", "near", "it"], "tags": [0, 1, 2, -100]} for i in range(9))
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        columns = {"text": "words", "label": "tags"}
    words = Data(source=str(tmp_path / name), **columns, classes=["O", "B-x", "I-x", "B-y"], validation=0.2, test=0.2)
    data = load_data(words, task="token-classification")
    assert (data.task.labels, data.task.metric) == (("O", "B-x", "I-x", "B-y"), "entity_f1")
    assert {tuple(tags[:3]) for tags in data.train.labels} == {(0, 1, 2)}
    with pytest.raises(DataError, match=r"names 2 classes, 0 to 1; train has the label '?2'?"):
        load_data(words.model_copy(update={"classes": ["O", "B-x"]}), task="token-classification")


def test_a_tsv_with_a_header_is_a_table(tmp_path):
    lines = [f"place{i}\t{'OB'[i % 2]}" for i in range(30)]
    (tmp_path / "rows.tsv").write_text("\n".join(["text\tlabel", *lines]))
    assert load_data(Data(source=str(tmp_path / "rows.tsv"))).task.labels == ("B", "O")


@pytest.mark.parametrize(
    ("lines", "expected", "more"),
    [
        ("# sent_id = 3\n# text = Der Hund\nDer O\nHund B-x", ("Der", "Hund"), "row O\nnumber{} B-x"),
        ("# newpar\n# O\n7 B-x", ("#", "7"), "row O\nnumber{} B-x"),  # a # with a tag is a word
        ("Der X O\n# id 1 = 2\nHund X B-x", ("Der", "Hund"), "row X O\nnumber{} X B-x"),
        ("#\thttp://x.de/a\n#\tO\n7\tB-x", ("#", "7"), "row\tO\nnumber{}\tB-x"),
        ("#\tx.de [2009]\n#\tO\n7\tB-x", ("#", "7"), "row\tO\nnumber{}\tB-x"),
    ],
)
def test_comments_between_lines_are_no_words(tmp_path, lines, expected, more):
    found = sentences_of(tmp_path / "rows.conll", [lines, *(more.format(i) for i in range(9))])
    assert len(found) == 10 and (expected, ("O", "B-x")) in found


@pytest.mark.parametrize(
    ("lines", "more", "columns"),
    [
        ("#\tx.de [2009]\n1\tDer\tO\tB-y\n2\t#\tB-x\tO",
         "1\trow\tO\tO\n2\tnumber{}\tB-x\tO", {}),  # GermEval
        ("# text = Der #\n1-2\tD#\t_\t_\n1\tDer\tO\tme\n1.1\t_\t_\t_\n2\t#\tB-x\tme",
         "1\trow\tO\tme\n2\tnumber{}\tB-x\tme", {}),  # UNER
        ("1 Der O\n2 # B-x", "1 row O\n2 number{} B-x", {}),
        ("1 Der X O _\n2 # X B-x _", "1 row X O _\n2 number{} X B-x _", {"text": 2, "label": 4}),
        ("Der X O _\n# X B-x _", "row X O _\nnumber{} X B-x _", {"label": "3"}),
    ],
)  # fmt: skip
def test_words_that_are_counted_stand_in_the_second_column(tmp_path, caplog, lines, more, columns):
    caplog.set_level("INFO")
    found = sentences_of(tmp_path / "rows.conll", [lines, *(more.format(i) for i in range(9))], **columns)
    assert len(found) == 10 and (("Der", "#"), ("O", "B-x")) in found
    word, tag = (1, 3) if "text" not in columns and columns else (2, columns.get("label", 3))
    assert f"train: of its lines column {word} is the word and column {tag} its tag" in caplog.text


@pytest.mark.parametrize(
    ("lines", "columns", "message"),
    [
        ("1 a DET x\n2 b NOUN y", {}, "data.label: lines of train begin with a number and a word, and none of their"),
        ("1 a DET x\n2 b NOUN y", {"label": "upos"}, "data.label: train is lines of words and tags, .* give a number"),
        ("1 a DET x\n2 b NOUN y", {"text": "words"}, "data.text: train is lines of words and tags"),
        (
            "1 a DET x\n2 b NOUN y",
            {"label": 7},
            "line 1 of train is '1 a DET x', not a word and its tag in columns 2 a",
        ),
    ],
)
def test_columns_that_can_not_be_told_are_refused(tmp_path, lines, columns, message):
    with pytest.raises(DataError, match=message):
        sentences_of(tmp_path / "rows.conll", [lines] * 9, **columns)


def test_a_sentence_whose_words_are_not_counted_as_the_others_are_is_named(tmp_path):
    blocks = ["1 a O\n2 b B-x", "1 a O\n3 b B-x", "1 c O\n2 d B-x"]
    with pytest.raises(DataError, match="counts the words of most sentences, but not of the one in line 4; mend it"):
        sentences_of(tmp_path / "rows.conll", blocks)
    found = sentences_of(tmp_path / "rows.conll", [f"{block}\n3 {i} O" for i in range(4) for block in blocks], text=2)
    assert (("a", "b", "1"), ("O", "B-x", "O")) in found
