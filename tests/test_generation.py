"""Graphs write what torch writes, token by token, greedily and with beams; the past is worked out once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tiny_models import no_two_alike, texts, tiny
from writers import build_writer

from distill import export, surgery
from distill.checkpoint import Checkpoint
from distill.engines import Torch, files_of, open_graph
from distill.errors import MachineError
from distill.evaluation import one_answer
from distill.export.attention import masks
from distill.generation import OnnxGenerator
from distill.generation.rules import Rules
from distill.recipe.settings import Generation

DECODERS = ["gpt2", "opt", "llama", "qwen2", "mistral"]
ENCODER_DECODERS = ["bart", "marian", "t5"]
RULES = {  # what the generation configs of such checkpoints say
    "gpt2": {"eos_token_id": [2, 9, 30, 31], "bad_words_ids": [[5], [6, 7], [40, 41, 42]]},
    "opt": {"begin_suppress_tokens": [8, 9, 10], "suppress_tokens": [5, 6]},
    "llama": {"eos_token_id": [2, 11, 12, 13, 40, 41], "min_new_tokens": 4},
    "qwen2": {"no_repeat_ngram_size": 3},
    "bart": {"forced_bos_token_id": 4, "forced_eos_token_id": 2, "no_repeat_ngram_size": 2, "min_length": 5},
    "marian": {"bad_words_ids": [[1], [7, 8]], "forced_eos_token_id": 2, "eos_token_id": [2, 20, 21, 22]},
    "t5": {"eos_token_id": [2, 20, 21, 22, 23, 24], "repetition_penalty": 1.7, "no_repeat_ngram_size": 1},
}


@pytest.fixture(scope="module", params=[*DECODERS, *ENCODER_DECODERS])
def written(request, tmp_path_factory) -> tuple[Torch, OnnxGenerator]:
    """A tiny model of each family that writes, in torch and as graphs."""
    name = request.param
    model = tiny(name, "Seq2SeqLM" if name in ENCODER_DECODERS else "CausalLM")
    model.generation_config.update(**RULES.get(name, {}))
    folder = tmp_path_factory.mktemp(name)
    export.export(Checkpoint(model, None), folder / "model.onnx")
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return Torch(model), OnnxGenerator(folder, threads=1)


def test_memory_is_measured_while_one_token_is_written(written, tmp_path):
    torch_engine, graphs = written
    torch_engine.model.save_pretrained(tmp_path)
    one_answer.answer_with_torch(tmp_path)  # each in a process of its own where it counts
    one_answer.answer_with_onnxruntime(graphs.folder / "model.onnx")


def test_memory_of_a_t5_whose_decoder_has_more_layers_is_measured(tmp_path):
    build_writer("t5", num_layers=1, num_decoder_layers=3).save_pretrained(tmp_path)
    one_answer.answer_with_torch(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        Generation(max_new_tokens=16),
        Generation(max_new_tokens=10, beams=4),
        Generation(max_new_tokens=9, beams=3, length_penalty=2.0, early_stopping=True),
        Generation(max_new_tokens=6, beams=2, length_penalty=-1.0),
    ],
    ids=["greedy", "beams", "early", "short"],
)
def test_a_graph_writes_what_torch_writes(written, words):
    model, graph = written
    batch = texts(3, 9)
    expected = model.generate(batch, words)
    assert graph.generate(batch, words) == expected
    assert all(0 < len(text) <= words.max_new_tokens for text in expected)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_forced_length_is_kept_whatever_would_end_the_text(written, beams):
    model, graph = written
    words, batch = Generation(max_new_tokens=3, beams=beams), texts(3, 6)
    found = graph.generate(batch, words, forced=8)
    assert [len(text) for text in found] == [8] * 3
    assert found == model.generate(batch, words, forced=8)


def test_padding_on_either_side_changes_nothing_that_is_written(written):
    _, graph = written
    batch, words = texts(3, 7), Generation(max_new_tokens=6)
    alone = []
    for row in range(3):
        long = int(batch["attention_mask"][row].sum())
        alone += graph.generate({name: array[row : row + 1, :long] for name, array in batch.items()}, words)
    assert graph.generate(batch, words) == alone


def test_an_answer_is_what_torch_answers_at_every_token(written):
    model, graph = written
    batch = texts(3, 8)
    if graph.encoder is not None:
        batch["decoder_input_ids"] = texts(3, 5, seed=8)["input_ids"]
    expected, found = model.answer(batch), graph.answer(batch)
    real = batch["attention_mask"].astype(bool) if graph.encoder is None else np.ones(expected.shape[:2], bool)
    assert found[real] == pytest.approx(expected[real], abs=1e-4)
    assert found.dtype == np.float32


def test_texts_that_nothing_ends_are_over_with_the_last_token(written, monkeypatch):
    _, graph = written
    monkeypatch.setattr(graph, "rules", graph.rules.endless())
    for beams in (1, 3):
        found = graph.generate(texts(2, 4), Generation(max_new_tokens=7, beams=beams))
        assert [len(text) for text in found] == [7, 7]


def test_a_folder_tells_which_engine_its_graph_needs(written):
    _, graph = written
    engine = open_graph(graph.folder / "model.onnx", threads=1)
    assert isinstance(engine, OnnxGenerator) and engine.format == "onnx-fp32"
    names = {file.name for file in graph.files}
    if graph.encoder is None:
        assert names == {"model.onnx"}
    else:
        assert names == {"encoder_model.onnx", "decoder_model_merged.onnx"}
        assert files_of(graph.folder / "model_int8.onnx") == [graph.folder / "model_int8.onnx"]


def test_the_past_is_kept_so_that_a_step_is_of_one_token(written, monkeypatch):
    _, graph = written
    seen: list[tuple[int, int]] = []
    run = type(graph.decoder).run_with_ort_values

    class Watched:
        def __getattr__(self, name: str):
            return getattr(graph_decoder, name)

        def run_with_ort_values(self, outputs, feed):
            past = next(value for name, value in feed.items() if "past" in name and ".encoder" not in name)
            seen.append((feed["input_ids"].shape()[1], past.shape()[2]))
            return run(graph_decoder, outputs, feed)

    graph_decoder = graph.decoder
    monkeypatch.setattr(graph, "decoder", Watched())
    graph.generate(texts(2, 5), Generation(max_new_tokens=4), forced=4)
    begun = 5 if graph.encoder is None else 1
    assert seen == [(begun, 0), (1, begun), (1, begun + 1), (1, begun + 2)]


@pytest.mark.parametrize(("name", "heads"), [("gpt2", [[0, 2, 3], [1]])])
def test_layers_with_different_numbers_of_heads_keep_pasts_of_their_own(name, heads, tmp_path):
    model = surgery.keep_units(tiny(name, "CausalLM"), heads, None)
    export.export(Checkpoint(model, None), tmp_path / "model.onnx")
    model.generation_config.save_pretrained(tmp_path)
    graph, words = OnnxGenerator(tmp_path, threads=1), Generation(max_new_tokens=6)
    pasts = [given.shape[1] for given in graph.decoder.get_inputs() if given.name.endswith(".key")]
    assert pasts == [len(kept) for kept in heads]
    assert graph.generate(texts(3, 7), words) == Torch(model).generate(texts(3, 7), words)


@pytest.mark.parametrize(
    ("name", "more", "narrow"),
    [
        ("mistral", {}, True),
        ("mistral", {"sliding_window": None}, False),
        ("llama", {"sliding_window": 4}, False),  # which its class never reads
    ],
)
def test_a_window_is_all_layers_where_a_config_names_no_kinds(name, more, narrow):
    made = masks(tiny(name, "CausalLM", **more), torch.ones(1, 9), 9, causal=True)
    seen = [int((row == 0).sum()) for row in made[0, 0]]
    assert seen == ([1, 2, 3, 4, 4, 4, 4, 4, 4] if narrow else list(range(1, 10)))


def test_a_decoder_that_counts_positions_off_its_mask_writes_as_a_graph(tmp_path):
    words = {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 1, "eos_token_id": 2}
    config = transformers.BloomConfig(**words)
    torch.manual_seed(0)
    model = no_two_alike(transformers.BloomForCausalLM(config).eval())
    export.export(Checkpoint(model, None), tmp_path / "model.onnx")
    model.generation_config.save_pretrained(tmp_path)
    graph, engine, batch = OnnxGenerator(tmp_path, threads=1), Torch(model), texts(3, 9)
    real = batch["attention_mask"].astype(bool)
    assert graph.answer(batch)[real] == pytest.approx(engine.answer(batch)[real], abs=1e-4)
    words = Generation(max_new_tokens=8)
    assert graph.generate(batch, words) == engine.generate(batch, words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("openai-gpt", {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64}),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}),
    ],
)
def test_what_keeps_no_past_is_told_to_be_no_graph(kind, words, tmp_path, monkeypatch):
    config = transformers.AutoConfig.for_model(kind, vocab_size=64, pad_token_id=1, **words)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    reason = "it adds its alibi" if kind == "falcon" else "it keeps no keys and values of earlier tokens"
    with pytest.raises(MachineError, match=f"no graph of a {kind} that writes can be made: {reason}.*leave `quantize`"):
        export.export(Checkpoint(model, None), tmp_path / "model.onnx")
    if kind != "falcon":  # also of a type that nobody has heard of
        monkeypatch.setattr("distill.anatomy.cannot_write", lambda _: None)
        with pytest.raises(MachineError, match="keeps no keys and values"):
            export.export(Checkpoint(model, None), tmp_path / "model.onnx")


@pytest.mark.parametrize("padded", [0, 2])
def test_padding_is_not_repeated_and_a_pad_token_in_a_text_is(padded):
    from transformers import RepetitionPenaltyLogitsProcessor

    ids = np.array([[0, 0, 5, 0, 6], [4, 3, 7, 2, 7]])
    scores = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    found = Rules(start=1, pad=0, repetition=1.7).apply(scores, ids, 5, 9, np.array([padded, 0]))
    penalise = RepetitionPenaltyLogitsProcessor(1.7)
    for row, first in enumerate((padded, 0)):
        theirs = penalise(torch.tensor(ids[row : row + 1, first:]), torch.tensor(scores[row : row + 1])).numpy()
        np.testing.assert_allclose(found[row], theirs[0], rtol=1e-6)
    only = Rules(pad=0, repetition=1.7).apply(scores, np.array([[0, 0, 6], [4, 3, 7]]), 3, 9, np.array([2, 0]))
    assert only[0, 0] == scores[0, 0] and only[0, 6] != scores[0, 6]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_penalty_for_repetition_does_not_hang_on_the_batch(beams, tmp_path):
    model, words, batch = tiny("llama", "CausalLM"), Generation(max_new_tokens=6, beams=beams), texts(4, 8)
    model.generation_config.update(repetition_penalty=1.8)
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths)) > 1
    alone = [{name: array[row : row + 1, :long] for name, array in batch.items()} for row, long in enumerate(lengths)]
    likeliest = Torch(model).generate(alone[int(lengths.argmin())], words)[0][0]
    model.generation_config.pad_token_id = likeliest  # of which it matters whether it was there
    batch["input_ids"][batch["attention_mask"] == 0] = likeliest
    export.export(Checkpoint(model, None), tmp_path / "model.onnx")
    model.generation_config.save_pretrained(tmp_path)
    expected = [Torch(model).generate(row, words)[0] for row in alone]
    for engine in (Torch(model), OnnxGenerator(tmp_path, threads=1)):
        assert engine.generate(batch, words) == expected
