"""Pruning in width: the hidden dimensions that matter least go, the same ones everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import load_tiny
from transformers import AutoModelForSequenceClassification

from distill import Prune, anatomy, prune, surgery
from distill.checkpoint import Checkpoint
from distill.data import collate
from distill.pruning.hidden import importance_of_dims
from distill.signals import read, tensors

WAYS = ("magnitude", "activations", "taylor", "fisher")


def logits(found: Checkpoint, data) -> np.ndarray:
    encoded = found.encode(data, "test")
    with torch.inference_mode():
        return read(found.model.eval(), tensors(collate(encoded, list(range(24))), found.model.device)).logits.numpy()


@pytest.mark.parametrize("by", WAYS)
def test_a_dimension_that_nobody_feels_is_the_least_important(bert, data, by):
    """Its column and row are zero wherever the stream is written or read."""
    silent = bert.copy()
    with torch.no_grad():
        for name, axes in surgery.hidden_axes(silent.model).items():
            for axis in axes:
                silent.model.state_dict()[name].select(axis, 7).zero_()
    scores = importance_of_dims(silent, by, data, range(24)).scores
    assert scores.shape == (32,) and int(scores.argmin()) == 7


def test_the_gate_on_a_dimension_is_the_loss_s_slope(bert, data):
    rows = [4, 7]
    found = importance_of_dims(bert, "fisher", data, rows).derivatives
    encoded = bert.encode(data, "train").take(np.array(rows))
    order = np.argsort(-(-encoded.lengths // 4) * 4, kind="stable")
    for place, example in enumerate(order):
        batch = tensors(collate(encoded, [int(example)]), bert.model.device)

        def loss(by: float, batch=batch) -> float:
            changed = bert.copy().model.double()
            scale = torch.ones(32, dtype=torch.float64)
            scale[11] += by
            for layer in surgery.layers_of(changed):
                layer.register_forward_pre_hook(lambda _, given: (given[0] * scale, *given[1:]))
            surgery.layers_of(changed)[-1].register_forward_hook(
                lambda _, __, made: (made[0] * scale, *made[1:]) if isinstance(made, tuple) else made * scale
            )
            with torch.no_grad():
                answer = changed(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                return float(torch.nn.functional.cross_entropy(answer, batch["labels"]))

        slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
        assert float(found[place, 11]) == pytest.approx(slope, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "mpnet"])
def test_hidden_dimensions_go_and_stock_transformers_loads_what_is_left(tmp_path, data, family):
    whole = load_tiny(tmp_path / "tiny", family)
    smaller = prune(whole, Prune(hidden_size=0.3, examples=24), data=data)
    assert anatomy.size(smaller.model.config.to_dict(), "hidden_size") == 24  # whole heads of 8
    assert max(surgery.shape_of(smaller.model).heads) == 3
    folder = smaller.save(tmp_path / "smaller")
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert np.abs(logits(Checkpoint(stock, smaller.tokenizer), data) - logits(smaller, data)).max() < 1e-5


def test_hidden_size_and_a_target_go_together(bert, data):
    smaller = prune(bert, Prune(hidden_size=0.25, to={"parameters": 0.5}, examples=24), data=data)
    assert 0.45 < smaller.parameters / bert.parameters <= 0.5
    assert anatomy.size(smaller.model.config.to_dict(), "hidden_size") == 24
