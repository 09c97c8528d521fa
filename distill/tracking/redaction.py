"""What leaves this machine holds no local path: each is cut to its last name."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SEGMENT = r"[^\s/\\'\"`,;:()\[\]{}<>|*?=]+"
# Not behind a word, a colon or a slash: `and/or`, `bbcnews/data` and `https://…` are no paths of this machine, nor
# is the `</b>` of a tag.
_PATH = re.compile(
    rf"(?<![\w:/.~\\-])(?!(?<=<)/\w+>)(?:file:/{{0,2}})?(?:~[\w-]*|\.{{1,2}})?(?:/{_SEGMENT})+/?"
    rf"|(?<!\w)(?:[A-Za-z]:[\\/]|\\\\)(?:{_SEGMENT}[\\/])*{_SEGMENT}"
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NAMES_A_PLACE = ("path", "card", "checkpoint", "source", "validation", "test", "folder")
_SHORTEST = 4  # characters of a path that is worth looking for in a page


def without_paths(value: Any) -> Any:
    """A copy of a JSON value in which every local path is cut to its last name; Hub ids and URLs stay as they are."""
    return _clean(value, "", False, lambda path, name: None)


def page_without_paths(page: str, told: Any) -> str:
    """A page in which every local path that stands in `told` (what the page was made of) is cut to its last name.

    A page's own markup is full of slashes, so that only known paths are looked for.
    """
    found: dict[str, str] = {}
    _clean(told, "", False, found.__setitem__)
    found |= {place: Path(place).name for place in (str(Path.cwd()), str(Path.home()))}
    for path in sorted((path for path in found if len(path) >= _SHORTEST), key=len, reverse=True):
        for written in {path, html.escape(path), path.replace("/", "\\/")}:
            page = page.replace(written, found[path] if path != str(Path.home()) else "~")
    return page


def _clean(value: Any, word: str, in_package: bool, note: Callable[[str, str], None]) -> Any:
    if isinstance(value, dict):
        packaged = isinstance(value.get("package"), str)
        return {_clean(key, "", False, note): _clean(inner, str(key), packaged, note) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner, word, in_package, note) for inner in value]
    if not isinstance(value, str):
        return value
    if word in _NAMES_A_PLACE and not (in_package and word == "path") and _is_place(value, word):
        note(value, _last(value))
        return _last(value)
    return _sentence(value, note)


def _is_place(value: str, word: str) -> bool:
    """Whether a word that stands where a place may stand is one, and no URL, Hub id or name on the shelf."""
    if "://" in value or not re.search(r"[/\\]", value) or "\n" in value:
        return False
    may_be_hub_id = word in ("checkpoint", "source") and _HUB_ID.fullmatch(value) and not value.startswith(".")
    return not may_be_hub_id or Path(value).exists()


def _sentence(text: str, note: Callable[[str, str], None]) -> str:
    for place, short in ((str(Path.cwd()), "/."), (str(Path.home()), "/~")):
        if len(place) > 1 and place in text:  # such a path may hold spaces, which end every other path
            note(place, _last(short))
            text = re.sub(rf"{re.escape(place)}(?![\w-])", short, text)

    def cut(match: re.Match[str]) -> str:
        note(match[0], _last(match[0]))
        return _last(match[0])

    return _PATH.sub(cut, text)


def _last(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1] or "/"
