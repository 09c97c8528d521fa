"""The card as a whole: which section comes when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.recipe.settings import Recipe
from distill.shipping import claims
from distill.shipping.model_card.formats import contents
from distill.shipping.model_card.front_matter import front_matter
from distill.shipping.model_card.limits import limits
from distill.shipping.model_card.opening import first_words, measured
from distill.shipping.model_card.origin import data_used, licences
from distill.shipping.model_card.usage import reproduce, use


def write_card(recipe: Recipe, report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The card of a shipped folder. `report` and `recipe` name no local path; `facts` are the manifest's."""
    rows = claims.rows_of(report)
    shipped = claims.shipped_rows(rows, facts["formats"])
    title = recipe.ship.hub.split("/")[1] if recipe.ship and recipe.ship.hub else report["run"]
    sections = [
        f"# {title}",
        first_words(report, facts, shipped),
        *(["**This is a smoke run: made on a sliver of the data. Its figures mean nothing.**"] * bool(report["smoke"])),
        "## Measured\n\n" + measured(rows, report),
        "## Use\n\n" + use(recipe, facts),
        "## Data\n\n" + data_used(report),
        "## Licence\n\n" + licences(recipe, report),
        "## Limits\n\n" + limits(report, facts),
        "## How to reproduce\n\n" + reproduce(report),
        "## What is in this folder\n\n" + contents(facts),
    ]
    return f"---\n{front_matter(title, recipe, report, facts)}---\n\n" + "\n\n".join(sections) + "\n"
