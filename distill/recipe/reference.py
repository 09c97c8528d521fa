"""The reference of every recipe setting, written from the settings themselves: `python -m distill.recipe.reference`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo

from distill.recipe.settings import Bound, Recipe, Settings
from distill.recipe.settings.base import short_of

_LIMITS = {"min_length": "of", "ge": "from", "gt": "above", "le": "up to", "lt": "below"}
_HEAD = """# Recipe reference

Every setting, its form, its default and what it does. This page is made from `distill/recipe/settings/` by
`python -m distill.recipe.reference > docs/recipe.md`; a test keeps the two alike.

A recipe is YAML 1.2. An unknown word is an error that names its line and the nearest known one. Where settings may be
told by one of them alone, `logits: 1.0` stands for `logits: {weight: 1.0}`; a step without settings is its word alone,
`- quantize`.
"""


def reference() -> str:
    """The page, in Markdown."""
    told: dict[type[Settings], str] = {}
    sections: list[str] = [_HEAD]

    def tell(model: type[Settings], path: str) -> None:
        told[model] = path
        summary = " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
        lines = [f"## {path or 'The whole'}", "", summary, ""]
        lines += ["| setting | form | default | |", "| --- | --- | --- | --- |"]
        lines += [_line(name, field) for name, field in model.model_fields.items()]
        new, known = [], []
        for name, field in model.model_fields.items():
            for inner in (inner for inner in _models(field.annotation) if inner is not Bound):
                if inner in told:
                    known.append(f"`{name}` has the settings of [{told[inner]}](#{told[inner].replace('.', '')}).")
                else:
                    new.append((inner, f"{path}.{name}{'.0' * _is_list(field.annotation)}".removeprefix(".")))
                    told[inner] = new[-1][1]
        lines += ["", *known] if known else []
        sections.append("\n".join(lines) + "\n")
        for inner, where in new:
            tell(inner, where)

    tell(Recipe, "")
    return "\n".join(sections)


def _line(name: str, field: FieldInfo) -> str:
    alone = short_of(field.annotation, field.metadata)
    form = _form(field.annotation) + _bounds(field.metadata) + (f", or its `{alone}` alone" if alone else "")
    return f"| `{name}` | {form} | {_default(field)} | {field.description} |"


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        value = _said(value)
    return "–" if value is None or value == "{}" else f"`{value}`"


def _said(settings: Settings) -> str:
    """Settings as a recipe would say them in short: only those that aren't their own defaults."""
    parts = []
    for name, field in type(settings).model_fields.items():
        value, alone = getattr(settings, name), short_of(field.annotation, field.metadata)
        if value == field.get_default(call_default_factory=True):
            continue
        if isinstance(value, Settings):
            value = getattr(value, alone) if alone else _said(value)
        parts.append(f"{name}: {value}")
    return f"{{{', '.join(parts)}}}"


def _bounds(marks: Sequence[Any]) -> str:
    """`, 1 to 100`, `, above 0`: what a number has to be; for a list how many entries it has."""
    found: dict[str, Any] = {}
    for mark in (each for given in marks for each in getattr(given, "metadata", [given])):
        found |= {word: getattr(mark, word) for word in _LIMITS if getattr(mark, word, None) is not None}
    if "min_length" in found:
        return f", of {found['min_length']} or more"
    if {"ge", "le"} <= set(found):
        return f", {found['ge']:g} to {found['le']:g}"
    told = [f"{_LIMITS[word]} {found[word]:.12g}" for word in _LIMITS if word in found]
    return f", {' and '.join(told)}" if told else ""


def _form(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return _form(inner) + _bounds(marks)
    if annotation is type(None):
        return ""
    if isinstance(annotation, type):
        words = {int: "number, whole", float: "number", str: "text", bool: "true or false", Bound: "at least/most …"}
        return words.get(annotation, "settings" if issubclass(annotation, Settings) else annotation.__name__)
    inner = get_args(annotation)
    if re.match(r"typing\.Literal", str(annotation)):
        return ", ".join(f"`{value}`" for value in inner)
    if get_origin(annotation) is list:
        return f"list of {_form(inner[0])}"
    if get_origin(annotation) is dict:
        return "mapping"
    forms = [_form(part) for part in inner if isinstance(part, type) or get_args(part)]
    return " or ".join(form for form in dict.fromkeys(forms) if form)


def _models(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


if __name__ == "__main__":
    print(reference(), end="")
