"""Several processes that train one student, held against one process; on CPUs they talk through gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import Prune, processes, prune
from distill.cli import main
from distill.evaluation.memory import peak_memory
from distill.store import Store
from distill.surgery import RECORD

EXACT = {"dropout": 0.0, "dtype": "float32", "batch_size": 9, "batch_tokens": 128, "learning_rate": 1e-3}
LEARNED = {"weight": 1.0, "layers": "learned", "map_learning_rate": 0.05}
IMITATE = {"logits": 1.0, "hidden_states": LEARNED, "relations": 0.1, "labels": 0.5}
STEPS = [{"distill": {**EXACT, "imitate": IMITATE, "epochs": 3}}]


def launch(recipe: Path, folder: Path, number: int = 2) -> subprocess.CompletedProcess[str]:
    """`distill run` under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, "-m", "distill", "run", str(recipe), "--output", str(folder)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip


def curves(folder: Path) -> dict[str, list[float]]:
    """The loss of every step, by training, and its scores on validation."""
    told = json.loads((folder / "report.json").read_text())["training"]
    losses = {one["step"]: [record["loss"] for record in one["records"]] for one in told}
    return losses | {f"{one['step']}, validation": [epoch["score"] for epoch in one["epochs"]] for one in told}


@pytest.fixture
def exact(recipe_file, body):
    """A recipe without chance: no dropout, no rounding."""
    teacher = {"checkpoint": str(body), "finetune": {**EXACT, "epochs": 1}}
    return recipe_file(teacher=teacher, steps=STEPS)


def test_two_processes_have_the_losses_of_one_and_write_once(exact, tmp_path, without_memory):
    from click.testing import CliRunner

    alone = CliRunner().invoke(main, ["run", str(exact), "--output", str(tmp_path / "alone")])
    assert alone.exit_code == 0, alone.output
    made = len(Store().pieces())
    done = launch(exact, tmp_path / "together")
    assert done.returncode == 0, done.stderr
    mine, theirs = curves(tmp_path / "alone"), curves(tmp_path / "together")
    assert len(mine["1-distill"]) >= 20
    for name, losses in mine.items():
        assert theirs[name] == pytest.approx(losses, rel=1e-3), name
    told = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("alone", "together")]
    maps = [report["training"][-1]["layer_maps"]["hidden_states"] for report in told]
    for layer, shares in maps[0].items():
        assert maps[1][layer] == pytest.approx(shares, rel=1e-3), layer
    samples = [[one["samples"] for one in report["training"]] for report in told]
    assert samples[0] == samples[1]
    assert done.stdout.count("report:") == 1
    assert len(Store().pieces()) > made  # trained anew, and not taken from the store


@pytest.mark.parametrize("wrong", [{"data": {"source": "nowhere.csv"}}, {"task": "no-such-task"}])
def test_what_is_wrong_with_a_recipe_is_told_once(wrong, recipe_file, tmp_path):
    done = launch(recipe_file(**wrong), tmp_path / "run")
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and ("nowhere.csv" in done.stderr or "no-such-task" in done.stderr)
    assert not (tmp_path / "run").exists()


def test_the_process_that_memory_is_measured_in_is_none_of_them(bert, topics, tmp_path, monkeypatch):
    uneven = prune(bert, Prune(heads=0.5, uniform=False), data=topics)
    folder = uneven.save(tmp_path / "uneven")
    assert (folder / RECORD).is_file()  # only this package loads it, and asks accelerate where to place it
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert peak_memory(folder) > 10


def test_every_row_of_a_batch_is_somebodys_and_nobody_goes_without(monkeypatch):
    monkeypatch.setattr(processes, "number", lambda: 3)
    for rows in ([4, 8, 1, 7], [5, 2], [9]):
        dealt = []
        for place in range(3):
            monkeypatch.setattr(processes, "place", lambda place=place: place)
            dealt.append(processes.share_of(rows))
            assert processes.is_spare(len(rows)) == (place >= len(rows))
        assert all(dealt) and set().union(*dealt) == set(rows)
        assert sum(map(len, dealt)) == max(len(rows), 3)
