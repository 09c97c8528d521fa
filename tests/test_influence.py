"""Layers are left out by what they matter: measured on training texts, on either side, in every kind of family."""

from __future__ import annotations

import pytest
import torch
from conftest import LABELS, PIECES, make_splits, make_tokenizer
from families import build
from torch import nn

from distill import Prune, cut, prune, surgery
from distill.anatomy import family_of
from distill.checkpoint import Checkpoint
from distill.errors import CheckpointError
from distill.influence import least

EVERY = ["bert", "modernbert", "gpt2", "opt", "llama", "bart", "t5"]


def classifier(name: str) -> Checkpoint:
    words = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    model = build(name, "SequenceClassification", vocab_size=len(PIECES), eos_token_id=3, **words)
    return Checkpoint(model, make_tokenizer())


def silence(model: nn.Module, layer: int) -> None:
    """Makes a layer add nothing to what it is given; a norm at its end still is one."""
    stack = 0 if layer <= len(surgery.stacks_of(model)[0]) else 1
    found = surgery.layers_of(model)[layer - 1]
    told = family_of(model.config.to_dict()).stacks[stack].layer
    with torch.no_grad():
        for path in (*(attention.output for attention in told.attentions), told.down):
            for parameter in found.get_submodule(path).parameters():
                parameter.zero_()


@pytest.fixture(scope="module")
def splits():
    return make_splits()


@pytest.mark.parametrize("name", EVERY)
def test_the_layer_that_adds_nothing_goes_first_and_the_model_stays_what_it_was(name, splits):
    whole = classifier(name)
    layers = surgery.layers_of(whole.model)
    silent = 2
    silence(whole.model, silent)
    before = {key: tensor.clone() for key, tensor in whole.model.state_dict().items()}
    assert least(whole, 1, splits, range(12))[0] == silent
    assert all(torch.equal(tensor, before[key]) for key, tensor in whole.model.state_dict().items())
    assert not any(layer._forward_hooks for layer in layers)


@pytest.mark.parametrize("name", ["bart"])
def test_each_side_is_asked_for_its_own(name, splits):
    whole = classifier(name)
    silence(whole.model, 5)  # the decoder's second
    assert least(whole, {1: 1}, splits, range(12)) == [5]
    gone = least(whole, {0: 2, 1: 1}, splits, range(12))
    assert len(gone) == len(set(gone)) == 3 and sum(layer > 3 for layer in gone) == 1
    assert sum(layer > 3 for layer in least(whole, 3, splits, range(12))) <= 1  # each side keeps one
    pupil = cut(whole, {"decoder": 1}, "importance", data=splits)
    assert torch.equal(pupil.model.base_model.decoder.get_parameter(first(pupil)), weight(whole, 4))
    smaller = prune(whole, Prune(layers={"encoder": 1}, examples=16), data=splits)
    assert [len(stack) for stack in surgery.stacks_of(smaller.model)] == [2, 2]


def first(found: Checkpoint) -> str:
    return next(name for name, _ in found.model.base_model.decoder.named_parameters() if ".0." in name)


def weight(found: Checkpoint, layer: int) -> torch.Tensor:
    return next(surgery.layers_of(found.model)[layer - 1].parameters())


def test_a_student_keeps_the_layers_that_matter(splits):
    whole = classifier("bert")
    silence(whole.model, 1)
    pupil = cut(whole, 2, "importance", data=splits)
    kept = surgery.layers_of(pupil.model)
    for mine, theirs in zip(kept, surgery.layers_of(whole.model)[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="measured on training texts; give `data`"):
        cut(whole, 2, "importance")
    assert len(surgery.layers_of(cut(whole, 3, "importance", data=splits).model)) == 3
    assert len(surgery.layers_of(cut(whole, [1, 3], "importance", data=splits).model)) == 2


@pytest.mark.parametrize(
    ("name", "going", "words"),
    [
        ("bert", 3, "3 of 3 layers can't be taken out; keep at least one$"),
        ("bart", 4, "4 of 3 and 2 layers can't be taken out; keep at least one on each side"),
        ("bart", {1: 2}, "2 of 3 and 2 layers"),
    ],
)
def test_more_layers_than_can_go_is_an_error(name, going, words, splits):
    with pytest.raises(CheckpointError, match=words):
        least(classifier(name), going, splits, range(4))


def test_the_order_hangs_on_training_texts_alone(splits):
    from dataclasses import replace

    whole = classifier("bert")
    other = replace(splits, validation=splits.test, test=splits.validation)
    assert least(whole, 2, splits) == least(whole, 2, other)
