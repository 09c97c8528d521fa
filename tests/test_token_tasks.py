"""Tags for words: alignment and counts against values worked out by hand, errors, and the whole chain."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from datasets import ClassLabel, Dataset, Features, List, Value
from made_tasks import TAGS, tagged, write_jsonl

from distill import Data, Predictor, load_data
from distill import recipe as recipes
from distill.data.words import Words, first_tokens
from distill.errors import CheckpointError, DataError
from distill.pipeline import run
from distill.tasks import NO_TARGET, TokenClassification, restored
from distill.tasks.token_classification import NO_TAG
from distill.verification import verify

WORDS = {"text": "words", "label": "tags", "validation": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def tagged_file(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("tagged") / "slots.jsonl", tagged(150))


def of(path: Path, **words: object):
    """A file's rows, loaded and split."""
    return load_data(Data(**{**WORDS, "source": str(path), **words}), task="token-classification")


# ------------------------------------------------------------------------------------------------------- the alignment


def test_a_words_tag_stands_at_its_first_token(tmp_path):
    rows = [{"words": [f"n{i}", "ball-game", "of", "cinema"], "tags": ["O", "B-x", "I-x", "O"]} for i in range(9)]
    data = of(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert data.task.labels == ("B-x", "I-x", "O")
    for split in ("train", "validation", "test"):
        encoded = data.encode(split, make_tokenizer())
        for row in range(len(encoded)):
            # [CLS] n ball - game of cinema [SEP]: three tokens are one word
            assert encoded.targets[row].tolist() == [-100, 2, 0, -100, -100, 1, 2, -100]


def byte_level():
    """A byte-level tokenizer that knows single bytes only, as RoBERTa cuts what it has no merge for."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def metaspace():
    """A SentencePiece-like tokenizer: the blank before a word is a token of its own, or part of one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = [("<unk>", 0.0), ("▁", -4.0), ("▁ab", -1.0), ("c", -2.0), ("d", -2.0), ("b", -3.0), ("a", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "words", "tokens"),
    [
        (byte_level, ("ab", "é", "c"), ["a", "Ġ", "Ġ"]),  # the blank is the word's first byte where it is merged to it
        (metaspace, ("ab", "cd"), ["▁ab", "c"]),  # a blank alone is no part of a word
    ],
)
def test_other_tokenizers_are_aligned_by_place(tokenizer, words, tokens):
    encoding = tokenizer().encode(" ".join(words))
    first = first_tokens(words, encoding)
    found = [encoding.tokens[place] for place in first]
    starts = [encoding.offsets[place] for place in first]
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    assert all(a < end and b > end - len(word) for (a, b), end, word in zip(starts, ends, words, strict=True))
    assert len(set(first.tolist())) == len(words)
    assert found[0] == tokens[0]


def test_words_behind_the_cut_and_words_of_nothing_have_no_token():
    tokenizer = make_tokenizer()
    encoding = tokenizer("the ball of cinema", truncation=True, max_length=4).encodings[0]
    assert first_tokens(("the", "ball", "of", "cinema"), encoding).tolist() == [1, 2, -1, -1]
    assert first_tokens(("the", "​", "ball"), tokenizer("the  ball").encodings[0])[0] == 1


def test_words_of_which_the_tokenizer_makes_nothing_are_neither_learned_nor_scored(tmp_path, caplog):
    rows = [{"words": [f"n{i}", "", "ball"], "tags": ["O", "B-x", "I-x"]} for i in range(9)]
    data = of(write_jsonl(tmp_path / "rows.jsonl", rows))
    with caplog.at_level("INFO"):
        encoded = data.encode("train", make_tokenizer())
    assert (encoded.labels[:, 1] == -1).all() and (encoded.labels[:, 2] >= 0).all()
    assert f"makes nothing of {len(encoded)} words" in caplog.text
    encoded = replace(data, words=data.words.model_copy(update={"max_length": 4})).encode("train", make_tokenizer())
    assert (encoded.labels[:, 2] >= 0).all()  # of rows that are cut off, words that a model doesn't see count as wrong


# ---------------------------------------------------------------------------------------------------------- the counts


def test_scores_are_seqevals_and_those_counted_by_hand():
    from seqeval.metrics import f1_score

    task = TokenClassification("token_classification", TAGS, "entity_f1")
    names = list(TAGS)
    true = [["B-film", "I-film", "O", "B-money"], ["O", "B-money", "I-money", "O"], ["B-film", "O", "O"]]
    given = [["B-film", "I-film", "O", "O"], ["O", "B-money", "O", "B-film"], ["B-film", "O", "O"]]
    labels, predictions = (
        np.array([[names.index(tag) for tag in row] + [-1] * (4 - len(row)) for row in rows]) for rows in (true, given)
    )
    found = task.scores(predictions, labels)
    assert list(found) == ["entity_f1", "accuracy", "macro_f1"]
    assert found["entity_f1"] == pytest.approx(f1_score(true, given)) == pytest.approx(2 * 2 / (4 + 4))
    assert found["accuracy"] == pytest.approx(8 / 11)
    # B-film 2 of 3 given, 2 true; B-money 1, 1, 2; I-film 1, 1, 1; I-money 0, 0, 1; O 4, 6, 5
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 1 + 0 + 8 / 11) / 5)
    assert task.by_class(predictions, labels) == pytest.approx({"film": 4 / 5, "money": 0.0})
    unseen = np.where(np.arange(4) > 0, -1, predictions)  # only the first word of each was read
    assert task.scores(unseen, labels)["accuracy"] == pytest.approx(3 / 11)
    assert task.scores(unseen, labels)["entity_f1"] == pytest.approx(2 * 1 / (4 + 2))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("U-a U-a O", {("a", 0, 0), ("a", 1, 1)}),
        ("B-a I-a L-a U-a", {("a", 0, 2), ("a", 3, 3)}),
        ("B-a L-a B-a L-a", {("a", 0, 1), ("a", 2, 3)}),
        ("B-a E-a S-b O", {("a", 0, 1), ("b", 2, 2)}),
        ("B I O B", {("_", 0, 1), ("_", 3, 3)}),
    ],
)
def test_entities_are_read_in_every_scheme(tags, expected):
    names = tags.split()
    labels = tuple(sorted({*names, "O"}))
    task = TokenClassification("token_classification", labels, "entity_f1")
    row = np.array([[labels.index(tag) for tag in names]])
    assert task.score(row, row) == 1.0
    assert set(task.by_class(row, row)) == {kind for kind, *_ in expected}
    answers = np.eye(len(labels), dtype=np.float32)[row]
    (found,) = task.answer(answers, about=[Words(tuple(names), None)])
    assert {(one["tag"], one["start"], one["end"] - 1) for one in found} == expected


def test_tags_that_name_no_entities_are_scored_by_word(tmp_path):
    rows = [{"words": ["the", "ball", str(i)], "tags": ["DET", "NOUN", "NUM"]} for i in range(9)]
    data = of(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert data.task.metric == "accuracy"
    assert list(data.task.scores(np.array([[0, 1, 2]]), np.array([[0, 1, 1]]))) == ["accuracy", "macro_f1"]
    assert data.task.by_class(np.array([[0, 1, 2]]), np.array([[0, 1, 1]])) == {"DET": 1.0, "NOUN": 0.5}
    with pytest.raises(DataError, match="metric: entity_f1 needs tags that tell entities"):
        load_data(data.words, task="token-classification", metric="entity_f1")


# ------------------------------------------------------------------------------------------------------------ the data


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


def test_the_last_sentence_of_a_conll_file_ends_where_a_further_file_begins(tmp_path):
    for name in ("one", "two"):
        sentences = [f"{name} O\nplace{i} B-x" for i in range(8)]
        (tmp_path / f"{name}.conll").write_text("\n\n".join(sentences))
    files = {"source": str(tmp_path / "one.conll"), "further": [str(tmp_path / "two.conll")]}
    data = load_data(Data(**files, validation=0.2, test=0.2), task="token-classification")
    found = [words for split in (data.train, data.validation, data.test) for words in split.texts]
    assert sorted(found) == sorted((name, f"place{i}") for name in ("one", "two") for i in range(8))


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


@pytest.mark.parametrize("mark", [-1, -100])
def test_words_whose_tag_is_not_known_are_read_and_count_for_nothing(tmp_path, mark):
    rows = [{"words": ["the", str(i), "ball"], "tags": [0, 1, mark]} for i in range(9)]
    data = of(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert data.task.labels == ("0", "1")
    assert any("9 words have no tag" in note for note in data.notes)
    encoded = data.encode("test", make_tokenizer())
    assert (encoded.labels == [0, 1, NO_TAG]).all()
    targets = data.task.targets({"labels": torch.from_numpy(encoded.targets.padded(range(len(encoded)), NO_TARGET))})
    assert targets.tolist() == [0, 1, NO_TARGET] * len(encoded)
    named = TokenClassification("token_classification", TAGS, "entity_f1")
    labels, found = np.array([[TAGS.index("B-film"), NO_TAG, TAGS.index("O")]]), np.array([[0, 1, TAGS.index("O")]])
    assert set(named.scores(found, labels).values()) == {1.0}
    assert named.by_class(found, labels) == {"film": 1.0}


def test_words_without_a_class_number_are_read(tmp_path):
    features = Features({"words": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-x"]))})
    rows = {"words": [["a", "b", str(i)] for i in range(9)], "tags": [[0, 1, -1]] * 9}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    data = of(tmp_path / "rows.parquet")
    assert data.task.labels == ("B-x", "O") and data.train.labels[0] == [1, 0, NO_TAG]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "data.label: row 0 of train has 2 words but 1 tags"),
        ({"words": [], "tags": []}, "data.text: row 0 of train holds no words in column 'words'; leave such rows out"),
        ({"words": None, "tags": ["O"]}, "data.text: row 0 of train holds nothing in column 'words', not a list"),
        ({"words": ["a", None], "tags": ["O", "O"]}, "data.text: row 0 of train holds None among its words"),
        ({"words": ["a", "b"], "tags": ["O", None]}, "data.label: row 0 of train has a word without a tag"),
    ],
)
def test_rows_that_are_not_words_with_tags_are_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        of(write_jsonl(tmp_path / "rows.jsonl", [row, *tagged(9)]))


def test_one_tag_alone_and_an_unknown_tag_are_refused(tmp_path):
    plain = [{"words": ["a", str(i)], "tags": ["O", "O"]} for i in range(9)]
    with pytest.raises(DataError, match="one tag only"):
        of(write_jsonl(tmp_path / "rows.jsonl", plain))
    test = write_jsonl(tmp_path / "test.jsonl", [{"words": ["a", "zoo"], "tags": ["O", "B-place"]}] * 3)
    with pytest.raises(DataError, match="test has the tag 'B-place', which is none of the known ones"):
        of(write_jsonl(tmp_path / "train.jsonl", tagged(30)), test=str(test))
    inside = [{"words": ["zoo", "bar"], "tags": ["B-sport", "I-sport"]}, {"words": ["a", "b"], "tags": ["O", "O"]}]
    train = write_jsonl(
        tmp_path / "train.jsonl", [{"words": ["a", str(i)], "tags": ["O", "B-sport"]} for i in range(9)]
    )
    assert "I-sport" in of(train, test=str(write_jsonl(test, inside))).task.labels


def test_a_heads_own_order_of_tags_is_kept(tagged_file):
    known = ["O", *TAGS[:-1]]
    data = load_data(Data(**WORDS, source=str(tagged_file)), task="token-classification", names=known)
    assert data.task.labels == tuple(known)
    assert "its labels are" in data.task.misfit({"id2label": dict(enumerate(TAGS))})


def test_words_that_mean_nothing_here_are_refused(tagged_file):
    with pytest.raises(DataError, match=r"data.separator: means nothing for token-classification"):
        of(tagged_file, separator=";")


# ----------------------------------------------------------------------------------------------------------- the chain


@pytest.fixture
def token_recipe(recipe_file, body, tagged_file):
    def write(*steps: object, **sections: object) -> Path:
        return recipe_file(
            task="token-classification",
            teacher={
                "checkpoint": str(body),
                "finetune": {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "warmup": 0},
            },
            data={**WORDS, "source": str(tagged_file), "max_length": 24},
            steps=list(steps),
            **sections,
        )

    return write


def taught(**imitate: float) -> dict[str, object]:
    return {"distill": {"imitate": imitate, "epochs": 2, "learning_rate": 3e-3, "batch_size": 16}}


def test_tags_go_through_the_whole_chain(token_recipe, tagged_file, tmp_path, without_memory):
    path = token_recipe(
        taught(logits=1.0, hidden_states=1.0),
        {"prune": {"heads": 0.5, "neurons": 0.5, "vocabulary": "used", "examples": 32}},
        taught(logits=1.0),
        "quantize",
        ship=["transformers", "onnx"],
    )
    report = run(recipes.load(path), tmp_path / "run", beside=path.parent)
    teacher, last = report.ledger.rows[0], report.ledger.last
    assert teacher.metric == "entity_f1"
    assert teacher.score > 0.4
    assert last.score > 0.2
    assert last.interval[0] <= last.score <= last.interval[1]
    assert set(last.by_class) == {"film", "money"}
    assert set(last.scores) == {"entity_f1", "accuracy", "macro_f1"}
    shipped = tmp_path / "run" / "shipped"
    _asked_alike(shipped)
    findings = verify(shipped, overrides=(f"data.source={tagged_file}",), rounds=3)
    assert not [str(finding) for finding in findings if finding.outcome == "FAILS" and "latency" not in finding.name]
    assert "holds" in {finding.outcome for finding in findings if finding.name.startswith("score ")}
    card = (shipped / "README.md").read_text(encoding="utf-8")
    assert "gives each word of a sentence one of these tags: B-film" in card
    snippet = card.partition("### onnxruntime and tokenizers alone")[2].partition("```python\n")[2].partition("```")[0]
    snippet = snippet.replace("A sentence of yours.", "the movie star of a bank")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=shipped, capture_output=True, text=True, check=True)
    assert "'word': 'movie'" in done.stdout


def _asked_alike(shipped: Path) -> None:
    """Torch, the fp32 graph and a list of words answer alike; an entity says where it is."""
    sentence = "the movie star of the bank"
    torch, graph = (Predictor(shipped, form) for form in ("transformers", "onnx-fp32"))
    (expected,), (found,) = torch.predict([sentence]), graph.predict([sentence.split()])
    assert [(one["text"], one["tag"]) for one in found] == [(one["text"], one["tag"]) for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-3)
    assert found
    for one in found:
        assert one["text"].split() == sentence.split()[one["start"] : one["end"]]
    with pytest.raises(DataError, match="with a word at least"):
        graph.predict(["  "])


def test_another_vocabulary_is_refused_where_logits_are_by_token(token_recipe, tmp_path, without_memory):
    path = token_recipe({"prune": {"vocabulary": 30}}, taught(logits=1.0))
    with pytest.raises(CheckpointError, match="their logits can't be compared token by token"):
        run(recipes.load(path), tmp_path / "run", beside=path.parent)


def test_a_task_is_restored_from_what_a_report_tells():
    assert restored("token_classification", TAGS).output_shape == ["batch", "tokens", 5]


def test_of_two_tags_nothing_can_be_decoupled():
    two, three = (TokenClassification("token_classification", tags, "accuracy") for tags in (("O", "K"), TAGS[:3]))
    assert "nothing is left to decouple" in two.refuse_loss("decoupled_kl")
    assert two.refuse_loss("kl") is None and three.refuse_loss("decoupled_kl") is None
