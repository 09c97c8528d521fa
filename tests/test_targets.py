"""Pruning to a target, and gradually: what is promised is what is counted, and what stays is worth most."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import load_tiny, make_tokenizer
from language_models import CAUSAL, save_language
from writers import build_writer, make_pairs

from distill import Distill, Prune, checkpoint, prune, surgery
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data import collate
from distill.errors import CheckpointError, RecipeError
from distill.losses import LOSSES
from distill.pruning import latency
from distill.pruning.compensation import moments, removal
from distill.pruning.costs import Costs, Curve, count, share_out
from distill.pruning.latency import MachineClock
from distill.pruning.sites import sites_of
from distill.recipe import load, to_yaml
from distill.recipe.settings import Target
from distill.signals import read, tensors

WAYS = ("magnitude", "activations", "taylor", "fisher")


class Sum:
    """A clock that adds up: a head takes 2 ms, a neuron 0.1 ms, the rest 5 ms; `drag` is what a table doesn't know."""

    def __init__(self, drag: float = 0.0) -> None:
        self.drag, self.asked = drag, 0

    def costs(self, model: Checkpoint) -> float:
        shape = surgery.shape_of(model.model)
        return 5 + 2 * sum(shape.heads) + 0.1 * sum(shape.neurons)

    def table(self, whole, now, sites, multiples):
        return Costs(
            "ms", self.costs(whole), 5.0, {"heads": Curve((0, 4), (0.0, 8.0)), "neurons": Curve((0, 64), (0.0, 6.4))}
        )

    def ratio(self, whole, pruned):
        self.asked += 1
        return (self.costs(pruned) + self.drag) / (self.costs(whole) + self.drag)


# ----------------------------------------------------------------------------------------------- what is worth what


def test_between_measured_widths_costs_are_on_a_line_and_go_on_beyond():
    assert Curve((2, 4, 8), (1.0, 3.0, 4.0)).at([2, 3, 6, 8, 12]).tolist() == [1.0, 2.0, 3.5, 4.0, 5.0]


def test_the_knapsack_is_that_of_trying_everything(bert):
    """Three sites with few choices: every combination within the budget is tried."""
    sites = sites_of(bert.model, ["heads", "neurons"])[:3]
    rng = np.random.default_rng(7)
    losses = [np.concatenate([[0], np.cumsum(np.sort(rng.random(site.units)) ** 2)]) for site in sites]
    curves = {"heads": Curve((1, 2, 4), (0.0, 3.0, 5.0)), "neurons": Curve((16, 32, 64), (0.0, 2.5, 9.0))}
    costs, multiples = Costs("ms", 30.0, 4.0, curves), {"heads": 1, "neurons": 16}
    ways = [range(1, 5) if site.what == "heads" else range(16, 65, 16) for site in sites]
    for budget in (4.0, 8.0, 13.0, 17.5, 23.0):
        found = share_out(sites, losses, costs, budget, multiples, uniform=False)
        assert costs.total(sites, found) <= budget + 1e-9

        def lost(numbers) -> float:
            return sum(loss[site.units - n] for site, loss, n in zip(sites, losses, numbers, strict=True))

        best = min(lost(way) for way in itertools.product(*ways) if costs.total(sites, way) <= budget)
        assert lost(found) == pytest.approx(best)
    assert share_out(sites, losses, costs, 3.9, multiples, uniform=False) is None


def test_parameters_and_bytes_of_units_are_counted_to_the_last(model):
    whats = ["neurons"] if model.model.config.model_type == "mpnet" else ["heads", "neurons"]
    sites = sites_of(model.model, whats)
    numbers = [2 if site.what == "heads" else 24 for site in sites]
    kept = {
        what: [list(range(n)) for site, n in zip(sites, numbers, strict=True) if site.what == what] for what in whats
    }
    smaller = Checkpoint(surgery.keep_units(model.model, kept.get("heads"), kept["neurons"]), model.tokenizer)
    for unit, each in (("parameters", 1), ("bytes", 4)):
        costs = count(model, sites, unit, 1.0)
        assert costs.total(sites, numbers) == each * smaller.parameters
        assert costs.total(sites, [site.units for site in sites]) == each * model.parameters


def test_what_a_refit_makes_up_for_is_what_least_squares_says(bert, data):
    """Against fits done one by one: the error, felt through G, of the best weights without each of the columns."""
    site = sites_of(bert.model, ["neurons"])[1]
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(300, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    inputs[:, 5] = inputs[:, 6] * 2  # one stands for the other
    slopes = torch.randn(50, 32, generator=generator)
    second, felt = inputs.T @ inputs / 300, slopes.T @ slopes / 50
    going, lost = removal(site, second.clone(), felt, 1)
    assert going[0] in (5, 6)
    weight = site.mixing.detach().double()
    ridge = 1e-2 * float(second.double().diagonal().mean()) * torch.eye(64, dtype=torch.float64)
    square = second.double() + ridge

    def best_without(gone: list[int]) -> float:
        kept = [i for i in range(64) if i not in gone]
        fitted = torch.zeros_like(weight)
        fitted[:, kept] = weight @ square[:, kept] @ torch.linalg.inv(square[kept][:, kept])
        change = weight - fitted
        return float(torch.trace(felt.double() @ change @ square @ change.T))

    for number in (1, 2, 10, 40):
        assert lost[number] == pytest.approx(best_without(going[:number]), rel=1e-4)
    second_best = min(best_without([going[0], other]) for other in range(64) if other != going[0])
    assert lost[2] == pytest.approx(second_best, rel=1e-4)


def test_the_moments_are_those_of_inputs_and_slopes(bert, data):
    sites = sites_of(bert.model, ["heads", "neurons"])
    found = moments(bert, sites, data, [2, 9, 11])
    encoded = bert.encode(data, "train").take(np.array([2, 9, 11]))
    batch = tensors(collate(encoded, [0, 1, 2]), bert.model.device)
    kept = []
    hook = sites[3].mixer.register_forward_hook(lambda _, given, made: kept.append((given[0], made)))
    loss = LOSSES["cross_entropy"](read(bert.model, batch).logits, batch["labels"]) * 3
    hook.remove()
    (slope,) = torch.autograd.grad(loss, [kept[0][1]])
    real = batch["attention_mask"].bool()
    given, slope = kept[0][0][real], slope[real]
    assert torch.allclose(found[3][0], given.T @ given / len(given), rtol=1e-3, atol=1e-5)
    assert torch.allclose(found[3][1], slope.T @ slope / 3, rtol=1e-3, atol=1e-7)


# ------------------------------------------------------------------------------------------------------- the target


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("uniform", [False, True])
def test_the_target_is_kept_and_hardly_more_than_it_is_given_away(bert, data, by, uniform):
    words = Prune(to={"latency": 0.6}, by=by, uniform=uniform, examples=24)
    smaller = prune(bert, words, data=data, clock=Sum())
    ratio = Sum().ratio(bert, smaller)
    assert 0.5 < ratio <= 0.6
    shape = surgery.shape_of(smaller.model)
    assert all(number % 8 == 0 for number in shape.neurons)
    assert not uniform or (len(set(shape.heads)) == 1 and len(set(shape.neurons)) == 1)


@pytest.mark.parametrize("by", ["magnitude", "activations"])
def test_heads_and_neurons_both_go_where_importance_knows_no_loss(bert, data, by):
    shape = surgery.shape_of(prune(bert, Prune(to={"parameters": 0.8}, by=by, examples=24), data=data).model)
    assert sum(shape.heads) < 16 and sum(shape.neurons) < 256


def test_where_the_table_promises_too_much_the_budget_is_tightened(bert, data):
    clock = Sum(drag=12.0)
    smaller = prune(bert, Prune(to={"latency": 0.6}, examples=24), data=data, clock=clock)
    assert Sum(drag=12.0).ratio(bert, smaller) <= 0.6
    assert 1 < clock.asked <= 5


@pytest.mark.parametrize("word", ["parameters", "size"])
def test_what_is_counted_is_within_the_target(model, data, word, tmp_path):
    smaller = prune(model, Prune(to={word: 0.7}, examples=24, multiple_of=4), data=data)
    folders = [found.save(tmp_path / name) for name, found in (("whole", model), ("smaller", smaller))]
    bytes_ = [(folder / "model.safetensors").stat().st_size for folder in folders]
    found = smaller.parameters / model.parameters if word == "parameters" else bytes_[1] / bytes_[0]
    assert 0.66 < found <= 0.7


def test_layers_and_vocabulary_count_towards_the_target(bert, data):
    words = Prune(to={"parameters": 0.4}, layers=2, vocabulary={"keep": "used"}, examples=24)
    smaller = prune(bert, words, data=data)
    assert len(surgery.layers_of(smaller.model)) == 2
    assert 0.36 < smaller.parameters / bert.parameters <= 0.4
    with pytest.raises(CheckpointError, match=r"size: 0\.2 can't be reached.* 0\.29\d is left, the nearest.*`layers`"):
        prune(bert, Prune(to={"size": 0.2}, examples=24), data=data)


def test_the_same_table_gives_the_same_checkpoint(bert, data):
    words = Prune(to={"latency": 0.5}, examples=24)
    one, other = (prune(bert, words, data=data, clock=Sum()).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_machine_has_a_table_of_its_own(tmp_path, data):
    """That it can be made and is whole; what it says is the machine's."""
    tiny = load_tiny(tmp_path / "tiny", num_hidden_layers=1, num_attention_heads=2)
    clock = MachineClock(Target(latency=0.5, batch=2, tokens=8), data, tmp_path, rounds=3)
    costs = clock.table(tiny, tiny, sites_of(tiny.model, ["heads"]), {"heads": 1})
    assert costs.curves["heads"].units == (1, 2)
    assert 0 == costs.curves["heads"].costs[0] <= costs.curves["heads"].costs[1]
    assert clock.ratio(tiny, tiny) > 0


@pytest.mark.parametrize("name", ["gpt2", "bart", "t5"])
def test_what_writes_is_timed_too(name, tmp_path, request):
    if name == "gpt2":
        data, tiny = (request.getfixturevalue(fixture) for fixture in ("causal", "gpt2"))
    else:
        sides = ("num_layers", "num_decoder_layers") if name == "t5" else ("encoder_layers", "decoder_layers")
        data = make_pairs()
        tiny = Checkpoint(build_writer(name, **dict.fromkeys(sides, 1)), make_tokenizer())  # an export is by layer
    clock = MachineClock(Target(latency=0.9, batch=1, tokens=8), data, tmp_path, rounds=3)
    costs = clock.table(tiny, tiny, sites_of(tiny.model, ["heads"]), {"heads": 2})
    assert costs.curves["heads"].units == (2, 4) and clock.ratio(tiny, tiny) > 0


def test_a_clock_that_is_kept_makes_a_table_and_the_graph_of_a_form_once(tmp_path, data, monkeypatch):
    tiny = load_tiny(tmp_path / "tiny", num_hidden_layers=2)
    exported = []

    def export(checkpoint: Checkpoint, path: Path) -> Path:
        exported.append(surgery.shape_of(checkpoint.model))
        return real(checkpoint, path)

    real = latency.export
    monkeypatch.setattr(latency, "export", export)
    clock = MachineClock(Target(latency=0.9, batch=2, tokens=8), data, tmp_path, rounds=3)
    sites, multiples = sites_of(tiny.model, ["heads", "neurons"]), {"heads": 2, "neurons": 32}  # two widths of each
    costs = clock.table(tiny, tiny.copy(), sites, multiples)
    made = len(exported)
    assert clock.table(tiny, tiny.copy(), sites, multiples) is costs
    clock.ratio(tiny, tiny.copy())
    assert len(exported) == made and exported.count(surgery.shape_of(tiny.model)) == 1
    smaller = surgery.keep_units(tiny.model, None, [list(range(16))] * 2)
    clock.ratio(tiny, Checkpoint(smaller, tiny.tokenizer))
    assert len(exported) == made + 1
    fewer = Checkpoint(smaller, tiny.tokenizer)
    assert clock.table(fewer, fewer, sites_of(smaller, ["heads"]), {"heads": 4}) is not costs


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_table_adds_up_where_the_last_layer_is_worked_out_for_one_position(layers, tmp_path, data, monkeypatch):
    """As in graphs of classifiers: timed alone, every layer would be the last one, and cost next to nothing."""
    tiny = load_tiny(tmp_path / "tiny", num_hidden_layers=layers)

    def spent(model: Checkpoint) -> float:
        shape = surgery.shape_of(model.model)
        shares = [1.0] * (len(shape.heads) - 1) + [0.05]
        rest = 5 + len(shape.heads)
        return rest + sum(
            share * (2 * h + 0.1 * n) for share, h, n in zip(shares, shape.heads, shape.neurons, strict=True)
        )

    monkeypatch.setattr(MachineClock, "_time", lambda _, models: [spent(model) for model in models])
    clock = MachineClock(Target(latency=0.5, batch=2, tokens=8), data, tmp_path)
    sites, multiples = sites_of(tiny.model, ["heads", "neurons"]), {"heads": 1, "neurons": 8}
    costs = clock.table(tiny, tiny, sites, multiples)
    rng = np.random.default_rng(layers)
    for _ in range(5):
        numbers = [int(rng.integers(multiples[site.what], site.units + 1)) for site in sites]
        kept = {what: [n for site, n in zip(sites, numbers, strict=True) if site.what == what] for what in multiples}
        kept = {what: [list(range(n)) for n in found] for what, found in kept.items()}
        smaller = Checkpoint(surgery.keep_units(tiny.model, kept["heads"], kept["neurons"]), tiny.tokenizer)
        assert costs.total(sites, numbers) == pytest.approx(spent(smaller))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"to": {"latency": 0.5, "size": 0.5}}, "exactly one of"),
        ({"to": {"batch": 8}}, "exactly one of"),
        ({"to": {"latency": 1.0}}, "less than 1"),
        ({"to": {"size": 0.5, "tokens": 8}}, "say how latency is measured"),
        ({"to": {"latency": 0.5}, "neurons": 0.5}, "`to` decides how many heads and neurons go"),
        ({"vocabulary": "used", "gradually": {"rounds": 2}}, "needs something that goes bit by bit"),
        ({"heads": 0.5, "gradually": {"rounds": 1}}, "greater than or equal to 2"),
        ({"to": {"size": 0.4}, "vocabulary": "used", "gradually": {}}, "put `vocabulary` into a `prune` step"),
    ],
)
def test_words_that_make_no_sense_are_refused(recipe_file, words, said):
    with pytest.raises(RecipeError, match=said):
        load(recipe_file(steps=[{"prune": words}]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"heads": 0.95}, "steps.0.prune.heads: 0.95 of 4 heads a layer leaves nothing"),
        ({"neurons": 0.99}, "steps.0.prune.neurons: 0.99 of 64 neurons a layer leaves nothing"),
        ({"hidden_size": 0.9}, "steps.0.prune.hidden_size: 0.9 of 32 dimensions leaves nothing, but 8 stay at least"),
        (
            {"to": {"latency": 0.5, "tokens": 65}},
            "steps.0.prune.to.tokens: 65 tokens, but the student has 64 positions",
        ),
    ],
)
def test_check_refuses_to_take_everything(recipe_file, words, said):
    done = CliRunner().invoke(main, ["check", str(recipe_file(steps=[{"prune": words}]))])
    assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize(
    ("family", "changed", "words", "said"),
    [
        ("gpt2", {}, {"embeddings": 8}, "steps.0.prune.embeddings: the head of a causal-language-modelling is tied"),
        ("llama", {}, {"heads": 0.9}, "0.9 of 4 heads a layer leaves nothing, but each layer keeps 2 at least"),
        ("llama", {"num_key_value_heads": 3}, {"heads": 0.25}, "steps.0.prune: the config of this llama says 4 heads"),
    ],
)
def test_check_refuses_what_a_decoder_can_not_lose(family, changed, words, said, corpus, tmp_path):
    folder = save_language(tmp_path / family, family)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changed}))
    recipe = {
        "task": CAUSAL, "teacher": {"checkpoint": str(folder)}, "student": {"layers": 1},
        "data": {"source": {"path": str(corpus), "row": "line"}, "max_length": 24}, "steps": [{"prune": words}],
        "track": {"wandb": "off", "energy": False},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = CliRunner().invoke(main, ["check", str(tmp_path / "recipe.yaml")])
    assert done.exit_code == 2 and said in done.output.replace("\n", " "), done.output


def test_a_share_that_rounds_to_nothing_is_warned_of(bert, data, caplog):
    same = prune(bert, Prune(heads=0.1, uniform=True, examples=8), data=data)
    assert same.parameters == bert.parameters
    assert "prune.heads: 0.1 of them rounds to none" in caplog.text


# -------------------------------------------------------------------------------------------------------- gradually


def test_rounds_take_what_the_schedule_says_of_the_whole():
    words = Prune(heads=0.5, neurons=0.8, layers=2, vocabulary={"keep": "used"}, gradually={"rounds": 4})
    steps = words.rounds()
    assert [type(step) for step in steps] == [Prune, Distill] * 4
    for what, share in (("heads", 0.5), ("neurons", 0.8)):
        left = np.cumprod([1 - getattr(step, what) for step in steps[::2]])
        assert left == pytest.approx([1 - share * (1 - (1 - k / 4) ** 3) for k in (1, 2, 3, 4)], abs=1e-5)
    assert sum(step.layers or 0 for step in steps[::2]) == 2 and max(step.layers or 0 for step in steps[::2]) == 1
    assert [step.vocabulary is None for step in steps[::2]] == [False, True, True, True]
    even = Prune(to={"latency": 0.4}, gradually={"rounds": 3, "schedule": "linear"}).rounds()[::2]
    assert np.cumprod([step.to.share for step in even]) == pytest.approx([0.8, 0.6, 0.4], abs=1e-5)


@pytest.mark.parametrize("words", [{"heads": 0.1}, {"to": {"size": 0.9}}])
def test_rounds_in_which_next_to_nothing_goes_are_left_out(words):
    steps = Prune(**words, gradually={"rounds": 100}).rounds()
    assert len(steps) == 2 * 99  # by the cubic schedule the last round has a millionth to take
    assert all(step.to is None or step.to.share < 1 for step in steps[::2])


def test_a_recipe_writes_rounds_out_and_reads_back_the_same(recipe_file, tmp_path):
    steps = [
        {"prune": {"neurons": 0.5, "heads": 0.25, "gradually": {"rounds": 2, "distill": {"epochs": 1}}}},
        "quantize",
    ]
    recipe = load(recipe_file(steps=steps))
    assert [step.kind for step in recipe.steps] == ["prune", "distill", "prune", "distill", "quantize"]
    (tmp_path / "written.yaml").write_text(to_yaml(recipe))
    assert load(tmp_path / "written.yaml") == recipe


def test_a_run_prunes_gradually(recipe_file, tmp_path, without_memory):
    gradually = {"rounds": 2, "distill": {"imitate": {"logits": 1.0}, "epochs": 1}}
    steps = [{"prune": {"neurons": 0.5, "heads": 0.5, "examples": 24, "gradually": gradually}}]
    recipe = recipe_file(steps=steps)
    told = CliRunner().invoke(main, ["check", str(recipe)])
    assert "step 1-prune: heads 0.4375, neurons 0.4375" in told.output and "4-distill" in told.output
    done = CliRunner().invoke(main, ["run", str(recipe), "--smoke", "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    names = [row["name"] for row in json.loads((tmp_path / "run" / "report.json").read_text())["rows"]]
    assert names == ["teacher", "1-prune", "2-distill", "3-prune", "4-distill"]
    shape = surgery.shape_of(checkpoint.load(tmp_path / "run" / "4-distill").model)
    assert (sum(shape.heads), sum(shape.neurons)) == (4, 64)


def test_a_step_alone_does_not_go_gradually(bert, data):
    with pytest.raises(CheckpointError, match=r"prune\.gradually.*rounds\(\)"):
        prune(bert, Prune(heads=0.5, gradually={"rounds": 2}), data=data)
