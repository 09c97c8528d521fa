"""Runs to be compared, wherever they lie: folders, offline runs, W&B; what is damaged or hostile is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import compared
import numpy as np
import pytest
from compared import change
from made_reports import make_report

from distill.comparison import compare, read, reading, remote
from distill.errors import DataError, MachineError
from distill.evaluation.ledger import Row

runs = compared.runs  # a fixture; imported, it would look unused


def test_a_run_is_read_with_its_ledger_and_predictions(runs):
    run = read(runs[0])
    report, kept = make_report("quickstart")
    assert run.name == "quickstart"
    assert run.notes == ()
    assert [row.as_dict() for row in run.ledger.rows] == [Row.from_dict(row).as_dict() for row in report["rows"]]
    assert run.predictions.keys() == kept.keys()
    assert np.array_equal(run.predictions_of(run.ledger.last), kept["2-quantize.onnx-int8"])


@pytest.mark.parametrize("place", ["shipped", "offline", "wandb", "parent", "file", "latest"])
def test_a_run_is_found_wherever_it_lies(tmp_path, runs, place):
    offline = tmp_path / "elsewhere" / "wandb" / "offline-run-20261124_214838-ab12cd34"
    shutil.copytree(runs[0], offline / "files")
    found = {"offline": offline, "wandb": offline.parent, "parent": offline.parent.parent, "latest": offline.parent}
    if place == "latest":
        (offline.parent / "latest-run").symlink_to(offline)
    if place == "shipped":
        (runs[0] / "manifest.json").write_text("{}")
    assert read(found.get(place, runs[0] / "report.json" if place == "file" else runs[0])).name == "quickstart"


def test_of_a_continued_offline_run_the_last_part_counts_and_of_two_runs_none(tmp_path, runs):
    for stamp, run, name in (("1", runs[0], "first"), ("2", runs[0], "second")):
        shutil.copytree(run, tmp_path / "wandb" / f"offline-run-20261124_00000{stamp}-ab12cd34" / "files")
        change(tmp_path / "wandb" / f"offline-run-20261124_00000{stamp}-ab12cd34" / "files", run=name)
    assert read(tmp_path / "wandb").name == "second"
    shutil.copytree(runs[1], tmp_path / "wandb" / "offline-run-20261124_000003-other" / "files")
    with pytest.raises(DataError, match=r"holds 2 W&B runs; name one of them: .*ab12cd34, .*other"):
        read(tmp_path / "wandb")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not valid JSON"), (b"[1, 2]", "not a report of distill"), (b'{"schema": 2}', "not a report"),
        (b'{"schema": "2", "rows": []}', "not a report"), (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"), (b'{"schema": 1, "rows": []}', "schema 1, of an older distill; run"),
        (b'{"schema": 3, "rows": []}', "schema 3, of a newer distill; .*update"),
        (b'{"schema": 2, "rows": []}', "not a whole report"), (b"9" * 5000, "not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_no_report_of_this_schema_is_refused_by_name(tmp_path, content, told):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        read(tmp_path)
    assert str(tmp_path / "report.json") in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"score": "high"}, {"interval": [0.1]}, {"bytes": 0},
        {"score": float("nan")}, {"latency": [{"engine": "torch"}]},
        {"by_class": []}, {"confusion": [["x"]]}, {"name": None}, {"latency": "p50"},
    ],
)  # fmt: skip
def test_a_row_that_is_not_whole_is_refused(runs, changed):
    report = json.loads((runs[0] / "report.json").read_text())
    report["rows"][2] |= changed
    (runs[0] / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=r"report\.json: row 2 "):
        read(runs[0])


@pytest.mark.parametrize("part", ["run", "recipe", "smoke", "data", "machine", "versions", "rows"])
def test_a_report_without_one_of_its_parts_is_refused(runs, part):
    report = json.loads((runs[0] / "report.json").read_text())
    del report[part]
    (runs[0] / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=r"report\.json: not a"):
        read(runs[0])


def test_a_place_without_a_report_is_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such folder, and not a W&B run"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no report\.json, so not a run's folder"):
        read(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match=r"no report\.json yet; `distill run`"):
        read(tmp_path)


def test_neither_a_pipe_nor_what_is_too_large_is_read(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_JSON", 1000)
    with pytest.raises(DataError, match="are not read"):
        read(runs[0])
    monkeypatch.undo()
    monkeypatch.setattr(reading, "_MOST_ARRAYS", 100)
    assert "are not read; no paired test" in read(runs[0]).notes[0]
    monkeypatch.undo()
    (runs[0] / "predictions.npz").unlink()
    os.mkfifo(runs[0] / "predictions.npz")  # reading it would wait for ever
    assert "not a file" in read(runs[0]).notes[0]


class Explosive:
    def __reduce__(self):
        return (sys.exit, ("a pickle was loaded",))


def lying_array(count: int) -> bytes:
    """An .npy whose header tells of more numbers than it has."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    return file.getvalue() + b"\0" * 8


@pytest.mark.parametrize("kind", ["pickle", "garbage", "lie", "bomb", "short", "out of range", "floats", "no labels"])
def test_damaged_or_hostile_predictions_are_left_out_with_a_word(runs, kind, monkeypatch):
    kept, file = make_report()[1], runs[0] / "predictions.npz"
    if kind == "pickle":
        np.savez(file, allow_pickle=True, labels=np.array([Explosive()], dtype=object))
    elif kind == "garbage":
        file.write_bytes(b"PK\x03\x04 and so on")
    elif kind in ("lie", "bomb"):
        monkeypatch.setattr(reading, "_MOST_ARRAYS", 100_000)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labels.npy", lying_array(10**15) if kind == "lie" else b"\0" * 10_000_000)
        assert file.stat().st_size < 100_000
    else:
        kept["labels"] = {
            "short": kept["labels"][:-1], "out of range": kept["labels"] + 1, "floats": kept["labels"] / 1,
            "no labels": None,
        }[kind]  # fmt: skip
        np.savez(file, **{name: array for name, array in kept.items() if array is not None})
    run = read(runs[0])
    assert run.predictions == {}
    assert str(file) in run.notes[0]
    assert "no paired test with this run" in run.notes[0]


def test_without_predictions_there_is_no_test_and_a_word(runs):
    (runs[0] / "predictions.npz").unlink()
    held = compare([read(run) for run in runs])
    assert any("quickstart: " in note and "no predictions.npz" in note for note in held.notes)
    tests = held.groups[0].tests
    assert [title for title, _ in tests.untested] == ["quickstart: 2-quantize · onnx-int8"]
    assert [entry.title for entry in tests.entries] == ["teacher", "tiny: 2-quantize · onnx-int8"]


# ------------------------------------------------------------------------------------------------------ W&B


class File:
    def __init__(self, source: Path) -> None:
        self.source = source

    @property
    def size(self) -> int:
        return self.source.stat().st_size if self.source.exists() else 0

    def download(self, root: str, replace: bool):
        return Path(shutil.copy(self.source, root)).open()


class Api:
    """W&B's public API, as far as it is used, over a folder."""

    folder: Path
    error: Exception | None = None
    asked: list[str] = []  # noqa: RUF012 - all of its objects share it, as tests look there

    def __init__(self, timeout: int) -> None:
        assert timeout <= 60

    def run(self, path: str):
        if self.error:
            raise self.error
        self.asked.append(path)
        return types.SimpleNamespace(file=lambda name: File(self.folder / name))


@pytest.fixture
def wandb(monkeypatch, runs):
    """The real package with its ways to the network replaced; `run` is the first run's folder."""
    import wandb

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setattr(wandb, "login", lambda prompt, verify: not (prompt or verify))
    monkeypatch.setattr(Api, "folder", runs[0], raising=False)
    monkeypatch.setattr(Api, "error", None)
    monkeypatch.setattr(Api, "asked", [])
    return wandb


@pytest.mark.parametrize(
    "place",
    ["team/news/ab12cd34", "wandb:team/news/ab12cd34", "https://wandb.ai/team/news/runs/ab12cd34?nw=x",
     "team/news/runs/ab12cd34"],
)  # fmt: skip
def test_a_run_on_wandb_is_downloaded_by_its_path(wandb, place):
    run = read(place)
    assert Api.asked == ["team/news/ab12cd34"]
    assert run.name == "quickstart"
    assert run.place == place
    assert len(run.predictions) == 6


@pytest.mark.parametrize(
    "place", ["./a/b/c", "/a/b/c", "../a/b", "a/b", "a/b/c/d", "~/a/b", "https://example.org/a/b/c"]
)
def test_other_places_are_never_asked_of_wandb(wandb, place):
    assert remote.run_path(place) is None
    with pytest.raises(DataError, match="no such folder"):
        read(place)
    assert Api.asked == []


def test_a_folder_comes_before_a_run_on_wandb_of_the_same_name(wandb, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs[1], "team/news/ab12cd34")
    assert read("team/news/ab12cd34").name == "tiny"
    assert Api.asked == []


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (ValueError("Could not find run <Run x>"), DataError, "W&B has no such run"),
        (ConnectionError("Name or service not known"), MachineError, "W&B can't be reached"),
        (TimeoutError(), MachineError, "W&B can't be reached"),
    ],
)
def test_what_wandb_answers_becomes_one_clear_error(wandb, monkeypatch, error, kind, told):
    monkeypatch.setattr(Api, "error", error)
    with pytest.raises(kind, match=f"team/news/ab: {told}") as caught:
        read("team/news/ab")
    assert "\n" not in str(caught.value)


def test_a_run_on_wandb_without_key_or_report_or_too_large(wandb, monkeypatch, runs):
    monkeypatch.setattr(reading, "_MOST_JSON", 1000)
    with pytest.raises(DataError, match=r"report\.json has 0 MiB; more than 0 MiB are not read"):
        read("team/news/ab")
    monkeypatch.setattr(Api, "folder", runs[0] / "empty")
    with pytest.raises(DataError, match=r"this W&B run holds no report\.json"):
        read("team/news/ab")
    monkeypatch.setattr(wandb, "login", lambda prompt, verify: False)
    with pytest.raises(DataError, match="`wandb login` first"):
        read("team/news/ab")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DataError, match="pip install wandb"):
        read("team/news/ab")
