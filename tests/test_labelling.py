"""The label pass on a faster engine: measured against float32, used only within its bounds, under a key of its own."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_tiny, make_splits
from language_models import CAUSAL, load

from distill import Distill, cut, distill, teacher
from distill.data import collate
from distill.errors import MachineError, RecipeError
from distill.pipeline import run
from distill.preflight import prepare
from distill.recipe import load as load_recipe
from distill.recipe.settings import Kept
from distill.signals import NOTHING, Signals, tensors
from distill.store import Store
from distill.teacher import Live, labelling
from distill.teacher.labelling import Pass, Trial, labeller
from distill.teacher.saved import Saved
from distill.training import Watch

LOOSE = {"divergence": 0.5, "agreement": 0.5}


class Moved(Live):
    """A teacher whose logits are off by as much as it is told."""

    by = torch.tensor([0.3, -0.2, 0.0])

    def signals(self, batch):
        return Signals(super().signals(batch).logits + self.by)


def asked(task, engine, temperature=2.0, **words):
    return Pass(Kept(engine=engine, **words), temperature, task)


def label(checkpoint, data, engine, **words):
    source, encoded = Live(checkpoint, NOTHING, torch.float32), checkpoint.encode(data, "train")
    with labeller(source, encoded, asked(data.task, engine, **words), Path(tempfile.gettempdir())) as (found, told):
        batch = tensors(collate(encoded, [3, 0, 8]), checkpoint.model.device)
        return type(found).__name__, found.signals(batch).logits, source.signals(batch).logits, told


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_and_agreement_are_those_of_the_formulas(bert, data, monkeypatch, temperature):
    monkeypatch.setattr(Live, "at", lambda self, _: Moved(self.teacher, self.wanted, torch.float32))
    encoded = bert.encode(data, "train")
    *_, told = label(bert, data, "bfloat16", temperature=temperature, divergence=9, agreement=0.01)
    (trial,) = told["tried"]
    batch = tensors(collate(encoded, list(range(len(encoded)))), bert.model.device)
    whole = Live(bert, NOTHING, torch.float32).signals(batch).logits.double().numpy()
    moved = whole + Moved.by.numpy()
    p, q = softmax(whole / temperature), softmax(moved / temperature)
    assert trial["rows"] == 60
    assert trial["divergence"] == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-3)
    assert trial["agreement"] == pytest.approx((whole.argmax(-1) == moved.argmax(-1)).mean())


def test_an_engine_out_of_bounds_is_not_used_and_that_is_said(bert, data, monkeypatch, caplog):
    monkeypatch.setattr(Live, "at", lambda self, _: Moved(self.teacher, self.wanted, torch.float32))
    with caplog.at_level(logging.INFO):
        _, found, whole, told = label(bert, data, "bfloat16", divergence=1e-6)
    assert torch.equal(found, whole) and told["engine"] == "float32" and told["tried"][0]["divergence"] > 1e-6
    assert "nats at temperature 2 from float32 (at most 1e-06)" in caplog.text
    assert "the label pass runs in float32 on torch: out of bounds" in caplog.text


@pytest.mark.parametrize(("divergence", "agreement", "fits"), [
    (0.01, 0.99, True), (0.011, 0.99, False), (0.01, 0.98, False), (float("nan"), 1.0, False),
])  # fmt: skip
def test_both_bounds_hold(divergence, agreement, fits):
    assert Trial("onnx-int8", 9, divergence, agreement, 2.0).within(Kept(engine="onnx-int8")) is fits


def test_engines_answer_nearly_as_torch_does(bert, data, tmp_path):
    source, encoded = Live(bert, NOTHING, torch.float32), bert.encode(data, "train")
    reference = labelling._Reference(source, encoded, asked(data.task, "auto"))
    batch = tensors(collate(encoded, [3, 0, 8]), bert.model.device)
    whole = source.signals(batch).logits
    for engine, near in (("onnx-fp32", 1e-4), ("onnx-int8", 0.3), ("bfloat16", 0.1)):
        fast = reference.engine(engine, tmp_path)
        assert isinstance(fast, Live if engine == "bfloat16" else labelling.Graph)
        found = fast.signals(batch).logits.float()
        assert torch.allclose(found, whole, atol=near) and not torch.equal(found, whole), engine
        trial = reference.trial(engine, fast)
        assert 0 <= trial.divergence < near**2 and trial.agreement > 0.9 and trial.fast > 0


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_other_labels_are_measured_in_their_own_way(tmp_path, monkeypatch, problem):
    data = make_splits(problem)
    labels = ("degree",) if problem == "regression" else ("film", "money", "sport")
    found = load_tiny(tmp_path / "bert", labels=labels, problem_type=problem)
    monkeypatch.setattr(Moved, "by", Moved.by[: len(labels)])
    monkeypatch.setattr(Live, "at", lambda self, _: Moved(self.teacher, self.wanted, torch.float32))
    *_, told = label(found, data, "bfloat16", divergence=1e9, agreement=1e-9)
    encoded = found.encode(data, "train")
    batch = tensors(collate(encoded, list(range(len(encoded)))), found.model.device)
    whole = Live(found, NOTHING, torch.float32).signals(batch).logits.double().numpy()
    p, q = (1 / (1 + np.exp(-logits / 2)) for logits in (whole, whole + Moved.by.numpy()))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    expected = 0.09 / whole.var() if problem == "regression" else expected
    assert told["tried"][0]["divergence"] == pytest.approx(expected, rel=1e-3)


def test_logits_over_a_vocabulary_are_labelled_so_too(gpt2, corpus):
    data = load(corpus, CAUSAL)
    _, found, whole, told = label(gpt2, data, "onnx-fp32")
    assert told["engine"] == "onnx-fp32" and told["tried"][0]["divergence"] < 1e-5
    assert found.shape == whole.shape


def test_logits_that_nobody_imitates_are_not_kept_beside_what_is(gpt2, corpus):
    data, watch = load(corpus, CAUSAL), Watch("distill")
    words = {"imitate": {"hidden_states": {"weight": 1.0, "layers": {1: 1}}}, "dtype": "float32", "epochs": 2}
    words |= {"signals": {"engine": "bfloat16", **LOOSE}}
    distill(cut(gpt2, 1), Distill(**words), data=data, teacher=gpt2, watch=watch)
    told = watch.log.signals
    assert told["label_pass"]["tried"][0]["engine"] == "bfloat16"
    assert told["bytes_a_token"] == pytest.approx(2 * gpt2.model.config.hidden_size, rel=0.05)


def test_auto_takes_the_fastest_that_fits_and_leaves_a_short_pass_alone(bert, data, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        *_, told = label(bert, data, "auto")
    assert told == {"engine": "float32", "tried": []} and "too few to gain from" in caplog.text
    speeds = {"bfloat16": 2.0, "onnx-int8": 5.0, "onnx-fp32": 3.0}
    apart = {"bfloat16": 0.001, "onnx-int8": 0.4, "onnx-fp32": 0.0}
    monkeypatch.setattr(labelling, "_SECONDS", 0.0)
    monkeypatch.setattr("distill.training.choose_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(labelling._Reference, "engine", lambda self, name, _: self.source.at(torch.float32))
    monkeypatch.setattr(
        labelling._Reference, "trial", lambda _, name, __: Trial(name, 60, apart[name], 1.0, speeds[name])
    )
    *_, told = label(bert, data, "auto")
    assert told["engine"] == "onnx-fp32" and [one["engine"] for one in told["tried"]] == list(speeds)
    *_, told = label(bert, data, "auto", divergence=0.5)
    assert told["engine"] == "onnx-int8"
    speeds |= {"bfloat16": 0.5, "onnx-fp32": 0.9}
    *_, told = label(bert, data, "auto")
    assert told["engine"] == "float32"  # nothing that fits is faster


def test_a_graph_that_cannot_be_made_is_an_error_where_it_was_asked_for_and_left_out_by_auto(
    bert, data, monkeypatch, caplog
):
    def fail(*_):
        raise MachineError("torch can't export it")

    monkeypatch.setattr(labelling, "_export", fail)
    monkeypatch.setattr(labelling, "_SECONDS", 0.0)
    monkeypatch.setattr("distill.training.choose_dtype", lambda _: torch.float32)
    with pytest.raises(MachineError, match=r"signals\.engine: onnx-int8: torch can't export it; say float32, or auto"):
        label(bert, data, "onnx-int8")
    *_, told = label(bert, data, "auto")
    assert told == {"engine": "float32", "tried": []}
    assert "onnx-int8 is left out: torch can't export it" in caplog.text


def test_what_was_measured_is_kept_with_the_signals(bert, data, tmp_path):
    encoded, given = bert.encode(data, "train"), {"epochs": 3, "dtype": torch.bfloat16, "scratch": tmp_path}
    found = teacher.answering(bert, encoded, NOTHING, **given, label_pass=asked(data.task, "bfloat16", **LOOSE))
    assert isinstance(found, Saved) and found.told["label_pass"]["engine"] == "bfloat16"
    batch = tensors(collate(encoded, [5, 1]), bert.model.device)
    low = Live(bert, NOTHING, torch.bfloat16).signals(batch).logits.float()
    assert torch.allclose(found.signals(batch).logits, low, atol=0.02)
    assert json.loads((tmp_path / "signals" / "pass.json").read_text())["tried"][0]["rows"] == 60


# ------------------------------------------------------------------------------------------------------ in a recipe


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"signals": {"engine": "onnx-int8"}, "imitate": {"logits": 1, "hidden_states": 1}}, "a graph gives logits"),
        ({"signals": {"engine": "int8"}}, "onnx-int8"),
        ({"signals": {"logits": "off", "engine": "auto"}}, "`logits: off` saves none"),
        ({"signals": {"divergence": 0.1}}, "`divergence` says how far a faster engine may stray"),
        ({"signals": {"engine": "auto", "agreement": 1.5}}, "agreement"),
    ],
)
def test_what_cannot_be_is_refused_when_a_recipe_is_read(recipe_file, step, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_file(steps=[{"distill": step}]))
    assert message in str(caught.value)


def test_a_missing_runtime_is_told_before_anything_is_trained(recipe_file, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = prepare(load_recipe(recipe_file(steps=[{"distill": {"signals": {"engine": "onnx-int8"}}}])))
    assert any("steps.0.distill.signals.engine" in one and "onnxruntime" in one for one in told.missing)


def test_a_run_labels_once_on_the_engine_and_tells_it(recipe_file, tmp_path, without_memory, caplog):
    step = {"epochs": 2, "learning_rate": 1e-3, "signals": {"engine": "onnx-int8", **LOOSE}}
    with caplog.at_level(logging.INFO):
        report = run(load_recipe(recipe_file(steps=[{"distill": step}])), tmp_path / "run")
        again = {**step, "epochs": 3}
        run(load_recipe(recipe_file(steps=[{"distill": again}])), tmp_path / "again")
    assert caplog.text.count("onnx-int8 on 72 training rows") == 1
    assert "the teacher's signals: in the store already" in caplog.text
    assert caplog.text.count("the teacher's signals were computed by onnx-int8") == 2
    told = report.training[-1]["signals"]["label_pass"]
    assert told["engine"] == "onnx-int8" and told["tried"][0]["agreement"] > 0.5
    assert "answers are of onnx-int8" in (tmp_path / "run" / "report.html").read_text()
    (piece,) = [one for one in Store().pieces() if one.kind == "signals"]
    assert piece.facts["label_pass"] == {"engine": "onnx-int8", "temperature": 2.0, **LOOSE}
    run(load_recipe(recipe_file(steps=[{"distill": {**again, "signals": None}}])), tmp_path / "plain")
    pieces = [one for one in Store().pieces() if one.kind == "signals"]
    assert len(pieces) == 2 and sum("label_pass" in one.facts for one in pieces) == 1
