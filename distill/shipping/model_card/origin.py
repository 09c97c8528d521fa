"""What the model comes from, and under which licences: the sections Data and Licence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill.data.overlap import LARGE
from distill.recipe.settings import Recipe

NOT_STATED = "not stated: ask before you publish"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def data_used(report: Mapping[str, Any]) -> str:
    """The section Data."""
    data = report["data"]
    rows = data["rows"]
    alike = "near-duplicates" if sum(rows.values()) <= LARGE else "equal texts"
    lines = [
        f"* {data.get('name') or 'not named'}: {rows['train']} training, {rows['validation']} validation and "
        f"{rows['test']} test rows; {alike} never straddle two of them",
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
    own = report.get("student")
    mine = (
        [f"* what the student started from, {teacher_link({'teacher': own})}: {own.get('licence') or NOT_STATED}"]
        if own
        else []
    )
    lines = [
        f"* what is shipped here: {licence_of(recipe, report) or NOT_STATED}",
        *theirs,
        *mine,
        f"* {_derived(recipe, several=bool(several))}; {'all' if several or own else 'both'} licences concern you",
    ]
    return "\n".join(lines)


def _derived(recipe: Recipe, *, several: bool) -> str:
    """Whence the weights are."""
    if recipe.student.checkpoint is not None:
        told = "weights are derived from those that the student started from"
    elif recipe.student.config is not None:
        told = "weights were random at first"
    else:
        told = f"weights {'may be' if several else 'are'} derived from the {'first ' * several}teacher's"
    return f"{told}, and were trained on the data above" if is_trained(recipe) else told


def is_trained(recipe: Recipe) -> bool:
    """Whether anything that ships has learned from the recipe's data."""
    steps = any(step.distill is not None or step.finetune is not None for step in recipe.steps)
    return steps or (recipe.student.layers is not None and any(one.finetune for one in recipe.teacher.members))


def licence_of(recipe: Recipe, report: Mapping[str, Any]) -> str | None:
    """What is shipped has the recipe's licence, else that of what its weights are derived from, where it is the
    teacher's as well; None when that is not known.
    """
    said = recipe.ship.licence if recipe.ship else None
    theirs, own = report.get("teacher", {}).get("licence"), report.get("student")
    return said or (theirs if own is None or own.get("licence") == theirs else None)


def derived_from(report: Mapping[str, Any]) -> str | None:
    """The Hub id of what the weights are derived from, where it has one: the teacher's, or the student's own start."""
    own = report.get("student")
    return own.get("hub_id") if own else base_model(report)


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
