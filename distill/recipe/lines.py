"""Where in a recipe's file a setting stands, for what is told of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from distill.recipe.settings import Recipe

Lines = dict[tuple[str, ...], int]  # path → line number; 0 where the command line speaks instead of the file
_MOST_NODES = 100_000  # aliases can make a few lines hold more than memory does
_NAMED = re.compile(r"([a-z_]+(?:\.\w+)*): |([a-z_]+(?:\.\w+)+)[ ,]")


def number(node: Node, path: tuple[str, ...] = (), lines: Lines | None = None) -> Lines:
    """The line of each path below a node. Raises ValueError where there are too many of them."""
    lines = {} if lines is None else lines
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > _MOST_NODES:
        raise ValueError(f"it holds more than {_MOST_NODES} values, its aliases written out")
    if isinstance(node, MappingNode):
        for key, value in node.value:
            lines[(*path, str(key.value))] = key.start_mark.line + 1
            number(value, (*path, str(key.value)), lines)
    elif isinstance(node, SequenceNode):
        for position, value in enumerate(node.value):
            number(value, (*path, str(position)), lines)
    return lines


def overridden(lines: Lines, override: str) -> Lines:
    """The same, where the command line speaks in place of some of the file."""
    path = tuple(override.partition("=")[0].strip().split("."))
    kept = {at: line for at, line in lines.items() if at[: len(path)] != path}
    return kept | {path[:depth]: 0 for depth in range(1, len(path) + 1) if path[:depth] not in kept}


def line_of(path: tuple[str, ...], lines: Lines) -> str:
    """`:12`, the line of the deepest part of a path that the file holds."""
    deepest = next((path[:n] for n in range(len(path), -1, -1) if path[:n] in lines), ())
    return f":{lines[deepest]}" if deepest else ""


def place_of(where: str, path: tuple[str, ...], lines: Lines) -> str:
    """`recipe.yaml:12: `, or `--set ` for what the command line says."""
    line = line_of(path, lines)
    return "--set " if line == ":0" else f"{where}{line}: "


def located(problems: Sequence[str], where: str, lines: Lines) -> list[str]:
    """Each problem behind the place of the setting that it begins with; what begins with none stays as it is."""
    found = []
    for problem in problems:
        named = _NAMED.match(problem)
        path = tuple((named[1] or named[2]).split(".")) if named else ("",)
        found.append(f"{place_of(where, path, lines)}{problem}" if path[0] in Recipe.model_fields else problem)
    return found
