"""What leaves this machine holds no local path: each is cut to its last name."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.recipe.settings import Recipe

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


def without_paths(value: Any, keep: Collection[str] = ()) -> Any:
    """A copy of a JSON value in which every local path is cut to its last name.

    Hub ids and URLs stay as they are, and so does what stands in `keep`: a label may look like a path and is none.
    """
    found: dict[str, str] = {}
    told = _clean(value, "", False, found.__setitem__, frozenset(keep))
    spaced = {path: name for path, name in found.items() if " " in path and len(path) >= _SHORTEST}
    if not spaced:
        return told
    # In a sentence a space ends a path, but for those that a setting has named.
    return _clean(_renamed(value, spaced), "", False, lambda path, name: None, frozenset(keep))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A copy in which each of the given paths has its last name, wherever it stands; the longest first."""
    if isinstance(value, dict):
        return {_renamed(key, names): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(inner, names) for inner in value]
    for path in sorted(names, key=len, reverse=True) if isinstance(value, str) else ():
        value = value.replace(path, names[path])
    return value


def own_words(data: Mapping[str, Any], labels: Sequence[str] = ()) -> set[str]:
    """What a recipe's data calls its columns and labels, for `keep`."""
    given = [data.get(word) for word in ("text", "label", "separator", "classes")]
    listed = [word for words in given for word in (words if isinstance(words, list) else [words])]
    return {word for word in (*listed, *labels) if isinstance(word, str)}


def portable_recipe(recipe: Recipe) -> Recipe:
    """The recipe as others can read it: Hub ids, cards and packages stay, paths become names."""
    full = recipe.model_dump(mode="json", exclude_none=True)
    told = without_paths(full, own_words(full["data"]))
    if recipe.data.source.path is None or recipe.data.source.package is not None:  # of a package or the Hub
        told["data"] |= {split: full["data"][split] for split in ("validation", "test")}
    _number_twins(told["teacher"].get("ensemble", []))
    return Recipe.model_validate_json(json.dumps(told), strict=True)


def holds_texts(predictions: Path) -> bool:
    """Whether kept predictions, or what they are held against, are texts, which are the data's own."""
    with np.load(predictions, allow_pickle=False) as held:
        return any(held[name].dtype.kind == "U" for name in held.files)


def _number_twins(members: Sequence[dict[str, Any]]) -> None:
    """Gives teachers of an ensemble whose paths ended alike names of their own: `teacher`, `teacher-2`."""
    seen: Counter[str] = Counter()
    for member in members:
        word = next(word for word in ("card", "checkpoint") if word in member)
        seen[member[word]] += 1
        if seen[member[word]] > 1 and member.get("revision") is None:
            member[word] += f"-{seen[member[word]]}"


def portable_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as others can read it."""
    return without_paths(dict(report), own_words(report["recipe"]["data"], report["data"]["labels"]))


def page_without_paths(page: str, told: Any) -> str:
    """A page in which every local path that stands in `told` (what the page was made of) is cut to its last name.

    A page's own markup is full of slashes, so that only known paths are looked for.
    """
    found: dict[str, str] = {}
    keep = (
        own_words(told["recipe"]["data"], told["data"]["labels"])
        if isinstance(told, Mapping) and "data" in told
        else ()
    )
    _clean(told, "", False, found.__setitem__, frozenset(keep))
    found |= {place: Path(place).name for place in (str(Path.cwd()), str(Path.home()))}
    for path in sorted((path for path in found if len(path) >= _SHORTEST), key=len, reverse=True):
        for written in {path, html.escape(path), path.replace("/", "\\/")}:
            short = found[path] if path != str(Path.home()) else "~"
            page = re.sub(rf"(?<!\w){re.escape(written)}", lambda _, short=short: short, page)
    return page


def _clean(value: Any, word: str, in_package: bool, note: Callable[[str, str], None], keep: frozenset[str]) -> Any:
    if isinstance(value, dict):
        packaged = isinstance(value.get("package"), str)
        return {
            _clean(key, "", False, note, keep): _clean(inner, str(key), packaged, note, keep)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(inner, word, in_package, note, keep) for inner in value]
    if not isinstance(value, str) or value in keep:
        return value
    if word in _NAMES_A_PLACE and not (in_package and word == "path") and _is_place(value, word):
        note(value, _last(value))
        return _last(value)
    return _sentence(value, note, keep)


def _is_place(value: str, word: str) -> bool:
    """Whether a word that stands where a place may stand is one, and no URL, Hub id or name on the shelf."""
    if "://" in value or not re.search(r"[/\\]", value) or "\n" in value:
        return False
    may_be_hub_id = word in ("checkpoint", "source") and _HUB_ID.fullmatch(value) and not value.startswith(".")
    return not may_be_hub_id or Path(value).exists()


def _sentence(text: str, note: Callable[[str, str], None], keep: frozenset[str]) -> str:
    for place, short in ((str(Path.cwd()), "/."), (str(Path.home()), "/~")):
        if len(place) > 1 and place in text:  # such a path may hold spaces, which end every other path
            note(place, _last(short))
            text = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", short, text)

    def cut(match: re.Match[str]) -> str:
        if match[0] in keep:
            return match[0]
        note(match[0], _last(match[0]))
        return _last(match[0])

    return _PATH.sub(cut, text)


def _last(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1] or "/"
