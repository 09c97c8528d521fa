"""What the parts share: where everything lies, and a recipe that is carried out once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import say

from distill.pipeline import run
from distill.recipe import Recipe, to_yaml

_QUIET = {"track": {"wandb": "off", "energy": False}}
_TOLD = (
    "name", "format", "metric", "score", "interval", "n", "scores", "retained", "p_value", "worst_class", "params",
    "bytes", "latency", "memory_mb",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Where data and runs lie, and whether all is done on slivers."""

    data: Path
    runs: Path
    quick: bool

    def carry_out(self, title: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's report; one that was carried out before is read."""
        whole = Recipe.model_validate({**recipe, **_QUIET})
        folder = self.runs / f"{title}-{hashlib.sha256(to_yaml(whole).encode()).hexdigest()[:8]}"
        say(title)
        if not (folder / "report.json").is_file():
            run(whole, folder, name=title, smoke=self.quick)
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def rows_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ledger's rows, without what is too long for a table."""
    return [{word: row[word] for word in _TOLD} for row in report["rows"]]
