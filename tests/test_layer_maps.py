"""Learned layer maps: what they mix, against NumPy; how they are trained, told and left behind; rates of their own."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from conftest import make_splits, make_tokenizer
from torch import Tensor
from writers import build_writer, make_pairs

from distill import Distill, cut, distill, student
from distill.checkpoint import Checkpoint
from distill.data import collate
from distill.distillation import Lesson, layer_pairs
from distill.distillation.mixing import LayerMap, told
from distill.errors import CheckpointError
from distill.pipeline.pieces import said
from distill.recipe import settings
from distill.report.document import _training_table
from distill.signals import PARTS, Signals, Wanted, read, tensors
from distill.tracking.findings import _layer_maps
from distill.training import Rate, TrainingLog, Watch
from distill.training.rates import set_apart

FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0}
LEARNED = {"weight": 1.0, "layers": "learned"}
PAIRS = [(mine, theirs) for mine in (1, 2) for theirs in (1, 2, 3, 4)]
LOGITS = np.array([[0.3, -1.0, 2.0, 0.5], [0.0, 1.5, -0.5, 0.7]])
ALL = Wanted(hidden_states=(1, 2, 3, 4), vectors=tuple((what, layer) for what in PARTS for layer in (1, 2, 3, 4)))


@pytest.fixture(scope="module")
def data():
    return make_splits()


@pytest.fixture(scope="module")
def narrow(bert, data) -> Checkpoint:
    config = {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
    config |= {"intermediate_size": 16, "max_position_embeddings": 64}
    return student.from_config(config, bert, data.task, seed=0)


def learn(pupil: Checkpoint, of: Checkpoint, data, **words: object) -> tuple[Checkpoint, TrainingLog]:
    watch = Watch("1-distill")
    made = distill(pupil, Distill(**{**FAST, **words}), data=data, teacher=of, watch=watch)
    return made, watch.log


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def lesson_of(bert: Checkpoint, data, **imitate: object) -> tuple[Lesson, dict[str, Tensor], Signals, Signals]:
    """A lesson whose maps have known weights, a batch with padding, and what both say about it."""
    pupil = cut(bert, 2)
    asked = settings.Imitate(**imitate)
    lesson = Lesson(pupil.model, data.task, asked, pairs=dict.fromkeys(imitate, PAIRS)).eval()
    with torch.no_grad():
        for found in lesson.maps.values():
            found.logits[0].copy_(torch.tensor(LOGITS))
    batch = tensors(collate(pupil.encode(data, "train"), [0, 1, 2, 3, 4]), pupil.model.device)
    assert not batch["attention_mask"].all()
    with torch.no_grad():
        mine, theirs = read(pupil.model, batch, lesson.wanted), read(bert.model, batch, ALL)
    return lesson, batch, mine, theirs


def as_array(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


# --------------------------------------------------------------------------------------------------- what is mixed


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_hidden_states_follow_the_softmax_mixture(bert, data, loss):
    lesson, batch, mine, theirs = lesson_of(bert, data, hidden_states={**LEARNED, "loss": loss})
    real, expected = batch["attention_mask"].bool().numpy(), []
    for layer, weights in enumerate(softmax(LOGITS), start=1):
        states = [as_array(theirs.hidden_states[one])[real] for one in (1, 2, 3, 4)]
        if loss == "cosine":
            states = [one / np.linalg.norm(one, axis=-1, keepdims=True) for one in states]
        mixed, own = sum(w * one for w, one in zip(weights, states, strict=True)), as_array(mine.hidden_states[layer])
        own = own[real]
        if loss == "mse":
            expected.append(np.mean((own - mixed) ** 2))
        else:
            lengths = np.linalg.norm(own, axis=-1) * np.linalg.norm(mixed, axis=-1)
            expected.append(np.mean(1 - np.sum(own * mixed, -1) / lengths))
    found, _ = lesson(batch, theirs)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_gradient_of_a_maps_weights_is_that_of_the_formula(bert, data):
    lesson, batch, mine, theirs = lesson_of(bert, data, hidden_states={**LEARNED, "loss": "mse"})
    real = batch["attention_mask"].bool().numpy()
    states = np.stack([as_array(theirs.hidden_states[one])[real] for one in (1, 2, 3, 4)])

    def loss(logits: np.ndarray) -> float:
        own = [as_array(mine.hidden_states[layer])[real] for layer in (1, 2)]
        mixed = np.tensordot(softmax(logits), states, axes=1)
        return float(np.mean([np.mean((one - other) ** 2) for one, other in zip(own, mixed, strict=True)]))

    lesson(batch, theirs)[0].backward()
    found, step = lesson.maps["hidden_states"].logits[0].grad, 1e-5
    for place in np.ndindex(LOGITS.shape):
        shift = np.zeros_like(LOGITS)
        shift[place] = step
        slope = (loss(LOGITS + shift) - loss(LOGITS - shift)) / (2 * step)
        assert found[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert all(torch.isfinite(one.grad).all() for one in lesson.parameters() if one.grad is not None)


def test_relations_follow_the_mixture_of_relations(bert, data):
    lesson, batch, mine, theirs = lesson_of(bert, data, relations={**LEARNED, "heads": 8, "of": ["query", "value"]})

    def relations(vectors: Tensor, row: int, length: int) -> np.ndarray:
        heads = np.stack(np.split(as_array(vectors)[row, :length], 8, axis=-1))  # (heads, tokens, width)
        return softmax(heads @ heads.transpose(0, 2, 1) / np.sqrt(heads.shape[-1]))

    expected = []
    for layer, weights in enumerate(softmax(LOGITS), start=1):
        for what in ("query", "value"):
            tokens = []
            for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
                layers = [relations(theirs.vectors[what, one], row, length) for one in (1, 2, 3, 4)]
                p = sum(w * one for w, one in zip(weights, layers, strict=True))
                q = relations(mine.vectors[what, layer], row, length)
                tokens += np.mean(np.sum(p * np.log(p / q), -1), axis=0).tolist()
            expected.append(np.mean(tokens))
    found, _ = lesson(batch, theirs)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-4)
    found.backward()
    assert all(torch.isfinite(one.grad).all() for one in lesson.parameters() if one.grad is not None)
    assert lesson.maps["relations"].logits[0].grad.abs().sum() > 0


def test_attentions_follow_the_mixture_of_attentions(bert, data):
    pupil = Checkpoint(cut(bert, 2).model, bert.tokenizer)
    pupil.model.set_attn_implementation("eager")
    rng = np.random.default_rng(0)
    lesson = Lesson(pupil.model, data.task, settings.Imitate(attentions=LEARNED), pairs={"attentions": PAIRS}).eval()
    with torch.no_grad():
        lesson.maps["attentions"].logits[0].copy_(torch.tensor(LOGITS))
    batch = tensors(collate(pupil.encode(data, "train"), [0, 1, 2]), pupil.model.device)
    real = batch["attention_mask"].numpy()
    shape = (*real.shape[:1], 4, real.shape[1], real.shape[1])
    layers = {one: softmax(np.where(real[:, None, None, :], rng.normal(size=shape), -1e9)) for one in (1, 2, 3, 4)}
    with torch.no_grad():
        mine = read(pupil.model, batch, Wanted(attentions=(1, 2))).attentions
    expected = []
    for layer, weights in enumerate(softmax(LOGITS), start=1):
        p = sum(w * one for w, one in zip(weights, layers.values(), strict=True))
        q = np.where(real[:, None, None, :], as_array(mine[layer]), 1)
        each = np.where(real[:, None, None, :], p * np.log(np.where(p > 0, p, 1) / q), 0).sum(-1).mean(1)
        expected.append(each[real.astype(bool)].mean())
    given = Signals(torch.zeros(3, 3), attentions={one: torch.tensor(array) for one, array in layers.items()})
    found, _ = lesson(batch, given)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-4)
    found.backward()
    assert torch.isfinite(lesson.maps["attentions"].logits[0].grad).all()


@pytest.mark.parametrize("term", ["hidden_states", "relations"])
def test_a_map_with_all_weight_on_one_layer_is_that_layers_pair(bert, data, term):
    more = {"heads": 4} if term == "relations" else {}
    lesson, batch, _, theirs = lesson_of(bert, data, **{term: {**LEARNED, **more}})
    with torch.no_grad():
        lesson.maps[term].logits[0].copy_(torch.tensor([[0.0, 99, 0, 0], [0, 0, 0, 99]]))
    named = settings.Imitate(**{term: {"weight": 1.0, "layers": [2, 4], **more}})
    plain = Lesson(lesson.student, data.task, named, pairs={term: [(1, 2), (2, 4)]}).eval()
    assert lesson(batch, theirs)[0].item() == pytest.approx(plain(batch, theirs)[0].item(), rel=1e-5)


def test_a_map_begins_at_even_and_each_side_mixes_its_own_layers():
    big = build_writer("bart")
    config = big.config.to_dict()
    asked = settings.Imitate(hidden_states={**LEARNED, "side": "both"})
    pairs = layer_pairs(asked, config, config)["hidden_states"]
    assert {(mine > 2, theirs > 2) for mine, theirs in pairs} == {(False, False), (True, True)}
    found = LayerMap(pairs, [(1, 1), (2, 2), (4, 4), (5, 5)]).shares()
    assert {mine: max(row, key=row.__getitem__) for mine, row in found.items()} == {1: 1, 2: 2, 4: 4, 5: 5}
    uneven = LayerMap([(1, 1), (1, 2), (1, 3)], [(1, 2)]).shares()[1]
    assert list(uneven.values()) == pytest.approx([1 / 6, 4 / 6, 1 / 6])


# ------------------------------------------------------------------------------------------------- how it is trained


def test_a_learned_map_is_trained_told_and_left_behind(narrow, bert, data, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "distill"):
        imitate = {"hidden_states": {**LEARNED, "map_learning_rate": 0.1}, "relations": {**LEARNED, "heads": 2}}
        made, record = learn(narrow, bert, data, imitate=imitate, epochs=4, patience=9)
    assert set(record.layer_maps) == {"hidden_states", "relations"}
    for rows in record.layer_maps.values():
        assert list(rows) == ["1", "2"] and all(list(row) == ["1", "2", "3", "4"] for row in rows.values())
        assert [sum(row.values()) for row in rows.values()] == pytest.approx([1, 1])
    assert abs(record.layer_maps["hidden_states"]["1"]["2"] - 0.625) > 1e-2  # where it began
    assert json.loads(json.dumps(record.as_dict()))["layer_maps"] == record.layer_maps
    assert made.model.state_dict().keys() == narrow.model.state_dict().keys()
    assert not hasattr(made.model, "maps")
    assert "1-distill: hidden_states: layer 1 followed the teacher's" in caplog.text
    assert "bytes a token" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attentions_learn_a_map_from_a_teacher_in_every_step(bert, data, dtype):
    _, record = learn(cut(bert, 2), bert, data, imitate={"attentions": LEARNED}, epochs=2, patience=9, dtype=dtype)
    values = [point["terms"]["attentions"]["value"] for point in record.records]
    assert 0 < values[-1] < values[0]
    assert [sum(row.values()) for row in record.layer_maps["attentions"].values()] == pytest.approx([1, 1])


def test_saved_and_live_teachers_learn_the_same_map(bert, data, monkeypatch):
    found = []
    for limit in (4 << 30, 0):
        monkeypatch.setattr("distill.teacher.choosing.SAVED_AT_MOST", limit)
        _, record = learn(cut(bert, 2), bert, data, imitate={"hidden_states": LEARNED}, epochs=2, patience=9)
        found.append([share for row in record.layer_maps["hidden_states"].values() for share in row.values()])
    assert found[0] == pytest.approx(found[1], abs=5e-3)


def test_a_training_that_was_cut_off_goes_on_with_its_map_and_what_moves_it(narrow, bert, data, tmp_path, monkeypatch):
    term = {**LEARNED, "map_learning_rate": 0.05, "projection_learning_rate": 0.01}
    words = Distill(**FAST, imitate={"hidden_states": term, "logits": 1.0}, epochs=4, patience=9, batch_size=16)
    monkeypatch.setattr("distill.training.trainer.SAVE_EVERY", 0.0)
    results = []
    for name, dies_at in (("whole", None), ("cut", 6)):
        folder, steps = tmp_path / name, []

        def tell(figures, steps=steps, dies_at=dies_at) -> None:
            steps.append(figures["step"])
            if figures["step"] == dies_at:
                raise KeyboardInterrupt

        for watch in (Watch("1-distill", folder, tell), Watch("1-distill", folder)):
            try:
                made = distill(narrow, words, data=data, teacher=bert, watch=watch)
            except KeyboardInterrupt:
                assert list(folder.glob("checkpoint-*"))
                continue
            break
        results.append((made.model.state_dict(), watch.log))
    (weights, log), (again, resumed) = results
    assert resumed.sittings == 2 and log.sittings == 1
    assert resumed.layer_maps == log.layer_maps
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_each_side_of_an_encoder_decoder_learns_its_map(caplog):
    big = Checkpoint(build_writer("bart"), make_tokenizer())
    imitate = {"relations": {**LEARNED, "side": "both"}, "hidden_states": {**LEARNED, "side": "decoder"}}
    _, record = learn(big, big, make_pairs(), imitate=imitate, epochs=2, max_steps=2)
    assert list(record.layer_maps["relations"]) == ["encoder 1", "encoder 2", "decoder 1", "decoder 2"]
    assert list(record.layer_maps["relations"]["decoder 1"]) == ["decoder 1", "decoder 2"]
    assert list(record.layer_maps["hidden_states"]) == ["decoder 1", "decoder 2"]


# ------------------------------------------------------------------------------------------------------- its own rate


def test_parameters_set_apart_have_their_own_rate_and_decay():
    one, two, three = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [{"params": [one, two], "weight_decay": 0.1}, {"params": [three], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = [Rate([two], 0.5), Rate([three], 0.2, decays=False)]
    set_apart(optimizer, schedule)
    found = [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [([one], 1e-3, 0.1), ([], 1e-3, 0.0), ([two], 0.5, 0.1), ([three], 0.2, 0.0)]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-4, 0.25, 0.1]


def spied(monkeypatch, pupil: Checkpoint, bert: Checkpoint, data, **hidden: object) -> tuple[list, list[Lesson]]:
    """The groups of a training's optimizer, and its lesson."""
    groups, lessons, build = [], [], Lesson.__init__

    def spy(self: Lesson, *args: object, **words: object) -> None:
        build(self, *args, **words)
        lessons.append(self)

    def apart(optimizer, rates) -> None:
        set_apart(optimizer, rates)
        groups.extend(optimizer.param_groups)

    monkeypatch.setattr(Lesson, "__init__", spy)
    monkeypatch.setattr("distill.training.trainer.set_apart", apart)
    learn(pupil, bert, data, imitate={"hidden_states": {"weight": 1.0, **hidden}}, epochs=1, max_steps=2)
    return groups, lessons


def test_projections_have_their_own_rate_where_one_is_said(narrow, bert, data, monkeypatch):
    rates = {"projection_learning_rate": 0.02, "layers": "learned", "map_learning_rate": 0.3}
    groups, (lesson,) = spied(monkeypatch, narrow, bert, data, **rates)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 0.02, 0.3]
    assert [id(one) for one in groups[2]["params"]] == [id(one) for one in lesson.projections.parameters()]
    assert [id(one) for one in groups[3]["params"]] == [id(one) for one in lesson.maps.parameters()]
    assert groups[2]["weight_decay"] == groups[0]["weight_decay"] and groups[3]["weight_decay"] == 0


def test_without_a_word_all_has_one_rate(narrow, bert, data, monkeypatch):
    groups, (lesson,) = spied(monkeypatch, narrow, bert, data)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3]
    assert {id(one) for one in lesson.projections.parameters()} <= {id(one) for one in groups[0]["params"]}


def test_words_that_are_not_said_leave_keys_as_they_are():
    told = said(Distill(imitate={"hidden_states": 1.0, "relations": 0.5}))
    assert not any("rate" in word for term in ("hidden_states", "relations") for word in told["imitate"][term])


# ------------------------------------------------------------------------------------------ what is told and refused


def test_a_map_whose_layers_all_follow_the_same_one_is_warned_of(bert, caplog):
    found, config = LayerMap(PAIRS, [(1, 2), (2, 4)]), bert.model.config.to_dict()
    told({"hidden_states": found}, config, config, "1-distill")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with torch.no_grad():
        found.logits[0].copy_(torch.tensor([[3.0, 0, 0, 0], [2.0, 0, 0, 0]]))
    told({"hidden_states": found}, config, config, "1-distill")
    assert "follows the teacher's layer 1 most" in caplog.text


def test_reports_have_a_table_a_map():
    rows = {"1": {"1": 0.25, "2": 0.75}, "2": {"1": 0.1, "2": 0.9}}
    log = {"step": "1-distill", "best_epoch": 1, "epochs": [{"epoch": 1, "score": 1.0}], "samples_per_second": 1.0}
    log |= {"dtype": "float32", "records": [{"loss": 1.0, "terms": {}}], "layer_maps": {"hidden_states": rows}}
    assert "| 2 | 0.10 | 0.90 |" in _training_table([log])
    assert _layer_maps([log, {"step": "teacher"}])["data"][1] == ["1-distill", "hidden_states", "1", "2", 0.75]


def test_what_makes_no_sense_is_refused_with_the_reason(bert, data):
    for term in ("hidden_states", "attentions", "relations"):
        with pytest.raises(CheckpointError, match=rf"imitate.{term}.layers: learned mixes the teacher's layers"):
            learn(cut(bert, 1), cut(bert, 1), data, imitate={term: LEARNED})
    for layers in ("even", [1, 2]):
        with pytest.raises(ValueError, match="`map_learning_rate` belongs to `layers: learned`"):
            Distill(imitate={"hidden_states": {"weight": 1.0, "layers": layers, "map_learning_rate": 0.1}})


def test_check_says_what_a_learned_map_costs(recipe_file):
    from click.testing import CliRunner

    from distill.cli import main

    term = {**LEARNED, "projection_learning_rate": 0.01}
    done = CliRunner().invoke(
        main, ["check", str(recipe_file(steps=[{"distill": {"imitate": {"hidden_states": term}}}]))]
    )
    assert done.exit_code == 0, done.output
    flat = " ".join(done.output.split())
    assert "learned takes 4 layers of the teacher" in flat and "256 bytes a token" in flat
    assert "projection_learning_rate does nothing here: both are 32 wide" in flat
