"""`distill sweep`: from a recipe with open settings to W&B's sweep file, and from there to an agent's command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from distill.cli.sweep import sweep as command
from distill.errors import RecipeError
from distill.recipe import load
from distill.tracking.sweep import sweep

RECIPE = """\
task: text-classification
teacher: {checkpoint: /teachers/bert}
student:
  layers: {choose: [2, 3]}
  choose: {choose: [even, first]}
data: {source: rows.csv}
steps:
  - distill:
      imitate:
        logits: {choose: [0.5, 1.0]}
        hidden_states: {weight: {between: [0.1, 2.0]}}
      temperature: {between: [1.0, 8.0]}
      learning_rate: {between: [1.0e-5, 1.0e-3]}
      batch_size: {between: [8, 64]}
      dropout: 0
"""
ONE = RECIPE[: RECIPE.index("steps:")].replace("{choose: [2, 3]}", "2").replace("{choose: [even, first]}", "even")


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(RECIPE)
    return tmp_path / "my.yaml"


def one_open(tmp_path: Path, word: str) -> Path:
    """A recipe with one thing in its step's settings."""
    path = tmp_path / "my.yaml"
    path.write_text(f"{ONE}steps:\n  - distill:\n      imitate: {{logits: 1.0}}\n      {word}\n")
    return path


def told(path: Path, **words: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        sweep(path, **words)
    return [problem.replace(str(path), path.name) for problem in caught.value.problems]


def test_each_open_setting_becomes_a_parameter_of_its_kind(recipe):
    made = sweep(recipe)
    assert made["parameters"] == {
        "student.layers": {"values": [2, 3]},
        "student.choose": {"values": ["even", "first"]},
        "steps.0.distill.imitate.logits": {"values": [0.5, 1.0]},
        "steps.0.distill.imitate.hidden_states.weight": {"distribution": "uniform", "min": 0.1, "max": 2.0},
        "steps.0.distill.temperature": {"distribution": "uniform", "min": 1.0, "max": 8.0},
        "steps.0.distill.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "steps.0.distill.batch_size": {"distribution": "int_uniform", "min": 8, "max": 64},
    }
    assert made["method"] == "bayes"
    assert made["metric"] == {"name": "retained", "goal": "maximize"}
    assert (made["name"], made["program"], made["project"]) == ("my", "distill", "distill")
    assert made["command"] == ["${env}", "distill", "run", "my.yaml", "${args_no_hyphens}"]


@pytest.mark.parametrize("metric", ["size", "parameters", "latency_vs_eager", "latency_same_engine"])
def test_what_should_be_small_is_minimised(recipe, metric):
    assert sweep(recipe, metric=metric)["metric"] == {"name": metric, "goal": "minimize"}


@pytest.mark.parametrize(
    ("task", "goal"), [("causal-language-modelling", "minimize"), ("text-classification", "maximize")]
)
def test_a_score_rises_or_falls_as_its_own_metric_does(tmp_path, task, goal):
    path = tmp_path / "my.yaml"
    path.write_text(
        f"task: {task}\nteacher: {{checkpoint: /t}}\nstudent: {{layers: 1}}\ndata: {{source: rows.csv}}\n"
        "steps: [{distill: {epochs: {choose: [1, 2]}}}]\n"
    )
    assert sweep(path, metric="score")["metric"] == {"name": "score", "goal": goal}


def test_lists_alone_are_searched_as_a_grid(tmp_path):
    path = one_open(tmp_path, "epochs: {choose: [1, 2]}")
    assert sweep(path)["method"] == "grid"
    assert sweep(path, method="random")["method"] == "random"


def test_project_and_team_are_the_recipes_unless_said(tmp_path):
    path = one_open(tmp_path, "epochs: {choose: [1, 2]}")
    path.write_text(path.read_text() + "track: {project: ours, entity: team}\n")
    assert (sweep(path)["project"], sweep(path)["entity"]) == ("ours", "team")
    assert sweep(path, project="theirs")["project"] == "theirs"


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("epochs: {choose: []}", "my.yaml:10: steps.0.distill.epochs: {choose: […]} takes a list of values"),
        ("epochs: {choose: 3}", "my.yaml:10: steps.0.distill.epochs: {choose: […]} takes a list of values"),
        ("epochs: {choose: [1, 1.0]}", "my.yaml:10: steps.0.distill.epochs: {choose: […]} names a value twice"),
        ("epochs: {between: [3]}", "my.yaml:10: steps.0.distill.epochs: {between: [low, high]} takes two numbers"),
        ("epochs: {between: [3, 1]}", "my.yaml:10: steps.0.distill.epochs: {between: [low, high]} takes two numbers"),
        ("epochs: {between: [a, b]}", "my.yaml:10: steps.0.distill.epochs: {between: [low, high]} takes two numbers"),
        ("epochs: {between: [1, .inf]}", "my.yaml:10: steps.0.distill.epochs: {between: [low, high]} takes two"),
        ("epochs: {between: 3}", "my.yaml:10: steps.0.distill.epochs: {between: [low, high]} takes two numbers"),
        (
            "epochs: {between: [true, 3]}",
            "my.yaml:10: steps.0.distill.epochs: {between: [low, high]} takes two numbers",
        ),
        ("epochs: {choose: [1, -1]}", "my.yaml:10: steps.0.distill.epochs: this should be greater than 0, not -1"),
        ("learning_rate: {between: [0.1, 1.5]}", "steps.0.distill.learning_rate: this should be less than 1, not 1.5"),
        ("batch_size: {between: [8.0, 64.0]}", "steps.0.distill.batch_size: this should be a valid integer"),
        ("dropout: {choose: [null, 0.1]}", 'steps.0.distill.dropout: this should be a valid number, not "None"'),
        ("schedule: {choose: [linear, cosin]}", "did you mean 'cosine'? (known: linear, cosine, constant)"),
        ("epoch: {choose: [1, 2]}", "my.yaml:10: steps.0.distill.epoch: no such setting; did you mean 'epochs'?"),
        ("epochs: {choose: [{choose: [1]}]}", "steps.0.distill.epochs: {choose: …} is for 'distill sweep'"),
    ],
)
def test_every_value_must_give_a_recipe(tmp_path, word, expected):
    assert expected in told(one_open(tmp_path, word))[0]


def test_every_combination_is_tried(tmp_path):
    """Each value is right by itself, and so are three of the four pairs."""
    path = one_open(tmp_path, "epochs: 1")
    text = path.read_text().replace("layers: 2", "layers: {choose: [2, [1, 2]]}")
    path.write_text(text + "ship: {choose: [[transformers], [onnx]]}\n")
    (problem,) = told(path)
    assert "ship: onnx needs a graph" in problem
    assert "(tried: student.layers=2, ship=['onnx'])" in problem


def test_every_problem_is_told_at_once(tmp_path):
    path = one_open(tmp_path, "epochs: {choose: []}\n      warmup: {between: [1, 0]}")
    assert [problem.split(":")[1] for problem in told(path)] == ["10", "11"]


def test_nothing_open_nothing_to_sweep(tmp_path):
    (problem,) = told(one_open(tmp_path, "epochs: 1"))
    assert problem.startswith("my.yaml: nothing to sweep over; write {choose: [a, b]} or {between: [low, high]}")


def test_a_grid_takes_lists_only(recipe):
    (problem,) = told(recipe, method="grid")
    assert "--method grid: tries lists of values only" in problem


def test_an_unknown_metric_gets_the_nearest(recipe):
    (problem,) = told(recipe, metric="retaind")
    assert "did you mean 'retained'?" in problem


@pytest.mark.parametrize("word", ["off", "offline"])
def test_a_sweep_needs_wandb(tmp_path, word):
    path = one_open(tmp_path, "epochs: {choose: [1, 2]}")
    path.write_text(path.read_text() + f"track: {{wandb: {word}}}\n")
    assert f"track.wandb: {word}; a sweep is led by W&B" in told(path)[0]


# ------------------------------------------------------------------------------------- reading an open recipe


def test_an_open_recipe_is_not_run_as_it_is(recipe):
    with pytest.raises(RecipeError) as caught:
        load(recipe)
    assert len(caught.value.problems) == 7
    assert caught.value.problems[0] == (
        f"{recipe}:4: student.layers: {{choose: …}} is for 'distill sweep'; here it takes one value "
        "(student.layers=VALUE)"
    )
    assert "my.yaml:12: steps.0.distill.temperature: {between: …} is for 'distill sweep'" in caught.value.problems[4]


def test_assignments_close_what_is_open(tmp_path):
    path = one_open(tmp_path, "temperature: {between: [1.0, 8.0]}")
    assert load(path, ["steps.0.distill.temperature=3.5"]).steps[0].distill.temperature == 3.5
    path = tmp_path / "my.yaml"
    path.write_text(RECIPE)
    with pytest.raises(RecipeError) as caught:
        load(path, ["student.layers=2"])
    assert len(caught.value.problems) == 6


def test_an_assignment_below_an_open_setting_takes_its_place(tmp_path):
    path = one_open(tmp_path, "epochs: 1")
    path.write_text(path.read_text().replace("logits: 1.0", "logits: {choose: [0.5, 1.0]}"))
    read = load(path, ["steps.0.distill.imitate.logits.weight=0.7"])
    assert read.steps[0].distill.imitate.logits.weight == 0.7


def test_the_students_own_choose_is_no_open_setting(tmp_path):
    path = one_open(tmp_path, "epochs: 1")
    assert load(path).student.choose == "even"
    path.write_text(path.read_text().replace("layers: 2\n", ""))
    with pytest.raises(RecipeError, match="make the student from one of"):
        load(path)


# ---------------------------------------------------------------------------------- the file, and an agent


def test_the_file_reads_back_as_wandb_reads_it(recipe):
    done = CliRunner().invoke(command, ["my.yaml", "--metric", "score", "--project", "p"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = yaml.safe_load(Path("my-sweep.yaml").read_text())
    assert written == sweep(recipe, metric="score", project="p")
    assert written["parameters"]["steps.0.distill.learning_rate"]["min"] == 1e-5
    assert "wandb sweep my-sweep.yaml" in done.output
    assert str(recipe.parent) not in Path("my-sweep.yaml").read_text()


@pytest.mark.parametrize("value", ["off", "1e-5", "yes"])
def test_words_that_other_yaml_takes_for_more_stay_words(tmp_path, value):
    path = one_open(tmp_path, "epochs: 1")
    path.write_text(path.read_text() + f'track: {{project: {{choose: [a, "{value}x"]}}}}\n')
    made = sweep(path)
    from distill.tracking.sweep import to_yaml

    made["parameters"]["track.project"]["values"][1] = value
    assert yaml.safe_load(to_yaml(made)) == made


def test_a_sweep_file_is_written_again_but_nothing_else_is_overwritten(recipe):
    run = CliRunner()
    assert run.invoke(command, ["my.yaml"], catch_exceptions=False).exit_code == 0
    assert run.invoke(command, ["my.yaml"], catch_exceptions=False).exit_code == 0
    Path("notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not overwritten"):
        run.invoke(command, ["my.yaml", "--output", "notes.txt"], catch_exceptions=False)
    with pytest.raises(RecipeError, match="no folder nowhere"):
        run.invoke(command, ["my.yaml", "--output", "nowhere/s.yaml"], catch_exceptions=False)
    assert Path("notes.txt").read_text() == "mine"


def test_a_recipe_elsewhere_is_named_without_its_folder(recipe, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = CliRunner().invoke(command, [str(recipe)], catch_exceptions=False)
    assert "in a folder that holds my.yaml" in done.output
    assert yaml.safe_load(Path("my-sweep.yaml").read_text())["command"][3] == "my.yaml"
    monkeypatch.chdir(tmp_path.parent)
    assert sweep(recipe)["command"][3] == f"{tmp_path.name}/my.yaml"


@pytest.fixture
def agents_command(monkeypatch, tmp_path):
    """What wandb's own agent would start for a sweep and the values that the server picked."""
    from wandb import wandb_agent

    started = []

    def start(command: list[str], **_: object) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace()

    monkeypatch.setattr(wandb_agent, "AgentProcess", start)
    for name, value in {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "", "WANDB_SWEEP_PARAM_PATH": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))

    def build(made: dict, picked: dict) -> list[str]:
        agent = object.__new__(wandb_agent.Agent)
        agent._sweep_command, agent._in_jupyter, agent._function = made["command"], False, None
        agent._forward_signals, agent._run_processes = False, {}
        arguments = {name: {"value": value} for name, value in picked.items()}
        agent._command_run({"run_id": "r1", "program": made["program"], "args": arguments})
        return started.pop()

    return build


def test_an_agents_command_line_is_a_recipe(recipe, agents_command):
    CliRunner().invoke(command, ["my.yaml"], catch_exceptions=False)
    picked = {
        "student.layers": 3, "student.choose": "first", "steps.0.distill.imitate.logits": 0.5,
        "steps.0.distill.imitate.hidden_states.weight": 0.7, "steps.0.distill.temperature": 4.25,
        "steps.0.distill.learning_rate": 3e-05, "steps.0.distill.batch_size": 24,
    }  # fmt: skip
    made = yaml.safe_load(Path("my-sweep.yaml").read_text())
    assert set(picked) == set(made["parameters"])
    line = agents_command(made, picked)
    assert line[:4] == ["/usr/bin/env", "distill", "run", "my.yaml"]
    read = load(line[3], line[4:])
    assert (read.student.layers, read.student.choose) == (3, "first")
    step = read.steps[0].distill
    assert (step.imitate.logits.weight, step.imitate.hidden_states.weight) == (0.5, 0.7)
    assert (step.temperature, step.learning_rate, step.batch_size) == (4.25, 3e-5, 24)


def test_an_agents_command_line_carries_the_recipe_out(
    recipe_file, agents_command, monkeypatch, tmp_path, without_memory
):
    from distill.cli import main

    monkeypatch.chdir(tmp_path)
    learn = {"imitate": {"logits": 1.0}, "epochs": {"choose": [1, 2]}, "learning_rate": {"between": [1e-4, 1e-2]}}
    recipe = recipe_file(steps=[{"distill": learn}], track={"energy": False})
    done = CliRunner().invoke(main, ["sweep", str(recipe)])
    assert done.exit_code == 0, done.output
    made = yaml.safe_load(Path("recipe-sweep.yaml").read_text())
    line = agents_command(made, {"steps.0.distill.epochs": 2, "steps.0.distill.learning_rate": 0.002})
    done = CliRunner().invoke(main, [*line[2:], "track.wandb=off"])  # nobody leads this sweep
    assert done.exit_code == 0, done.output
    (report,) = Path("runs").glob("*/report.json")
    step = json.loads(report.read_text())["recipe"]["steps"][0]["distill"]
    assert (step["epochs"], step["learning_rate"]) == (2, 0.002)


def test_an_agents_command_line_takes_lists_and_settings(tmp_path, agents_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = one_open(tmp_path, "epochs: 1")
    text = path.read_text().replace("layers: 2", "layers: {choose: [[1, 2], [1, 3]]}")
    path.write_text(text.replace("imitate: {logits: 1.0}", "imitate: {choose: [{logits: 1.0}, {hidden_states: 2.0}]}"))
    made = json.loads(json.dumps(sweep(path)))  # as the server keeps it
    picked = {name: parameter["values"][1] for name, parameter in made["parameters"].items()}
    line = agents_command(made, picked)
    read = load(line[3], line[4:])
    assert read.student.layers == [1, 3]
    assert read.steps[0].distill.imitate.hidden_states.weight == 2.0
