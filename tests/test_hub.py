"""What a recipe takes from the Hub: left alone by `check`, fetched by a run, refused in plain words."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import MagicMock

import checked
import pytest
import torch
from checked import FINETUNE, plan_of
from click.testing import CliRunner
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from distill import checkpoint
from distill.cli import main
from distill.errors import CheckpointError
from distill.recipe import locate

write_card = checked.write_card  # a fixture; imported, it would look unused


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
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, f"error: {locate([problem], path)[0]}")


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
