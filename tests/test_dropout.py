"""What is dropped while a student learns: as much as its settings say, in every family, and no layer."""

from __future__ import annotations

import families
import pytest
import torch
from conftest import load_tiny

from distill import surgery
from distill.training.conditions import dropout


def test_dropout_of_zero_makes_training_deterministic_in_every_family(family, tmp_path):
    model = load_tiny(tmp_path / family, family).model
    ids = torch.arange(20, 40).reshape(2, 10)
    expected = model(input_ids=ids).logits
    model.train()
    assert not torch.equal(model(input_ids=ids).logits, expected)
    with dropout(model, 0.0):
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-6)


@pytest.mark.parametrize("name", families.CONFIGS)
def test_dropout_of_zero_reaches_what_drops_by_a_function(name):
    model = families.build(name, attention_dropout=0.4, dropout=0.4, activation_dropout=0.4)
    given = families.batch_for(model)
    expected = model(**given).logits
    model.train()
    with dropout(model, 0.0):
        assert torch.allclose(model(**given).logits, expected, atol=1e-5)
    torch.manual_seed(0)
    assert not torch.allclose(model(**given).logits, expected, atol=1e-5), "what it had has come back"


@pytest.mark.parametrize("name", ["bart", "opt", "marian"])
def test_no_layer_is_left_out_while_a_student_learns(name):
    model = families.build(name, **dict.fromkeys(("layerdrop", "encoder_layerdrop", "decoder_layerdrop"), 0.9)).train()
    given = families.batch_for(model)

    def passed() -> int:
        output, sides = model(**given, output_hidden_states=True), ("", "encoder_", "decoder_")
        return sum(len(output.get(f"{side}hidden_states") or ()) for side in sides)

    with dropout(model, None):
        assert passed() == len(surgery.layers_of(model)) + (2 if "decoder_input_ids" in given else 1)
    torch.manual_seed(0)
    assert passed() < len(surgery.layers_of(model)), "what it had has come back"
