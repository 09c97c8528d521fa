"""A teacher's signals on disk: what live ones would be, each input once, and not kept where they are too large."""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill import Distill, cut, teacher
from distill.data import Ragged, arrays, collate
from distill.distillation import distill
from distill.distillation.asking import epochs_of
from distill.errors import CheckpointError, TrainingError
from distill.signals import Wanted, read, tensors
from distill.teacher import choosing
from distill.teacher.saved import Saved, distinct


def test_saved_signals_equal_live_ones_in_any_order_of_batches(bert, data, tmp_path):
    encoded = bert.encode(data, "train")
    given = {"dtype": torch.float32, "scratch": tmp_path}
    saved = teacher.answering(bert, encoded, Wanted((0, 2, 4)), epochs=3, **given)
    live = teacher.answering(bert, encoded, Wanted((0, 2, 4)), epochs=1, **given)
    assert (type(saved), type(live)) == (Saved, teacher.Live)
    order = np.random.default_rng(0).permutation(len(encoded)).tolist()
    for rows in (order[:7], order[7:30], order[30:31], [5, 5, 3], list(range(60))):
        batch = tensors(collate(encoded, rows), bert.model.device)
        kept, fresh = saved.signals(batch), live.signals(batch)
        real = batch["attention_mask"].bool()
        assert torch.allclose(kept.logits, fresh.logits, atol=1e-5)
        for layer in (0, 2, 4):
            assert torch.allclose(kept.hidden_states[layer][real].float(), fresh.hidden_states[layer][real], rtol=2**-8)
            assert not kept.hidden_states[layer][~real].any()


def test_equal_inputs_are_asked_and_kept_once(bert, data, tmp_path, caplog):
    once = bert.encode(data, "train").take(np.arange(20))
    encoded = once.take(np.array([*range(20), 3, 3, 19]))
    with caplog.at_level(logging.INFO):
        saved = teacher.answering(bert, encoded, Wanted((4,)), epochs=3, dtype=torch.float32, scratch=tmp_path)
    assert "3 of 23 texts are equal to another" in caplog.text
    assert len(saved.files["logits.npy"]) == 20 and len(saved.files["hidden_states-4.npy"]) == int(once.offsets[-1])
    found = saved.signals(tensors(collate(encoded, [3, 20, 21, 19, 22, 0]), bert.model.device))
    live = read(bert.model, tensors(collate(once, [3, 3, 3, 19, 19, 0]), bert.model.device), Wanted((4,)))
    assert torch.allclose(found.logits, live.logits, atol=1e-5)
    assert distinct(once)[1] is None


def test_a_teacher_that_says_no_numbers_is_told_from_a_training_that_fails(bert, data, tmp_path):
    broken = bert.copy()
    with torch.no_grad():
        broken.model.classifier.weight[0, 0] = math.nan
    with pytest.raises(
        CheckpointError, match=r"the teacher's logits of training rows .* are no numbers in torch.float32"
    ):
        teacher.answering(
            broken, bert.encode(data, "train"), Wanted(), epochs=3, dtype=torch.float32, scratch=tmp_path
        )  # fmt: skip
    words = {"learning_rate": 1e-3, "dtype": "float32", "imitate": {"logits": 1.0, "attentions": 1.0}}
    with pytest.raises(TrainingError, match="the teacher's own logits are no numbers there"):
        distill(cut(bert, 1), Distill(**words), data=data, teacher=broken)


def test_signals_that_are_there_need_no_room(bert, data, tmp_path, monkeypatch):
    encoded, kept = bert.encode(data, "train"), tmp_path / "kept"

    def keep(_, write, folder):
        if not kept.exists():
            kept.mkdir()
            write(kept)
        shutil.copytree(kept, folder)

    def asked(name: str):
        (tmp_path / name).mkdir()
        return teacher.answering(
            bert, encoded, Wanted((4,)), epochs=3, dtype=torch.float32, scratch=tmp_path / name, keep=keep
        )  # fmt: skip

    assert isinstance(asked("one"), Saved)
    monkeypatch.setattr(choosing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert isinstance(asked("two"), Saved)
    shutil.rmtree(kept)
    assert isinstance(asked("three"), teacher.Live)


def test_inputs_that_differ_in_what_is_read_or_written_are_distinct(bert, data):
    once = bert.encode(data, "train").take(np.arange(2))
    twice = once.take(np.array([0, 0, 1]))
    assert distinct(twice)[1].tolist() == [0, 0, 1]
    types = twice.types.copy()
    types[0] = 1
    assert distinct(replace(twice, types=types))[1] is None
    targets = Ragged.of([[5, 3], [6, 3], [5, 3]])
    assert distinct(replace(twice, targets=targets))[1] is not None
    assert distinct(replace(twice, targets=targets, decoder_start=0))[1] is None


def test_rows_are_taken_a_portion_at_a_time_as_at_once(bert, data, monkeypatch):
    encoded = bert.encode(data, "train")
    rows = np.array([7, 0, 0, 30, 3, 12, 59])
    expected, places = encoded.take(rows), distinct(encoded.take(rows))[1]
    monkeypatch.setattr(arrays, "PORTION", 2)
    found = encoded.take(rows)
    for name in ("ids", "types", "offsets", "labels"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert [found.tokens[place].tolist() for place in range(7)] == [encoded.tokens[row].tolist() for row in rows]
    assert distinct(found)[1].tolist() == places.tolist() == [0, 1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("words", "epochs"), [
    ({"epochs": 2.5}, 2.5), ({"epochs": 1, "max_steps": 24}, 3), ({"epochs": 9, "max_steps": 4}, 0.5),
    ({"epochs": 1, "max_steps": 24, "accumulate": 3}, 8),
])  # fmt: skip
def test_steps_that_are_said_tell_how_often_texts_are_read(bert, data, words, epochs):
    encoded = bert.encode(data, "train")
    assert len(encoded) == 60
    assert epochs_of(Distill(imitate={"logits": 1.0}, batch_size=8, **words), encoded) == epochs


def test_a_training_that_ends_before_all_texts_were_read_asks_its_teacher_live(bert, data, tmp_path):
    given = {"dtype": torch.float32, "scratch": tmp_path}
    encoded = bert.encode(data, "train")
    assert isinstance(teacher.answering(bert, encoded, Wanted(), epochs=0.5, **given), teacher.Live)
    assert isinstance(teacher.answering(bert, encoded, Wanted(), epochs=0.5, live=False, **given), Saved)


def test_logits_alone_are_saved_even_for_one_epoch(bert, data, tmp_path):
    given = {"epochs": 1, "dtype": torch.float32, "scratch": tmp_path}
    assert isinstance(teacher.answering(bert, bert.encode(data, "train"), Wanted(), **given), Saved)


def test_hidden_states_too_large_for_the_disk_are_asked_for_live(bert, data, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "SAVED_AT_MOST", 1000)
    given = {"epochs": 5, "dtype": torch.float32, "scratch": tmp_path}
    encoded = bert.encode(data, "train")
    assert isinstance(teacher.answering(bert, encoded, Wanted((1,)), **given), teacher.Live)
    assert isinstance(teacher.answering(bert, encoded, Wanted(), **given), Saved)
