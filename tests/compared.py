"""Two runs to be compared, and parts of their reports written anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_reports import ROWS, make_report, write_run

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
