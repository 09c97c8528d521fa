"""The reference of every recipe setting, written from the settings themselves: `python -m distill.recipe.reference`."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from distill.recipe.settings import Bound, Recipe, Settings

_HEAD = """# Recipe reference

Every setting, its form, its default and what it does. This page is made from `distill/recipe/settings/` by
`python -m distill.recipe.reference > docs/recipe.md`; a test keeps the two alike.

A recipe is YAML 1.2. An unknown word is an error that names its line and the nearest known one.
"""


def reference() -> str:
    """The page, in Markdown."""
    told: set[type[Settings]] = set()
    sections: list[str] = [_HEAD]

    def tell(model: type[Settings], path: str) -> None:
        if model in told or model is Bound:
            return
        told.add(model)
        lines = [f"## {path or 'The whole'}", "", (model.__doc__ or "").strip().split("\n")[0], ""]
        lines += ["| setting | form | default | |", "| --- | --- | --- | --- |"]
        lines += [_line(name, field) for name, field in model.model_fields.items()]
        sections.append("\n".join(lines) + "\n")
        for name, field in model.model_fields.items():
            for inner in _models(field.annotation):
                dots = ".0" if get_origin(field.annotation) is list else ""
                tell(inner, f"{path}.{name}{dots}".removeprefix("."))

    tell(Recipe, "")
    return "\n".join(sections)


def _line(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {_form(field.annotation)} | {_default(field)} | {field.description} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "–" if value is None or isinstance(value, Settings) else f"`{value}`"


def _form(annotation: Any) -> str:
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
