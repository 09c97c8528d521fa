"""Tags for words: alignment and counts against values worked out by hand, errors, and the whole chain."""

from __future__ import annotations

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
