"""Rows of many runs side by side: `compare` sorts them into groups, and says what is best under a budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.comparison.budget import Budget, Choice, choose
from distill.comparison.groups import Group, group_of
from distill.comparison.reading import Run
from distill.errors import DataError


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
    return Comparison([group_of(found, [labels[run] for run in found], key) for key, found in by_data.items()], notes)


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
