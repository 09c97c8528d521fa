"""Fewer bits in graphs that foretell tokens and write: nothing stored twice, judged by the loss."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import make_tokenizer, rows
from language_models import CAUSAL, load, save_language
from writers import build_writer, make_pairs

from distill import Quantize, checkpoint, export, quantization
from distill.checkpoint import Checkpoint, count_bytes
from distill.data import Encoded
from distill.engines import GRAPHS, files_of, graph_in, open_graph
from distill.quantization import quantizing
from distill.recipe.settings import Generation


@pytest.fixture(scope="module", params=["llama", "t5"])
def small(request, tmp_path_factory):
    """A tiny checkpoint that writes, its data, and the folder that `quantize` makes of it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "t5":
        made, data = Checkpoint(build_writer("t5", vocab_size=300), make_tokenizer()), make_pairs()
    else:
        lines = folder / "corpus.txt"
        lines.write_text("\n".join(text for text, _ in rows(60, seed=4)))
        made, data = checkpoint.load(save_language(folder / "model", request.param)), load(lines, CAUSAL)
    return made, data, quantization.quantize(made, Quantize(), data=data, folder=folder / "int8")


def test_both_graphs_are_written_and_held_against_torch(small):
    made, _, folder = small
    parity = quantization.read_parity(folder)
    assert parity["onnx-fp32"]["largest_difference"] < 1e-4
    assert parity["onnx-fp32"]["written"]["same_texts"] == parity["onnx-fp32"]["written"]["same_tokens"] == 1
    assert 0 < parity["onnx-int8"]["largest_difference"] < 0.1
    assert 0 <= parity["onnx-int8"]["written"]["same_tokens"] <= 1
    kinds = parity["onnx-int8"]["products"]
    assert kinds["static"] > 10 and kinds["token"] >= 1
    for form in ("onnx-fp32", "onnx-int8"):
        graph = graph_in(folder, form)
        files = files_of(graph)
        assert len(files) == (2 if made.model.config.is_encoder_decoder else 1)
        others = sum((folder / name).stat().st_size for name in
                     ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"))  # fmt: skip
        assert count_bytes(folder, GRAPHS[form]) == others + sum(file.stat().st_size for file in files)


def test_what_is_foretold_is_judged_on_so_many_tokens(small, tmp_path, monkeypatch):
    made, data, _ = small
    seen: list[int] = []

    def stop(_: object, __: object, ___: object, ____: object, held: Encoded) -> None:
        seen.append(len(held))
        raise RuntimeError("seen")

    monkeypatch.setattr(quantizing, "_choose", stop)
    monkeypatch.setattr(quantizing, "write_graph", lambda _, folder, __: folder)
    whole = made.encode(data, "validation")
    for tokens in (1, 10**6):
        monkeypatch.setattr(quantizing, "_PARITY_TOKENS", tokens)
        with pytest.raises(RuntimeError, match="seen"):
            quantization.quantize(made, Quantize(), data=data, folder=tmp_path / "int8")
    assert seen == [min(8, len(whole)), len(whole)]


def test_a_tied_head_reads_the_bytes_of_the_table(small):
    made, _, folder = small
    vocabulary = made.model.config.vocab_size
    for file in files_of(folder / GRAPHS["onnx-int8"]):
        graph = onnx.load(file).graph
        held = [list(each.dims) for each in graph.initializer if vocabulary in each.dims and len(each.dims) > 1]
        assert sorted(held) == [[vocabulary, 1], [vocabulary, 32]]  # scales and 8-bit rows
        heads = [node for node in graph.node if node.op_type == "MatMulNBits" and "logits" in node.output[0]]
        assert len(heads) == ("encoder" not in file.name)


def test_a_graph_in_few_bits_writes_and_answers_alone_as_in_a_batch(small):
    folder = small[2]
    engine = open_graph(folder / GRAPHS["onnx-int8"], threads=1)
    assert engine.format == "onnx-int8"
    ids = np.arange(4, 22, dtype=np.int64).reshape(3, 6) % 40 + 4
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": ids[:, :4]}
    together = engine.answer(batch)
    alone = np.concatenate([engine.answer({name: a[row : row + 1] for name, a in batch.items()}) for row in range(3)])
    assert together == pytest.approx(alone, abs=1e-4)
    assert [len(text) for text in engine.generate(batch, Generation(), forced=5)] == [5, 5, 5]


def test_the_fp32_graph_alone_is_a_folder_too(small, tmp_path):
    made, data, _ = small
    folder = export.as_graph(made, data=data, folder=tmp_path / "graph")
    both = made.model.config.is_encoder_decoder
    graphs = {"encoder_model.onnx", "decoder_model_merged.onnx"} if both else {"model.onnx"}
    assert {file.name for file in files_of(graph_in(folder, "onnx-fp32"))} == graphs
    assert graphs | {"config.json", "generation_config.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
