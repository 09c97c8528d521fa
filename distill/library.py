"""The shelf that comes with the package: recipes and teacher cards, found by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from distill.disk import expanded
from distill.errors import RecipeError

Kind = Literal["recipes", "teachers"]
_PACKAGE = Path(__file__).parent


def shelf(kind: Kind) -> Path:
    """The folder of the shipped recipes or cards: inside an installed wheel, beside the package in a checkout."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def names(kind: Kind) -> list[str]:
    """The names on the shelf, sorted."""
    return sorted(path.stem for path in shelf(kind).glob("*.yaml"))


def is_path(name: str) -> bool:
    """Whatever has a slash or ends in .yaml is a path, never a shipped name."""
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def find(kind: Kind, name: str) -> Path:
    """A shipped name, or the path of a YAML file (see `is_path`).

    Raises RecipeError when there is no such file.
    """
    one = kind.removesuffix("s")
    if is_path(name):
        path = expanded(name)
        if path.is_dir():
            more = f"; for a checkpoint write teacher: {{checkpoint: {name}}}" if kind == "teachers" else ""
            raise RecipeError(f"{name}: a folder, not a {one} file{more}")
        if not path.is_file():
            raise RecipeError(f"{name}: no such {one} file (looked in {path.resolve().parent})")
        return path
    if name not in names(kind):
        raise RecipeError(
            f"{name}: no {one} of this name is shipped{nearest(name, names(kind))} "
            f"(there are: {', '.join(names(kind))}; a file of your own is named by its path, such as ./{name}.yaml)"
        )
    return shelf(kind) / f"{name}.yaml"


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path lies outside a folder once its `..` and every link in it are followed; the file need not be there.

    This is the rule for what a recipe or a card names by a relative path: it stays below the folder that it starts in.
    A link that goes round in a circle leads out, too.
    """
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return True


def summary(path: Path) -> str:
    """The first comment line of a shelf file: what it is for."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def nearest(word: str, known: list[str]) -> str:
    """'; did you mean …?' when a known word is close, else nothing."""
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
