"""Texts as tokens, and batches of them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_tokenizer

from distill.data import TokenBatches, collate, encode
from distill.data.rows import Rows
from distill.errors import CheckpointError


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
