"""What distillation bought: controls and seeds beside a recipe's own chain, and the gain with its interval."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import LABELS, load_tiny
from made_reports import make_report
from scipy import stats

from distill import checkpoint, preflight, prune, student
from distill.cli import main
from distill.errors import RecipeError
from distill.evaluation import measure_gain
from distill.recipe import Finetune, Prune, load, to_yaml
from distill.recipe.arms import Arm, arms_of, seeds_of
from distill.report.controls import in_words, markdown
from distill.report.page import page
from distill.tasks import TASKS, TextClassification
from distill.tracking import findings
from distill.verification.controls import check_controls

TRAIN = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "dtype": "float32"}
STEPS = [{"distill": {"imitate": {"logits": 1.0}, **TRAIN}}, {"prune": {"neurons": 0.5, "examples": 16}}]
TASK = TextClassification("single_label_classification", LABELS, "accuracy")


def command(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def told(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


# ------------------------------------------------------------------------------------------------ what a recipe says


def test_seeds_are_counted_from_the_recipes_own_or_listed(recipe_file):
    assert seeds_of(load(recipe_file(seed=7))) == [7]
    assert seeds_of(load(recipe_file(seed=7, seeds=3))) == [7, 8, 9]
    assert seeds_of(load(recipe_file(seed=7, seeds=[3, 1]))) == [3, 1]


def test_a_recipe_without_these_words_has_no_arms_and_is_written_as_before(recipe_file):
    recipe = load(recipe_file())
    assert arms_of(recipe) == []
    assert "control" not in to_yaml(recipe) and "seeds" not in to_yaml(recipe)


def test_arms_are_the_other_seeds_and_every_control_at_every_seed(recipe_file):
    recipe = load(recipe_file(control=["finetune", "random-init"], seeds=2))
    names = ["recipe-1", "finetune-0", "finetune-1", "random-init-0", "random-init-1"]
    assert [arm.name for arm in arms_of(recipe)] == names
    assert load(recipe_file(control="finetune")).control == ["finetune"]


def test_the_finetune_arm_has_the_same_budget_and_no_teacher(recipe_file):
    words = {
        "epochs": 2.5,
        "max_steps": 9,
        "batch_size": 3,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "dropout": 0.2,
    }
    words |= {"simulate": "int8", "freeze": ["embeddings"], "accumulate": 2, "dtype": "float32", "patience": 1}
    steps = [{"distill": {"imitate": {"logits": 1.0}, **words}}, *STEPS[1:]]
    recipe = load(recipe_file(steps=steps, control="finetune"))
    (first, trained), (second, pruned) = Arm(0, "finetune").steps(recipe)
    assert (first, second) == ("1-finetune", "2-prune")
    assert trained.settings == Finetune(**words)
    assert pruned == recipe.steps[1]


def test_the_finetune_arm_takes_as_many_steps_where_the_teacher_labels_more_rows(recipe_file):
    train = {**TRAIN, "epochs": 2, "patience": 2}
    recipe = load(recipe_file(control=["finetune", "random-init"], steps=[{"distill": train}, {"finetune": TRAIN}]))
    ((_, first), (_, second)) = Arm(0, "finetune").steps(recipe, growth=lambda _: 2.3)
    assert (first.finetune.epochs, first.finetune.patience) == (pytest.approx(4.6), 5)
    assert second.finetune.epochs == 1  # it has no extra rows in the recipe either
    assert Arm(0, "random-init").steps(recipe, growth=lambda _: 2.3) == Arm(0).steps(recipe)


def test_the_random_init_arm_carries_the_steps_out_as_they_are(recipe_file):
    recipe = load(recipe_file(steps=[*STEPS, "quantize"], control="random-init"))
    assert [step for _, step in Arm(0, "random-init").steps(recipe)] == recipe.steps[:-1]  # but for `quantize`


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"control": "finetune", "steps": [{"finetune": {}}]}, "control: no step is a `distill`"),
        ({"control": ["finetune", "finetune"]}, "control: names one twice"),
        ({"control": []}, "control: .*holds at least 1"),
        ({"control": "finetun"}, "did you mean 'finetune'"),
        ({"control": "random-init", "student": {"config": {"model_type": "bert"}}}, "has random weights anyway"),
        ({"seeds": 0}, "seeds: .*greater than or equal to 1"),
        ({"seeds": [1, 1]}, "seeds: names one twice"),
        ({"seeds": 2, "steps": [{"prune": {"neurons": 0.5}}]}, "seeds: no step trains"),
        ({"seeds": 2, "seed": 2**32 - 1}, "seeds: 2 seeds from"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(recipe_file, sections, why):
    with pytest.raises(RecipeError) as refused:
        load(recipe_file(**sections))
    assert re.search(why, "\n".join(refused.value.problems)), refused.value.problems


def test_check_tells_the_arms_and_what_they_cost(recipe_file):
    steps = [{"distill": {"imitate": {"logits": 1.0}, "freeze": ["embeddings"], "epochs": 2}}]
    done = command("check", recipe_file(steps=steps, control=["finetune", "random-init"], seeds=2))
    assert done.exit_code == 0, done.output
    assert "5 more chains (recipe-1, finetune-0, finetune-1, random-init-0, random-init-1)" in done.output
    assert "with 5 trainings, up to 10 epochs over 72 texts beside the recipe's own 2" in done.output
    assert "in the control random-init embeddings stay random" in done.output
    assert "arm finetune-1: student, 1-finetune" in done.output
    assert not any("more chain" in note for note in preflight.prepare(load(recipe_file(steps=steps))).notes)


# ------------------------------------------------------------------------------------------------------ random weights


def test_random_weights_have_the_students_shape_and_hang_on_the_seed_alone(tmp_path, data):
    pruned = prune(load_tiny(tmp_path / "tiny"), Prune(neurons=0.5, heads=0.25, examples=16), data=data)
    once, again, other = (student.from_random(pruned, seed=seed) for seed in (3, 3, 4))
    shapes = {name: tensor.shape for name, tensor in pruned.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in once.model.state_dict().items()} == shapes
    for name, tensor in once.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
        if name.endswith("dense.weight"):
            assert not torch.equal(tensor, other.model.state_dict()[name])
            assert not torch.equal(tensor, pruned.model.state_dict()[name])
    loaded = checkpoint.load(once.save(tmp_path / "random"))
    assert loaded.labels == list(LABELS)


# ------------------------------------------------------------------------------------------------------------ the gain


def answers(labels: np.ndarray, right: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < right, labels, (labels + 1) % 3)


def test_the_gain_is_the_mean_difference_and_nothing_where_both_say_the_same():
    labels = np.arange(300) % 3
    ours, theirs = (
        [answers(labels, right, seed) for seed in seeds] for right, seeds in ((0.9, (1, 2, 5)), (0.7, (3, 4, 6)))
    )
    gain = measure_gain(ours, theirs, labels, TASK)
    each = [(one == labels).mean() - (other == labels).mean() for one, other in zip(ours, theirs, strict=True)]
    assert gain.each == pytest.approx(each) and gain.value == pytest.approx(np.mean(each))
    assert gain.interval[0] < gain.value < gain.interval[1] and gain.is_sure
    same = measure_gain(ours, ours, labels, TASK)
    assert same.value == 0 and same.interval == (0, 0) and not same.is_sure


def test_of_one_seed_the_interval_is_that_of_the_paired_difference():
    """Against the normal approximation, worked out from the texts on which the two differ."""
    labels = np.arange(600) % 3
    ours, theirs = answers(labels, 0.85, 1), answers(labels, 0.8, 2)
    gain = measure_gain([ours], [theirs], labels, TASK)
    apart = (ours == labels).astype(float) - (theirs == labels)
    half = 1.96 * apart.std() / np.sqrt(len(labels))
    assert gain.interval == pytest.approx((apart.mean() - half, apart.mean() + half), abs=0.006)


def test_what_seeds_differ_by_widens_the_interval_as_it_does_a_mean():
    """All texts are alike, so that seeds alone differ: the interval is Student's, of a mean of S."""
    labels, shares = np.zeros(2000, int), np.array([0.6, 0.7, 0.8, 0.9])
    ours = [np.where(np.arange(2000) % 10 < 10 * share, 0, 1) for share in shares]
    theirs = [np.ones(2000, int)] * 4
    gain = measure_gain(ours, theirs, labels, TASK)
    half = stats.t.ppf(0.975, 3) * shares.std(ddof=1) / np.sqrt(4)
    assert gain.value == pytest.approx(0.75)
    assert gain.interval[1] - gain.interval[0] == pytest.approx(2 * half, rel=0.2)


def test_where_less_is_better_a_gain_is_less():
    task = TASKS["causal-language-modelling"]("causal_language_modelling", (), "perplexity")
    rows = np.stack([np.full(40, 200.0), np.full(40, 100.0), np.full(40, 400.0), np.full(40, 30.0)], axis=1)
    worse = rows * np.array([1.2, 1, 1, 1])
    gain = measure_gain([rows], [worse], rows, task)
    assert gain.value == pytest.approx(np.exp(2.4) - np.exp(2.0)) and gain.is_sure


# ------------------------------------------------------------------------------------------------------- what is said


def made(gain: float, interval: tuple[float, float], seeds: int = 3, metric: str = "accuracy", over="finetune") -> dict:
    scores = [[0.8 + 0.01 * seed + up for seed in range(seeds)] for up in (gain, 0)]
    arms = [
        {"arm": name, "scores": found, "mean": float(np.mean(found)), "seconds": 90.0, "kwh": None,
         "spread": float(np.std(found, ddof=1)) if seeds > 1 else None}
        for name, found in zip(("recipe", over), scores, strict=True)
    ]  # fmt: skip
    told = {"metric": metric, "n": 447, "seeds": list(range(seeds)), "start": "layers", "arms": arms}
    told["gains"] = [{"over": over, "gain": gain, "interval": list(interval), "each": [gain] * seeds}]
    return told | {"in_words": in_words(told)}


def test_one_sentence_says_what_distillation_bought():
    assert made(0.018, (0.004, 0.031))["in_words"][0] == (
        "Distillation bought +1.8 points of accuracy over the same student without its teacher (95 % interval 0.4 to "
        "3.1, 3 seeds, 447 texts)."
    )
    assert made(0.003, (-0.009, 0.015), seeds=1)["in_words"] == [
        "Distillation made no difference that can be told from chance: +0.3 points of accuracy against the same "
        "student without its teacher (95 % interval −0.9 to 1.5, which holds zero; 1 seed, 447 texts)."
    ]
    assert made(-0.02, (-0.03, -0.01), over="random-init")["in_words"][0].startswith(
        "Starting from the teacher’s layers cost 2.0 points of accuracy against the same distillation from random"
    )
    assert "bought 3.10 less perplexity over" in made(3.1, (1.0, 5.0), metric="perplexity")["in_words"][0]
    assert "cost 3.10 more perplexity against" in made(-3.1, (-5.0, -1.0), metric="perplexity")["in_words"][0]
    assert "+2.5 points of chrf" in made(2.5, (1.0, 4.0), metric="chrf")["in_words"][0]


@pytest.mark.parametrize("seeds", [1, 3])
def test_pages_tables_and_summary_tell_it(seeds):
    report, _ = make_report()
    controls = made(0.018, (0.004, 0.031), seeds)
    shown = page({**report, "controls": controls})
    assert "What distillation bought" in shown and "bought +1.8 points of accuracy" in shown
    assert "What distillation bought" not in page(report)
    lines = "\n".join(markdown(controls))
    assert controls["in_words"][0] in lines and ("`seeds: 3` puts it in" in lines) == (seeds == 1)
    found = findings.read({**report, "controls": controls})
    assert found["summary"]["gain_over_finetune"] == 0.018 and found["summary"]["gain_over_finetune_low"] == 0.004
    assert len(found["tables"]["controls"]["data"]) == 2 * seeds and controls["in_words"][0] in found["notes"]
    assert "controls" not in findings.read(report)["tables"]


# ------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_with_controls_and_seeds_ships_the_first_seeds_student_and_proves_what_it_says(
    recipe_file, headed, tmp_path, without_memory
):
    sections = {"teacher": {"checkpoint": str(headed)}, "steps": STEPS, "seed": 5}
    plain = tmp_path / "plain"
    assert command("run", recipe_file(**sections), "--output", plain).exit_code == 0
    folder, more = tmp_path / "run", {"control": ["finetune", "random-init"], "seeds": 2, "ship": ["transformers"]}
    done = command("run", recipe_file(**sections, **more), "--output", folder)
    assert done.exit_code == 0, done.output
    report, before = told(folder), told(plain)
    assert "controls" not in before
    assert [row["score"] for row in report["rows"] if "padded" not in row["name"]] == [
        r["score"] for r in before["rows"]
    ]
    own = [step for step in report["steps"] if "/" not in step["name"] and "padded" not in step["name"]]
    assert [step["key"] for step in own] == [step["key"] for step in before["steps"]]  # nothing was trained again
    assert all(step["reused"] for step in own)
    controls = report["controls"]
    assert [arm["arm"] for arm in controls["arms"]] == ["recipe", "finetune", "random-init"]
    assert controls["seeds"] == [5, 6] and [gain["over"] for gain in controls["gains"]] == ["finetune", "random-init"]
    assert controls["arms"][0]["scores"][0] == next(r["score"] for r in report["rows"] if r["name"] == "2-prune")
    assert controls["in_words"][0] in " ".join(done.output.split())
    assert [log["step"] for log in report["training"]] == ["1-distill"]
    keys = [step["key"] for step in report["steps"]]
    # the fine-tuned arms start where the recipe's own do; everything else is a piece of its own
    assert len(keys) - len(set(keys)) == 2
    with np.load(folder / "predictions.npz", allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    assert check_controls(TASK, controls, arrays) == []
    checked = command("verify", folder / "shipped", "--quick")
    assert checked.exit_code == 0 and "FAILS" not in checked.output, checked.output
    _finds_what_is_false(controls, arrays)
    status = command("status", folder)
    assert "random-init-6/1-distill" in status.output and "waiting" not in status.output


def _finds_what_is_false(controls: dict, arrays: dict[str, np.ndarray]) -> None:
    gains = [{**controls["gains"][0], "gain": controls["gains"][0]["gain"] + 0.1}, controls["gains"][1]]
    names = [finding.name for finding in check_controls(TASK, {**controls, "gains": gains}, arrays)]
    assert names[0] == "gain over finetune"
    words = {**controls, "in_words": ["Distillation bought +99 points."]}
    assert "sentences" in check_controls(TASK, words, arrays)[0].why
    absent = {name: array for name, array in arrays.items() if name != "arm.finetune.6"}
    assert "arm.finetune.6" in check_controls(TASK, controls, absent)[0].why
    flipped = arrays | {"arm.finetune.6": arrays["labels"]}
    assert "scores of finetune" in [finding.name for finding in check_controls(TASK, controls, flipped)]


def test_a_run_that_stops_within_an_arm_goes_on_there(recipe_file, headed, tmp_path, without_memory, monkeypatch):
    from distill.pipeline.pieces import Bench

    recipe, folder = (
        recipe_file(teacher={"checkpoint": str(headed)}, steps=STEPS[:1], control="finetune"),
        tmp_path / "run",
    )
    whole = Bench.trained

    def stopping(self, name, *given, **words):
        if name.startswith("finetune-0/"):
            raise KeyboardInterrupt
        return whole(self, name, *given, **words)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "trained", stopping)
        assert command("run", recipe, "--output", folder).exit_code == 130
    state = json.loads((folder / "run.json").read_text())
    standing = {stage["name"]: stage["standing"] for stage in state["stages"]}
    assert standing["1-distill"] == "done" and standing["finetune-0/1-finetune"] == "stopped"
    left = folder / "controls" / "finetune-0" / ".1-finetune-123"  # of a process that was killed while it linked
    left.mkdir(parents=True)
    assert command("run", recipe, "--output", folder).exit_code == 0
    report = told(folder)
    assert {s["name"]: s["reused"] for s in report["steps"]} == {
        "student": True, "1-distill": True, "finetune-0/student": True, "finetune-0/1-finetune": False,
    }  # fmt: skip
    assert report["controls"]["arms"][1]["spread"] is None and not left.exists()


def test_a_smoke_run_has_two_seeds_at_most(recipe_file):
    from distill.pipeline import sliver

    assert seeds_of(sliver(load(recipe_file(seeds=5)))) == [0, 1]
    assert sliver(load(recipe_file())).seeds is None


def test_another_seed_changes_the_students_keys_and_nothing_of_the_splits(recipe_file):
    from distill.pipeline.pieces import Bench

    plan = preflight.prepare(load(recipe_file(seed=3)))
    bench = Bench(plan, None, None, print)
    assert bench.seeded(3) is bench
    other = bench.seeded(4)
    assert other.facts("distill")["seed"] == 4 and other.plan.data.seed == 4
    assert other.plan.data.fingerprint == plan.data.fingerprint
    assert bench.facts("distill") == Bench(plan, None, None, print).facts("distill") and plan.data.seed == 3
