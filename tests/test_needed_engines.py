"""A recipe whose steps need an engine, or a graph of the model: told before anything is trained."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
from checked import FINETUNE, plain_config, plan_of
from click.testing import CliRunner
from language_models import CAUSAL

from distill import anatomy
from distill.cli import main
from distill.recipe import locate

DISTIL = {"distill": {"imitate": {"logits": 1.0}}}
NO_ENGINE = "the package onnxruntime is not installed; install it with: pip install onnxruntime"


@pytest.fixture
def no_engine(monkeypatch):
    """A machine without ONNX Runtime."""
    find = importlib.util.find_spec

    def find_others(name: str, package: str | None = None):
        return None if name == "onnxruntime" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)


@pytest.mark.parametrize(
    ("steps", "ship", "where"),
    [
        ([DISTIL, "quantize"], None, "steps.1.quantize"),
        ([{"prune": {"to": {"latency": 0.5}}}, DISTIL], None, "steps.0.prune.to.latency"),
        ([{"prune": {"to": {"latency": 0.5}, "gradually": {"rounds": 2}}}], None, "steps.0.prune.to.latency"),
        (
            [DISTIL, {"prune": {"to": {"latency": 0.5}}}, "quantize"],
            ["onnx"],
            "steps.1.prune.to.latency, steps.2.quantize, ship.formats",
        ),
    ],
    ids=["quantize", "latency", "gradually", "all"],
)
def test_an_engine_that_is_not_installed_is_missing_where_a_step_needs_it(recipe_file, no_engine, steps, ship, where):
    path = recipe_file(steps=steps, ship=ship)
    plan = plan_of(path)
    sentence = f"{where}: {NO_ENGINE}"
    assert (plan.problems, plan.missing) == ([], [sentence])
    checked = CliRunner().invoke(main, ["check", str(path)])
    assert checked.exit_code == 0
    assert f"a run needs: {sentence}" in checked.stdout.splitlines()
    assert checked.stdout.splitlines()[-1] == "recipe: nothing wrong in what could be checked"
    ran = CliRunner().invoke(main, ["run", str(path), "--output", str(path.parent / "run")])
    assert (ran.exit_code, ran.stderr.splitlines()[-1]) == (2, f"error: {locate([sentence], path)[0]}")
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize(
    ("steps", "where"),
    [
        ([{"finetune": FINETUNE}, "quantize"], "steps.1.quantize: the student is a modernbert"),
        ([{"prune": {"to": {"latency": 0.5}}}, DISTIL], "steps.0.prune.to.latency: the student is a modernbert"),
    ],
    ids=["quantize", "latency"],
)
def test_a_family_that_can_not_become_a_graph_is_told_before_anything_is_trained(
    recipe_file, tmp_path, monkeypatch, steps, where
):
    refusing = dataclasses.replace(anatomy.FAMILIES["modernbert"], refuses={"graph": "it can't become a graph"})
    monkeypatch.setitem(anatomy.FAMILIES, "modernbert", refusing)
    config = {
        "model_type": "modernbert", "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64, "vocab_size": 60,
    }  # fmt: skip
    teacher = {"checkpoint": str(plain_config(tmp_path / "modern", config)), "finetune": FINETUNE}
    problems = plan_of(recipe_file(teacher=teacher, steps=steps)).problems
    assert [problem for problem in problems if problem.startswith(where)], problems


def test_a_decoder_that_keeps_no_past_is_told_before_anything_is_trained(recipe_file, tmp_path, corpus):
    config = {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 60}
    teacher = str(plain_config(tmp_path / "mamba", config))
    words = {"teacher": {"checkpoint": teacher}, "student": {"checkpoint": teacher}}
    words |= {"task": CAUSAL, "data": {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24}}
    told = "the student is a mamba; it keeps no keys and values of earlier tokens (past_key_values)"
    problems = plan_of(recipe_file(**words, steps=[{"finetune": FINETUNE}, "quantize"])).problems
    assert [one for one in problems if one.startswith(f"steps.1.quantize: {told}")], problems
    assert not [one for one in plan_of(recipe_file(**words, steps=[{"finetune": FINETUNE}])).problems if told in one]


@pytest.mark.parametrize("to", [{"size": 0.5}, {"parameters": 0.5}], ids=str)
def test_no_engine_is_needed_where_no_graph_is(recipe_file, no_engine, to):
    steps = [DISTIL, {"prune": {"to": to}}, {"finetune": FINETUNE}]
    assert plan_of(recipe_file(steps=steps, ship=["transformers"])).require().missing == []
