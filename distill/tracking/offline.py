"""Reads an offline W&B run back: what was told, as plain data.

    RUN/wandb/offline-run-DATE-ID/run-ID.wandb = header (":W&B", 0xBEE1, 0), then blocks of 32 KiB
    block := [ crc 4 bytes, length 2, kind 1, data ]…     kind: full 1, first 2, middle 3, last 4

LevelDB's log format, but for the sum, which is plain CRC-32 over kind and data. A record is a protobuf message of
wandb's own. Tables and saved files lie beside it, under files/.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from distill.errors import DataError

_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK = 32 * 1024
_PIECE = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_LARGEST_RECORD = _LARGEST_TABLE = 64 << 20


@dataclass
class Artifact:
    """An artifact that a run made, or used."""

    name: str
    kind: str
    metadata: dict[str, Any]
    files: dict[str, int]  # name → bytes
    used: bool


@dataclass
class OfflineRun:
    """What an offline run holds. `exit_code` is None when the run was cut off."""

    folder: Path
    run_id: str = ""
    name: str = ""
    project: str = ""
    entity: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    system: list[dict[str, float]] = field(default_factory=list)
    step_metrics: dict[str, str] = field(default_factory=dict)  # metric or pattern → the metric it is drawn over
    artifacts: list[Artifact] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def history(self, key: str) -> list[Any]:
        """A metric's values, in the order in which they were logged."""
        return [row[key] for row in self.rows if key in row]

    def file(self, name: str) -> Path:
        """A file that was saved with the run. Raises DataError when it isn't there."""
        path = self.folder / "files" / name
        if not path.resolve().is_relative_to((self.folder / "files").resolve()) or not path.is_file():
            raise DataError(f"{self.folder}: the W&B run holds no file {name}")
        return path

    def table(self, key: str) -> dict[str, Any]:
        """A table as {"columns", "data"}. Raises DataError when there is none of this name."""
        told = self.summary.get(key)
        if not isinstance(told, dict) or told.get("_type") != "table-file":
            raise DataError(f"{self.folder}: the W&B run holds no table {key}")
        path = self.file(told["path"])
        if path.stat().st_size > _LARGEST_TABLE:
            raise DataError(f"{path}: larger than 64 MiB; not read")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not a table of W&B ({error})") from None

    @property
    def tables(self) -> list[str]:
        """The names of the tables, those of plots included."""
        told = self.summary.items()
        return [key for key, value in told if isinstance(value, dict) and value.get("_type") == "table-file"]

    @property
    def plots(self) -> dict[str, dict[str, Any]]:
        """The plots: what W&B draws, and from which table's columns."""
        return {key: told["panel_config"] for key, told in self.config.get("_wandb", {}).get("visualize", {}).items()}


def read(folder: Path) -> OfflineRun:
    """An offline run folder, or the newest of those below a run folder's `wandb`. Raises DataError."""
    path = find(folder)
    run = OfflineRun(path.parent)
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    try:
        for data in records(path):
            record = Record()
            record.ParseFromString(data)
            _TAKE.get(record.WhichOneof("record_type"), _skip)(run, record)
    except (DecodeError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: not what wandb writes ({error})") from None
    return run


def find(folder: Path) -> Path:
    """The .wandb file of a W&B run folder, or of the newest one below RUN/wandb. Raises DataError."""
    for pattern in ("*.wandb", "offline-run-*/*.wandb", "wandb/offline-run-*/*.wandb"):
        if found := sorted(folder.glob(pattern)):
            return found[-1]
    raise DataError(f"{folder}: no offline W&B run in it (looked for wandb/offline-run-…/run-….wandb)")


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file, up to where it was cut off. Raises DataError for damage."""
    with path.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            raise DataError(f"{path}: not a W&B run (its first bytes are not those of one)")
        whole = b""
        while (piece := _next_piece(file, path)) is not None:
            kind, data = piece
            if (kind in (_FULL, _FIRST)) == bool(whole):
                raise DataError(f"{path}: damaged before byte {file.tell()}: a record's pieces are out of order")
            whole += data
            if len(whole) > _LARGEST_RECORD:
                raise DataError(f"{path}: a record of more than 64 MiB; not read")
            if kind in (_FULL, _LAST):
                yield whole
                whole = b""


def _next_piece(file: BinaryIO, path: Path) -> tuple[int, bytes] | None:
    """A piece's kind and data; None at the end, also where the last piece was cut off."""
    left = _BLOCK - file.tell() % _BLOCK
    if left < _PIECE.size:  # too little for a piece: the block is filled up with zeros
        file.seek(left, 1)
    head = file.read(_PIECE.size)
    if len(head) < _PIECE.size:
        return None
    sum_, length, kind = _PIECE.unpack(head)
    if kind == 0:
        return None
    data = file.read(length)
    if len(data) < length:
        return None
    if kind > _LAST or zlib.crc32(data, zlib.crc32(bytes([kind]))) != sum_:
        raise DataError(f"{path}: damaged at byte {file.tell() - length}: its sum (CRC-32) does not fit")
    return kind, data


# ---------------------------------------------------------------------------------------------- what records tell


def _skip(run: OfflineRun, record: Any) -> None:
    """Telemetry, and what is only said to the server."""


def _take_run(run: OfflineRun, record: Any) -> None:
    told = record.run
    run.run_id, run.name, run.project = told.run_id, told.display_name, told.project
    run.entity, run.group, run.job_type = told.entity, told.run_group, told.job_type
    run.notes, run.tags = told.notes or run.notes, list(told.tags)
    _update(run.config, told.config.update)


def _take_history(run: OfflineRun, record: Any) -> None:
    row: dict[str, Any] = {}
    _update(row, record.history.item)
    run.rows.append(row)


def _take_artifact(run: OfflineRun, record: Any) -> None:
    told = record.artifact
    files = {entry.path: entry.size for entry in told.manifest.contents}
    metadata = json.loads(told.metadata) if told.metadata else {}
    run.artifacts.append(Artifact(told.name, told.type, metadata, files, told.use_after_commit))


def _take_metric(run: OfflineRun, record: Any) -> None:
    if record.metric.step_metric:
        run.step_metrics[record.metric.glob_name or record.metric.name] = record.metric.step_metric


def _take_exit(run: OfflineRun, record: Any) -> None:
    run.exit_code = record.exit.exit_code


def _take_stats(run: OfflineRun, record: Any) -> None:
    run.system.append({item.key: float(json.loads(item.value_json)) for item in record.stats.item})


_TAKE = {
    "run": _take_run,
    "config": lambda run, record: _update(run.config, record.config.update),
    "summary": lambda run, record: _update(run.summary, record.summary.update),
    "history": _take_history,
    "artifact": _take_artifact,
    "metric": _take_metric,
    "files": lambda run, record: run.saved.extend(file.path for file in record.files.files),
    "stats": _take_stats,
    "exit": _take_exit,
}


def _update(told: dict[str, Any], items: Any) -> None:
    """Sets what a record sets; a key of several parts is a place inside."""
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        place = told
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = json.loads(item.value_json)
