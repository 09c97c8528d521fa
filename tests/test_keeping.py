"""`status` and `cache`: what a run has done, and what lies in the store."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from distill.cli import main
from distill.store import Store

LEARN = {"distill": {"imitate": {"logits": 1.0}, "epochs": 1}}


def ask(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


@pytest.fixture
def finished(recipe_file, tmp_path, without_memory) -> Path:
    """A finished run of one step."""
    done = ask("run", recipe_file(steps=[LEARN]), "--output", tmp_path / "run")
    assert done.exit_code == 0, done.output
    return tmp_path / "run"


def rewrite(folder: Path, **facts: object) -> None:
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(state | facts))


def line_of(output: str, name: str) -> str:
    (line,) = [line for line in output.splitlines() if f" {name} " in line]
    return line


def test_status_tells_each_step_of_a_finished_run(finished):
    told = ask("status", finished)
    assert told.exit_code == 0
    for name in ("teacher", "student", "1-distill", "evaluation"):
        assert "done" in line_of(told.output, name)
    assert "finetune-" in line_of(told.output, "teacher")
    assert told.output.splitlines()[-1].startswith("finished;")


def test_status_tells_where_a_run_was_cut_off_and_what_is_still_to_do(finished):
    stages = json.loads((finished / "run.json").read_text())["stages"]
    stages[2] |= {"standing": "at work", "piece": None}
    stages[3] |= {"standing": "waiting", "seconds": None}
    rewrite(finished, stages=stages, standing="at work", progress={"step": 3, "steps": 9, "loss": 0.5, "epoch": 1})
    told = ask("status", finished).output
    assert "cut off" in line_of(told, "1-distill") and "waiting" in line_of(told, "evaluation")
    assert told.splitlines()[-1] == "not finished (was cut off); the same command goes on from here"
    with FileLock(finished / ".lock"):
        told = ask("status", finished).output
    assert "step 3 of 9, loss 0.5" in line_of(told, "1-distill")
    assert told.splitlines()[-1].startswith("a process is at work in it")


def test_status_gives_json(finished):
    told = json.loads(ask("status", finished, "--json").output)
    assert [stage["name"] for stage in told["stages"]] == ["teacher", "student", "1-distill", "evaluation"]
    assert "wandb_id" in told


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1, "stages": 3}', '{"schema": 1}'])
def test_status_of_what_is_no_run_is_an_error(tmp_path, text):
    assert ask("status", tmp_path / "nope").exit_code == 2
    assert "not a run's folder" in ask("status", tmp_path).output
    (tmp_path / "run.json").write_text(text)
    done = ask("status", tmp_path)
    assert done.exit_code == 2 and "not the state of a run" in done.output


def test_a_run_that_fails_says_so_in_its_status(recipe_file, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.distillation.distill", fail)
    done = ask("run", recipe_file(steps=[LEARN]), "--output", tmp_path / "run")
    assert done.exit_code == 130
    assert "the same command goes on from here" in done.output
    told = ask("status", tmp_path / "run").output
    assert "stopped" in line_of(told, "1-distill") and "done" in line_of(told, "teacher")
    monkeypatch.undo()


def test_cache_lists_what_is_there(finished):
    told = ask("cache", "list")
    assert told.exit_code == 0
    for kind in ("finetune-", "student-", "signals-", "distill-", "score-"):
        assert kind in told.output
    assert told.output.splitlines()[-1].startswith("6 pieces")
    assert "1 epochs, validation" in told.output


def test_an_empty_cache_is_no_error():
    assert ask("cache", "list").output.startswith("0 pieces, 0.0 MB")
    assert ask("cache", "prune", "--all").exit_code == 0


def test_prune_drops_what_is_asked_and_leaves_run_folders_whole(finished):
    weights = (finished / "1-distill" / "model.safetensors").read_bytes()
    assert "would drop" in ask("cache", "prune", "--all", "--dry-run").output
    assert len(Store().pieces()) == 6
    assert "0 pieces" in ask("cache", "prune").output.splitlines()[-1]  # nothing is a month old
    done = ask("cache", "prune", "--all")
    assert done.exit_code == 0 and "a run folder still holds its files" in done.output
    assert Store().pieces() == []
    assert (finished / "1-distill" / "model.safetensors").read_bytes() == weights


def test_prune_by_age_and_by_size_drops_the_longest_unused(finished):
    store = Store()
    oldest = store.pieces()[-1]
    long_ago = time.time() - 3 * 86400
    os.utime(oldest.folder / "entry.json", (long_ago, long_ago))
    assert oldest.name[:30] in ask("cache", "prune", "--older-than", "2d").output
    assert len(store.pieces()) == 5
    newest = store.pieces()[0]
    ask("cache", "prune", "--keep", f"{newest.bytes + 1}B")
    left = store.pieces()
    assert newest.name in [piece.name for piece in left]
    assert sum(piece.bytes for piece in left) <= newest.bytes + 1


def test_prune_drops_what_nobody_finished(finished):
    left = Store().folder / "unfinished" / "distill-0123" / "workshop" / "checkpoint-5"
    left.mkdir(parents=True)
    assert "unfinished: distill-0123" in ask("cache", "list").output
    ask("cache", "prune")
    assert left.exists()
    ask("cache", "prune", "--unfinished")
    assert not left.exists() and len(Store().pieces()) == 6


@pytest.mark.parametrize(("option", "value"), [("--older-than", "soon"), ("--keep", "much"), ("--keep", "-5GB")])
def test_what_is_no_span_or_size_is_an_error(option, value):
    done = ask("cache", "prune", option, value)
    assert done.exit_code == 2 and f"{option} {value}: write a " in done.output


# ------------------------------------------------------------------------------------------------ the same folder


def test_the_same_command_goes_on_in_its_own_folder(recipe_file, tmp_path, monkeypatch, without_memory):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_file(steps=[LEARN])
    for expected in ("runs/recipe", "runs/recipe"):
        done = ask("run", recipe)
        assert done.exit_code == 0 and f"→ {expected}\n" in done.output
    assert "it was finished before" in done.output
    done = ask("run", recipe, "seed=3")  # another recipe: another folder
    assert done.exit_code == 0 and "→ runs/recipe-2\n" in done.output
    with FileLock(tmp_path / "runs" / "recipe" / ".lock"):  # somebody is at work there
        done = ask("run", recipe)
    assert done.exit_code == 0 and "→ runs/recipe-3\n" in done.output
    assert all(step["reused"] for step in json.loads(Path("runs/recipe-3/report.json").read_text())["steps"])


def test_recipes_that_read_alike_and_lead_to_other_files_have_folders_of_their_own(
    recipe_file, topics_csv, tmp_path, monkeypatch, without_memory
):
    text = recipe_file(steps=[LEARN], data={"source": "rows.csv"}).read_text()
    rows = topics_csv.read_text().splitlines()
    for place, kept in (("one", rows), ("other", rows[:-9])):
        (tmp_path / "made" / place).mkdir(parents=True)
        (tmp_path / "made" / place / "recipe.yaml").write_text(text)
        (tmp_path / "made" / place / "rows.csv").write_text("\n".join(kept) + "\n")
    monkeypatch.chdir(tmp_path / "made")
    for place, expected in (("one", "recipe"), ("other", "recipe-2"), ("one", "recipe")):
        done = ask("run", f"{place}/recipe.yaml")
        assert done.exit_code == 0 and f"→ runs/{expected}\n" in done.output, done.output
    done = ask("run", "other/recipe.yaml", "--output", "runs/recipe")
    assert done.exit_code == 2 and "or other files that it names" in done.output
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").rename(tmp_path / "moved")  # the way from a run to its recipe stays the same
    monkeypatch.chdir(tmp_path / "moved")
    done = ask("run", "other/recipe.yaml")
    assert "→ runs/recipe-2\n" in done.output and "it was finished before" in done.output, done.output


def test_a_folder_of_another_recipe_is_refused(finished, recipe_file):
    done = ask("run", recipe_file(steps=[LEARN], seed=3), "--output", finished)
    assert done.exit_code == 2 and "holds a run of another recipe" in done.output


@pytest.mark.parametrize("left", [[".lock"], [".lock", ".recipe.yaml-abc"], [".lock", "recipe.yaml", ".run.json-abc"]])
def test_a_run_that_was_killed_before_it_had_a_state_is_begun_again(
    recipe_file, tmp_path, monkeypatch, finished, left, without_memory
):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "killed", tmp_path / "runs" / "recipe"):
        folder.mkdir(parents=True)
        for name in left:
            (folder / name).write_text((finished / name).read_text() if (finished / name).is_file() else "half")
    done = ask("run", recipe_file(steps=[LEARN]), "--output", tmp_path / "killed")
    assert done.exit_code == 0, done.output
    done = ask("run", recipe_file(steps=[LEARN]))
    assert done.exit_code == 0 and "→ runs/recipe\n" in done.output
    assert not list((tmp_path / "killed").glob(".r*"))


def test_a_folder_in_which_a_process_is_at_work_is_refused(finished, recipe_file):
    with FileLock(finished / ".lock"):
        done = ask("run", recipe_file(steps=[LEARN]), "--output", finished)
    assert done.exit_code == 2 and "another process is at work in it" in done.output


def test_what_a_killed_process_had_not_finished_writing_is_swept(finished, recipe_file, without_memory):
    (finished / ".run.json-abc").write_text("half")
    (finished / ".1-distill-123").mkdir()
    (finished / ".mine").write_text("precious")
    assert ask("run", recipe_file(steps=[LEARN]), "--output", finished).exit_code == 0
    assert {path.name for path in finished.iterdir() if path.name.startswith(".")} == {".lock", ".mine"}


def test_a_folder_that_another_run_took_meanwhile_makes_way_for_the_next(
    recipe_file, tmp_path, monkeypatch, without_memory
):
    import distill.pipeline

    monkeypatch.chdir(tmp_path)
    choose, chosen = distill.pipeline.choose_folder, []

    def late(*given: object) -> Path:
        """The first choice was made before the other run had begun."""
        chosen.append(Path("runs/recipe") if not chosen else choose(*given))
        return chosen[-1]

    monkeypatch.setattr(distill.pipeline, "choose_folder", late)
    (tmp_path / "runs" / "recipe").mkdir(parents=True)
    with FileLock(tmp_path / "runs" / "recipe" / ".lock"):
        done = ask("run", recipe_file(steps=[LEARN]))
    assert done.exit_code == 0, done.output
    assert chosen == [Path("runs/recipe"), Path("runs/recipe-2")]
    assert Path("runs/recipe-2/report.json").is_file() and not Path("runs/recipe/report.json").exists()
