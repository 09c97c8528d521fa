"""Graphs say what torch says, tell where they don't, and become int8 in folders that appear whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from conftest import FAMILIES, LABELS, load_tiny
from onnx import TensorProto, numpy_helper

from distill import Quantize, export, quantization
from distill.checkpoint import Checkpoint
from distill.data import collate
from distill.engines import OnnxRuntime, Torch, answer_all
from distill.errors import CheckpointError, MachineError
from distill.export import exporting
from distill.export.tidying import tidy
from distill.quantization import quantizing

SHAPES = [(1, 3), (1, 17), (2, 8), (5, 40), (9, 1)]


@pytest.fixture(scope="module", params=[*FAMILIES, "albert"])
def exported(request, tmp_path_factory):
    """A checkpoint of each family with its graph."""
    folder = tmp_path_factory.mktemp(request.param)
    layers = "n_layers" if request.param == "distilbert" else "num_hidden_layers"
    checkpoint = load_tiny(folder / "model", request.param, **{layers: 2})
    return checkpoint, export.export(checkpoint, folder / "model.onnx")


def batch_of(rows: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens, each row padded at another place (never wholly)."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, tokens + 1, size=rows)
    lengths[0] = tokens
    real = np.arange(tokens) < lengths[:, None]
    ids = np.where(real, rng.integers(5, 48, size=(rows, tokens)), 0)
    types = np.where(real, np.arange(tokens) > tokens // 2, 0)
    return {name: array.astype(np.int64) for name, array in
            (("input_ids", ids), ("attention_mask", real), ("token_type_ids", types))}  # fmt: skip


def initializers(path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


# ------------------------------------------------------------------------------------- the fp32 graph


@pytest.mark.parametrize("kind", ["gpt2", "opt", "stablelm"])
def test_a_decoders_graph_says_what_torch_says(kind, tmp_path):
    shared = {"vocab_size": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = {
        "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **shared),
        "opt": transformers.OPTConfig(
            hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2, **shared
        ),
        "stablelm": transformers.StableLmConfig(  # no family's: its positions are those of all texts alike
            hidden_size=16,
            num_hidden_layers=2,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
            **shared,
        ),
    }[kind]
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    path = export.export(Checkpoint(model, None), tmp_path / "model.onnx")
    batch = batch_of(3, 9)
    batch["input_ids"][batch["attention_mask"] == 0] = 1
    with torch.inference_mode():
        given = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")}
        expected = model(**given).logits.numpy()
    assert OnnxRuntime(path).answer(batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_answers_what_torch_answers_on_padded_batches_of_any_shape(exported, shape):
    checkpoint, path = exported
    batch = batch_of(*shape)
    expected, found = Torch(checkpoint.model).answer(batch), OnnxRuntime(path).answer(batch)
    assert found.shape == (shape[0], 3) and found.dtype == np.float32
    assert np.abs(expected).max() > 0.01
    assert found == pytest.approx(expected, abs=1e-5)


def test_padding_changes_no_answer_of_a_graph(exported):
    _, path = exported
    engine, short = OnnxRuntime(path), batch_of(1, 6)
    longer = {name: np.pad(array, ((0, 0), (0, 9))) for name, array in short.items()}
    assert engine.answer(longer) == pytest.approx(engine.answer(short), abs=1e-5)


def test_a_graph_keeps_attention_as_one_node_of_opset_23(exported):
    checkpoint, path = exported
    graph = onnx.load(path)
    assert [(found.domain, found.version) for found in graph.opset_import] == [("", 23)]
    attention = [node for node in graph.graph.node if node.op_type == "Attention"]
    expected = 0 if checkpoint.model.config.model_type == "mpnet" else 2  # MPNet adds a bias that sdpa doesn't take
    assert len(attention) == expected


def test_a_graph_names_logits_as_its_one_output_and_takes_any_batch_and_length(exported):
    _, path = exported
    graph = onnx.load(path).graph
    assert [output.name for output in graph.output] == ["logits"]
    assert {given.name for given in graph.input} <= {"input_ids", "attention_mask", "token_type_ids"}
    for given in graph.input:
        assert given.type.tensor_type.elem_type == TensorProto.INT64
        assert all(size.dim_param for size in given.type.tensor_type.shape.dim)


def test_a_graph_carries_nothing_of_the_exporter(exported):
    _, path = exported
    model = onnx.load(path)
    graph = model.graph
    for thing in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        assert not thing.metadata_props and not thing.doc_string
    assert b"/site-packages/" not in path.read_bytes()


def test_every_hidden_state_keeps_its_name_in_the_graph(exported):
    _, path = exported
    made = {name.removesuffix(".first") for node in onnx.load(path).graph.node for name in node.output}
    assert {"hidden_states.0", "hidden_states.1", "hidden_states.2"} <= made


def test_attention_takes_its_heads_flat(exported):
    _, path = exported
    graph = onnx.load(path).graph
    for node in (node for node in graph.node if node.op_type == "Attention"):
        words = {word.name: word.i for word in node.attribute}
        assert words["q_num_heads"] == words["kv_num_heads"] == 4
    if any(node.op_type == "Attention" for node in graph.node):
        assert not any(node.op_type == "Transpose" for node in graph.node)


def test_the_last_layer_is_worked_out_for_the_one_position_that_the_head_reads(exported):
    checkpoint, path = exported
    if checkpoint.model.config.model_type == "mpnet":
        pytest.skip("its attention is no node that can be narrowed")
    graph = onnx.load(path).graph
    products = [node for node in graph.node if node.op_type == "MatMul"]
    narrow = [node for node in products if any(name.endswith(".first") for name in node.input)]
    assert len(narrow) == 4  # query, output, up, down; keys and values are of all
    assert len(products) - len(narrow) >= 2


@pytest.mark.filterwarnings("ignore")  # the exporter's own, which `export` keeps quiet
def test_a_head_that_reads_every_position_leaves_the_graph_as_it_is(tmp_path):
    class Mean(torch.nn.Module):
        def __init__(self, bert: torch.nn.Module) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=ids).last_hidden_state.mean(1)

    model = Mean(load_tiny(tmp_path / "bert", "bert", num_hidden_layers=2).model.bert).eval()
    ids = torch.arange(10).reshape(2, 5)
    free = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(model, (ids,), dynamo=True, opset_version=23, dynamic_shapes=free, verbose=False)
    tidy(program.model)
    program.save(tmp_path / "mean.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mean.onnx")
    found = session.run(None, {session.get_inputs()[0].name: ids.numpy()})[0]
    assert found == pytest.approx(model(ids).detach().numpy(), abs=1e-5)


def test_the_parity_check_passes_what_is_right_and_returns_the_difference(exported):
    checkpoint, path = exported
    batch = batch_of(4, 12)
    difference = np.abs(Torch(checkpoint.model).answer(batch) - OnnxRuntime(path).answer(batch)).max()
    assert export.check_parity(checkpoint, path, [batch]) == pytest.approx(float(difference), abs=1e-7)


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("bert.embeddings.word_embeddings.weight", "the first tensor that differs is hidden_states.0"),
        ("bert.encoder.layer.0.attention.self.value.bias", "the first tensor that differs is hidden_states.1"),
        ("bert.encoder.layer.2.output.dense.weight", "the first tensor that differs is hidden_states.3"),
        ("bert.encoder.layer.3.intermediate.dense.weight", "the first tensor that differs is hidden_states.4"),
        ("bert.pooler.dense.weight", "the first tensor that differs is in the head"),
        ("classifier.bias", "the first tensor that differs is in the head"),
    ],
)
def test_a_graph_with_one_wrong_weight_is_refused_and_the_layer_named(bert, quantized, tmp_path, tensor, named):
    graph = onnx.load(quantized / "model.onnx")
    right = bert.model.state_dict()[tensor].numpy()
    (place,) = [
        i for i, found in enumerate(graph.graph.initializer)
        for array in [numpy_helper.to_array(found)]
        if any(array.shape == way.shape and np.array_equal(array, way) for way in (right, right.T))
    ]  # fmt: skip
    found = graph.graph.initializer[place]
    noise = np.random.default_rng(0).normal(size=tuple(found.dims)).astype(np.float32)
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found) + noise, found.name))
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(MachineError, match=named):
        export.check_parity(bert, tmp_path / "model.onnx", [batch_of(3, 10)])


def test_a_graph_that_answers_nan_is_refused(bert, quantized, tmp_path):
    graph = onnx.load(quantized / "model.onnx")
    (bias,) = [found for found in graph.graph.initializer if found.name.endswith("classifier.bias")]
    bias.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), bias.name))
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(MachineError, match=r"differ from torch's by nan.*in the head"):
        export.check_parity(bert, tmp_path / "model.onnx", [batch_of(2, 4)])


def test_a_model_that_torch_cannot_export_is_the_machines_error(bert, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(MachineError, match=r"can't export a BertFor\w+ to ONNX \(no such operator\); it can still"):
        export.export(bert, tmp_path / "model.onnx")


# ------------------------------------------------------------------------------------- int8


def test_quantize_writes_both_graphs_config_tokenizer_and_parity(quantized):
    names = {path.name for path in quantized.iterdir()}
    assert {"model.onnx", "model_int8.onnx", "config.json", "tokenizer.json", "parity.json"} <= names
    assert not any(path.suffix == ".safetensors" for path in quantized.iterdir())
    assert [path.name for path in quantized.parent.iterdir()] == ["2-quantize"]
    assert json.loads((quantized / "config.json").read_text())["id2label"] == {str(i): n for i, n in enumerate(LABELS)}


def test_int8_answers_nearly_what_fp32_answers(quantized, bert, data):
    held = bert.encode(data, "test")
    exact = answer_all(OnnxRuntime(quantized / "model.onnx"), held)
    coarse = answer_all(OnnxRuntime(quantized / "model_int8.onnx"), held)
    assert 0 < np.abs(exact - coarse).max() < 0.1 * np.abs(exact).max()


def test_parity_tells_differences_agreement_and_scores_on_validation(quantized, bert, data):
    parity = quantization.read_parity(quantized)
    held = bert.encode(data, "validation")
    logits = answer_all(Torch(bert.model), held)
    assert (parity["rows"], parity["split"], parity["metric"]) == (30, "validation", "accuracy")
    assert parity["torch"]["score"] == pytest.approx(float((logits.argmax(-1) == held.labels).mean()))
    found = answer_all(OnnxRuntime(quantized / "model_int8.onnx"), held, batch_size=1)
    assert parity["onnx-int8"]["score"]["batch 1"] == pytest.approx(float((found.argmax(-1) == held.labels).mean()))
    assert parity["onnx-fp32"]["largest_difference"] < 1e-5 < parity["onnx-int8"]["largest_difference"]
    assert parity["onnx-fp32"]["agreement"] == 1
    assert set(parity["onnx-int8"]["score"]) == {"batch 1", "batch 32"}


@pytest.fixture
def quick_export(monkeypatch, quantized):
    """The graph that was exported once, instead of another export of the same model."""

    def copy(_: Checkpoint, path: Path) -> Path:
        path.write_bytes((quantized / "model.onnx").read_bytes())
        return path

    monkeypatch.setattr(exporting, "export", copy)


@pytest.mark.parametrize("broken", ["lower", "measure_parity", "check_parity"])
def test_a_failure_in_the_middle_leaves_nothing_behind(bert, data, tmp_path, monkeypatch, quick_export, broken):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(exporting if broken == "check_parity" else quantizing, broken, fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        quantization.quantize(bert, Quantize(), data=data, folder=tmp_path / "deep" / "int8")
    assert list((tmp_path / "deep").iterdir()) == []


def test_parity_is_looked_at_on_so_many_rows_and_tokens(bert, data, tmp_path, monkeypatch, quick_export):
    held, seen = bert.encode(data, "validation"), []
    monkeypatch.setattr(exporting, "check_parity", lambda *words: seen.extend(words[2]))
    (folder := tmp_path / "all").mkdir()
    exporting.write_graph(bert, folder, held)
    assert sum(len(batch["input_ids"]) for batch in seen) == len(held) and len(seen) == 1
    monkeypatch.setattr(exporting, "_PARITY_TOKENS", int(held.work[:10].sum()))
    monkeypatch.setattr(exporting, "_AT_ONCE", 3 * int(held.lengths.max()))
    for least, rows in ((1, 10), (20, 20)):
        seen.clear()
        monkeypatch.setattr(exporting, "_PARITY_LEAST", least)
        exporting.write_graph(bert, folder, held)
        assert [len(batch["input_ids"]) for batch in seen] == [3] * (rows // 3) + [rows % 3]


def test_a_folder_that_is_there_is_never_overwritten(bert, data, quantized):
    before = {path.name: path.read_bytes() for path in quantized.iterdir()}
    with pytest.raises(CheckpointError, match="already there"):
        quantization.quantize(bert, Quantize(), data=data, folder=quantized)
    assert before == {path.name: path.read_bytes() for path in quantized.iterdir()}


def test_as_graph_writes_the_fp32_graph_alone(bert, data, tmp_path, quick_export):
    folder = export.as_graph(bert, data=data, folder=tmp_path / "graph")
    assert [path.name for path in folder.glob("*.onnx")] == ["model.onnx"]
    assert {"config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "parity.json").exists()


def test_a_graph_that_is_no_graph_is_the_machines_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(MachineError, match="ONNX Runtime can't open it"):
        OnnxRuntime(tmp_path / "model.onnx")


def test_an_engine_that_is_not_installed_is_the_machines_error(quantized, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MachineError, match="ONNX Runtime isn't installed"):
        OnnxRuntime(quantized / "model.onnx")


def test_the_exported_model_is_left_as_it_was(bert, data, quantized):
    batch = collate(bert.encode(data, "test"), [0, 1])
    assert Torch(bert.model).answer(batch).shape == (2, 3)
    assert not bert.model.training and bert.model.config.output_hidden_states is not True
