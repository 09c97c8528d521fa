"""A hidden size made smaller: what half of a model that is two of one answers, and which sizes can't be."""

from __future__ import annotations

import math

import pytest
import torch
from families import CHANGEABLE, batch_for, build, gap, generates, learns, logits, reloaded, untied
from torch import nn

from distill import anatomy, surgery
from distill.errors import CheckpointError


def twinned(model, axes: dict[str, tuple[int, ...]]) -> None:
    """Makes the second half of the hidden dimensions repeat the first, and lets nobody read it.

    Norms over twins are the norms over one of them, so that the half alone must answer as the whole.
    """
    modules = dict(model.named_modules())
    done: set[int] = set()
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            module = modules[name.rpartition(".")[0]]
            reads = {"Linear": 1, "Conv1D": 0}.get(type(module).__name__) if name.endswith("weight") else None
            for axis in axes[name]:
                half = parameter.shape[axis] // 2
                second = parameter.narrow(axis, half, half)
                if axis == reads:
                    second.zero_()
                elif (id(parameter), axis) not in done:
                    second.copy_(parameter.narrow(axis, 0, half))
                done.add((id(parameter), axis))


@pytest.mark.parametrize("name", CHANGEABLE)
def test_a_hidden_size_of_twins_can_be_halved(name, tmp_path):
    model = untied(name) if "t5" in name else build(name, tie_word_embeddings=False)
    twinned(model, surgery.hidden_axes(model))
    shape = surgery.shape_of(model)
    half = [list(range(number // 2)) for number in shape.heads]
    narrow = anatomy.family_of(model.config.to_dict()).key("head_width") is None
    if narrow:  # the config has room for half of the heads alone
        with pytest.raises(CheckpointError, match=r"no room for a layer's heads.*take heads out first"):
            surgery.keep_hidden(model, range(16))
        model = surgery.keep_units(model, half, None)
    smaller = surgery.keep_hidden(model, range(16))
    assert anatomy.size(smaller.config.to_dict(), "hidden_size") == 16
    assert surgery.shape_of(smaller) == surgery.shape_of(model)
    expected = logits(model)
    assert gap(logits(smaller), expected) < 2e-4 * float(expected.abs().max())
    assert gap(logits(reloaded(smaller, tmp_path / "half")), logits(smaller)) == 0
    generates(smaller)
    learns(smaller)


@pytest.mark.parametrize("name", ["t5", "t5-gated"])
def test_a_classifiers_scale_stays_what_it_was(name):
    """Only the language-model head divides what it reads."""
    model = build(name, "SequenceClassification")
    twinned(model, surgery.hidden_axes(model))
    ids = torch.tensor([[7, 9, 11, 1], [8, 10, 12, 1]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    smaller = surgery.keep_hidden(model, range(16))
    assert gap(logits(smaller, given), logits(model, given)) < 1e-4


@pytest.mark.parametrize("name", CHANGEABLE)
def test_any_dimensions_may_stay_and_stock_transformers_loads_them(name, tmp_path):
    model = build(name)
    multiple = anatomy.hidden_multiple(model.config.to_dict())
    assert 32 % multiple == 0
    heads = [list(range(min(part, 16 // multiple) or 1)) for part in surgery.shape_of(model).heads]
    if anatomy.family_of(model.config.to_dict()).key("head_width") is None:
        model = surgery.keep_units(model, [[*range(math.ceil(len(h) / 2))] for h in heads], None)
    dims = sorted(torch.randperm(32, generator=torch.Generator().manual_seed(3))[: max(multiple, 24)].tolist())
    smaller = surgery.keep_hidden(model, dims)
    table, old = smaller.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert torch.equal(table, old[:, dims] if old.shape[1] == 32 else old)
    surgery.pad(smaller).save_pretrained(tmp_path / "stock")
    stock = type(model).from_pretrained(tmp_path / "stock")
    assert gap(logits(stock), logits(smaller)) < 1e-5
    assert gap(logits(reloaded(smaller, tmp_path / "own")), logits(smaller)) == 0


@pytest.mark.parametrize(
    ("name", "dims", "words"),
    [
        ("bert", range(20), "multiple of 8, such as 32"),
        ("bart", range(20), "multiple of 8"),
        ("llama", range(20), "multiple of 8"),
        ("bert", range(8), "no room for a layer's heads"),
        ("marian", range(16), "its position embeddings are computed from the hidden size"),
        ("t5", [], "multiple of 1"),
        ("t5", [3, 1], "a list of some rises"),
        ("t5", [31, 32], "the hidden dimensions are 0 to 31"),
    ],
)
def test_a_hidden_size_that_cannot_be_is_refused_with_the_fix(name, dims, words):
    with pytest.raises(CheckpointError, match=words):
        surgery.keep_hidden(build(name), dims)


def test_a_table_that_is_scaled_by_the_hidden_size_is_a_reason():
    with pytest.raises(CheckpointError, match="scaled by the root of the hidden size"):
        surgery.keep_hidden(build("bart", scale_embedding=True), range(16))


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_torch_pruning_finds_the_same_to_hang_on_the_hidden_size(name):
    """An independent witness: a graph traced through a forward pass, instead of two configs held side by side."""
    import torch_pruning

    model = build(name, tie_word_embeddings=False)
    wide = model.base_model.get_submodule(anatomy.family_of(model.config.to_dict()).stacks[0].layers)[0]
    graph = torch_pruning.DependencyGraph().build_dependency(
        model.base_model, example_inputs=batch_for(model), verbose=False
    )
    linear = wide.get_submodule(anatomy.family_of(model.config.to_dict()).stacks[0].layer.down)
    group = graph.get_pruning_group(linear, torch_pruning.prune_linear_out_channels, idxs=[0])
    theirs = {(dependency.target.name.split(" ")[0], dependency.handler.__name__) for dependency, _ in group}
    theirs = {(name, "in" if "in_ch" in way else "out") for name, way in theirs if not name.startswith("_")}
    mine, modules = set(), dict(model.base_model.named_modules())
    prefix = next(path for path, module in model.named_modules() if module is model.base_model)
    for path, axes in surgery.hidden_axes(model).items():
        inner = path.removeprefix(f"{prefix}.")
        module = inner.rpartition(".")[0]
        if (path == inner and prefix) or module not in modules:
            continue
        for axis in axes:
            reads = isinstance(modules[module], nn.Linear) and path.endswith("weight") and axis == 1
            mine.add((module, "in" if reads else "out"))
    assert {pair for pair in theirs if pair[0] in modules} == mine


@pytest.mark.parametrize(("name", "key"), [("electra", "embedding_size"), ("opt", "word_embed_proj_dim")])
def test_a_hidden_size_that_meets_the_embedding_size_is_refused(name, key):
    model = build(name, **{key: 16})
    model = surgery.keep_units(model, [[0]] * 3, None)
    with pytest.raises(CheckpointError, match=f"a hidden size of 16 would equal {key}"):
        surgery.keep_hidden(model, range(16))
