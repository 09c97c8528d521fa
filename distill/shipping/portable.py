"""What others get to read names no path of this machine: each is cut to its last name, and labels stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distill.recipe.settings import Recipe
from distill.tracking.redaction import without_paths


def portable_recipe(recipe: Recipe) -> Recipe:
    """The recipe as others can read it: Hub ids, cards and packages stay, paths become names."""
    full = recipe.model_dump(mode="json", exclude_none=True)
    told = without_paths(full)
    told["data"] |= {word: full["data"][word] for word in ("text", "label", "separator") if word in full["data"]}
    if recipe.data.source.path is None or recipe.data.source.package is not None:  # of a package or the Hub
        told["data"] |= {split: full["data"][split] for split in ("validation", "test")}
    return Recipe.model_validate_json(json.dumps(told), strict=True)


def portable_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as others can read it. A label may look like a path and is none."""
    told = without_paths(dict(report))
    told["data"]["labels"] = report["data"]["labels"]
    for word in ("text", "label", "separator"):
        if word in report["recipe"]["data"]:
            told["recipe"]["data"][word] = report["recipe"]["data"][word]
    for row, full in zip(told["rows"], report["rows"], strict=True):
        row |= {word: full[word] for word in ("by_class", "worst_class") if word in full}
    return told
