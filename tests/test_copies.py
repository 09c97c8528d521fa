"""Changed copies of training rows, by words and by a masked language model: as many as asked for, seeded, told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_config, make_splits, make_tokenizer
from held import contains

from distill import Data, load_data
from distill.augmentation import augment, read_copies, write_copies
from distill.checkpoint import Checkpoint
from distill.data.copies import Line, change
from distill.data.held_out import HeldOut
from distill.data.more import MASKED_LM, WORDS, let_in, require_masked_lm
from distill.data.overlap import marks_of, normalise
from distill.data.readers import READERS
from distill.errors import CheckpointError
from distill.recipe.settings import Augment


@pytest.fixture(scope="module")
def masked_lm():
    """A tiny BERT that says what a masked word may be."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(4)
    return Checkpoint(AutoModelForMaskedLM.from_config(make_config("bert")).eval(), make_tokenizer())


def test_a_line_is_words_and_what_stands_between_them():
    line = Line.of("It's not (really) good, is it?")
    assert line.words == ["It's", "not", "really", "good", "is", "it"]
    assert line.text == "It's not (really) good, is it?"
    assert line.put([3, 1], ["bad", ""]).text == "It's (really) bad, is it?"
    assert Line.of_words(("a", "-", "b")).put([1], [""]).text == "a b"
    assert Line.of("यह फिल्म अच्छी है।").words == ["यह", "फिल्म", "अच्छी", "है"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_copies_change_a_share_of_the_words_in_one_way(share):
    words = [f"w{number}" for number in range(20)]
    line, many = Line.of(" ".join(words)), max(1, round(share * 20))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        swapped = change(line, "swap", share, ["x"], rng).words
        assert sorted(swapped) == sorted(words)
        assert sum(one != other for one, other in zip(swapped, words, strict=True)) == max(2, many)
        deleted = change(line, "delete", share, ["x"], rng).text.split()
        assert len(deleted) == 20 - many and deleted == [word for word in words if word in deleted]
        replaced = change(line, "replace", share, ["x", "y"], rng).words
        assert sum(word in "xy" for word in replaced) == many


@pytest.mark.parametrize("text", ["", "one", "..."])
def test_a_line_of_too_few_words_keeps_one(text):
    rng = np.random.default_rng(0)
    assert change(Line.of(text), "swap", 0.5, ["x"], rng).text == text
    assert change(Line.of(text), "delete", 0.9, ["x"], rng).text == text


def test_copies_are_seeded_new_and_give_nothing_away(topics_csv):
    words = Data(source=str(topics_csv), max_length=16, augment={"words": {"copies": 3, "share": 0.2}})
    data = load_data(words, seed=1)
    assert data.awaits_copies and data.extra == ()
    made = augment(data)
    (extra,) = made.extra
    assert extra.origin == WORDS and extra.given == 3 * len(data.train)
    assert len(extra) + extra.held_out + extra.near + extra.repeated == extra.given
    assert augment(made) is made and not made.awaits_copies and not made.extended.awaits_copies
    assert augment(data).extra == made.extra
    assert augment(replace(data, seed=2)).extra != made.extra
    texts = [normalise(text) for (text,) in extra.texts]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {normalise(text) for (text,) in data.train.texts}
    held = [text for (text,) in (*data.validation.texts, *data.test.texts)]
    assert not any(contains(text, one) for text in texts for one in held)


def test_a_copy_that_contains_a_held_out_text_is_dropped(topics_csv):
    data = augment(load_data(Data(source=str(topics_csv), augment={"words": 2}), seed=1))
    word = normalise(data.extra[0].texts[0][0]).split()[0]
    known = marks_of(data.train.texts)
    again = let_in(WORDS, data.extra[0].texts, READERS["text-classification"], HeldOut([(word,)]), known)
    assert again.held_out == sum(contains(text, word) for (text,) in data.extra[0].texts) > 0
    assert not any(contains(text, word) for (text,) in again.texts)


@pytest.mark.parametrize("texts", [1, 2])
def test_a_masked_language_model_replaces_as_many_words_as_asked(masked_lm, texts):
    asked_for = Augment(masked_lm={"checkpoint": "unused", "share": 0.25, "copies": 2})
    data = make_splits(texts=texts)
    data = replace(data, words=data.words.model_copy(update={"augment": asked_for}))
    made = augment(data, masked_lm)
    (extra,) = made.extra
    assert extra.origin == MASKED_LM and extra.given == 2 * len(data.train) and len(extra) > len(data.train)
    vocabulary = set(masked_lm.tokenizer.get_vocab())
    originals = [[text.split() for text in row] for row in data.train.texts]
    for row in extra.texts:
        changes = [
            [
                sum(a != b for a, b in zip(mine, text.split(), strict=True))
                for mine, text in zip(words, row, strict=True)
            ]
            for words in originals
            if [len(one) for one in words] == [len(text.split()) for text in row]
        ]
        wanted = [max(1, round(0.25 * len(text.split()))) for text in row]
        assert wanted in changes
        assert all(word in vocabulary for text in row for word in text.split())
    assert augment(data, masked_lm).extra == made.extra


def test_words_beyond_the_models_length_stay_as_they_are(masked_lm):
    long = " ".join(["the"] * 100)
    data = make_splits()
    asked_for = Augment(masked_lm={"checkpoint": "unused", "share": 0.9})
    train = replace(data.train, texts=[(long,), ("[MASK] it was",)], labels=[0, 1])
    data = replace(data, train=train, words=data.words.model_copy(update={"augment": asked_for}))
    (extra,) = augment(data, masked_lm).extra
    ((text,),) = extra.texts  # what holds a mask itself is left alone
    assert len(text.split()) == 100
    assert text.split()[46:] == ["the"] * 54 and text.split()[:46].count("the") < 20


def test_copies_come_back_as_they_were_written(tmp_path, topics_csv):
    data = load_data(Data(source=str(topics_csv), augment={"words": 1}), seed=1)
    made = augment(data)
    told = write_copies(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["words.jsonl"]
    again = read_copies(data, tmp_path, json.loads(json.dumps(told)))
    assert again.extra == made.extra and again.notes == made.notes


@pytest.mark.parametrize(
    "heads", [["BertForSequenceClassification"], ["BertModel"], ["ElectraForPreTraining"], [], None]
)
def test_a_checkpoint_without_a_masked_lm_head_is_refused(heads):
    with pytest.raises(CheckpointError, match="can't say what a masked word may be"):
        require_masked_lm({"architectures": heads}, "mine")
    for head in ("RobertaForMaskedLM", "BertForPreTraining", "XLMWithLMHeadModel"):
        require_masked_lm({"architectures": [head]}, "mine")
