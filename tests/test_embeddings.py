"""Factorised embeddings: the best table of a rank, kept in folders and graphs, multiplied out for stock loading."""

from __future__ import annotations

import json
import logging

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from conftest import LABELS, PIECES, load_tiny, make_config
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from distill import Distill, Prune, anatomy, checkpoint, cut, distill, finetune, prune, surgery
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data import collate
from distill.engines import OnnxRuntime
from distill.errors import CheckpointError
from distill.export import export
from distill.pruning.vocabulary import trim
from distill.recipe import Finetune, Vocabulary
from distill.signals import read, tensors

CUT = ("bert", "roberta", "distilbert", "electra", "mpnet")
RANK = 6


@pytest.fixture(scope="module", params=CUT)
def whole(request, tmp_path_factory) -> Checkpoint:
    """A tiny model of a family. Nothing may change it."""
    return load_tiny(tmp_path_factory.mktemp("whole") / "tiny", request.param)


@pytest.fixture(scope="module")
def narrow(whole) -> Checkpoint:
    """The same with factorised embeddings. Nothing may change it."""
    return Checkpoint(surgery.factorise(whole.model, RANK)[0], whole.tokenizer)


def logits(found: Checkpoint, data, split: str = "test") -> np.ndarray:
    encoded = found.encode(data, split)
    batch = tensors(collate(encoded, list(range(len(encoded)))), found.model.device)
    with torch.inference_mode():
        return read(found.model.eval(), batch).logits.numpy()


def table(found: Checkpoint) -> np.ndarray:
    ids = torch.arange(found.model.config.vocab_size)
    with torch.inference_mode():
        return found.model.get_input_embeddings()(ids).double().numpy()


# ----------------------------------------------------------------------------------------------------- surgery


def test_all_counting_alike_it_is_the_truncated_svd(whole, narrow):
    left, values, right = np.linalg.svd(table(whole), full_matrices=False)
    expected = (left[:, :RANK] * values[:RANK]) @ right[:RANK]
    assert np.abs(table(narrow) - expected).max() < 1e-6
    _, share = surgery.factorise(whole.model, RANK)
    assert share == pytest.approx((values[:RANK] ** 2).sum() / (values**2).sum(), rel=1e-6)


def test_weights_say_whose_error_is_minimised(whole):
    counts = np.random.default_rng(0).integers(0, 50, len(PIECES))
    smaller, share = surgery.factorise(whole.model, RANK, torch.from_numpy(counts))
    before = table(whole)
    _, values, right = np.linalg.svd(np.sqrt(counts)[:, None] * before, full_matrices=False)
    found = table(Checkpoint(smaller, whole.tokenizer))
    assert np.abs(found - before @ right[:RANK].T @ right[:RANK]).max() < 1e-6
    assert share == pytest.approx((values[:RANK] ** 2).sum() / (values**2).sum(), rel=1e-6)
    plain = table(Checkpoint(surgery.factorise(whole.model, RANK)[0], whole.tokenizer))

    def cost(tables: np.ndarray) -> float:
        return float((counts[:, None] * (tables - before) ** 2).sum())

    assert cost(found) < cost(plain)


def test_a_table_of_low_rank_loses_nothing(whole, data):
    low = whole.copy()
    weight = low.model.get_input_embeddings().weight
    with torch.no_grad():
        weight.copy_(weight[:, :4] @ torch.randn(4, weight.shape[1], generator=torch.Generator().manual_seed(0)))
    smaller, share = surgery.factorise(low.model, 4)
    assert share == pytest.approx(1)
    assert np.abs(logits(Checkpoint(smaller, low.tokenizer), data) - logits(low, data)).max() < 1e-5


def test_the_model_given_stays_and_what_is_needed_of_a_table_is_there(whole, narrow):
    before, after = whole.model.get_input_embeddings(), narrow.model.get_input_embeddings()
    assert type(before) is torch.nn.Embedding
    assert (after.num_embeddings, after.padding_idx) == (before.num_embeddings, before.padding_idx)
    width = anatomy.table_width(whole.model.config.to_dict())
    assert before.embedding_dim == width
    saved = len(PIECES) * width - RANK * (len(PIECES) + width)
    assert saved > 0 and whole.parameters - narrow.parameters == saved
    assert surgery.shape_of(narrow.model).embeddings == RANK and surgery.shape_of(whole.model).embeddings is None


def test_multiplied_out_it_answers_the_same(whole, narrow, data):
    out = surgery.multiply_out(narrow.model)
    assert surgery.rank_of(out) is None and surgery.rank_of(narrow.model) == RANK
    assert out.get_input_embeddings().padding_idx == whole.model.get_input_embeddings().padding_idx
    assert out.state_dict().keys() == whole.model.state_dict().keys()
    assert np.abs(logits(Checkpoint(out, narrow.tokenizer), data) - logits(narrow, data)).max() < 1e-5
    assert surgery.multiply_out(whole.model) is whole.model


def test_a_lower_rank_is_what_it_is_from_the_whole_table(whole, narrow):
    twice = Checkpoint(surgery.factorise(narrow.model, 3)[0], whole.tokenizer)
    once = Checkpoint(surgery.factorise(whole.model, 3)[0], whole.tokenizer)
    assert np.abs(table(twice) - table(once)).max() < 1e-5
    with pytest.raises(CheckpointError, match="of rank 6 already, so only a rank of 1 to 5"):
        surgery.factorise(narrow.model, RANK)


def test_saved_and_loaded_it_is_the_same_model(narrow, data, tmp_path):
    folder = narrow.save(tmp_path / "narrow")
    assert json.loads((folder / "shape.json").read_text())["embeddings"] == RANK
    again = checkpoint.load(folder)
    states, found = narrow.model.state_dict(), again.model.state_dict()
    assert states.keys() == found.keys() and all(torch.equal(states[name], found[name]) for name in states)
    assert again.parameters == narrow.parameters
    assert (logits(again, data) == logits(narrow, data)).all()
    headless = checkpoint.load(folder, data.task, new_head=True, seed=3)
    assert surgery.rank_of(headless.model) == RANK


def test_stock_transformers_loads_what_is_padded(narrow, data, tmp_path):
    folder = Checkpoint(surgery.pad(narrow.model), narrow.tokenizer).save(tmp_path / "padded")
    assert not (folder / "shape.json").exists()
    stock, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert np.abs(logits(Checkpoint(stock, narrow.tokenizer), data) - logits(narrow, data)).max() < 1e-5


@pytest.mark.parametrize("whole", ["bert", "electra"], indirect=True)
def test_the_graph_looks_up_the_narrow_table_and_widens_it(narrow, data, tmp_path):
    path = export(narrow, tmp_path / "model.onnx")
    graph = onnx.load(path).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    looked_up = [node for node in graph.node if node.op_type == "Gather" and shapes.get(node.input[0])]
    (token,) = [node for node in looked_up if shapes[node.input[0]] == [len(PIECES), RANK]]
    (user,) = [node for node in graph.node if token.output[0] in node.input]
    width = anatomy.table_width(narrow.model.config.to_dict())
    assert user.op_type == "MatMul" and shapes[user.input[1]] == [RANK, width]
    assert [len(PIECES), width] not in shapes.values()
    encoded = narrow.encode(data, "test")
    found = OnnxRuntime(path).answer(collate(encoded, list(range(len(encoded)))))
    assert np.abs(found - logits(narrow, data)).max() < 1e-5


def test_other_surgery_carries_it_along(narrow, data):
    fewer = cut(narrow, [2, 4])
    assert surgery.rank_of(fewer.model) == RANK
    assert np.abs(table(fewer) - table(narrow)).max() == 0
    heads = None if narrow.model.config.model_type == "mpnet" else [[0, 2], [0], [1, 2, 3], [0, 1, 2, 3]]
    less = surgery.keep_units(narrow.model, heads, [list(range(8 * (1 + place))) for place in range(4)])
    assert surgery.rank_of(less) == RANK
    small, padded = Checkpoint(less, narrow.tokenizer), Checkpoint(surgery.pad(less), narrow.tokenizer)
    assert np.abs(logits(padded, data) - logits(small, data)).max() < 1e-5


def test_hidden_dimensions_are_taken_out_of_the_projection(narrow, data):
    facts = narrow.model.config.to_dict()
    follows = anatomy.table_width(facts) == anatomy.size(facts, "hidden_size")  # not where another projection does
    left = surgery.keep_units(narrow.model, [[0, 1]] * 4, None)
    smaller = surgery.keep_hidden(left, range(4, 28))
    table, before = smaller.get_input_embeddings(), narrow.model.get_input_embeddings()
    assert surgery.rank_of(smaller) == RANK and torch.equal(table.weight, before.weight)
    assert torch.equal(table.projection.weight, before.projection.weight[slice(4, 28) if follows else slice(None)])


def test_the_vocabulary_is_trimmed_before_and_after(whole, narrow, data):
    lines = [line for (line,) in data.train.texts]
    after, _ = trim(narrow, Vocabulary(margin=0), data)
    assert surgery.rank_of(after.model) == RANK
    assert after.model.get_input_embeddings().num_embeddings == len(after.tokenizer) <= len(narrow.tokenizer)
    assert np.abs(logits(after, data, "train") - logits(narrow, data, "train")).max() < 1e-6
    before, _ = trim(whole, Vocabulary(margin=0), data)
    smaller = surgery.factorise(before.model, RANK)[0]
    assert smaller.get_input_embeddings().weight.shape == (len(before.tokenizer), RANK)
    assert after.tokenizer(lines)["input_ids"] == before.tokenizer(lines)["input_ids"]


def test_it_goes_on_training_and_learns_hidden_states(whole, narrow, data):
    trained = finetune(narrow, Finetune(epochs=1, learning_rate=1e-3), data=data)
    factors, before = trained.model.get_input_embeddings(), narrow.model.get_input_embeddings()
    assert not torch.equal(factors.weight, before.weight)
    assert not torch.equal(factors.projection.weight, before.projection.weight)
    padding = before.padding_idx
    decay = 1e-3 * 0.01 * 10  # a padding row gets no gradient: at most weight decay moves it
    assert torch.allclose(factors.weight[padding], before.weight[padding], rtol=decay, atol=0)
    taught = distill(
        narrow, Distill(epochs=1, imitate={"hidden_states": {"weight": 1.0, "layers": {0: 0, 2: 2}}, "logits": 1.0}),
        data=data, teacher=whole,
    )  # fmt: skip
    assert surgery.rank_of(taught.model) == RANK


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_table_tied_to_a_head_is_refused():
    model = AutoModelForMaskedLM.from_config(make_config("bert", tie_word_embeddings=True))
    with pytest.raises(CheckpointError, match="BertForMaskedLM ends in is tied to them"):
        surgery.factorise(model, 4)


@pytest.mark.parametrize("rank", [0, 20, 32, 1000])
def test_a_rank_that_saves_nothing_is_refused(bert, rank):
    assert 20 * (len(PIECES) + 32) >= len(PIECES) * 32 > 19 * (len(PIECES) + 32)
    with pytest.raises(CheckpointError, match="only a rank of 1 to 19 makes it smaller"):
        surgery.factorise(bert.model, rank)


def test_a_table_that_two_sides_share_is_refused(tmp_path):
    from transformers import BartConfig, BartForSequenceClassification, OPTConfig, OPTForSequenceClassification

    sizes = {"vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    with pytest.raises(CheckpointError, match="encoder, decoder and head of an encoder-decoder share one table"):
        surgery.factorise(BartForSequenceClassification(BartConfig(**sizes, **heads)), 4)
    one = OPTConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2,
                    word_embed_proj_dim=12)  # fmt: skip
    model = OPTForSequenceClassification(one)
    assert surgery.rank_of(surgery.factorise(model, 4)[0]) == 4
    with pytest.raises(CheckpointError, match="50 × 12"):
        surgery.factorise(model, 10)


def test_alberts_are_factorised_already(tmp_path, data):
    with pytest.raises(CheckpointError, match=r"prune\.embeddings: ALBERT's are factorised from the start"):
        prune(load_tiny(tmp_path / "tiny", "albert"), Prune(embeddings=4), data=data)


@pytest.mark.parametrize("rank", ["0", "-1", "32", "1000000000", "true", '"6"', "6.0", "[6]", "{}", "1e400"])
def test_a_record_that_cannot_be_true_is_refused(bert, tmp_path, rank):
    folder = Checkpoint(surgery.factorise(bert.model, RANK)[0], bert.tokenizer).save(tmp_path / "narrow")
    record = json.loads((folder / "shape.json").read_text()) | {"embeddings": "RANK"}
    (folder / "shape.json").write_text(json.dumps(record).replace('"RANK"', rank))
    with pytest.raises(CheckpointError, match=r"shape\.json"):
        checkpoint.load(folder)


@pytest.mark.parametrize("rank", [5, 7, None])
def test_a_record_that_the_weights_do_not_fit_is_refused(bert, tmp_path, rank):
    folder = Checkpoint(surgery.factorise(bert.model, RANK)[0], bert.tokenizer).save(tmp_path / "narrow")
    record = json.loads((folder / "shape.json").read_text())
    (folder / "shape.json").write_text(json.dumps(record | {"embeddings": rank}))
    with pytest.raises(CheckpointError, match="the weights lack"):
        checkpoint.load(folder)


# ---------------------------------------------------------------------------------------------------- the step


def test_prune_factorises_what_is_left_of_the_vocabulary(whole, data, caplog):
    with caplog.at_level(logging.INFO, "distill"):
        words = Prune(embeddings=RANK, vocabulary={"keep": "used", "margin": 0}, neurons=0.5, examples=24)
        smaller = prune(whole, words, data=data)
    tokens = len(smaller.tokenizer)
    assert surgery.shape_of(smaller.model).embeddings == RANK and sum(surgery.shape_of(smaller.model).neurons) == 128
    assert smaller.model.get_input_embeddings().weight.shape == (tokens, RANK)
    (told,) = [line for line in caplog.messages if line.startswith("embeddings:")]
    assert f"{tokens} × {RANK}" in told and "% of its energy" in told
    again = prune(smaller, Prune(layers=1, examples=24), data=data)
    assert surgery.rank_of(again.model) == RANK


def test_a_target_counts_what_factorising_saves(bert, data):
    words = {"to": {"parameters": 0.6}, "examples": 24, "by": "taylor"}
    plain, smaller = prune(bert, Prune(**words), data=data), prune(bert, Prune(**words, embeddings=RANK), data=data)
    assert surgery.rank_of(smaller.model) == RANK and smaller.parameters <= 0.6 * bert.parameters
    assert sum(surgery.shape_of(smaller.model).neurons) >= sum(surgery.shape_of(plain.model).neurons)
    rounds = Prune(embeddings=6, gradually={}, to={"latency": 0.6}).rounds()
    first, *rest = [step for step in rounds if isinstance(step, Prune)]
    assert first.embeddings == 6 and all(step.embeddings is None for step in rest)


def test_a_recipe_factorises_recovers_and_ships(recipe_file, tmp_path, without_memory):
    steps = [
        {"prune": {"embeddings": RANK, "examples": 40}},
        {"distill": {"imitate": {"logits": 1.0, "hidden_states": 1.0}, "epochs": 1}},
        "quantize",
    ]
    recipe = recipe_file(steps=steps, ship=["transformers", "onnx"])
    done = CliRunner().invoke(main, ["run", str(recipe), "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "run" / "report.json").read_text())["rows"]
    sizes = {row["name"]: row["bytes"] for row in rows if row["format"] == "transformers"}
    assert sizes["1-prune"] < sizes["2-distill-padded"]
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "shipped" / "transformers")
    assert stock.get_input_embeddings().weight.shape == (len(PIECES), 32)
    asked = CliRunner().invoke(main, ["predict", str(tmp_path / "run" / "2-distill"), "the coach and the team"])
    assert asked.exit_code == 0 and asked.output.split()[0] in LABELS, asked.output


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"prune": {"embeddings": 32}}], "steps.0.prune.embeddings: a rank of 32 makes a table of 50 × 32 no smaller"),
        ([{"prune": {"embeddings": 19}}], None),
        ([{"prune": {"embeddings": 12, "vocabulary": 16}}], "makes a table of 16 × 32 no smaller; at most 10 does"),
        ([{"prune": {"embeddings": 0}}], "steps.0.prune.embeddings"),
    ],
)
def test_check_refuses_a_rank_that_saves_nothing(recipe_file, steps, said):
    done = CliRunner().invoke(main, ["check", str(recipe_file(steps=steps))])
    assert done.exit_code == (0 if said is None else 2), done.output
    assert said is None or said in " ".join(done.output.split())
