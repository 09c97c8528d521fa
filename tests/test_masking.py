"""Which tokens a masked language model is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_tokenizer
from language_models import load, tokenizer_of
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from distill.data import collate
from distill.data.masking import masking_for, weights_of
from distill.errors import CheckpointError
from distill.recipe.settings import Mask
from distill.tasks import NO_TARGET


def test_a_seventh_of_the_tokens_is_chosen_and_most_of_them_masked(bert_mlm, masked):
    held = bert_mlm.encode(masked, "train")
    special = set(bert_mlm.tokenizer.all_special_ids)
    chosen = hidden = same = total = 0
    for turn in range(20):
        batch = collate(held, range(len(held)), (0, turn))
        there = batch["labels"] != NO_TARGET
        plain = held.tokens.padded(range(len(held)), held.pad)
        assert (batch["labels"][there] == plain[there]).all()
        assert (batch["input_ids"][~there] == plain[~there]).all()
        assert not np.isin(batch["labels"][there], list(special)).any()
        assert there.any(1).all()
        total += int((~np.isin(plain, list(special))).sum())
        chosen += int(there.sum())
        hidden += int((batch["input_ids"][there] == bert_mlm.tokenizer.mask_token_id).sum())
        same += int((batch["input_ids"] == plain)[there].sum())
    assert chosen / total == pytest.approx(0.15, abs=0.01)
    assert hidden / chosen == pytest.approx(0.8, abs=0.03)
    assert same / chosen == pytest.approx(0.1, abs=0.03)  # and now and then the same token is drawn


def test_masks_hang_on_turn_and_row_alone(bert_mlm, masked):
    held = bert_mlm.encode(masked, "test")
    one, again, other = collate(held, [3, 1]), collate(held, [1, 2, 3]), collate(held, [3, 1], (0, 1))
    assert (one["input_ids"][0] == again["input_ids"][2]).all()
    assert (one["input_ids"][1] == again["input_ids"][0]).all()
    assert (one["input_ids"] != other["input_ids"]).any()


def test_whole_words_are_chosen_whole():
    tokenizer = make_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##do", "##ing", "go", "##es"])
    masking = masking_for(tokenizer, Mask(share=0.4, whole_words=True))
    ids = np.array([2, 5, 6, 7, 8, 9, 5, 6, 8, 3])
    words = [{1, 2, 3}, {4, 5}, {6, 7}, {8}]
    for turn in range(30):
        chosen = set(np.flatnonzero(masking.apply(ids, (turn,))[1] != NO_TARGET).tolist())
        assert chosen == set().union(*(word for word in words if word & chosen))
        assert 3 <= len(chosen) <= 5


@pytest.mark.parametrize(
    ("model", "pieces", "words"),
    [
        (models.WordPiece, {"Ġx": True, "▁": True, "go": True, "##es": False}, {"unk_token": "[UNK]"}),
        (models.WordLevel, {"Ġx": True, "go": True}, {"unk_token": "[UNK]"}),
        (models.BPE, {"Ġ": True, "go": False}, {"merges": []}),
        (models.BPE, {"Ġ": True, "go</w>": True}, {"merges": [], "end_of_word_suffix": "</w>"}),
        (models.Unigram, {"▁go": True, "es": False}, {}),
    ],
)
def test_a_letter_that_marks_words_elsewhere_begins_none_where_pieces_are_told_otherwise(model, pieces, words):
    every = ["[UNK]", "[MASK]", *pieces]
    vocabulary = [(piece, 0.0) for piece in every] if model is models.Unigram else {p: i for i, p in enumerate(every)}
    made = Tokenizer(model(vocabulary, **words))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", mask_token="[MASK]")
    found = masking_for(tokenizer, Mask(whole_words=True)).begins
    assert found[2:].tolist() == list(pieces.values())


@pytest.mark.parametrize("whole_words", [False, True])
def test_rare_tokens_are_chosen_by_a_power_of_their_count(whole_words):
    tokenizer = make_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])
    ids, smoothing = np.array([5] * 16 + [6] * 4 + [7]), 0.5
    weights = weights_of(ids, len(tokenizer), smoothing)
    assert weights[5:].tolist() == pytest.approx([1 / 4, 1 / 2, 1]) and (weights[:5] == 1).all()
    masking = replace(masking_for(tokenizer, Mask(share=0.01, whole_words=whole_words)), weights=weights)
    chosen = np.array([ids[masking.apply(ids, (turn,))[1] != NO_TARGET][0] for turn in range(2000)])
    drawn = np.bincount(chosen, minlength=8)[5:] / len(chosen)
    assert drawn == pytest.approx(np.array([4, 2, 1]) / 7, abs=0.04)  # a token's count times its weight


def test_smoothing_is_for_training_alone(bert_mlm, corpus):
    data = load(corpus, "masked-language-modelling", mask={"smoothing": 0.7})
    assert bert_mlm.encode(data, "train").masking.weights is not None
    assert bert_mlm.encode(data, "validation").masking.weights is None
    assert "smoothing" not in str(load(corpus, "masked-language-modelling", mask={"share": 0.2}).facts)


def test_without_a_mask_token_nothing_is_masked():
    with pytest.raises(CheckpointError, match="no mask token"):
        masking_for(tokenizer_of("gpt2"), Mask())
