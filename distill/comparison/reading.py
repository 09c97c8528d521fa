"""Reading a run from where it lies: its folder, what it shipped, an offline W&B run, or a run on W&B.

Nothing that is read is trusted: sizes are checked first, arrays hold plain numbers, and what is no report is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from distill.comparison import remote
from distill.disk import expanded
from distill.errors import DataError
from distill.evaluation.ledger import Ledger, Row
from distill.recipe.settings import Problem
from distill.tasks import restored

SCHEMA = 2
_MOST_JSON = 64 << 20  # bytes
_MOST_ARRAYS = 256 << 20  # bytes, packed and unpacked


class _Data(BaseModel):
    """What is needed of the report's data."""

    labels: list[str]
    problem: Problem
    test_sha256: str | None = None
    name: str | None = None


class _Told(BaseModel):
    """What is needed of a report, beside its rows."""

    run: str
    recipe: dict[str, Any]
    smoke: bool
    data: _Data
    teacher: dict[str, Any] | None = None
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Any] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class Run:
    """One run's report, and the predictions behind it where they were kept.

    `predictions` has "labels" and "NAME.FORMAT" of each row; empty when there are none. `notes` say what is amiss.
    """

    place: str
    report: dict[str, Any]
    ledger: Ledger
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name, as the run was started."""
        return str(self.report["run"])

    @property
    def smoke(self) -> bool:
        """Whether its figures mean nothing."""
        return bool(self.report["smoke"])

    @property
    def fingerprint(self) -> str:
        """The same for one run's report wherever it lies: what was run, and every figure of its ledger."""
        told = [self.name, self.report.get("recipe_sha256"), self.report["rows"]]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def predictions_of(self, row: Row) -> np.ndarray | None:
        """A row's predictions of the test split."""
        return self.predictions.get(f"{row.name}.{row.format}")


def read(place: str | Path) -> Run:
    """A run by its folder, its shipped folder, a W&B offline run's folder, or a W&B path (entity/project/id).

    Raises DataError for what is no readable report, MachineError when W&B can't be reached.
    """
    told, folder = str(place), expanded(place)
    if not folder.exists() and (path := remote.run_path(told)) is not None:
        with remote.downloaded(path, _MOST_JSON, _MOST_ARRAYS) as fetched:
            return _read_folder(told, fetched)
    if folder.name == "report.json" and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise DataError(f"{told}: no such folder, and not a W&B run (entity/project/id)")
    return _read_folder(told, _holding(folder))


def _holding(folder: Path) -> Path:
    """The folder that holds report.json: the one given, or that of the W&B run in it."""
    for candidate in (folder, folder / "files"):
        if (candidate / "report.json").is_file():
            return candidate
    runs: dict[str, Path] = {}
    for pattern in ("*run-*/files/report.json", "wandb/*run-*/files/report.json"):
        for found in sorted(folder.glob(pattern)):  # a continued run has several folders; the last one counts
            runs[found.parent.parent.name.rpartition("-")[2]] = found.parent
    if len(runs) == 1:
        return next(iter(runs.values()))
    if runs:
        listed = ", ".join(str(found.parent) for found in runs.values())
        raise DataError(f"{folder}: holds {len(runs)} W&B runs; name one of them: {listed}")
    if (folder / "run.json").is_file():
        raise DataError(
            f"{folder}: this run has no report.json yet; `distill run` with the same --output goes on with it"
        )
    raise DataError(f"{folder}: no report.json, so not a run's folder, a shipped folder or a W&B offline run")


def _read_folder(place: str, folder: Path) -> Run:
    report = _read_report(folder / "report.json")
    ledger = _ledger(folder / "report.json", report)
    try:
        predictions, notes = _read_predictions(folder / "predictions.npz", report, ledger), ()
    except DataError as error:
        predictions, notes = {}, (f"{error}; no paired test with this run",)
    return Run(place, report, ledger, predictions, notes)


def _bounded(path: Path, most: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: not a file")
        if status.st_size > most:
            raise DataError(f"{path}: {status.st_size >> 20} MiB; more than {most >> 20} MiB are not read")
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(_bounded(path, _MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({str(error)[:120]})") from None
    if not isinstance(report, dict) or not isinstance(schema := report.get("schema"), int) or "rows" not in report:
        raise DataError(f"{path}: not a report of distill")
    if schema < SCHEMA:
        raise DataError(
            f"{path}: schema {schema}, of an older distill; run the recipe again to have it in schema {SCHEMA}"
        )
    if schema > SCHEMA:
        raise DataError(f"{path}: schema {schema}, of a newer distill; this one reads {SCHEMA}, so update it")
    try:
        _Told.model_validate(report)
    except ValidationError as error:
        raise DataError(f"{path}: not a whole report ({_first(error)})") from None
    return report


def _ledger(path: Path, report: dict[str, Any]) -> Ledger:
    rows, ensemble = [_row(path, f"row {place}", told) for place, told in enumerate(report["rows"])], None
    if report.get("ensemble") is not None:
        ensemble = _row(path, "the ensemble's row", report["ensemble"])
    return Ledger(rows, ensemble)


def _row(path: Path, which: str, told: Any) -> Row:
    try:
        row = TypeAdapter(Row).validate_python(told)
    except ValidationError as error:
        raise DataError(f"{path}: {which} is not whole ({_first(error)})") from None
    figures = [row.score, *row.interval, row.bytes, *(spent.p50_ms for spent in row.latency)]
    if not np.isfinite(figures).all() or row.bytes <= 0 or any(spent.p50_ms <= 0 for spent in row.latency):
        raise DataError(f"{path}: {which} ({row.title}) has figures that can't be")
    return row


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'content'}: {found['msg']}"


def _read_predictions(path: Path, report: dict[str, Any], ledger: Ledger) -> dict[str, np.ndarray]:
    if not path.exists():
        raise DataError(f"{path.parent}: no predictions.npz")
    packed = io.BytesIO(_bounded(path, _MOST_ARRAYS))
    try:
        with zipfile.ZipFile(packed) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST_ARRAYS:
                raise DataError(f"{path}: unpacks to more than {_MOST_ARRAYS >> 20} MiB, which is not read")
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size)
        packed.seek(0)  # np.load looks at where it stands
        with np.load(packed, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, KeyError, RuntimeError,
            SyntaxError, MemoryError, RecursionError, zipfile.zlib.error) as error:  # fmt: skip
        raise DataError(f"{path}: not readable arrays ({str(error)[:120]})") from None
    _check_predictions(path, report, ledger, found)
    return found


def _check_header(stream: Any, size: int) -> None:
    """An array's header before its content: plain numbers, no more of them than there are bytes."""
    version = np.lib.format.read_magic(stream)
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in reads:
        raise ValueError(f"arrays of version {version}")
    shape, _, dtype = reads[version](stream)
    if dtype.kind not in "biufU" or any(length < 0 for length in shape):
        raise ValueError(f"an array of {dtype}")
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize > size:
        raise ValueError("an array longer than its file")


def _check_predictions(path: Path, report: dict[str, Any], ledger: Ledger, found: dict[str, np.ndarray]) -> None:
    labels = found.get("labels")
    if labels is None:
        raise DataError(f"{path}: holds no labels")
    task = restored(report["data"]["problem"], report["data"]["labels"])
    for name, array in found.items():
        if wrong := task.unlike(array, ledger.teacher.n):
            raise DataError(f"{path}: {name} {wrong}")
        if array.ndim == labels.ndim and array.shape != labels.shape:
            raise DataError(f"{path}: {name} has the shape {array.shape}, the labels {labels.shape}")
