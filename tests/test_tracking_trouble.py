"""W&B can neither stop nor hold up a run: when it is off, without a key, out of reach, broken, or hangs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import tracked
from tracked import KEY, begin, checkpoints, make_recipe, make_report, train, whole

from distill.tracking import mode, offline, tracker

no_account, recipe = tracked.no_account, tracked.recipe  # fixtures; imported, they would look unused

# ------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("word", "environment", "expected"),
    [
        ("off", {"WANDB_API_KEY": KEY}, "off"),
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "auto"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
        ("online", {"WANDB_API_KEY": KEY}, "online"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "offline"),
        ("off", {"WANDB_MODE": "online"}, "off"),
        ("offline", {"RANK": "1"}, "off"),
        ("offline", {"RANK": "0"}, "offline"),
    ],
)
def test_the_quieter_of_recipe_and_environment_wins(tmp_path, word, environment, expected):
    assert mode.choose(word, {"NETRC": str(tmp_path / "none"), **environment}) == (expected, None)


def test_online_without_a_key_goes_offline_and_says_so(tmp_path):
    chosen, warning = mode.choose("online", {"NETRC": str(tmp_path / "none")})
    assert chosen == "offline"
    assert "WANDB_API_KEY" in warning


def test_a_key_in_the_netrc_file_counts_for_its_own_server(tmp_path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    environment = {"NETRC": str(tmp_path / "netrc")}
    assert mode.choose("auto", environment) == ("auto", None)
    assert mode.choose("auto", {**environment, "WANDB_BASE_URL": "https://wandb.own.org"}) == ("offline", None)
    (tmp_path / "netrc").write_text("machine\nmachine")
    assert not mode.has_key(environment)


def test_off_writes_nothing_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    told = begin(make_recipe(tmp_path, wandb="off"), tmp_path / "run")
    train(told, range(3))
    told.artifact("teacher", "teacher", [], facts={}, parents=[], weights=True)
    told.finish({}, tmp_path / "run", 0)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_process_that_trains_never_imports_wandb(tmp_path):
    script = (
        "import sys; from pathlib import Path; from tracked import *; "
        f"whole(make_recipe(Path({str(tmp_path)!r}), wandb='offline'), Path({str(tmp_path / 'run')!r}) / '.'); "
        "print('wandb' in sys.modules)"
    )
    (tmp_path / "run").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stderr


# -------------------------------------------------------------------------- a W&B that fails, or hangs

RUN = "class Run:\n    dir = 'x'; url = None; offline = True\n    def finish(self, **_): time.sleep({finish})\n"
FAKES = {
    "fails at import": "raise RuntimeError('broken wandb')",
    "exits at import": "raise SystemExit(3)",
    "fails to open": "class Settings:\n    def __init__(self, **_): ...\n"
    "class Artifact:\n    def add_file(self): ...\n"
    "def init(**_): raise RuntimeError('broken wandb')",
    "hangs at import": "import time; time.sleep(3600)",
    "hangs at the end": "import time\nclass Settings:\n    def __init__(self, **_): ...\n"
    "class Artifact:\n    def add_file(self): ...\n" + RUN.format(finish=3600) + "def init(**_): return Run()",
    "is killed": "import os; os.kill(os.getpid(), 9)",
}  # fmt: skip


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """Puts another wandb in the worker's way."""

    def put(code: str) -> None:
        package = tmp_path / "fake" / "wandb"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        monkeypatch.setattr(tracker, "PATIENCE", 3.0)

    return put


@pytest.mark.parametrize("what", FAKES)
def test_a_wandb_that_fails_or_hangs_costs_a_run_one_warning(tmp_path, recipe, fake_wandb, caplog, what):
    fake_wandb(FAKES[what])
    before = psutil.Process().children(recursive=True)  # of other tests
    told = begin(recipe, tmp_path / "run")
    train(told, range(3))
    checkpoints(told, tmp_path / "run")
    told.finish(make_report(recipe, tmp_path / "run"), tmp_path / "run", 0)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ("did not finish within 3 s" if "hangs" in what else "not everything was logged") in warning
    assert not set(psutil.Process().children(recursive=True)) - set(before)
    if what == "hangs at the end":
        assert "wandb sync" in warning
    if what.startswith("fails"):
        assert "broken wandb" in warning


def test_a_full_disk_stops_tracking_with_one_warning(tmp_path, monkeypatch, recipe, caplog):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    train(told, range(3))
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if descriptor == told._spool:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    train(told, range(3))
    told.finish(make_report(recipe, tmp_path / "run"), tmp_path / "run", 0)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "No space left on device" in warning
    assert len(offline.read(tmp_path / "run").history("1-distill/loss")) == 3


def test_a_folder_that_cannot_be_written_stops_tracking_with_one_warning(tmp_path, recipe, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("in the way")
    told = begin(recipe, tmp_path / "run")
    train(told, range(3))
    told.finish(None, tmp_path / "run", 0)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "tracking stops, the run goes on" in warning


def test_a_report_that_cannot_be_told_is_no_reason_to_fail(tmp_path, monkeypatch, recipe, caplog):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    told.metrics("1-distill", {"step": np.int64(1), "loss": np.float32(0.5)})
    told.finish({"rows": "nonsense"}, tmp_path / "run", 0)
    assert "could not be told" in caplog.text
    assert offline.read(tmp_path / "run").history("1-distill/loss") == [0.5]


@pytest.mark.parametrize("wandb", ["real", "hangs at import"])
def test_the_worker_ends_when_the_run_is_killed(tmp_path, fake_wandb, wandb):
    if wandb != "real":
        fake_wandb(FAKES[wandb])
    script = (
        "import sys, time; sys.path.insert(0, {tests!r}); from tracked import *; "
        "tracker.PATIENCE = {patience}; home = Path({home!r}); told = begin(make_recipe(home), home / 'run'); "
        "train(told, range(3)); print(told._worker.pid, flush=True); time.sleep(3600)"
    ).format(tests=str(Path(__file__).parent), home=str(tmp_path), patience=120 if wandb == "real" else 1)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        worker = psutil.Process(int(run.stdout.readline()))
        if wandb == "real":
            wait_for(lambda: list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")))
        family = [worker, *worker.children(recursive=True)]
        run.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=300)
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    if wandb == "real":
        told = offline.read(tmp_path / "run")
        assert told.exit_code == 137
        assert len(told.history("1-distill/loss")) == 3


def wait_for(what) -> None:
    for _ in range(3000):
        if what():
            return
        threading.Event().wait(0.1)
    raise AssertionError("waited in vain")


def test_the_terminals_interrupt_does_not_reach_the_worker(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    told = begin(recipe, tmp_path / "run")
    assert os.getpgid(told._worker.pid) != os.getpgid(0)
    train(told, range(2))
    wait_for(lambda: list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb")))
    told._worker.send_signal(signal.SIGINT)
    train(told, range(2, 4))
    told.finish(None, tmp_path / "run", 130)
    assert len(offline.read(tmp_path / "run").history("1-distill/loss")) == 4


# ------------------------------------------------------------------- a server that does not answer, or is not there


def test_a_server_that_takes_calls_and_never_answers_holds_nobody_up(tmp_path, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(tracker, "PATIENCE", 120.0)
        whole(make_recipe(tmp_path), tmp_path / "run")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "so the run was logged offline; upload it with:" in warning
    assert offline.read(tmp_path / "run").summary["retained"] == 0.75


def test_online_without_a_server_in_reach_goes_offline_with_one_warning(tmp_path, monkeypatch, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(tracker, "PATIENCE", 120.0)
        whole(make_recipe(tmp_path), tmp_path / "run")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "was not reached (ConnectionRefusedError), so the run was logged offline; upload it with:" in warning
    told = offline.read(tmp_path / "run")
    assert told.summary["retained"] == 0.75
    assert KEY.encode() not in offline.find(tmp_path / "run").read_bytes()
