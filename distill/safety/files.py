"""Files of a checkpoint, looked at before they are read: their kind, their size, their nesting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.errors import CheckpointError, first_line

LARGEST = 16 << 20  # bytes of a file of words and settings
LARGEST_VOCABULARY = 128 << 20  # bytes of what lists every token, every tensor, or each pair of hundreds of labels
DEEPEST = 64  # objects and lists inside each other

_LONG = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", ".model", ".spm", ".index.json", "report.json")


def check_size(path: Path) -> None:
    """Refuses what is no regular file (a pipe would never end) and what is larger than its kind ever is."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not a regular file")
    most = LARGEST_VOCABULARY if path.name.endswith(_LONG) else LARGEST
    if path.stat().st_size > most:
        raise CheckpointError(f"{path}: larger than {_size(most)}, so it is not read; get the original file again")


def read_json(path: Path) -> Any:
    """A JSON file as Python has it, whatever it holds. Raises CheckpointError, FileNotFoundError.

    Refused beside what is no JSON: files that are too large, values nested too deeply, a key given twice in one object
    (readers differ in which one counts) and NaN.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    check_size(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({first_line(error)})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise CheckpointError(f"{path}: not valid JSON here (nested deeper than {DEEPEST} levels)")
        level = [inner for outer in level for inner in _inside(outer)]
    return found


def _inside(value: Any) -> list[Any]:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in held if isinstance(inner, dict | list)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"'{twice[:60]}' stands in it twice")
    return found


def _constant(name: str) -> float:
    """Infinity is let through: some configs use it as a bound."""
    if name == "NaN":
        raise ValueError("NaN is not a number that JSON has")
    return float(name)


def _size(number: int) -> str:
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number} bytes"
