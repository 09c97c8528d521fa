"""Graphs of every family and head say what torch says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from tiny_models import texts, tiny

from distill import export
from distill.checkpoint import Checkpoint
from distill.engines import OnnxRuntime

SHAPES = [(1, 1), (3, 17), (1, 30)]


def exported(model, folder):
    return export.export(Checkpoint(model, None), folder / "model.onnx")


def answer(model, batch: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        output = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1).numpy()
    return output.logits.numpy()


def kinds(path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("data2vec", {}), ("modernbert", {}), ("modernbert", {"classifier_pooling": "mean"}), ("llama", {}),
        ("qwen2", {}), ("bart", {}), ("mbart", {}), ("t5", {}),
    ],
)  # fmt: skip
def test_a_classifiers_graph_says_what_torch_says(name, more, tmp_path):
    model = tiny(name, "SequenceClassification", num_labels=3, **more)
    path = exported(model, tmp_path)
    for shape in SHAPES:
        batch = texts(*shape)
        expected = answer(model, batch)
        assert np.abs(expected).max() > 0.01
        assert OnnxRuntime(path).answer(batch) == pytest.approx(expected, abs=1e-4)
    attentions = 6 if model.config.is_encoder_decoder else 2
    assert kinds(path)["Attention"] == attentions
    assert model.config._attn_implementation == "sdpa"  # left as it was
    if name == "llama":  # angles once for all layers, heads flat, and key heads that are shared not copied
        found = kinds(path)
        assert (found["Cos"], found["Sin"], found["Transpose"], found["Reshape"]) == (1, 1, 0, 0)
        assert found["RotaryEmbedding"] == 4 and found["Expand"] <= 1


@pytest.mark.parametrize(
    ("name", "head", "last"),
    [
        ("bert", "TokenClassification", 5),
        ("bert", "QuestionAnswering", 2),
        ("bert", "MaskedLM", 150),
        ("modernbert", "MaskedLM", 150),
    ],
)
def test_a_head_that_reads_every_token_answers_for_every_token(name, head, last, tmp_path):
    labels = {"num_labels": 5} if head == "TokenClassification" else {}
    model = tiny(name, head, vocab_size=150, **labels)
    path = exported(model, tmp_path)
    for shape in SHAPES:
        batch = texts(*shape)
        real, found = batch["attention_mask"].astype(bool), OnnxRuntime(path).answer(batch)
        assert found.shape == (*shape, last)
        assert found[real] == pytest.approx(answer(model, batch)[real], abs=1e-4)
    graph = onnx.load(path).graph
    assert not any(name.endswith(".first") for node in graph.node for name in node.output)
    assert all(size.dim_param for size in graph.output[0].type.tensor_type.shape.dim[:2])
    if head == "MaskedLM":  # tied to the token table, which is stored once
        assert [list(held.dims) for held in graph.initializer if 150 in held.dims and len(held.dims) == 2] == [
            [150, 32]
        ]
