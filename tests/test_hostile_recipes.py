"""Hostile recipes and cards as YAML: tags, depth, size; and what a recipe names outside its folder."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from distill.card import load_card
from distill.errors import CheckpointError, RecipeError


@pytest.fixture
def recipe(recipe_file, tmp_path):
    """Writes a recipe into a folder of its own and tells what is wrong with it."""
    from distill.preflight import prepare
    from distill.recipe import load

    def problems(**sections: object) -> list[str]:
        path = tmp_path / "home" / "recipe.yaml"
        path.parent.mkdir(exist_ok=True)
        recipe_file(**sections).replace(path)
        return prepare(load(path), path.parent, fetch=False).problems

    return problems


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system ''", "!!binary aGk=", "!mine 3",
        "!!str 5", "!!int '5'", "!!set {a, b}", "!!timestamp 2001-01-01", "! 5", "!<tag:yaml.org,2002:str> x",
        "[1, !!python/tuple [1]]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["recipe", "card", "--set"])
def test_yaml_tags_are_refused_with_their_line(tmp_path, monkeypatch, recipe_file, value, kind):
    from distill.recipe import load

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(f"# mine\nnote: {value}\n")
    with pytest.raises(RecipeError) as caught:
        match kind:
            case "recipe":
                load(path)
            case "card":
                load_card(str(path))
            case _:
                load(recipe_file(), [f"seed={value}"])
    tag = next(word for word in value.split() if word.startswith("!"))
    where = "--set seed:1" if kind == "--set" else f"{path}:2"
    assert str(caught.value) == f"{where}: {tag} is a YAML tag, and tags are not read here; write the value alone"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "x: [" + "y," * 120_000 + "]"])
def test_yaml_that_is_deep_or_long_ends_in_seconds(tmp_path, text):
    from distill.recipe import load

    (tmp_path / "deep.yaml").write_text(f"note: {text}\n" if not text.startswith(("-", "x")) else text)
    start = time.process_time()
    with pytest.raises(RecipeError):
        load(tmp_path / "deep.yaml")
    assert time.process_time() - start < 30  # of the minutes that it would take to scan to the end


def test_a_recipe_larger_than_any_is_not_read(tmp_path, monkeypatch):
    from distill.recipe import load, reading

    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(reading._LARGEST_FILE + 1)
    monkeypatch.setattr(Path, "read_text", None)
    with pytest.raises(RecipeError, match="larger than 256 KiB; this is not a recipe or a card"):
        load(tmp_path / "large.yaml")


def test_a_recipes_checkpoints_and_cards_stay_below_its_folder(recipe, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(body, tmp_path / "secret")
    shutil.copytree(body, tmp_path / "home" / "inside")
    (tmp_path / "home" / "link").symlink_to(tmp_path / "secret")
    finetune = {"finetune": {"epochs": 1}}
    assert recipe(teacher={"checkpoint": "./inside", **finetune}) == []
    assert recipe(teacher={"checkpoint": str(tmp_path / "secret"), **finetune}) == []
    home = tmp_path / "home"
    for name in ("../secret", "link", "./link", "../no/such"):
        assert recipe(teacher={"checkpoint": name, **finetune})[0].startswith(f"teacher: {name} leads out of ")
        assert recipe(student={"checkpoint": name})[0].startswith(f"student: {name} leads out of ")
    assert recipe(teacher={"card": "../secret/card.yaml", **finetune})[0].endswith("; name it by its full path")
    assert str(home) in recipe(teacher={"checkpoint": "link", **finetune})[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 10**9}, "student.config: num_hidden_layers is 1000000000; it can be 0 to 1000"),
        ({"hidden_size": -8}, "student.config: hidden_size is -8"),
        ({"hidden_size": 200_000, "num_hidden_layers": 800}, "student.config: describes about"),
        ({"num_attention_heads": 10**9}, "student.config: num_attention_heads is 1000000000"),
    ],
    ids=str,
)
def test_a_student_config_with_absurd_sizes_is_one_problem(recipe, bert, topics, config, expected):
    from distill import student

    (problem,) = recipe(student={"config": {"model_type": "bert", **config}})
    assert problem.startswith(expected)
    with pytest.raises(CheckpointError) as caught:
        student.from_config({"model_type": "bert", **config}, bert, topics.task, seed=0)
    assert str(caught.value).startswith(expected)
