"""Whether the card, the report, the manifest and the kept predictions say the same. Nothing is measured anew."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.errors import CheckpointError, DistillError
from distill.safety import check_size, read_json
from distill.shipping import claims
from distill.shipping.manifest import Manifest
from distill.verification.controls import check_controls
from distill.verification.finding import Finding, first_line

if TYPE_CHECKING:
    from distill.evaluation import Ledger, Row
    from distill.tasks import Task

_LARGEST_ARRAYS = 1 << 30  # bytes of predictions, unpacked
_SAME = 1e-9
# What values of a wrong kind, or of a wrong size, end in.
_ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, MemoryError)
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def read_report(folder: Path, manifest: Manifest) -> tuple[dict[str, Any], Ledger]:
    """A shipped report and its ledger, whole enough to be held against anything. Raises CheckpointError."""
    from distill.evaluation import Ledger

    try:
        report = read_json(folder / "report.json")
        claims.of_rows(claims.rows_of(report), manifest.formats)
        ledger = Ledger.told(report)
        ledger.cells()
        if [str(label) for label in report["data"]["labels"]] != report["data"]["labels"]:
            raise TypeError("its labels are no words")
    except _ODD as error:
        raise CheckpointError(f"it can't be read: {first_line(error)}") from None
    return report, ledger


def check_words(folder: Path, manifest: Manifest, report: Mapping[str, Any], ledger: Ledger) -> list[Finding]:
    """The report against the manifest, the predictions and itself; then the card against the report."""
    findings: list[Finding] = []
    for name, check in (
        ("report", lambda: _claims(manifest, claims.of_rows(ledger.rows, manifest.formats)) + _kept(ledger)),
        ("labels", lambda: _labels(folder, manifest, report)),
        ("predictions", lambda: _predictions(folder, manifest, report, ledger)),
        ("card", lambda: _card(folder, manifest, report, ledger)),
    ):
        try:
            findings += check()
        except (DistillError, zipfile.BadZipFile, *_ODD) as error:
            findings.append(Finding(name, "FAILS", why=f"it can't be read: {first_line(error)}"))
    return findings


def _claims(manifest: Manifest, expected: list[claims.Claim]) -> list[Finding]:
    claimed = {claim.name: claim for claim in manifest.claims}
    told = {claim.name: claim for claim in expected}
    findings = []
    if len(claimed) < len(manifest.claims):
        findings.append(Finding("report", "FAILS", why="the manifest claims something twice"))
    for name in dict.fromkeys((*told, *claimed)):
        if name.startswith("parity "):  # of the probe, not of the report
            continue
        if name not in claimed or name not in told:
            where = "the manifest" if name not in claimed else "report.json"
            findings.append(Finding(name, "FAILS", why=f"{where} says nothing of it"))
        elif abs(claimed[name].value - told[name].value) > _SAME * max(1.0, abs(told[name].value)):
            findings.append(_differs(name, "the manifest", f"{claimed[name].value:g}", f"{told[name].value:g}"))
    return findings or [Finding("report", "holds", f"{len(told)} figures of the manifest", "the same in report.json")]


def _differs(name: str, who: str, theirs: str, reports: str) -> Finding:
    return Finding(name, "FAILS", why=f"{who} says {theirs}, report.json says {reports}")


def _labels(folder: Path, manifest: Manifest, report: Mapping[str, Any]) -> list[Finding]:
    """Label names, their order and the problem, in every place that tells them."""
    from distill import tasks

    told = {"report.json": (report["data"]["labels"], report["data"].get("problem", manifest.problem))}
    for inside in sorted({path.split("/")[0] for path in manifest.files if path.endswith("/config.json")}):
        config = read_json(folder / inside / "config.json") if (folder / inside / "config.json").is_file() else {}
        task = tasks.from_config(config)
        told[f"{inside}/config.json"] = (list(task.labels), task.problem)
        if manifest.threshold is not None and tasks.threshold_of(config) != manifest.threshold:
            words = f"{tasks.threshold_of(config)} in {inside}/config.json"
            return [Finding("threshold", "FAILS", str(manifest.threshold), words)]
    for where, (labels, problem) in told.items():
        if list(labels) != manifest.labels:
            words = f"{', '.join(labels)} in {where}"
            return [Finding("labels", "FAILS", ", ".join(manifest.labels), words, "exactly")]
        if problem != manifest.problem:
            return [Finding("problem", "FAILS", manifest.problem, f"{problem} in {where}", "exactly")]
    return [Finding("labels", "holds", ", ".join(manifest.labels), "the same, in this order, everywhere", "exactly")]


def _kept(ledger: Ledger) -> list[Finding]:
    """What was kept is the score over the teacher's, or the ensemble's; the inverse where less is better."""
    from distill.tasks import LOWER, retained

    findings = []
    for row in ledger.shown:
        if row is ledger.reference:
            continue
        kept = retained(row.score, ledger.reference.score, lower=row.metric in LOWER)
        if (kept is None) != (row.retained is None) or (kept is not None and abs(kept - row.retained) > 1e-6):
            name = f"retained {row.title}"
            findings.append(Finding(name, "FAILS", f"{row.retained}", f"{kept}", "of the two scores"))
    return findings


def _predictions(folder: Path, manifest: Manifest, report: Mapping[str, Any], ledger: Ledger) -> list[Finding]:
    """Every score that report.json tells, counted again from the predictions that were kept."""
    path = folder / "predictions.npz"
    if not path.is_file():
        return [Finding("predictions", "not checked", why="none were kept with it")]
    from distill.tasks import restored

    task = restored(manifest.problem, manifest.labels, ledger.teacher.metric)
    with zipfile.ZipFile(path) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > _LARGEST_ARRAYS:
            return [Finding("predictions", "FAILS", why="unpacked it is larger than predictions are")]
    with np.load(path, allow_pickle=False) as held:
        kept = {name: held[name] for name in held.files}
    names = {f"{row.name}.{row.format}": row for row in ledger.rows}
    names |= {ledger.ensemble.name: ledger.ensemble} if ledger.ensemble else {}
    counted = [name for name in names if name in kept]
    findings = [wrong for name in counted for wrong in _recount(task, names[name], kept[name], kept["labels"])]
    findings += check_controls(task, report.get("controls"), kept)
    if not counted:
        return [Finding("predictions", "FAILS", why="they are of none of the report's rows")]
    return findings or [Finding("predictions", "holds", f"scores of {len(counted)} rows", "the same, counted again")]


def _recount(task: Task, row: Row, predictions: np.ndarray, labels: np.ndarray) -> list[Finding]:
    counted = {**task.scores(predictions, labels), "examples": float(len(labels))}
    told = {**row.scores, row.metric: row.score, "examples": float(row.n)}
    counted |= {f"{name} alone": value for name, value in task.by_class(predictions, labels).items()}
    told |= {f"{name} alone": value for name, value in row.by_class.items()}
    if row.worst_class is not None:
        told[f"{row.worst_class['name']} alone"] = row.worst_class["score"]
    wrong = [
        Finding(f"{name} {row.title}", "FAILS", f"{told.get(name)}", f"{counted.get(name)}", "of the kept predictions")
        for name in dict.fromkeys((*told, *counted))
        if name not in told or name not in counted or not abs(told[name] - counted[name]) <= 1e-6
    ]
    confusion = task.confusion(predictions, labels)
    if row.confusion is not None and row.confusion != confusion:
        wrong.append(Finding(f"confusion {row.title}", "FAILS", why="the kept predictions give another matrix"))
    return wrong


def _card(folder: Path, manifest: Manifest, report: Mapping[str, Any], ledger: Ledger) -> list[Finding]:
    try:
        check_size(folder / "README.md")
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError, CheckpointError) as error:
        return [Finding("README.md", "FAILS", why=f"it can't be read: {first_line(error)}")]
    return [*_model_index(text, manifest, report), *_table(text, manifest, ledger)]


def _model_index(text: str, manifest: Manifest, report: Mapping[str, Any]) -> list[Finding]:
    from distill.shipping.model_card import model_index

    expected = {one.metric_name: one.metric_value for one in model_index(report, manifest.formats)}
    try:
        told = _figures(text)
    except (LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
        return [Finding("model-index", "FAILS", why=f"README.md's front matter can't be read: {first_line(error)}")]
    wrong = []
    for name in dict.fromkeys((*expected, *told)):
        theirs, ours = told.get(name), expected.get(name)
        number = isinstance(theirs, int | float) and not isinstance(theirs, bool)
        if not number or ours is None or not abs(theirs - ours) <= _SAME:
            wrong.append(_differs(f"model-index {name}", "the card", _said(theirs), _said(ours)))
    return wrong or [Finding("model-index", "holds", f"{len(told)} figures of README.md", "the same in report.json")]


def _figures(text: str) -> dict[str, Any]:
    """The metrics in a card's front matter by their name. Plain YAML; a tag or a link to elsewhere is an error."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    found = _FRONT_MATTER.match(text)
    if found is None:
        raise ValueError("there is none")
    try:
        tree = YAML(typ="safe", pure=True).load(found[1])
    except YAMLError as error:
        raise ValueError(first_line(error)) from None
    told: dict[str, Any] = {}
    for result in tree["model-index"][0]["results"]:
        for metric in result["metrics"]:
            if metric["name"] in told:
                raise ValueError(f"it tells {metric['name']} twice")
            told[metric["name"]] = metric["value"]
    return told


def _table(text: str, manifest: Manifest, ledger: Ledger) -> list[Finding]:
    """The card's measured table against the report's, cell by cell: the first that differs is told."""
    head, body = ledger.cells()
    expected = [[_plain(cell) for cell in line] for line in (head, *body)]
    found = _first_table(text.partition("\n## Measured\n")[2])
    if not found or found[0] != expected[0]:
        why = f"the card's columns aren't the report's (the card was written by {manifest.made_by})"
        return [Finding("table", "FAILS", why=why)]
    if len(found) != len(expected):
        return [Finding("table", "FAILS", f"{len(found) - 1} rows", f"{len(body)} rows in report.json")]
    for theirs, ours in zip(found[1:], expected[1:], strict=True):
        if len(theirs) != len(ours):
            return [Finding(f"table {ours[0]}", "FAILS", why="the row has lost or won a cell")]
        for column, one, other in zip(expected[0], theirs, ours, strict=True):
            if one != other:
                return [_differs(f"table {ours[0]}, {column or 'checkpoint'}", "the card", one, other)]
    return [Finding("table", "holds", f"{len(body)} rows of README.md", "the same in report.json")]


def _first_table(text: str) -> list[list[str]]:
    lines = []
    for line in text.split("\n## ")[0].splitlines():
        if line.startswith("|"):
            lines.append([_plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
        elif lines:
            break
    return [line for place, line in enumerate(lines) if place != 1]


def _plain(cell: str) -> str:
    return " ".join(cell.replace("\\|", "|").split())  # as a card writes a cell


def _said(value: Any) -> str:
    return "nothing" if value is None else str(value)[:60]
