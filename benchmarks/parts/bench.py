"""What the parts share: where everything lies, and a recipe that is carried out once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import say

import distill
from distill import checkpoint as checkpoints
from distill.data import Splits
from distill.engines import Torch
from distill.evaluation.quality import measure_quality
from distill.pipeline import run
from distill.recipe import Recipe, to_yaml

_QUIET = {"track": {"wandb": "off", "energy": False}}
_TOLD = (
    "name", "format", "metric", "score", "interval", "n", "scores", "retained", "p_value", "worst_class", "params",
    "bytes", "latency", "memory_mb",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Where data and runs lie, whether all is done on slivers, and how many processes train."""

    data: Path
    runs: Path
    quick: bool
    processes: int = 1

    def carry_out(self, title: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's report; one that was carried out before is read."""
        whole = Recipe.model_validate({**recipe, **_QUIET})
        folder = self.runs / f"{title}-{hashlib.sha256(to_yaml(whole).encode()).hexdigest()[:8]}"
        say(title)
        if not (folder / "report.json").is_file():
            if self.processes > 1:
                self._together(to_yaml(whole), folder)
            else:
                run(whole, folder, name=title, smoke=self.quick)
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))

    def _together(self, recipe: str, folder: Path) -> None:
        """The same run by several processes, which train together; one of them does all the rest."""
        path = folder.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe, encoding="utf-8")
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        words = ["distill", "run", str(path), "--output", str(folder), *(["--smoke"] if self.quick else [])]
        home = os.pathsep.join([str(Path(distill.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        subprocess.run(
            [sys.executable, "-m", *launcher, "-m", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": home}, check=True,
        )  # fmt: skip


def rows_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ledger's rows, without what is too long for a table."""
    return [{word: row[word] for word in _TOLD} for row in report["rows"]]


def times_as_fast(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times as fast as the teacher in the same format, by format and batch."""
    base = {row["format"]: row for row in rows if row["name"] == "teacher"}
    base.setdefault("onnx-int8", base.get("onnx-fp32"))
    return {
        row["format"]: {
            f"batch {mine['batch']}": theirs["p50_ms"] / mine["p50_ms"]
            for mine, theirs in zip(row["latency"], base[row["format"]]["latency"], strict=True)
        }
        for row in rows
        if row["name"] != "teacher"
    }


def kept_by_format(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What is kept of the teacher's score, by format."""
    return {row["format"]: row["retained"] for row in rows if row["name"] != "teacher"}


def scores_of(folder: Path, data: Splits) -> Mapping[str, float]:
    """A checkpoint's scores on a test split."""
    found = checkpoints.load(folder)
    return measure_quality(Torch(found.model), found.encode(data, "test"), data.task).scores


def write_splits(runs: Path, title: str, data: Splits, most: Mapping[str, int]) -> dict[str, str]:
    """The splits as jsonl, at most so many rows each, as a recipe's data names them: so that the language model sees
    articles of the task's own training split alone.
    """
    runs.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, word in (("train", "source"), ("validation", "validation"), ("test", "test")):
        rows, path = getattr(data, name), runs / f"{title}-{name}.jsonl"
        lines = [
            json.dumps({"text": text, "label": data.task.labels[label]})
            for (text, *_), label in zip(rows.texts, rows.labels, strict=True)
        ]
        path.write_text("\n".join(lines[:: max(1, len(lines) // most.get(name, len(lines)))]) + "\n", encoding="utf-8")
        found[word] = str(path)
    return found


def newest(bench: Bench, title: str) -> Path:
    """The newest run of a title."""
    found = [path for path in bench.runs.glob(f"{title}-????????") if (path / "report.json").is_file()]
    return max(found, key=lambda path: (path / "report.json").stat().st_mtime)
