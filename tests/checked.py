"""Recipes as `check` reads them: what is wrong, and the cards and configs that they name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill import checkpoint
from distill.cli import main
from distill.preflight import prepare
from distill.recipe import load, locate

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
        assert done.stderr.splitlines()[-1] == f"error: {locate([problem], path)[0]}"
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
