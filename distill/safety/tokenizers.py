"""What a tokenizer.json may ask for: patterns that end, ids that the model has, no padding to gigabytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.errors import CheckpointError
from distill.safety.files import read_json

LONGEST_PATTERN = 4000  # characters; the longest in use have some hundreds
MOST_REPEATS = 10  # a counted repetition from here on is as bad as an endless one
MOST_SPECIAL = 256  # special tokens that a post-processor puts around a text
LONGEST_WORD = 10_000  # characters that WordPiece tries to cut, in time that grows with the square
LONGEST_PADDING = 100_000  # tokens

_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")
_NAMED = re.compile(r"\\[pPxokgu][{<][^}>]*[}>]")


def check_tokenizer(path: Path, embedded: int | None = None) -> None:
    """Looks through a tokenizer.json. Raises CheckpointError for what would hang, crash or fill memory when it is used.

    `embedded` is how many tokens the model embeds; an id beyond them would end in the middle of a run.
    """
    told = read_json(path)
    model = told.get("model") if isinstance(told, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: not a tokenizer (no `model` in it)")
    for key, value in _words({key: value for key, value in told.items() if key not in ("model", "added_tokens")}):
        if key == "Regex" and isinstance(value, str) and (why := misbehaves(value)):
            raise CheckpointError(f"{path}: {why}: {value[:80]}; use a tokenizer without it")
        most = {"Fixed": LONGEST_PADDING, "pad_to_multiple_of": LONGEST_PADDING}.get(key)
        if most is not None and isinstance(value, int) and value > most:
            raise CheckpointError(f"{path}: it pads every text to {key} {value}; at most {most}")
    for part in _parts(told.get("post_processor")):
        if any(isinstance(held, list) and len(held) > MOST_SPECIAL for held in part.values()):
            raise CheckpointError(f"{path}: its post_processor puts more than {MOST_SPECIAL} tokens around a text")
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > LONGEST_WORD:
        raise CheckpointError(f"{path}: max_input_chars_per_word is {longest}; at most {LONGEST_WORD}")
    highest = max(_ids(told, model), default=0)
    if embedded is not None and highest >= embedded:
        raise CheckpointError(
            f"{path}: it gives the id {highest}, but the model embeds {embedded} tokens (0 to {embedded - 1}); "
            "tokenizer and model are not of one checkpoint"
        )


def misbehaves(pattern: str) -> str | None:
    """Why a regular expression may take a time that explodes with the text, or None.

    Told by its form: a repetition inside a repetition, or alternatives that are repeated. What is left can take time
    that grows with a power of a word's length; the engine of `tokenizers` gives up after ten million tries a place.
    """
    if len(pattern) > LONGEST_PATTERN:
        return f"a pattern of {len(pattern)} characters (at most {LONGEST_PATTERN})"
    open_groups, inner, here = [[False]], False, 0
    while here < len(pattern):
        sign, repeats, step = pattern[here], False, 1
        if sign == "\\":
            named = _NAMED.match(pattern, here)
            inner, step = False, len(named[0]) if named else 2
        elif sign == "[":
            inner, step = False, _class_end(pattern, here) - here
        elif sign == "(":
            open_groups.append([False])
            inner, step = False, 2 if pattern[here + 1 : here + 2] == "?" else 1
        elif sign == ")":
            inner = open_groups.pop()[0] if len(open_groups) > 1 else False
            open_groups[-1][0] |= inner
        elif sign == "|":
            open_groups[-1][0] |= len(open_groups) > 1
        elif sign in "*+" or (sign == "{" and (counted := _COUNTED.match(pattern, here))):
            repeats = sign in "*+" or _many(counted)
            step = 1 if sign in "*+" else len(counted[0])
            if repeats and inner:
                return "a pattern with a repetition, or alternatives, inside a repetition"
            open_groups[-1][0] |= repeats
            step += pattern[here + step : here + step + 1] in ("?", "+")  # lazy or possessive
        elif sign != "?":
            inner = False
        here += max(step, 1)
    return None


def _many(counted: re.Match[str]) -> bool:
    low, comma, high = counted.groups()
    if comma and not high:
        return bool(low)
    return int((high or low or "0")[:9]) >= MOST_REPEATS


def _class_end(pattern: str, here: int) -> int:
    """The place behind a character class, which may hold classes."""
    depth, place = 0, here
    while place < len(pattern):
        sign = pattern[place]
        if sign == "\\":
            place += 1
        elif sign == "[":
            depth += 1
            negated = pattern[place + 1 : place + 2] == "^"
            place += negated
            place += pattern[place + 1 : place + 2] == "]"  # a first ] stands for itself
        elif sign == "]":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return len(pattern)


def _words(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner, held in value.items():
            yield from _words(held, inner)
    elif isinstance(value, list):
        for held in value:
            yield from _words(held, key)
    else:
        yield key, value


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for held in value.values():
            yield from _parts(held)
    elif isinstance(value, list):
        for held in value:
            yield from _parts(held)


def _ids(told: dict[str, Any], model: dict[str, Any]) -> Iterator[int]:
    vocabulary, added = model.get("vocab"), told.get("added_tokens")
    if isinstance(vocabulary, dict):
        yield from (number for number in vocabulary.values() if isinstance(number, int))
    elif isinstance(vocabulary, list) and vocabulary:
        yield len(vocabulary) - 1
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            yield token["id"]
