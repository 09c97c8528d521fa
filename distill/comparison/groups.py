"""Runs that may be compared: measured on the same test split by the same metric, the Pareto front of them marked."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.comparison.differences import Difference, differences
from distill.comparison.entries import Entry
from distill.comparison.reading import Run
from distill.comparison.significance import PairedTests, compare_pairs
from distill.tasks import Task, restored


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


def group_of(runs: list[Run], labels: list[str], key: tuple[str, str]) -> Group:
    """Runs that may be compared, with the front of their rows; `key` is what they were measured on, and the metric."""
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
