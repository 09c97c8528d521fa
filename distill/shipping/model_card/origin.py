"""What the model comes from, and under which licences: the sections Data and Licence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill.recipe.settings import Recipe

NOT_STATED = "not stated: ask before you publish"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def data_used(report: Mapping[str, Any]) -> str:
    """The section Data."""
    data = report["data"]
    rows = data["rows"]
    lines = [
        f"* {data.get('name') or 'not named'}: {rows['train']} training, {rows['validation']} validation and "
        f"{rows['test']} test rows; near-duplicates never straddle two of them",
        f"* licence: {data.get('licence') or NOT_STATED}",
    ]
    lines += [f"* {one['rows']} more rows ({one['origin']}), labelled by the teacher" for one in data.get("extra", [])]
    return "\n".join(lines + ([f"* {data['note']}"] if data.get("note") else []))


def licences(recipe: Recipe, report: Mapping[str, Any]) -> str:
    """The section Licence."""
    told = report.get("teacher", {})
    several = told.get("ensemble", [])
    theirs = [
        f"* {'a' if several else 'the'} teacher, {teacher_link({'teacher': one})}: {one.get('licence') or NOT_STATED}"
        for one in several or [told]
    ]
    derived = "weights may be derived from the first teacher's" if several else "weights are derived from the teacher's"
    lines = [
        f"* what is shipped here: {licence_of(recipe, report) or NOT_STATED}",
        *theirs,
        f"* {derived} and were trained on the data above; {'all' if several else 'both'} licences concern you",
    ]
    return "\n".join(lines)


def licence_of(recipe: Recipe, report: Mapping[str, Any]) -> str | None:
    """What is shipped has the recipe's licence, or the teacher's own; None when neither is known."""
    return (recipe.ship.licence if recipe.ship else None) or report.get("teacher", {}).get("licence")


def base_model(report: Mapping[str, Any]) -> str | None:
    """The teacher's Hub id, where it has one."""
    teacher = report.get("teacher", {})
    if teacher.get("hub_id"):
        return teacher["hub_id"]
    source, name = teacher.get("source") or "", teacher.get("name") or ""
    if (found := re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+?)/?", source)) is not None:
        return found[1]
    return name if _HUB_ID.fullmatch(name) else None


def teacher_link(report: Mapping[str, Any]) -> str:
    """The teacher's name, with a link to where it is from where that is known; or those of several."""
    teacher = report.get("teacher", {})
    if several := teacher.get("ensemble"):
        return f"an ensemble of {listed([teacher_link({'teacher': one}) for one in several])}"
    name, source = teacher.get("name") or "the teacher", teacher.get("source")
    if source is None and base_model(report):
        source = f"https://huggingface.co/{base_model(report)}"
    return f"[{name}]({source})" if source else name


def listed(words: Sequence[str]) -> str:
    """Words in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
