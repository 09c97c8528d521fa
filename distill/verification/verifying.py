"""`verify`: every claim of a shipped folder, one finding each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.errors import CheckpointError, RecipeError
from distill.recipe import Recipe
from distill.recipe import load as load_recipe
from distill.shipping import manifest as manifests
from distill.verification import answers, measuring
from distill.verification.files import check_files
from distill.verification.finding import Finding, first_line
from distill.verification.words import check_words, read_report

log = logging.getLogger(__name__)
ROUNDS = 20


def verify(folder: Path, *, overrides: Sequence[str] = (), quick: bool = False, rounds: int = ROUNDS) -> list[Finding]:
    """Measures a shipped folder's claims again: files, card, size, answers to made-up ids, score, ratios of latency.

    `overrides` change the recipe that came with it, such as `data.source=news.csv` for data that lies elsewhere here;
    `quick` leaves score and latency out. Raises CheckpointError when this is no shipped folder, RecipeError for
    overrides that don't fit.
    """
    manifest = manifests.read(folder)
    findings, spoilt = check_files(folder, manifest)
    try:
        report, ledger = read_report(folder, manifest)
        findings += check_words(folder, manifest, report, ledger)
        rows = ledger.rows
    except CheckpointError as error:
        report, rows = {}, []
        findings.append(Finding("report.json", "FAILS", why=first_line(error)))
    opened, more = answers.open_formats(folder, manifest, spoilt)
    findings += more + answers.check_probe(folder, manifest, opened)
    recipe, told = _recipe(folder, report, overrides)
    findings += told
    if not rows:
        return findings
    findings += measuring.check_sizes(manifest, rows, opened)
    if quick or recipe is None:
        why = "left out by --quick" if quick else "recipe.yaml can't be read"
        left = [claim for claim in manifest.claims if claim.name.startswith(("score ", "latency "))]
        return findings + [Finding(claim.name, "not checked", f"{claim.value:.4g}", why=why) for claim in left]
    data, why_not = measuring.load_data(
        recipe, manifest, report, own=any(word.strip().startswith("data.") for word in overrides)
    )
    findings += measuring.check_scores(manifest, rows, opened, data, why_not)
    if report.get("smoke") is True:
        left = [claim for claim in manifest.claims if claim.name.startswith("latency ")]
        why = "a smoke run's few rounds tell nothing"
        return findings + [Finding(claim.name, "not checked", f"{claim.value:.4g}", why=why) for claim in left]
    return findings + measuring.check_latency(manifest, rows, opened, recipe, rounds)


def _recipe(folder: Path, report: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Recipe | None, list[Finding]]:
    """The recipe that came with the folder, with what the user changes; the one without must be the report's."""
    path = folder / "recipe.yaml"
    try:
        shipped = load_recipe(path)
    except (CheckpointError, RecipeError) as error:
        return None, [Finding("recipe", "FAILS", why=first_line(error))]
    finding = Finding("recipe", "holds", "recipe.yaml", "the same in report.json")
    try:  # read as recipe.yaml is: words that came later have their defaults in both
        same = Recipe.model_validate(report.get("recipe")) == shipped
    except ValidationError:
        same = False
    if not same:
        finding = Finding("recipe", "FAILS", why="recipe.yaml isn't the recipe that report.json tells")
    return load_recipe(path, overrides), [finding]
