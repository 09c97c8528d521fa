"""Pruning: what goes is what matters least, what stays answers the same, and every shape loads again."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import LABELS, load_tiny, make_tokenizer
from transformers import AutoModelForSequenceClassification

from distill import Distill, Prune, checkpoint, cut, distill, finetune, prune, surgery
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data import collate
from distill.engines import OnnxRuntime
from distill.errors import CheckpointError, RecipeError
from distill.export import export
from distill.pruning.choosing import choose
from distill.pruning.importance import Importance, measure
from distill.pruning.reconstruction import refit
from distill.pruning.sites import sites_of
from distill.recipe import Finetune, load
from distill.signals import read, tensors

WAYS = ("magnitude", "activations", "taylor", "fisher")


def logits(found: Checkpoint, data, split: str = "test") -> np.ndarray:
    encoded = found.encode(data, split)
    batch = tensors(collate(encoded, list(range(len(encoded)))), found.model.device)
    with torch.inference_mode():
        return read(found.model.eval(), batch).logits.numpy()


def every(found: Checkpoint, what: str) -> list[list[int]]:
    return [list(range(count)) for count in getattr(surgery.shape_of(found.model), what)]


def silence(found: Checkpoint, place: int, what: str, unit: int) -> None:
    """Makes a head or neuron add nothing."""
    site = sites_of(found.model, [what])[place]
    with torch.no_grad():
        site.mixer.weight[:, site.columns([unit])] = 0


def heads_of(found: Checkpoint) -> list[str]:
    return ["neurons"] if found.model.config.model_type == "mpnet" else ["heads", "neurons"]


# ----------------------------------------------------------------------------------------------------- surgery


def test_a_dead_head_or_neuron_can_go_without_changing_a_logit(model, data):
    for what in heads_of(model):
        silence(model, 1, what, 2)
        kept = every(model, what)
        kept[1].remove(2)
        heads, neurons = (kept, None) if what == "heads" else (None, kept)
        smaller = Checkpoint(surgery.keep_units(model.model, heads, neurons), model.tokenizer)
        assert getattr(surgery.shape_of(smaller.model), what)[1] == len(every(model, what)[1]) - 1
        assert np.abs(logits(smaller, data) - logits(model, data)).max() < 1e-6


def test_taking_units_out_is_what_zeroing_them_is(model, data):
    before = logits(model, data)
    for what in heads_of(model):
        kept = [units[::2] for units in every(model, what)]
        heads, neurons = (kept, None) if what == "heads" else (None, kept)
        smaller = Checkpoint(surgery.keep_units(model.model, heads, neurons), model.tokenizer)
        zeroed = model.copy()
        for place, units in enumerate(every(model, what)):
            for unit in set(units) - set(kept[place]):
                silence(zeroed, place, what, unit)
        assert np.abs(logits(smaller, data) - logits(zeroed, data)).max() < 1e-6
    assert (logits(model, data) == before).all()  # the model given stays as it was


def uneven(model: Checkpoint) -> Checkpoint:
    heads = [list(range(1 + place % 3)) for place in range(4)] if "heads" in heads_of(model) else None
    neurons = [list(range(8 * (1 + place))) for place in range(4)]
    return Checkpoint(surgery.keep_units(model.model, heads, neurons), model.tokenizer)


def test_an_uneven_shape_is_saved_loaded_and_goes_on_training(model, data, tmp_path):
    smaller = uneven(model)
    folder = smaller.save(tmp_path / "smaller")
    record = json.loads((folder / "shape.json").read_text())
    assert record["neurons"] == [8, 16, 24, 32]
    again = checkpoint.load(folder)
    assert surgery.shape_of(again.model) == surgery.shape_of(smaller.model)
    assert (logits(again, data) == logits(smaller, data)).all()
    assert again.parameters == smaller.parameters < model.parameters
    trained = finetune(again, Finetune(epochs=1, learning_rate=1e-3), data=data)
    assert surgery.shape_of(trained.model) == surgery.shape_of(smaller.model)
    taught = distill(again, Distill(epochs=1, imitate={"hidden_states": 1.0, "logits": 1.0}), data=data, teacher=model)
    assert surgery.shape_of(taught.model) == surgery.shape_of(smaller.model)
    assert surgery.shape_of(cut(again, [2, 4]).model).neurons == (16, 32)


def test_stock_transformers_loads_what_is_padded_and_answers_alike(model, data, tmp_path):
    smaller = uneven(model)
    folder = Checkpoint(surgery.pad(smaller.model), smaller.tokenizer).save(tmp_path / "padded")
    assert not (folder / "shape.json").exists()
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert np.abs(logits(Checkpoint(stock, model.tokenizer), data) - logits(smaller, data)).max() < 1e-5


def test_the_graph_of_an_uneven_shape_says_what_torch_says(model, data, tmp_path):
    smaller = uneven(model)
    path = export(smaller, tmp_path / "model.onnx")
    encoded = smaller.encode(data, "test")
    found = OnnxRuntime(path).answer(collate(encoded, list(range(len(encoded)))))
    assert np.abs(found - logits(smaller, data)).max() < 1e-5


def test_what_the_config_can_say_needs_no_record(bert, tmp_path):
    smaller = Checkpoint(surgery.keep_units(bert.model, None, [list(range(24))] * 4), bert.tokenizer)
    folder = smaller.save(tmp_path / "even")
    assert not (folder / "shape.json").exists()
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.intermediate_size == 24


@pytest.mark.parametrize(
    "record",
    [
        "{", "[]", '{"schema": 2}', '{"schema": 1, "heads": [1, 1, 1, 1]}',
        '{"schema": 1, "heads": [1, 1, 1], "neurons": [8, 8, 8]}',
        '{"schema": 1, "heads": [0, 1, 1, 1], "neurons": [8, 8, 8, 8]}',
        '{"schema": 1, "heads": [9, 1, 1, 1], "neurons": [8, 8, 8, 8]}',
        '{"schema": 1, "heads": [1, 1, 1, 1], "neurons": [8, 8, 8, 1000000000]}',
        '{"schema": 1, "heads": [true, 1, 1, 1], "neurons": [8, 8, 8, 8]}',
        '{"schema": 1, "heads": ["1", 1, 1, 1], "neurons": [8, 8, 8, 8]}',
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_true_is_refused(bert, tmp_path, record):
    folder = bert.save(tmp_path / "bert")
    (folder / "shape.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"shape\.json"):
        checkpoint.load(folder)


def test_a_record_that_the_weights_do_not_fit_is_refused(bert, tmp_path):
    folder = uneven(bert).save(tmp_path / "bert")
    record = json.loads((folder / "shape.json").read_text())
    (folder / "shape.json").write_text(json.dumps(record | {"neurons": [8, 8, 8, 8]}))
    with pytest.raises(CheckpointError, match="the weights lack"):
        checkpoint.load(folder)


# --------------------------------------------------------------------------------------------------- importance


@pytest.mark.parametrize("by", WAYS)
def test_a_dead_unit_is_the_least_important_by_every_measure(model, data, by):
    for what in heads_of(model):
        silence(model, 2, what, 1)
        found = measure(model, sites_of(model.model, [what]), by, data, range(24))
        assert int(found[2].scores.argmin()) == 1 and float(found[2].scores[1]) < 1e-6 * float(found[2].scores.max())


def test_the_derivatives_are_those_of_the_loss(bert, data):
    """Against finite differences: the loss of one example with one unit turned up and down a little."""
    sites = sites_of(bert.model, ["heads", "neurons"])
    rows = [3, 8]
    found = measure(bert, sites, "fisher", data, rows)
    encoded = bert.encode(data, "train").take(np.array(rows))

    def loss(example: int, site, unit: int, by: float) -> float:
        changed = bert.copy()
        twin = sites_of(changed.model, ["heads", "neurons"])[sites.index(site)]
        batch = tensors(collate(encoded, [example]), changed.model.device)
        with torch.no_grad():
            changed.model.double()
            twin.mixer.weight[:, twin.columns([unit])] *= 1 + by
            answers = changed.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return float(torch.nn.functional.cross_entropy(answers, batch["labels"]))

    lengths = bert.encode(data, "train").lengths[rows]
    order = np.argsort(-(-lengths // 4) * 4, kind="stable")  # the examples come in batches by length
    for number, unit in ((0, 1), (1, 5), (6, 3), (7, 40)):
        for place, example in enumerate(order):
            slope = (loss(example, sites[number], unit, 1e-4) - loss(example, sites[number], unit, -1e-4)) / 2e-4
            assert float(found[number].derivatives[place, unit]) == pytest.approx(slope, rel=1e-2, abs=1e-6)


def test_activations_are_norms_of_what_is_added(bert, data):
    (site,) = [site for site in sites_of(bert.model, ["heads"]) if site.place == 0]
    found = measure(bert, [site], "activations", data, range(6))[0].scores
    encoded = bert.encode(data, "train").take(np.arange(6))
    seen: list[torch.Tensor] = []
    hook = site.mixer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    batch = tensors(collate(encoded, list(range(6))), bert.model.device)
    with torch.no_grad():
        read(bert.model, batch)
    hook.remove()
    kept = seen[0][batch["attention_mask"].bool()]
    norms = []
    for head in range(site.units):
        columns = site.columns([head])
        norms.append(float((kept[:, columns] @ site.mixer.weight.detach()[:, columns].T).norm(dim=1).mean()))
    assert found.tolist() == pytest.approx((np.array(norms) / np.mean(norms)).tolist(), rel=1e-4)


# ----------------------------------------------------------------------------------------------------- choosing


def test_ranked_over_all_layers_the_highest_stay_wherever_they_are():
    scores = [torch.tensor([9.0, 8.0, 1.0, 2.0]), torch.tensor([7.0, 3.0, 4.0, 0.5])]
    kept = choose([Importance(layer) for layer in scores], 0.5, uniform=False, multiple=1)
    ranked = sorted(itertools.product(range(2), range(4)), key=lambda at: -float(scores[at[0]][at[1]]))
    assert {(place, unit) for place, units in enumerate(kept) for unit in units} == set(ranked[:4])


def test_uniform_keeps_the_same_number_everywhere():
    scores = [torch.rand(16) + place for place in range(3)]
    kept = choose([Importance(layer) for layer in scores], 0.25, uniform=True, multiple=4)
    assert [len(units) for units in kept] == [12, 12, 12]


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_numbers_are_multiples_near_what_was_asked_and_no_layer_is_emptied(share, uniform):
    scores = [torch.rand(64, generator=torch.Generator().manual_seed(place)) * 4**place for place in range(4)]
    kept = choose([Importance(layer) for layer in scores], share, uniform=uniform, multiple=8)
    sizes = [len(units) for units in kept]
    assert all(size % 8 == 0 and size >= 8 for size in sizes)
    assert abs(sum(sizes) - 256 * (1 - share)) <= 16 or sum(sizes) == 32
    assert all(units == sorted(set(units)) for units in kept)


def test_with_derivatives_units_that_stand_for_each_other_do_not_both_go():
    """Two units with opposite derivatives cancel when both go; two alike add up: found by trying every pair."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(200, 1, generator=generator)
    derivatives = torch.cat([base, base, -base * 0.9, 3 * torch.randn(200, 2, generator=generator)], 1)
    (kept,) = choose([Importance(derivatives.square().mean(0), derivatives)], 0.4, uniform=True, multiple=1)
    gone = set(range(5)) - set(kept)

    def cost(pair: tuple[int, ...]) -> float:
        return float(derivatives[:, list(pair)].sum(1).square().mean())

    assert gone == set(min(itertools.combinations(range(5), 2), key=cost))


# ---------------------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("by", WAYS)
def test_prune_takes_out_what_was_asked_of_every_family(model, data, by):
    words = {"neurons": 0.5, "by": by, "examples": 24, "multiple_of": 4}
    words |= {"heads": 0.25} if "heads" in heads_of(model) else {}
    smaller = prune(model, Prune(**words), data=data)
    shape = surgery.shape_of(smaller.model)
    assert sum(shape.neurons) == 128
    assert sum(shape.heads) == (12 if "heads" in words else 16)


def test_refitting_brings_the_answers_nearer_to_the_whole_ones(tmp_path, data):
    whole = load_tiny(tmp_path / "bert")
    words = {"heads": 0.5, "neurons": 0.5, "examples": 60}
    plain, fitted = (prune(whole, Prune(**words, reconstruct=on), data=data) for on in (False, True))
    expected = logits(whole, data)
    gaps = [np.abs(logits(found, data) - expected).mean() for found in (plain, fitted)]
    assert gaps[1] < 0.7 * gaps[0]


def test_refitting_a_whole_model_changes_nothing(tmp_path, data):
    whole = load_tiny(tmp_path / "bert")
    twin = whole.copy()
    refit(twin, whole, ["heads", "neurons"], data, range(40))
    assert np.abs(logits(twin, data) - logits(whole, data)).max() < 1e-4


def test_the_layer_that_does_nothing_goes(tmp_path, data):
    whole = load_tiny(tmp_path / "bert")
    before, layer = surgery.layers_of(whole.model)[:2]
    with torch.no_grad():  # a layer that only normalises what is normalised already
        for linear in (layer.attention.output.dense, layer.output.dense):
            linear.weight.zero_()
            linear.bias.zero_()
        for norm in (before.output.LayerNorm, layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight.fill_(1)
            norm.bias.zero_()
    smaller = prune(whole, Prune(layers=1, examples=40), data=data)
    states = whole.model.state_dict()
    for place, original in enumerate((0, 2, 3)):
        name = "bert.encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(smaller.model.state_dict()[name.format(place)], states[name.format(original)])


@pytest.mark.parametrize(
    ("family", "words", "said"),
    [
        ("albert", {"neurons": 0.5}, "prune.neurons: ALBERT's layers share one set of weights"),
        ("bert", {"layers": 4}, "prune.layers: 4 of 4 layers can't be taken out"),
    ],
)
def test_what_a_family_cannot_do_is_refused_with_the_reason(tmp_path, data, family, words, said):
    with pytest.raises(CheckpointError, match=said.split("(")[0]):
        prune(load_tiny(tmp_path / "tiny", family), Prune(**words), data=data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "say what to take out"),
        ({"heads": 1.0}, "less than 1"),
        ({"neurons": 0}, "greater than 0"),
        ({"heads": 0.5, "by": "luck"}, "known: magnitude, activations, taylor, fisher"),
    ],
)
def test_settings_that_make_no_sense_are_refused(recipe_file, words, said):
    with pytest.raises(RecipeError, match=said):
        load(recipe_file(steps=[{"prune": words}]))


def test_a_recipe_prunes_recovers_quantizes_and_ships(recipe_file, tmp_path, without_memory):
    steps = [
        {"distill": {"imitate": {"logits": 1.0}, "epochs": 1}},
        {"prune": {"heads": 0.25, "neurons": 0.5, "examples": 40}},
        {"distill": {"imitate": {"logits": 1.0}, "epochs": 1}},
        "quantize",
    ]
    recipe = recipe_file(steps=steps, ship=["transformers", "onnx"])
    done = CliRunner().invoke(main, ["run", str(recipe), "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = [(row["name"], row["format"]) for row in report["rows"]]
    assert rows[2:] == [
        ("1-distill", "transformers"), ("2-prune", "transformers"), ("3-distill", "transformers"),
        ("3-distill-padded", "transformers"), ("4-quantize", "onnx-fp32"), ("4-quantize", "onnx-int8"),
    ]  # fmt: skip
    sizes = {row["name"]: row["bytes"] for row in report["rows"] if row["format"] == "transformers"}
    assert sizes["2-prune"] < sizes["3-distill-padded"] <= sizes["1-distill"]
    assert {row["score"] for row in report["rows"] if row["name"].startswith("3-distill")} == {
        report["rows"][4]["score"]
    }
    shipped = tmp_path / "run" / "shipped"
    stock = AutoModelForSequenceClassification.from_pretrained(shipped / "transformers")
    assert [stock.config.id2label[i] for i in range(3)] == list(LABELS)
    verified = CliRunner().invoke(main, ["verify", str(shipped), "--rounds", "3"])
    assert "FAILS" not in verified.output or "latency" in verified.output, verified.output
    asked = CliRunner().invoke(main, ["predict", str(tmp_path / "run" / "3-distill"), "the coach and the team"])
    assert asked.exit_code == 0, asked.output
    measured = CliRunner().invoke(main, ["evaluate", str(shipped), "--recipe", str(recipe), "--json"])
    assert {(row["name"], row["format"]) for row in json.loads(measured.stdout)} >= {
        ("shipped/transformers", "transformers"), ("shipped/onnx", "onnx-int8"),
    }  # fmt: skip


def test_check_refuses_what_the_teachers_family_cannot_do(recipe_file, tmp_path):
    from conftest import save_tiny

    folder = save_tiny(tmp_path / "albert", "albert")
    recipe = recipe_file(
        teacher={"checkpoint": str(folder), "finetune": {"epochs": 1}}, steps=[{"prune": {"heads": 0.5}}]
    )
    done = CliRunner().invoke(main, ["check", str(recipe)])
    assert done.exit_code == 2 and "steps.0.prune.heads: ALBERT's layers share one set" in done.output


def test_check_refuses_to_take_every_layer(recipe_file):
    done = CliRunner().invoke(main, ["check", str(recipe_file(steps=[{"prune": {"layers": 2}}]))])
    assert done.exit_code == 2 and "steps.0.prune.layers: 2 of 2 layers" in done.output


def test_paths_of_a_layer_are_there(model):
    """The page of data is true to transformers' modules."""
    assert len(surgery.layers_of(model.model)) == 4
    assert surgery.shape_of(model.model) == surgery.Shape((4,) * 4, (64,) * 4)


@pytest.mark.parametrize("words", [{"heads": 0.99}, {"neurons": 0.99}, {"hidden_size": 0.99}])
def test_a_share_that_leaves_nothing_is_refused_in_python_too(bert, data, words):
    with pytest.raises(CheckpointError, match=f"prune.{next(iter(words))}: 0.99 of .* leaves nothing"):
        prune(bert, Prune(**words), data=data)


def test_a_share_of_the_hidden_size_that_rounds_to_none_is_told(bert, data, caplog):
    with caplog.at_level("WARNING"):
        same = prune(bert, Prune(hidden_size=0.05, examples=16), data=data)
    assert same.parameters == bert.parameters
    assert "prune.hidden_size: 0.05 of 32 dimensions rounds to none, as they go in steps of 8" in caplog.text


def test_a_checkpoint_of_fewer_digits_is_pruned_in_float32(bert, data):
    half = Checkpoint(bert.copy().model.to(torch.bfloat16), bert.tokenizer)
    pruned = prune(half, Prune(neurons=0.5, examples=16), data=data)
    assert pruned.model.dtype == torch.float32 and half.model.dtype == torch.bfloat16


def test_a_family_that_is_not_known_is_refused_before_its_vocabulary_is_trimmed(data):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    words = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("deberta-v2", **words))
    with pytest.raises(CheckpointError, match="nothing is known about the layers of model type 'deberta-v2'"):
        prune(Checkpoint(model.eval(), make_tokenizer()), Prune(vocabulary="used"), data=data)
