"""How runs differ beside their figures: recipe settings by dotted path, machine and versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.comparison.reading import Run


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in all runs; `values` has each run's, None where it has none."""

    path: str
    values: list[str | None]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """What differs among runs, the recipes' settings first, in the order of the recipes."""
    told = [dict(_leaves(run)) for run in runs]
    paths = dict.fromkeys(path for leaves in told for path in leaves)
    found = [Difference(path, [leaves.get(path) for leaves in told]) for path in paths]
    return sorted(
        (one for one in found if len(set(one.values)) > 1),
        key=lambda one: one.path.startswith(("machine: ", "versions: ")),
    )


def _leaves(run: Run) -> Iterator[tuple[str, str]]:
    yield from _flat(run.report["recipe"], "")
    for part in ("machine", "versions"):
        for path, value in _flat(run.report[part], ""):
            yield f"{part}: {path}", value


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None or not value or (isinstance(value, list) and not any(isinstance(v, dict | list) for v in value)):
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return
    for name, part in inner:
        yield from _flat(part, f"{path}.{name}" if path else str(name))
