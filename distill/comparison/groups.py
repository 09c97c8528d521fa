"""Rows of many runs side by side: grouped by what they were measured on, the Pareto front of each group marked."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.comparison.budget import Budget, Choice, choose
from distill.comparison.differences import Difference, differences
from distill.comparison.reading import Run
from distill.comparison.significance import PairedTests, compare_pairs
from distill.errors import DataError
from distill.evaluation.ledger import Row
from distill.tasks import Task, restored


@dataclass(eq=False)
class Entry:
    """One checkpoint of one run; a teacher's row that several runs have alike stands once, with all their labels."""

    run: Run
    row: Row
    labels: list[str]
    teacher: bool
    result: bool
    shared: bool = False  # by every run of its group, or there is but one
    on_front: bool = False
    speed: float | None = None  # what the group's front compares: see Group.speed

    @property
    def title(self) -> str:
        """Which run's which checkpoint; the run is left out where there is no other."""
        return self.row.title if self.shared else f"{', '.join(self.labels)}: {self.row.title}"

    @property
    def predictions(self) -> np.ndarray | None:
        """Of the test split, where they were kept."""
        return self.run.predictions_of(self.row)

    @property
    def against_eager(self) -> float | None:
        """Median latency over that of its teacher in eager torch, at the first batch that was timed."""
        return self.run.ledger.against_eager(self.row)


@dataclass(eq=False)
class Group:
    """Runs that were measured on the same test split (cut and masked alike) by the same metric, and so may be compared.

    `speed` says what stands for latency on the front: "vs eager", "ms", or None where latencies can't be compared.
    """

    runs: list[Run]
    labels: list[str]
    entries: list[Entry]
    metric: str
    data: str
    speed: str | None = None
    batch: int | None = None
    notes: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """How predictions are scored."""
        data = self.runs[0].report["data"]
        return restored(data["problem"], data["labels"], self.metric)

    @property
    def front(self) -> list[Entry]:
        """What nothing else of the group beats in every respect."""
        return [entry for entry in self.entries if entry.on_front]

    @functools.cached_property
    def tests(self) -> PairedTests:
        """Paired tests between the runs' results, and their teachers."""
        eager = [entry for entry in self.entries if entry.teacher and entry.row.format == "transformers"]
        results = [entry for entry in self.entries if entry.result and not entry.teacher]
        return compare_pairs([*eager, *results], self.task)


@dataclass(eq=False)
class Comparison:
    """Runs held against one another, in groups that are never mixed; `notes` say what else a reader must know."""

    groups: list[Group]
    notes: list[str]

    def best(self, budget: Budget) -> list[Choice]:
        """For each group what fits a budget best, of what the runs made: no teacher, no smoke run."""
        return [
            choose(budget, group, [e for e in group.entries if not e.teacher and not e.run.smoke])
            for group in self.groups
        ]

    def as_dict(self) -> dict[str, Any]:
        """For other programs: every group with its rows, differences and tests."""
        return {"schema": 1, "notes": self.notes, "groups": [_told(group) for group in self.groups]}


def compare(runs: Sequence[Run]) -> Comparison:
    """Groups runs by test split and metric, and marks what is worth having. Raises DataError without runs."""
    runs, notes = _each_once(runs)
    if not runs:
        raise DataError("compare: no run is given")
    labels = _labels(runs)
    by_data: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_data.setdefault((_measured_on(run), run.ledger.teacher.metric), []).append(run)
    for run in runs:
        notes += [f"{labels[run]}: {note}" for note in run.notes]
        if run.smoke:
            notes.append(f"{labels[run]}: a smoke run, whose figures mean nothing")
    if len(by_data) > 1:
        notes.insert(0, _apart(by_data, labels))
    return Comparison([_group(found, [labels[run] for run in found], key) for key, found in by_data.items()], notes)


def _measured_on(run: Run) -> str:
    """What tells one test split from another; of language models also how texts are cut and masked, and, since they are
    judged by token, into how many blocks.
    """
    data = run.report["data"]
    split = data.get("test_sha256") or f"unknown, of {run.fingerprint}"
    if not str(data.get("problem")).endswith("language_modelling"):
        return split
    said = run.report.get("recipe", {}).get("data", {})
    told = [said.get(word) for word in ("max_length", "packed", "mask")]
    teacher = run.ledger.teacher
    return f"{split}, {json.dumps([*told, None if teacher.metric == 'bits_per_byte' else teacher.n])}"


def _each_once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    kept: dict[str, Run] = {}
    notes = []
    for run in runs:
        first = kept.setdefault(run.fingerprint, run)
        if first is not run:
            same = "given twice" if first.place == run.place else f"the same run as {first.place}"
            notes.append(f"{run.place}: {same}; told once")
            if not first.predictions and run.predictions:
                kept[run.fingerprint] = run
    return list(kept.values()), notes


def _labels(runs: Sequence[Run]) -> dict[Run, str]:
    """What each run is called: its recipe's name, with as much of its place as tells it from the others."""
    names = [run.name for run in runs]
    told = {}
    for run in runs:
        tails = [other.place.rstrip("/").rpartition("/")[2] for other in runs]
        tail = run.place.rstrip("/").rpartition("/")[2]
        if names.count(run.name) == 1:
            told[run] = run.name
        else:
            told[run] = tail if tails.count(tail) == 1 and tail not in set(names) - {run.name} else run.place
    return told


def _apart(by_data: dict[tuple[str, str], list[Run]], labels: dict[Run, str]) -> str:
    what = "test splits" if len({sha for sha, _ in by_data}) > 1 else "metrics"
    if what == "test splits" and len({metric for _, metric in by_data}) > 1:
        what = "test splits or metrics"
    listed = " | ".join(", ".join(labels[run] for run in found) for found in by_data.values())
    return f"these runs were measured on different {what}, so they are not compared across: {listed}"


def _group(runs: list[Run], labels: list[str], key: tuple[str, str]) -> Group:
    data = runs[0].report["data"]
    named = f"{data.get('name') or 'data without a name'}, {runs[0].ledger.teacher.n:,} test examples"
    group = Group(runs, labels, _entries(runs, labels), key[1], named)
    if key[0].startswith("unknown"):
        group.notes.append("which test split this run was measured on is not told, so it stands alone")
    if len({run.report["teacher"].get("sha256") for run in runs if run.report.get("teacher")}) > 1:
        group.notes.append("the teachers differ: what is kept is held against each run's own; the front goes by score")
    group.notes += [
        f"{label}: what is kept is held against its teachers as one, {run.ledger.ensemble.metric} "
        f"{run.ledger.ensemble.score:.4f}" for run, label in zip(runs, labels, strict=True) if run.ledger.ensemble
    ]  # fmt: skip
    _choose_speed(group)
    _mark_front(group)
    group.differences = differences(runs)
    return group


def _entries(runs: list[Run], labels: list[str]) -> list[Entry]:
    entries: list[Entry] = []
    for run, label in zip(runs, labels, strict=True):
        rows = run.ledger.rows
        for row in rows:
            teacher = row.name == run.ledger.teacher.name
            entry = Entry(run, row, [label], teacher, row is run.ledger.last)
            same = next((other for other in entries if teacher and other.teacher and _same(entry, other)), None)
            if same is None:
                entries.append(entry)
                continue
            same.labels.append(label)
            if same.predictions is None:
                same.run, same.row = run, row
    for entry in entries:
        entry.shared = len(entry.labels) == len(runs)
    return sorted(entries, key=lambda entry: not entry.teacher)


def _same(one: Entry, other: Entry) -> bool:
    """Whether two teachers' rows tell the same of the same checkpoint; timing aside, which is each session's own."""
    if one.run is other.run or one.run.smoke != other.run.smoke or _teacher(one.run) != _teacher(other.run):
        return False
    told = [
        (row.format, row.score, row.n, row.params, row.bytes, row.scores, row.by_class, row.confusion)
        for row in (one.row, other.row)
    ]
    kept = (one.predictions, other.predictions)
    alike = kept[0] is None or kept[1] is None or np.array_equal(kept[0], kept[1])
    return told[0] == told[1] and alike


def _teacher(run: Run) -> tuple[Any, ...]:
    told = run.report.get("teacher") or {}
    return (told.get("sha256") or told.get("name"), run.ledger.teacher.params, run.ledger.teacher.bytes)


def _choose_speed(group: Group) -> None:
    """Ratios to the teacher in eager torch where all have the same teacher; milliseconds only within one machine."""
    timed = [{(t.batch, t.tokens, t.threads): t.p50_ms for t in entry.row.latency} for entry in group.entries]
    if not any(timed):
        return
    common = [shape for shape in timed[0] if all(shape in times for times in timed)]
    if not common:
        group.notes.append(
            "latency is no part of the front: not every row was timed at the same batch, tokens and threads"
        )
        return
    shape = common[0]
    machines = [{k: run.report["machine"].get(k) for k in ("processor", "cores", "accelerator")} for run in group.runs]
    one_machine = all(machine == machines[0] for machine in machines)
    if len({_teacher(run) for run in group.runs}) == 1:
        group.speed = "vs eager"
        for entry, times in zip(group.entries, timed, strict=True):
            eager = {(t.batch, t.tokens, t.threads): t.p50_ms for t in entry.run.ledger.teacher.latency}
            entry.speed = times[shape] / eager[shape]
    elif one_machine:
        group.speed = "ms"
        for entry, times in zip(group.entries, timed, strict=True):
            entry.speed = times[shape]
    else:
        group.notes.append("latency is no part of the front: both the machines and the teachers differ")
        return
    group.batch = shape[0]
    if not one_machine:
        group.notes.append("the machines differ: latencies are compared as ratios to the teacher in eager torch")


def _mark_front(group: Group) -> None:
    """Marks what nothing beats: a better score, fewer bytes, less latency. A smoke run counts only among its like."""
    real = [entry for entry in group.entries if not entry.run.smoke] or group.entries
    costs = {e: (-e.row.merit, e.row.bytes, *(() if e.speed is None else (e.speed,))) for e in real}
    for entry in real:
        entry.on_front = not any(_beats(costs[other], costs[entry]) for other in real)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _told(group: Group) -> dict[str, Any]:
    tests = group.tests
    return {
        "data": group.data, "metric": group.metric, "runs": group.labels, "notes": group.notes,
        "speed": group.speed, "batch": group.batch,
        "rows": [
            {"runs": e.labels, "teacher": e.teacher, "result": e.result, "on_front": e.on_front, "smoke": e.run.smoke,
             "speed": e.speed, **e.row.as_dict()} for e in group.entries
        ],
        "differences": [{"path": d.path, "values": d.values} for d in group.differences],
        "tests": [
            {"one": tests.entries[one].title, "other": tests.entries[other].title, "p": p,
             "holm": tests.corrected[one, other]} for (one, other), p in tests.p.items()
        ],
        "untested": [{"row": title, "why": why} for title, why in tests.untested],
    }  # fmt: skip
