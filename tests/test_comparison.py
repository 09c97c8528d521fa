"""Runs held against one another: grouped, marked, tested, chosen from."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import compared
import numpy as np
import pytest
from browser import CHROMIUM, chromium
from click.testing import CliRunner
from compared import change, changed_data
from made_reports import MACHINE, ROWS, make_report, sha, write_run
from scipy import stats

from distill.cli import _Commands
from distill.cli.compare import compare as command
from distill.cli.units import parse_latency, parse_size
from distill.comparison import Budget, Entry, compare, read
from distill.comparison.page import page
from distill.comparison.significance import holm, p_value
from distill.errors import DataError

runs = compared.runs  # a fixture; imported, it would look unused


def invoke(*arguments: object):
    return CliRunner().invoke(_Commands(commands={"compare": command}), ["compare", *map(str, arguments)])


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


def test_language_models_judged_on_other_blocks_or_masks_are_kept_apart(runs):
    for run in runs:
        recipe = json.loads((run / "report.json").read_text())["recipe"]
        recipe["data"] = {"max_length": 64, "mask": {"share": 0.15}}
        changed_data(change(run, recipe=recipe), problem="masked_language_modelling")
    assert len(compare([read(run) for run in runs]).groups) == 1
    recipe["data"]["mask"] = {"share": 0.4}
    change(runs[1], recipe=recipe)
    held = compare([read(run) for run in runs])
    assert len(held.groups) == 2 and "not compared across" in held.notes[0]


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
