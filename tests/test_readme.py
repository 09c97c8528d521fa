"""The README's words are true: its Python runs, its recipe and its reference page are the shipped ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import rows, write_csv

from distill import library, recipe
from distill.recipe.reference import reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs(tmp_path, monkeypatch, body, capsys):
    write_csv(tmp_path / "news.csv", ["text", "topic"], [list(row) for row in rows(90)])
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 12
    exec(example.replace("minilm-l6", str(body)), {})
    printed = capsys.readouterr().out
    assert "onnx-int8" in printed
    assert (tmp_path / "news-int8" / "model_int8.onnx").is_file()


def test_the_recipe_in_the_readme_is_the_shipped_one():
    shown = blocks("yaml")[0]
    assert shown.strip() in library.find("recipes", "quickstart").read_text(encoding="utf-8")


def test_the_reference_page_is_made_from_the_settings():
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == reference()


def test_every_module_of_the_package_stands_in_the_file_tree():
    for path in (ROOT / "distill").iterdir():
        if path.name.startswith("_") or path.suffix not in ("", ".py"):
            continue
        name = path.name if path.suffix else f"{path.name}/"
        assert f"  {name} " in README, name


@pytest.mark.parametrize("name", library.names("recipes"))
def test_a_shipped_recipe_loads(name):
    assert recipe.load(library.find("recipes", name)).steps
