"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import save_tiny

from distill import library
from distill.cli import main
from distill.errors import DataError, DistillError, MachineError, RecipeError

COMMANDS = [
    "run", "check", "status", "compare", "verify", "predict", "evaluate", "sweep", "list", "show", "copy", "cache",
]  # fmt: skip


def ask(*arguments: str | Path, stdin: str | bytes | None = None):
    """A command's result; nothing ends in a traceback."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def error_of(*arguments: str | Path, stdin: str | bytes | None = None) -> str:
    """The message of a command that ends in exit code 2, which is the last thing on standard error."""
    done = ask(*arguments, stdin=stdin)
    assert done.exit_code == 2, done.output
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


@pytest.fixture
def unweighed(monkeypatch):
    """Memory is not measured: it takes a process for each checkpoint, and test_pipeline does it."""
    monkeypatch.setattr(importlib.import_module("distill.evaluation.session"), "peak_memory", lambda served: None)


# ------------------------------------------------------------------------------------------- help, list and show


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_tells_the_commands_in_the_order_they_are_met(flag):
    done = ask(flag)
    assert done.exit_code == 0
    told = [line.split()[0] for line in done.output.split("Commands:")[1].splitlines() if line.strip()]
    assert told == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_every_option_has_help(command):
    done = ask(command, "--help")
    assert done.exit_code == 0
    assert all(option.help for option in main.commands[command].params if option.param_type_name == "option")
    assert main.commands[command].help


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    done = ask("--version")
    assert (done.exit_code, done.output) == (0, f"distill, version {version('distill-toolkit')}\n")


@pytest.mark.parametrize("arguments", [[], ["nope"], ["run"], ["list", "--nope"], ["run", "quickstart", "--set"]])
def test_a_command_line_that_is_not_understood_ends_with_two(arguments):
    assert ask(*arguments).exit_code == 2


def test_list_names_every_shipped_file_with_what_it_is_for():
    lines = ask("list").output.splitlines()
    for kind in ("recipes", "teachers"):
        assert f"{kind}:" in lines
        for name in library.names(kind):
            assert any(line.split() == [name, *library.summary(library.find(kind, name)).split()] for line in lines)


@pytest.mark.parametrize(("kind", "name"), [("recipes", "quickstart"), ("teachers", "minilm-l6")])
def test_show_prints_a_file_as_it_is(kind, name):
    assert ask("show", name).output == library.find(kind, name).read_text()


@pytest.mark.parametrize("command", ["show", "copy"])
def test_an_unknown_name_gets_the_nearest_one(command):
    message = error_of(command, "minilm")
    assert message.startswith("minilm: nothing of this name is shipped; did you mean 'minilm-l6'? (there are: ")


# ---------------------------------------------------------------------------------------------------------- copy


def test_copy_writes_a_recipe_that_checks_and_never_overwrites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ask("copy", "quickstart")
    assert done.output == "quickstart.yaml  (run it with: distill run ./quickstart.yaml)\n"
    copied = tmp_path / "quickstart.yaml"
    assert copied.read_text() == library.find("recipes", "quickstart").read_text()
    copied.write_text("mine")
    assert error_of("copy", "quickstart") == "quickstart.yaml: already there; it is not overwritten"
    assert copied.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.yaml"]


def test_copy_takes_a_folder_or_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    assert ask("copy", "quickstart", tmp_path / "folder").exit_code == 0
    assert (tmp_path / "folder" / "quickstart.yaml").is_file()
    assert ask("copy", "quickstart", tmp_path / "mine.yaml").exit_code == 0
    assert (tmp_path / "mine.yaml").is_file()
    assert error_of("copy", "quickstart", tmp_path / "no" / "mine.yaml").endswith(f"no folder {tmp_path / 'no'}")


# ----------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_recipe_that_is_not_there_ends_with_two(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_of(command, "./mine.yaml").startswith("./mine.yaml: no such recipe file (looked in ")
    assert "did you mean 'quickstart'?" in error_of(command, "quickstrat")


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_problem_of_a_recipe_is_a_line_of_its_own(command, recipe_file, tmp_path):
    path = recipe_file(student={"layres": 2}, seed=-1)
    done = ask(command, path)
    assert done.exit_code == 2
    told = [line.split(": ")[:3] for line in done.stderr.splitlines()]
    assert told == [["error", f"{path}:1", "student.layres"], ["error", f"{path}:1", "seed"]]


def test_an_override_reaches_the_recipe(recipe_file):
    assert error_of("check", recipe_file(), "--set", "student.layers=9") == (
        "--set student.layers asks for 9 layers, but the teacher has 4 layers"
    )
    assert error_of("check", recipe_file(), "--set", "sed=9").endswith(
        "(known here: task, metric, teacher, student, data, generation, steps, control, expect, timing, ship, track, "
        "seed, seeds)"
    )


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (RecipeError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (DataError("bad data"), 2, "error: bad data\n"),
        (DistillError("bad"), 2, "error: bad\n"),
        (MachineError("disk full"), 3, "error: disk full\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_kind_of_end_has_its_exit_code(recipe_file, monkeypatch, raised, code, said):
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("distill.preflight.prepare", fail)
    done = ask("check", recipe_file())
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", said)


def test_ctrl_c_while_running_leaves_with_130(recipe_file, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.pipeline.running.preflight.prepare", stop)
    done = ask("run", recipe_file(), "--output", tmp_path / "run")
    assert done.exit_code == 130
    assert done.stderr.endswith("\nstopped\n")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_the_machines_mistake(recipe_file, tmp_path, monkeypatch):
    make = Path.mkdir

    def full(path: Path, *arguments: object, **words: object) -> None:
        if path == tmp_path / "run":
            raise OSError(errno.ENOSPC, "No space left on device")
        make(path, *arguments, **words)

    monkeypatch.setattr(Path, "mkdir", full)
    done = ask("run", recipe_file(), "--output", tmp_path / "run")
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1] == f"error: writing {tmp_path / 'run'}: no space left on device"


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_a_run_that_misses_what_is_expected_ends_with_one(recipe_file, tmp_path, unweighed, met, code):
    steps = [{"finetune": {"epochs": 1, "max_steps": 1}}]
    bound = "at most 0.9" if met else "at most 0.1"
    expect = {"parameters": bound}
    done = ask("run", recipe_file(steps=steps, expect=expect), "--output", tmp_path / "run")
    assert done.exit_code == code, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("expected ")]
    assert line.startswith(f"expected parameters: {bound}, measured 0.")
    assert line.endswith(": met" if met else ": MISSED")
    assert (tmp_path / "run" / "report.json").is_file()


# -------------------------------------------------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("two") / "bert", labels=("no", "yes"))


def test_predict_answers_texts_and_lines_of_standard_input_alike(headed):
    texts = ["the coach and the team", "bank price; trade", "ünïcödé ☃"]
    given = ask("predict", headed, *texts)
    lines = ask("predict", headed, stdin="".join(f"{text}\n" for text in texts))
    windows = ask("predict", headed, stdin="\n".join(texts))
    assert given.exit_code == lines.exit_code == 0
    assert given.stdout == lines.stdout == windows.stdout
    for text, line in zip(texts, given.stdout.splitlines(), strict=True):
        answer, told = line.split("\t")
        label, value = answer.split()
        assert told == text
        assert label in {"film", "money", "sport"}
        assert 1 / 3 <= float(value) <= 1


def test_predict_reads_lines_of_any_system(headed):
    texts = ["the goal", "a bank"]
    windows = "\r\n".join([*texts, ""]).encode("utf-8-sig")
    assert ask("predict", headed, stdin=windows).stdout == ask("predict", headed, *texts).stdout


def test_predict_reads_as_many_texts_as_the_checkpoint(headed, tmp_path):
    """A tab is part of one text where a row is one; where it is two, one alone is refused."""
    for texts in (1, 2):
        folder = shutil.copytree(headed, tmp_path / f"{texts}")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"texts": texts}))
    one, two, tab = tmp_path / "1", tmp_path / "2", "goal match\tbank price"
    assert (
        ask("predict", one, "--json", tab).stdout.split('"answer"')[1]
        == (ask("predict", headed, "--json", tab.replace("\t", " ")).stdout.split('"answer"')[1])
    )
    assert ask("predict", two, tab).stdout == ask("predict", headed, tab).stdout
    assert "reads two texts, a pair at a time, not 1" in error_of("predict", two, "goal match")


def test_predict_answers_one_text_with_the_answer_alone(headed):
    (line,) = ask("predict", headed, "the coach").stdout.splitlines()
    assert len(line.split()) == 2


def test_predict_gives_json_lines(headed):
    done = ask("predict", headed, "--json", "ball ☃", "bank")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["ball ☃", "bank"]
    assert all(0 < value <= 1 for answer in answers for value in answer["answer"].values())


def test_the_texts_of_a_pair_are_separated_by_a_tab(pair_folder):
    alone, pair, swapped = (
        ask("predict", pair_folder, "--json", text) for text in ("goal", "goal\tball", "ball\tgoal")
    )
    answers = [json.loads(done.stdout)["answer"] for done in (alone, pair, swapped)]
    assert answers[0] != answers[1] != answers[2]


def test_predict_says_what_is_wrong_with_a_folder(tmp_path, body):
    assert error_of("predict", tmp_path / "nope", "a") == f"{tmp_path / 'nope'}: no such folder"
    assert error_of("predict", tmp_path, "a") == f"{tmp_path}: no config.json, so this is not a checkpoint folder"
    (tmp_path / "recipe.yaml").write_text("task: text-classification")
    assert error_of("predict", tmp_path, "a") == (
        f"{tmp_path}: a run that did not finish; name one of the folders in it"
    )
    assert error_of("predict", body, "a").startswith("this checkpoint is a BertModel; it has no head for text-class")


@pytest.mark.parametrize("stdin", ["", "\n", "a\n\nb\n", "  \n"])
def test_an_empty_text_is_refused(headed, stdin):
    assert error_of("predict", headed, stdin=stdin).startswith("predict: an empty text; give texts behind the folder")


def test_standard_input_that_is_no_text_is_refused(headed):
    assert "not UTF-8 text" in error_of("predict", headed, stdin=b"caf\xe9\n")


# ------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_puts_folders_side_by_side(recipe_file, headed, tmp_path, unweighed):
    other = save_tiny(tmp_path / "small", labels=("film", "money", "sport"), num_hidden_layers=1)
    done = ask("evaluate", headed, other, "--recipe", recipe_file(), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["name"] for row in found] == ["bert", "small"]
    assert all(0 <= row["score"] <= 1 for row in found)


def test_evaluate_says_what_is_wrong(recipe_file, tmp_path):
    assert error_of("evaluate", tmp_path / "nope", "--recipe", recipe_file()) == f"{tmp_path / 'nope'}: no such folder"
    assert ask("evaluate", tmp_path).exit_code == 2


# --------------------------------------------------------------------------------------------- pipes and processes


def test_a_reader_that_leaves_early_is_no_error():
    """As in `distill show quickstart | head -1`, where head has gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "distill", "show", "quickstart"]
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_dash_m_answers_like_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "distill", "show", "nope"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nope: nothing of this name is shipped")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_each_of_several_processes_tells_its_error_and_the_leader_at_once(rank, monkeypatch):
    waits = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("time.sleep", waits.append)
    done = CliRunner().invoke(main, ["check", "no-such-recipe"])
    assert done.exit_code == 2 and done.output.count("error: ") == 1 and "no-such-recipe" in done.output
    assert waits == ([30.0] if rank == "1" else [])
