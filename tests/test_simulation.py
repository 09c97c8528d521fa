"""Training for int8: the rounding against numpy, nothing left behind, and answers that bear rounding better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from conftest import load_tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from distill import Distill, checkpoint, distill, finetune, surgery
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data import collate
from distill.distillation import steps
from distill.recipe import Finetune
from distill.signals import read, tensors
from distill.training import Watch
from distill.training.simulation import RANGE, fake_quantize_activation, fake_quantize_weight, simulated

TRAIN = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "dropout": 0}


def logits(found: Checkpoint, data, split: str = "test") -> torch.Tensor:
    encoded = found.encode(data, split)
    batch = tensors(collate(encoded, list(range(len(encoded)))), found.model.device)
    with torch.inference_mode():
        return read(found.model.eval(), batch).logits


def grid(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float, int]:
    """Numbers of steps, the step, and the zero point of an unsigned 8-bit grid."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    return np.clip(np.rint(values / step) + zero, 0, 255), step, zero


# ---------------------------------------------------------------------------------------------------- rounding


def test_weights_are_rounded_to_each_rows_own_grid():
    weight = np.random.default_rng(0).normal(size=(7, 33)) * np.logspace(-3, 2, 7)[:, None]
    steps = np.abs(weight).max(1, keepdims=True) / 127
    found = fake_quantize_weight(torch.tensor(weight, dtype=torch.float32)).numpy()
    assert np.abs(found - np.rint(weight / steps) * steps).max(1) == pytest.approx(0, abs=1e-4)
    assert (np.abs(found - weight) <= 0.501 * steps).all()
    assert len(np.unique(np.rint(found / steps))) > 20 and np.abs(np.rint(found / steps)).max() == 127


def test_a_row_of_zeros_stays_zero():
    assert not fake_quantize_weight(torch.zeros(2, 3)).any()
    assert not fake_quantize_activation(torch.zeros(2, 3), torch.tensor(0.0), torch.tensor(0.0)).any()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-4.0, -1.0), (-0.3, 0.3)])
def test_activations_are_rounded_with_a_zero_point_and_clipped(low, high):
    values = np.random.default_rng(1).normal(size=(5, 11)) * 2
    steps, step, zero = grid(values, low, high)
    found = fake_quantize_activation(torch.tensor(values, dtype=torch.float32), torch.tensor(low), torch.tensor(high))
    assert np.abs(found.numpy() - (steps - zero) * step).max() < 1e-5
    assert float(fake_quantize_activation(torch.zeros(1), torch.tensor(low), torch.tensor(high))) == 0


def test_gradients_pass_as_if_nothing_was_rounded_but_not_where_it_was_clipped():
    values = torch.tensor([-3.0, -1.0, 0.1, 1.9, 2.5], requires_grad=True)
    (fake_quantize_activation(values, torch.tensor(-1.0), torch.tensor(2.0)) * torch.arange(1.0, 6)).sum().backward()
    assert values.grad.tolist() == [0, 2, 3, 4, 0]
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fake_quantize_weight(weight).sum().backward()
    assert (weight.grad == 1).all()


def test_a_linear_computes_what_integers_do():
    generator = torch.Generator().manual_seed(2)
    linear = nn.Linear(12, 5)
    given = torch.randn(4, 12, generator=generator)
    with torch.no_grad(), simulated(linear):
        found = linear.eval()(given).numpy()
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    scales = np.abs(weight).max(1) / 127
    integers = np.rint(weight / scales[:, None]).astype(np.int64)
    steps, step, zero = grid(given.numpy(), float(given.min()), float(given.max()))
    summed = (steps.astype(np.int64) - zero) @ integers.T
    assert np.abs(found - (summed * scales * step + bias)).max() < 1e-5


def test_a_range_is_the_mean_of_the_first_batches_and_follows_the_later_ones():
    linear = nn.Linear(3, 2)
    with simulated(linear):
        for number in range(1, 5):
            linear.train()(torch.tensor([[-1.0 * number, 0, 2.0 * number]]))
        linear.eval()(torch.tensor([[-100.0, 0, 100.0]]))
        kept = getattr(linear, RANGE)
        assert kept.tolist() == pytest.approx([-2.5, 5, 4])
        for _ in range(96):
            linear.train()(torch.tensor([[-2.5, 0, 5.0]]))
        assert kept.tolist() == pytest.approx([-2.5, 5, 100], rel=1e-4)
        linear(torch.tensor([[-12.5, 0, 5.0]]))
        assert kept.tolist() == pytest.approx([-2.6, 5, 101], rel=1e-4)


# ------------------------------------------------------------------------------------------- what is simulated


def test_every_linear_and_table_of_every_family_is_rounded_and_nothing_is_left_behind(tmp_path, data, family):
    found = load_tiny(tmp_path / "tiny", family)
    before, expected = found.model.state_dict(), logits(found, data)
    inside = {name: set(vars(module)) for name, module in found.model.named_modules()}
    with simulated(found.model):
        rounded = logits(found, data)
        linears = [module for module in found.model.modules() if isinstance(module, nn.Linear)]
        assert all("forward" in vars(module) and hasattr(module, RANGE) for module in linears)
    assert 0 < float((rounded - expected).abs().max()) < 0.2 * float(expected.abs().max())
    assert found.model.state_dict().keys() == before.keys()
    assert {name: set(vars(module)) for name, module in found.model.named_modules()} == inside
    assert torch.equal(logits(found, data), expected)
    # By hand: embeddings rounded by row and weights by row, with nothing done to activations, lie near by.
    twin = found.copy()
    with torch.no_grad():
        for module in twin.model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.copy_(fake_quantize_weight(module.weight))
    assert float((rounded - logits(twin, data)).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("kind", ["gpt2", "opt", "bart"])
def test_tables_with_a_lookup_of_their_own_keep_it_and_every_product_is_rounded(kind):
    shared = {"vocab_size": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = {
        "gpt2": transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **shared),
        "opt": transformers.OPTConfig(
            hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=1, ffn_dim=32, num_attention_heads=2, **shared
        ),
        "bart": transformers.BartConfig(
            d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, scale_embedding=True, decoder_start_token_id=2, **shared
        ),
    }[kind]  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.randint(5, 60, (2, 7))
    ids[:, -1] = 2
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        expected = model(input_ids=ids).logits
        with simulated(model):
            found = model(input_ids=ids).logits
            products = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
            assert all(hasattr(module, RANGE) for module in products)
    assert 0 < float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_a_factorised_table_is_rounded_before_it_is_widened(bert):
    narrow = surgery.factorise(bert.model, 6)[0].eval()
    table, ids = narrow.get_input_embeddings(), torch.arange(20)
    with torch.no_grad(), simulated(narrow):
        found = table(ids)
    rows = fake_quantize_weight(table.weight.detach()[ids])
    given = fake_quantize_activation(rows, rows.min(), rows.max())
    expected = given @ fake_quantize_weight(table.projection.weight.detach()).T
    assert torch.allclose(found, expected, atol=1e-6)


def test_nothing_is_left_behind_a_failure(bert):
    keys = bert.model.state_dict().keys()

    def fail() -> None:
        with simulated(bert.model):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert bert.model.state_dict().keys() == keys
    assert not any("forward" in vars(module) for module in bert.model.modules())


# --------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_training_steps_learn_under_it_and_leave_a_plain_checkpoint(bert, data, tmp_path, dtype, monkeypatch):
    seen = []
    answer_all = steps.answer_all

    def watched(engine, held, *task: object):
        seen.append(hasattr(engine.model.classifier, RANGE))
        return answer_all(engine, held, *task)

    monkeypatch.setattr(steps, "answer_all", watched)
    watch = Watch("finetune")
    tuned = finetune(bert, Finetune(**TRAIN, dtype=dtype, simulate="int8"), data=data, watch=watch)
    assert seen == [True, True]  # it is the rounded model that validation scores
    assert watch.log.records[-1]["loss"] < watch.log.records[0]["loss"]
    words = Distill(**TRAIN, dtype=dtype, simulate="int8", imitate={"logits": 1.0, "hidden_states": 1.0})
    taught = distill(tuned, words, data=data, teacher=bert)
    for made in (tuned, taught):
        assert made.model.state_dict().keys() == bert.model.state_dict().keys()
        assert not any("forward" in vars(module) for module in made.model.modules())
    again = checkpoint.load(taught.save(tmp_path / "taught"))
    assert torch.equal(logits(again, data), logits(taught, data))


def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(bert, data, tmp_path):
    class CutError(Exception):
        pass

    def cut_off(told) -> None:
        if told.get("epoch", 0) > 1:
            raise CutError

    words = Finetune(**TRAIN | {"epochs": 3}, dtype="float32", simulate="int8")

    def train(folder: Path, tell=lambda _: None) -> Checkpoint:
        folder.mkdir(exist_ok=True)
        return finetune(bert, words, data=data, watch=Watch("finetune", folder, tell))

    whole = train(tmp_path / "whole")
    with pytest.raises(CutError):
        train(tmp_path / "cut", cut_off)
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")]
    resumed = train(tmp_path / "cut")
    states, found = whole.model.state_dict(), resumed.model.state_dict()
    assert states.keys() == found.keys() and all(torch.equal(states[name], found[name]) for name in states)


def test_weights_with_outliers_learn_to_bear_rounding(bert, data):
    """One weight a row, of an input that is always zero, spoils the row's scale and nothing else.

    The student is its own teacher: without rounding it has nothing to learn, with it only how to bear that.
    """
    teacher = finetune(bert, Finetune(**TRAIN | {"epochs": 8, "learning_rate": 1e-2, "patience": 8}), data=data)
    with torch.no_grad():
        for layer in teacher.model.bert.encoder.layer:
            for linear in (layer.attention.self.query, layer.attention.self.value, layer.intermediate.dense):
                linear.weight[:, 0] = 60
        for norm in (module for module in teacher.model.modules() if isinstance(module, nn.LayerNorm)):
            norm.weight[0] = norm.bias[0] = 0
    expected = logits(teacher, data, "train")

    def lost(simulate: str | None) -> float:
        words = Distill(
            epochs=8, patience=8, learning_rate=3e-4, batch_size=8, dropout=0, weight_decay=0, dtype="float32",
            simulate=simulate, imitate={"logits": {"weight": 1.0, "loss": "mse"}},
        )  # fmt: skip
        student = distill(teacher, words, data=data, teacher=teacher)
        with simulated(student.model):
            return float((logits(student, data, "train") - expected).square().mean())

    assert lost("int8") < 0.75 * lost(None)


@pytest.mark.parametrize(
    ("steps", "noted"),
    [
        (
            [{"distill": {"simulate": "int8"}}, {"prune": {"neurons": 0.5}}],
            "distill.simulate does nothing here: no `quantize`",
        ),
        ([{"finetune": {"simulate": "int8"}}], "steps.0.finetune.simulate does nothing here: no `quantize` follows"),
        ([{"distill": {"simulate": "int8"}}, "quantize"], None),
        ([{"distill": {"simulate": "int4"}}, "quantize"], "steps.0.distill.simulate"),
    ],
)
def test_check_notes_a_simulation_that_nothing_follows(recipe_file, steps, noted):
    done = CliRunner().invoke(main, ["check", str(recipe_file(steps=steps))])
    assert done.exit_code == (2 if "int4" in str(steps) else 0), done.output
    output = " ".join(done.output.split())
    assert noted in output if noted else "does nothing" not in output
