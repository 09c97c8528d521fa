"""What is imitated beside logits and hidden states: attentions, and relations between queries, keys and values."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from conftest import PIECES, load_tiny, make_splits, make_tokenizer
from torch import Tensor, nn
from writers import build_writer, make_pairs

from distill import Distill, cut, distill, prune, teacher
from distill.checkpoint import Checkpoint
from distill.data import collate
from distill.distillation import Lesson, layer_pairs
from distill.distillation.fitting import relation_heads
from distill.errors import CheckpointError
from distill.recipe import Prune, settings
from distill.signals import PARTS, Wanted, read, tensors
from distill.teacher.saved import Saved
from distill.training import TrainingLog, Watch

FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0}
ALL = Wanted(vectors=tuple((what, layer) for what in PARTS for layer in (1, 4)))


@pytest.fixture(scope="module")
def data():
    return make_splits()


def learn(pupil: Checkpoint, of: Checkpoint, data, **words: object) -> tuple[Checkpoint, TrainingLog]:
    watch = Watch("distill")
    made = distill(pupil, Distill(**{**FAST, **words}), data=data, teacher=of, watch=watch)
    return made, watch.log


def batch_of(checkpoint: Checkpoint, data, rows: int = 5) -> dict[str, Tensor]:
    return tensors(collate(checkpoint.encode(data, "train"), list(range(rows))), checkpoint.model.device)


def test_attentions_are_learned_without_dropout_of_their_weights(bert, data):
    """A first layer that is its teacher's attends as it does, though dropout is on behind it."""
    pupil = bert.copy()
    layers = {name: module for name, module in pupil.model.named_modules() if isinstance(module, nn.Dropout)}
    for name, module in layers.items():
        module.p = 0.0 if "embeddings" in name else 0.2
    term = {"weight": 1.0, "layers": {1: 1}}
    made, record = learn(
        pupil, bert, data, imitate={"attentions": term}, dropout=None, max_steps=1, learning_rate=1e-9
    )  # fmt: skip
    assert record.records[0]["terms"]["attentions"]["value"] == pytest.approx(0, abs=1e-5)
    assert made.model.bert.encoder.layer[0].attention.self.dropout.p == 0.2


# --------------------------------------------------------------------------------------------------- the signals


def test_queries_keys_and_values_are_the_products_that_attention_is_made_of(bert, data):
    batch = batch_of(bert, data)
    with torch.no_grad():
        found = read(bert.model, batch, Wanted(hidden_states=(0, 3), vectors=ALL.vectors)).vectors
        entering = read(bert.model, batch, Wanted(hidden_states=(0, 3))).hidden_states
    for layer in (1, 4):
        attention = bert.model.bert.encoder.layer[layer - 1].attention.self
        for what in PARTS:
            linear = getattr(attention, what)
            expected = entering[layer - 1] @ linear.weight.T + linear.bias
            assert torch.allclose(found[what, layer], expected, atol=1e-5), (what, layer)


def test_every_family_gives_its_vectors_and_nothing_stays_behind(family, tmp_path, data):
    found = load_tiny(tmp_path / "tiny", family)
    hooks = sum(len(module._forward_hooks) for module in found.model.modules())
    with torch.no_grad():
        vectors = read(found.model, batch_of(found, data), ALL).vectors
    assert set(vectors) == set(ALL.vectors)
    assert all(torch.isfinite(one).all() and one.shape[-1] == 32 for one in vectors.values())
    assert not torch.equal(vectors["query", 1], vectors["key", 1])
    assert sum(len(module._forward_hooks) for module in found.model.modules()) == hooks


def test_a_fused_module_gives_three_parts(data):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(
        GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=48, vocab_size=60, pad_token_id=0)
    ).eval()
    batch = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    batch["labels"] = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        found = read(model, batch, Wanted(vectors=(("query", 2), ("value", 2)))).vectors
        states = model.transformer.h[1].ln_1(
            model.transformer(**{k: batch[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True)
            .hidden_states[1]
        )  # fmt: skip
        made = model.transformer.h[1].attn.c_attn(states)
    assert torch.allclose(found["query", 2], made[..., :16], atol=1e-5)
    assert torch.allclose(found["value", 2], made[..., 32:], atol=1e-5)


def test_saved_vectors_equal_live_ones(bert, data, tmp_path):
    rows, given = bert.encode(data, "train"), {"dtype": torch.float32, "scratch": tmp_path}
    wanted = Wanted(hidden_states=(2,), vectors=ALL.vectors)
    saved = teacher.answering(bert, rows, wanted, epochs=3, **given)
    live = teacher.answering(bert, rows, wanted, epochs=1, **given)
    assert isinstance(saved, Saved) and isinstance(live, teacher.Live)
    batch = tensors(collate(rows, [7, 3, 11]), bert.model.device)
    real = batch["attention_mask"].bool()
    mine, theirs = saved.signals(batch), live.signals(batch)
    for key in ALL.vectors:
        assert torch.allclose(mine.vectors[key][real].float(), theirs.vectors[key][real], rtol=1e-2, atol=1e-2)
        assert not mine.vectors[key][~real].any()


def test_attentions_are_never_saved(bert, data, tmp_path):
    rows = bert.encode(data, "train")
    found = teacher.answering(bert, rows, Wanted(attentions=(1,)), epochs=5, dtype=torch.float32, scratch=tmp_path)
    assert isinstance(found, teacher.Live)


# ------------------------------------------------------------------------------------------------------ the terms


def relation(vectors: np.ndarray, heads: int) -> list[np.ndarray]:
    scores = [part @ part.T / math.sqrt(part.shape[-1]) for part in np.split(vectors, heads, axis=-1)]
    return [np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in scores]


def test_the_relations_term_is_the_one_of_the_paper(bert, data):
    pupil = cut(bert, 2)
    imitate = settings.Imitate(relations={"weight": 1.0, "heads": 8, "of": ["query", "value"]})
    lesson = Lesson(pupil.model, data.task, imitate, pairs={"relations": [(2, 4)]}).eval()
    batch = batch_of(pupil, data)
    with torch.no_grad():
        signals = read(bert.model, batch, Wanted(vectors=(("query", 4), ("value", 4))))
        mine = read(pupil.model, batch, Wanted(vectors=(("query", 2), ("value", 2)))).vectors
        found, terms = lesson(batch, signals)
    assert list(terms) == ["relations"]
    each = []
    for what in ("query", "value"):
        tokens = []
        for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
            pairs = zip(
                relation(signals.vectors[what, 4][row, :length].double().numpy(), 8),
                relation(mine[what, 2][row, :length].double().numpy(), 8), strict=True,
            )  # fmt: skip
            tokens += np.mean([np.sum(p * np.log(p / q), -1) for p, q in pairs], axis=0).tolist()
        each.append(np.mean(tokens))
    assert found.item() == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.parametrize("term", ["attentions", "relations"])
@pytest.mark.parametrize(("layers", "dtype"), [("top", "float32"), ("even", "bfloat16"), ({2: 3}, "float32")])
def test_the_term_falls_and_is_zero_to_oneself(bert, data, term, layers, dtype):
    imitate = {term: {"weight": 1.0, "layers": layers}}
    words = {"epochs": 8, "batch_size": 64, "schedule": "constant", "dtype": dtype}
    _, record = learn(cut(bert, 2), bert, data, imitate=imitate, **words)
    first, last = (record.records[place]["terms"][term]["value"] for place in (0, -1))
    assert 0 < last < first
    same = {term: {"weight": 1.0, "layers": "top"}}
    _, record = learn(bert, bert, data, imitate=same, epochs=1, max_steps=1)
    assert abs(record.records[0]["terms"][term]["value"]) < 1e-4


def test_relations_bridge_widths_and_head_counts(bert, data):
    from distill import student

    config = {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3}
    config |= {"intermediate_size": 16, "max_position_embeddings": 64}
    narrow = student.from_config(config, bert, data.task, seed=0)
    made, record = learn(narrow, bert, data, imitate={"relations": 1.0}, epochs=4)
    assert record.records[-1]["terms"]["relations"]["value"] < record.records[0]["terms"]["relations"]["value"]
    assert set(made.model.state_dict()) == set(narrow.model.state_dict())


def test_relations_follow_a_student_without_some_of_its_heads(bert, data):
    pupil = prune(cut(bert, 2), Prune(heads=0.5, uniform=True, by="magnitude", examples=16), data=data)
    _, record = learn(pupil, bert, data, imitate={"logits": 1.0, "relations": 0.5}, epochs=2)
    assert {"logits", "relations"} == set(record.records[0]["terms"])


def test_attentions_run_eager_while_they_are_learned_and_that_is_said(bert, data, caplog):
    pupil, ways = cut(bert, 2), []
    pupil.model.set_attn_implementation("sdpa")
    before = bert.model.config._attn_implementation
    with caplog.at_level(logging.INFO, "distill"):
        made, _ = learn(pupil, bert, data, imitate={"attentions": 1.0}, epochs=1)
    assert "both run in eager attention while training" in caplog.text
    ways += [made.model.config._attn_implementation, bert.model.config._attn_implementation]
    assert ways == ["sdpa", before]


# ----------------------------------------------------------------------------------------------------- two sides


@pytest.mark.parametrize("side", ["encoder", "decoder", "both"])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_is_followed_on_either_side(name, side):
    pairs, big = make_pairs(), Checkpoint(build_writer(name), make_tokenizer())
    imitate = {term: {"weight": 1.0, "side": side, "layers": "top"} for term in ("attentions", "relations")}
    asked = Distill(imitate=imitate).imitate
    config = big.model.config.to_dict()
    sides = {"encoder": [(2, 2)], "decoder": [(5, 5)], "both": [(2, 2), (5, 5)]}[side]
    assert layer_pairs(asked, config, config) == {"attentions": sides, "relations": sides}
    _, record = learn(big, big, pairs, imitate=imitate, epochs=1, max_steps=1)
    assert all(abs(term["value"]) < 1e-4 for term in record.records[0]["terms"].values())


# ------------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_be_imitated_is_refused(bert, data, tmp_path):
    with pytest.raises(CheckpointError, match=r"relations.heads: vectors 32 wide can't be cut into 5 heads each"):
        learn(cut(bert, 2), bert, data, imitate={"relations": {"weight": 1.0, "heads": 5}})
    with pytest.raises(CheckpointError, match=r"imitate.attentions.layers: 0 is the embeddings"):
        learn(cut(bert, 2), bert, data, imitate={"attentions": {"weight": 1.0, "layers": {0: 0}}})
    with pytest.raises(CheckpointError, match=r"imitate.relations.layers pairs student layer 3"):
        learn(cut(bert, 2), bert, data, imitate={"relations": {"weight": 1.0, "layers": {3: 4}}})
    other = Checkpoint(cut(bert, 2).model, make_tokenizer([*PIECES[:5], "unheard", *PIECES[5:]]))
    with pytest.raises(CheckpointError, match=r"imitate.attentions: the two have other tokens"):
        learn(other, bert, data, imitate={"attentions": 1.0})
    renumbered = Checkpoint(cut(bert, 2).model, make_tokenizer([*PIECES[:5], *reversed(PIECES[5:])]))
    _, record = learn(renumbered, bert, data, imitate={"relations": 1.0}, epochs=1)  # asked before training
    assert record.records[0]["terms"]["relations"]["value"] > 0


def test_an_unknown_family_has_no_relations_to_imitate(bert):
    config = bert.model.config.to_dict()
    with pytest.raises(CheckpointError, match="nobody"):
        layer_pairs(settings.Imitate(relations=1.0), {**config, "model_type": "nobody"}, config)


def test_the_teachers_own_number_of_heads_is_the_default(bert, data):
    asked, pupil = settings.RelationsTerm(weight=1.0), cut(bert, 2)
    assert relation_heads(asked, pupil, bert, {"relations": [(2, 4)]}, data) == 4


def test_a_recipe_says_it_and_is_checked_without_torch(recipe_file):
    from click.testing import CliRunner

    from distill.cli import main

    steps = [{"distill": {"imitate": {"relations": {"weight": 1.0, "layers": {2: 9}}}}}]
    done = CliRunner().invoke(main, ["check", str(recipe_file(steps=steps))])
    assert done.exit_code == 2 and "imitate.relations.layers pairs student layer 2 with teacher layer 9" in done.output
    steps[0]["distill"]["imitate"]["relations"]["layers"] = "top"
    path = recipe_file(steps=steps)
    assert json.loads(path.read_text())["steps"] == steps
    assert CliRunner().invoke(main, ["check", str(path)]).exit_code == 0
