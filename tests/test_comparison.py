"""Runs held against one another: read from wherever they lie, grouped, marked, tested, chosen from."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from click.testing import CliRunner
from made_reports import MACHINE, ROWS, make_report, sha, write_run
from scipy import stats

from distill.cli import _Commands
from distill.cli.compare import compare as command
from distill.cli.units import parse_latency, parse_size
from distill.comparison import Budget, Entry, compare, read, reading, remote
from distill.comparison.page import page
from distill.comparison.significance import holm, p_value
from distill.errors import DataError, MachineError
from distill.evaluation.ledger import Row

TINY = [
    *ROWS[:2],
    ("1-finetune", "transformers", 0.935, 4_385_000, 17_800_000, (3.1, 90.0), 310.0),
    ("2-quantize", "onnx-int8", 0.874, 4_385_000, 4_900_000, (1.2, 52.0), 61.0),
]


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two runs on the same data with the same teacher, whose recipes differ."""
    first, kept = make_report("quickstart")
    second, also = make_report("tiny", rows=TINY, seed=5)
    second["recipe"]["student"] = {"checkpoint": "prajjwal1/bert-tiny"}
    second["recipe"]["steps"][0]["distill"]["epochs"] = 5.0
    return [write_run(tmp_path / "a", first, kept), write_run(tmp_path / "b", second, also)]


def change(folder: Path, **changed: object) -> Path:
    """Writes parts of a run's report anew."""
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, **changed}))
    return folder


def changed_data(folder: Path, **changed: object) -> Path:
    return change(folder, data={**json.loads((folder / "report.json").read_text())["data"], **changed})


def invoke(*arguments: object):
    return CliRunner().invoke(_Commands(commands={"compare": command}), ["compare", *map(str, arguments)])


# ------------------------------------------------------------------------------------------------------ reading


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


# ------------------------------------------------------------------------------------------------------ groups


def test_runs_on_the_same_data_stand_in_one_group_the_teacher_told_once(runs):
    held = compare([read(run) for run in runs])
    assert held.notes == []
    (group,) = held.groups
    assert [entry.title for entry in group.entries] == [
        "teacher", "teacher · onnx-fp32", "quickstart: 1-distill", "quickstart: 2-quantize · onnx-fp32",
        "quickstart: 2-quantize · onnx-int8", "tiny: 1-finetune", "tiny: 2-quantize · onnx-int8",
    ]  # fmt: skip
    assert group.entries[0].labels == ["quickstart", "tiny"]
    assert [entry.result for entry in group.entries] == [False] * 4 + [True, False, True]


def test_teachers_that_are_not_the_same_both_stand(runs):
    report = json.loads((runs[1] / "report.json").read_text())
    report["rows"][0]["score"] -= 0.01
    report["teacher"]["sha256"] = sha("another")
    (runs[1] / "report.json").write_text(json.dumps(report))
    (group,) = compare([read(run) for run in runs]).groups
    assert [e.title for e in group.entries if e.teacher and e.row.format == "transformers"] == [
        "quickstart: teacher", "tiny: teacher",
    ]  # fmt: skip
    assert any("the teachers differ" in note for note in group.notes)


@pytest.mark.parametrize("what", ["test split", "metric", "unknown"])
def test_different_data_or_metrics_are_never_compared_silently(runs, what):
    if what == "metric":
        rows = json.loads((runs[1] / "report.json").read_text())["rows"]
        change(runs[1], rows=[{**row, "metric": "macro_f1"} for row in rows])
    else:
        changed_data(runs[1], test_sha256=sha("other") if what == "test split" else None)
    held = compare([read(run) for run in runs])
    assert [group.labels for group in held.groups] == [["quickstart"], ["tiny"]]
    kind = "metrics" if what == "metric" else "test splits"
    assert held.notes[0] == (
        f"these runs were measured on different {kind}, so they are not compared across: quickstart | tiny"
    )
    for group in held.groups:
        assert len(group.runs) == 1
        assert {entry.run for entry in group.entries} == set(group.runs)
        assert {entry.run for entry in group.tests.entries} == set(group.runs)
        assert group.differences == []


def test_a_run_given_twice_is_told_once(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "shipped")
    change(tmp_path / "shipped", seconds={"ship": 1.0})  # what differs between copies that were told at other times
    (tmp_path / "shipped" / "predictions.npz").unlink()
    held = compare([read(tmp_path / "shipped"), *(read(run) for run in (runs[0], runs[0], runs[1]))])
    assert held.groups[0].labels == ["quickstart", "tiny"]
    assert [note.partition(": ")[2] for note in held.notes] == [
        f"the same run as {tmp_path / 'shipped'}; told once",
        "given twice; told once",
    ]
    assert held.groups[0].entries[4].predictions is not None  # of the copy that kept them
    assert "given twice; told once" in compare([read(runs[0]), read(runs[0])]).notes[0]


def test_runs_of_one_name_are_told_apart_by_their_folders(runs):
    change(runs[1], run="quickstart")
    assert compare([read(run) for run in runs]).groups[0].labels == ["a", "b"]


def test_nothing_to_compare_is_an_error():
    with pytest.raises(DataError, match="no run is given"):
        compare([])


def test_smoke_runs_are_marked_and_never_on_a_front_of_real_ones(runs):
    change(runs[1], smoke=True)
    held = compare([read(run) for run in runs])
    assert "tiny: a smoke run, whose figures mean nothing" in held.notes
    (group,) = held.groups
    assert {entry.run.name for entry in group.front} == {"quickstart"}
    assert held.best(Budget(size=5e6))[0].best is None
    alone = compare([read(runs[1])])
    assert alone.groups[0].front
    assert str(alone.best(Budget(size=5e6))[0]) == "there is nothing to choose from: only teachers and smoke runs"


# ------------------------------------------------------------------------------------------------------ the front


def scattered(folder: Path, seed: int, number: int) -> Path:
    """A run whose rows lie anywhere, with ties."""
    rng = np.random.default_rng(seed)
    rows = [ROWS[0]] + [
        (f"{i}-step", "transformers", 0.9, 10**6, int(rng.integers(1, 12)) * 10**6,
         tuple(float(ms) for ms in rng.integers(1, 12, 2)), 100.0) for i in range(number)
    ]  # fmt: skip
    report, kept = make_report(f"run {seed}", rows=rows, seed=seed, n=60)
    for row in report["rows"][1:]:
        row["score"] = float(rng.integers(1, 12)) / 12
    return write_run(folder / f"{seed}", report, kept)


@pytest.mark.parametrize("seed", range(6))
def test_the_front_is_what_brute_force_finds(tmp_path, seed):
    held = compare([read(scattered(tmp_path, 2 * seed + part, 9)) for part in (0, 1)])
    (group,) = held.groups
    assert group.speed == "vs eager"
    table = np.array([
        [e.row.score, -e.row.bytes, -e.row.latency[0].p50_ms / e.run.ledger.rows[0].latency[0].p50_ms]
        for e in group.entries
    ])  # fmt: skip
    at_least = (table[:, None] >= table[None]).all(-1)
    better = (table[:, None] > table[None]).any(-1)
    beaten = (at_least & better).any(0)
    assert [entry.on_front for entry in group.entries] == (~beaten).tolist()
    assert 0 < beaten.sum() < len(beaten)


def test_latency_is_compared_as_a_ratio_as_milliseconds_or_not_at_all(runs):
    def speeds() -> tuple[str | None, list[float | None], str]:
        (group,) = compare([read(run) for run in runs]).groups
        return group.speed, [entry.speed for entry in group.entries if entry.result], " ".join(group.notes)

    told = speeds()
    assert told[0] == "vs eager"
    assert told[1] == pytest.approx([7.27 / 38.2, 1.2 / 38.2])
    change(runs[1], machine={**MACHINE, "processor": "Apple M2"})
    told = speeds()
    assert told[0] == "vs eager"
    assert "the machines differ" in told[2]
    change(runs[1], teacher={"name": "another", "sha256": sha("another")})
    told = speeds()
    assert told[:2] == (None, [None, None])
    assert "both the machines and the teachers differ" in told[2]
    change(runs[1], machine=MACHINE)
    assert speeds()[:2] == ("ms", [7.27, 1.2])
    report = json.loads((runs[1] / "report.json").read_text())
    for row in report["rows"]:
        for spent in row["latency"]:
            spent["threads"] = 2
    change(runs[1], rows=report["rows"])
    told = speeds()
    assert told[:2] == (None, [None, None])
    assert "not every row was timed at the same batch, tokens and threads" in told[2]


def test_the_recipes_differences_are_dotted_paths_with_each_runs_value(runs):
    change(runs[1], versions={"torch": "2.12.0"})
    (group,) = compare([read(run) for run in runs]).groups
    found = {one.path: one.values for one in group.differences}
    assert found["student.layers"] == ["3", None]
    assert found["student.checkpoint"] == [None, "prajjwal1/bert-tiny"]
    assert found["steps.0.distill.epochs"] == ["3.0", "5.0"]
    assert found["versions: torch"] == ["2.13.0+cpu", "2.12.0"]
    assert "steps.0.distill.temperature" not in found
    assert "seed" not in found
    assert not any(path.startswith("versions") for path in list(found)[:4])  # the recipe first


# ------------------------------------------------------------------------------------------------------ tests


def test_paired_tests_agree_with_an_exact_test_of_the_discordant_pairs(runs):
    (group,) = compare([read(run) for run in runs]).groups
    tests = group.tests
    assert [entry.title for entry in tests.entries] == [
        "teacher", "quickstart: 2-quantize · onnx-int8", "tiny: 2-quantize · onnx-int8",
    ]  # fmt: skip
    truth = make_report()[1]["labels"]
    for one, other in itertools.combinations(range(3), 2):
        right = [tests.entries[place].predictions == truth for place in (one, other)]
        only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        exact = stats.binomtest(only[0], sum(only)).pvalue  # McNemar's, exact
        p, corrected = tests.of(other, one)
        assert p == pytest.approx(exact, abs=0.04)
        assert corrected >= p
    assert tests.of(1, 1) is None
    assert tests.p[0, 2] < 0.01


def test_equal_predictions_have_a_p_of_one_and_missing_ones_are_an_error(runs):
    (group,) = compare([read(runs[0])]).groups
    one = group.entries[0]
    assert p_value(one, one, group.task) == 1.0
    lacking = Entry(one.run, dataclasses.replace(one.row, name="gone"), ["x"], teacher=False, result=False)
    with pytest.raises(DataError, match="needs the predictions of both"):
        p_value(one, lacking, group.task)


def test_equal_hashes_with_other_labels_are_not_tested(runs):
    kept = dict(np.load(runs[1] / "predictions.npz"))
    np.savez(runs[1] / "predictions.npz", **{**kept, "labels": kept["labels"][::-1]})
    tests = compare([read(run) for run in runs]).groups[0].tests
    assert ("tiny: 2-quantize · onnx-int8", "its labels are not those of teacher") in tests.untested


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # by hand: 4 x .005, 3 x .01, 2 x .03, then no less
        ([0.5], [0.5]), ([], []), ([0.9, 0.8], [1.0, 1.0]), ([0.02, 0.02], [0.04, 0.04]),
    ],
)  # fmt: skip
def test_holms_correction(p, expected):
    assert holm(p) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------ budget


@pytest.mark.parametrize(
    ("told", "count"),
    [("5MB", 5e6), ("900kB", 9e5), ("1.5GB", 1.5e9), ("12 mb", 12e6), (".5GB", 5e8), ("7B", 7), ("1MiB", 2**20)],
)
def test_sizes_are_read(told, count):
    assert parse_size("--max-size", told) == count


@pytest.mark.parametrize("told", ["5", "MB", "5MBs", "-5MB", "0MB", "5iB", "1e3MB", "5 M B", ""])
def test_what_is_no_size_is_refused(told):
    with pytest.raises(DataError, match=r"--max-size .*: write a size like 5MB"):
        parse_size("--max-size", told)


def test_latencies_are_read():
    assert parse_latency("--max-latency", "0.5") == (0.5, None)
    assert parse_latency("--max-latency", "12ms") == (None, 12)
    for told in ("fast", "-1", "0", "5s"):
        with pytest.raises(DataError, match="write a latency like"):
            parse_latency("--max-latency", told)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_is_what_brute_force_finds(tmp_path, seed):
    held = compare([read(scattered(tmp_path, 20 + 2 * seed + part, 9)) for part in (0, 1)])
    made = [e for e in held.groups[0].entries if not e.teacher]
    for size, latency in itertools.product((3e6, 6e6, 9e6), (0.05, 0.1, 0.2, None)):
        (choice,) = held.best(Budget(size=size, latency=latency))
        fits = [
            e for e in made
            if e.row.bytes <= size and (latency is None or e.row.latency[0].p50_ms / 38.2 <= latency)
        ]  # fmt: skip
        if not fits:
            assert choice.best is None
            assert choice.nearest in made
            continue
        top = max(e.row.score for e in fits)
        assert choice.best.row.score == top
        assert choice.best.row.bytes == min(e.row.bytes for e in fits if e.row.score == top)


def test_what_comes_nearest_tells_by_how_much_it_misses(runs):
    held = compare([read(run) for run in runs])
    (choice,) = held.best(Budget(size=4e6, retained=0.95))
    assert choice.best is None
    assert choice.nearest.title == "tiny: 2-quantize · onnx-int8"
    retained = choice.nearest.row.retained
    assert choice.missed == pytest.approx({"size": 0.9 / 4.0, "retained": (0.95 - retained) / 0.95})
    assert "misses size by 22.5 %" in str(choice)
    (unmeasured,) = compare([read(change(runs[1], rows=[
        {**row, "memory_mb": None} for row in json.loads((runs[1] / "report.json").read_text())["rows"]]))]).best(
        Budget(memory=50))  # fmt: skip
    assert "memory (not measured)" in str(unmeasured)


def test_every_bound_is_kept(runs):
    held = compare([read(run) for run in runs])
    entry = next(e for e in held.groups[0].entries if e.title == "quickstart: 2-quantize · onnx-int8")
    row = entry.row
    exact = {"size": row.bytes, "retained": row.retained, "score": row.score, "latency": 7.27 / 38.2,
             "latency_ms": 7.27, "memory": 88.4}  # fmt: skip
    assert Budget(**exact).misses(entry) == {}
    for name, bound in exact.items():
        tighter = bound * (1.01 if name in ("retained", "score") else 0.99)
        assert list(Budget(**{**exact, name: tighter}).misses(entry)) == [name]
    assert not Budget()
    assert Budget(score=0.0)


# ----------------------------------------------------------------------------------------------- the command


def test_the_command_tells_everything_and_exits_with_0(runs, tmp_path):
    done = invoke(*runs, "--html", tmp_path / "c.html", "--max-size", "20MB", "--min-retained", "0.97")
    assert done.exit_code == 0, done.output
    for told in ("quickstart: 2-quantize · onnx-int8", "front", "steps.0.distill.epochs", "paired tests", "Holm",
                 "best with at most 20.0 MB, retained at least 0.97: quickstart: 2-quantize"):  # fmt: skip
        assert told in done.output.replace("\n", " "), told
    assert (tmp_path / "c.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_the_command_exits_with_1_when_nothing_fits(runs):
    done = invoke(*runs, "--max-size", "1MB")
    assert done.exit_code == 1
    assert "nothing fits; nearest comes tiny: 2-quantize · onnx-int8" in done.output
    assert invoke(runs[0], "--max-latency", "0.0001").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [["nowhere"], ["--max-size", "5"], ["--max-latency", "fast"], ["--max-memory", "x"], ["--html", "nowhere/c.html"]],
)
def test_the_command_exits_with_2_for_what_a_user_can_mend(runs, arguments):
    done = invoke(runs[0], *arguments)
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert len(done.output.splitlines()) == 1


def test_the_commands_json_holds_every_figure(runs):
    done = invoke(*runs, "--json", "--min-score", "0.9")
    told = json.loads(done.stdout)
    (group,) = told["groups"]
    assert len(group["rows"]) == 7
    assert group["runs"] == ["quickstart", "tiny"]
    assert {"one", "other", "p", "holm"} == group["tests"][0].keys()
    assert told["best"] == [{"fits": True, "told": told["best"][0]["told"]}]
    assert "predictions" not in done.stdout


def test_names_are_words_on_the_terminal_not_its_markup(runs):
    change(runs[0], run="[bold]x[/bold]\x1b[31m:smile:")
    (runs[1] / "predictions.npz").unlink()
    (runs[0] / "predictions.npz").unlink()
    done = invoke(*runs)
    assert "[bold]x[/bold] [31m:smile:" in done.output
    assert "\x1b" not in done.output


# ------------------------------------------------------------------------------------------------------ the page


def test_the_page_is_the_same_for_the_same_runs_and_greys_what_is_beaten(runs):
    held = compare([read(run) for run in runs])
    text = page(held, Budget(size=20e6))
    assert text == page(compare([read(run) for run in runs]), Budget(size=20e6))
    (group,) = held.groups
    part = text.partition("<h2>Checkpoints</h2>")[2].partition("</section>")[0]
    assert part.count('<tr class="behind">') == sum(not entry.on_front for entry in group.entries)
    assert part.count(">front<") == len(group.front)
    assert "<h2>Best under the budget</h2>" in text
    assert text.count("<figure>") == 2


def test_the_page_keeps_groups_apart_and_shows_hostile_names_as_words(runs):
    changed_data(runs[1], test_sha256=sha("other"), name="<b>data</b>")
    change(runs[0], run="<script>alert(1)</script>", smoke=True)
    text = page(compare([read(run) for run in runs]))
    assert "not compared across" in text
    assert "Group 2: &lt;b&gt;data&lt;/b&gt;" in text
    assert "<script" not in text
    assert "Smoke runs are among these" in text.partition("<main>")[0]
    assert text.count("<h2>Checkpoints</h2>") == 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_two_runs_compared_in_a_browser(runs, tmp_path):
    changed_data(shutil.copytree(runs[1], tmp_path / "c"), test_sha256=sha("other"), name="other")
    one = page(compare([read(run) for run in runs]), Budget(size=1e6))
    several = page(compare([read(run) for run in (*runs, tmp_path / "c")]))
    with chromium(tmp_path / "profile") as browser:
        for name, text in (("one", one), ("several", several)):
            (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
            for width, dark in itertools.product((1280, 360), (False, True)):
                browser.open(tmp_path / f"{name}.html", width=width, dark=dark, unfold=True)
                assert browser.faults() == []
                assert browser.screenshot(tmp_path / "shot.png").stat().st_size > 20_000
