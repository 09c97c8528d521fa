"""From YAML (1.2) to settings, with every problem told at once: its path, its line, and the nearest known word."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import TagToken

from distill.errors import RecipeError
from distill.library import nearest
from distill.recipe.lines import Lines, located, number, overridden, place_of
from distill.recipe.settings import Recipe, Settings
from distill.recipe.settings.base import short_of

S = TypeVar("S", bound=Settings)
_NOTHING = ("", "null", "Null", "NULL", "~", "''", '""')  # in YAML
_LARGEST_FILE = 1 << 18  # bytes; what is read is read in seconds


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file; each override is `dotted.path=value`, its value read as YAML.

    Raises RecipeError with every problem found.
    """
    return load_settings(Path(path), Recipe, overrides)


def locate(problems: Sequence[str], path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Each problem behind the file and line, or `--set`, of the setting that it begins with."""
    lines = read_tree(path)[1]
    for override in overrides:
        lines = overridden(lines, override)
    return located(problems, str(path), lines)


def load_settings(path: Path, kind: type[S], overrides: Sequence[str] = ()) -> S:
    """Reads a YAML file into settings of the given kind. Raises RecipeError with every problem found."""
    tree, lines = read_tree(path)
    return settle(tree, kind, str(path), lines, overrides)


def read_tree(path: Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file as it was written, and the line of each path in it. Raises RecipeError."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    if path.stat().st_size > _LARGEST_FILE:
        raise RecipeError(f"{path}: larger than {_LARGEST_FILE >> 10} KiB; this is not a recipe or a card")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise RecipeError(f"{path}: can't be read ({error.strerror})") from None
    tree, lines = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: expected `word: value` lines, found {_spell(tree)}")
    return tree, lines


def settle(
    tree: dict[str, Any],
    kind: type[S],
    where: str,
    lines: Lines,
    overrides: Sequence[str] = (),
    *,
    in_file: bool = False,
) -> S:
    """Settings out of a tree, overrides first; the tree stays as it was. Overrides come from the command line, or are
    what stands `in_file` as a choice. Raises RecipeError with every problem.
    """
    tree = copy.deepcopy(tree)
    for override in overrides:
        _apply(tree, kind, override)
        lines = lines if in_file else overridden(lines, override)
    open_ = [
        f"{place_of(where, path, lines)}{'.'.join(path)}: {{{next(iter(word))}: …}} is for 'distill sweep'; "
        f"here it takes one value ({'.'.join(path)}=VALUE)"
        for path, word in sweep_words(tree)
    ]
    if open_:
        raise RecipeError(open_)
    return _validate(tree, kind, where, lines)


def sweep_words(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The places of a tree that hold `{choose: […]}` or `{between: [low, high]}` in place of a value."""
    if _is_sweep_word(tree):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from sweep_words(value, (*path, str(key)))
    elif isinstance(tree, list):
        for position, value in enumerate(tree):
            yield from sweep_words(value, (*path, str(position)))


def _is_sweep_word(value: Any) -> bool:
    """A student has a setting `choose` of its own, whose value is a word."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    word, given = next(iter(value.items()))
    return word == "between" or (word == "choose" and not isinstance(given, str))


def to_yaml(settings: Settings) -> str:
    """The settings as YAML, every default written out; reading it again gives equal settings."""
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(_plain(settings), out)
    return out.getvalue()


def _plain(value: Any) -> Any:
    from distill.recipe.settings import Bound

    if isinstance(value, Bound):
        return str(value)
    if isinstance(value, BaseModel):
        given = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _plain(inner) for name, inner in given.items() if inner is not None}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _parse(text: str, where: str) -> tuple[Any, Lines]:
    """The tree and, for each path in it, its line number."""
    try:
        root = YAML(typ="safe", pure=True).compose(text)
        lines = {} if root is None else number(root)
        _refuse_tags(text, where)  # after what refuses deep nesting, on which scanning alone takes minutes
        tree = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise RecipeError(
            f"{where}: not valid YAML here: nested too deeply, or an alias inside its own anchor"
        ) from None
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    return tree, lines


def _refuse_tags(text: str, where: str) -> None:
    """A tag (`!!python/object`, `!!binary`, `!mine`) asks for a kind of value, or for code; a recipe needs none."""
    for token in YAML(typ="safe", pure=True).scan(text):
        if isinstance(token, TagToken):
            line = token.start_mark.line + 1
            tag = text.splitlines()[line - 1][token.start_mark.column :].split(maxsplit=1)[0][:60]
            raise RecipeError(f"{where}:{line}: {tag} is a YAML tag, and tags are not read here; write the value alone")


def _apply(tree: dict[str, Any], kind: type[Settings], override: str) -> None:
    """Sets `steps.0.distill.epochs=1` in the tree; parents that are not there yet are made, and a short form such as
    `logits: 0.7` makes way for the long one.
    """
    path, equals, raw = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"--set {override}: write it as path.to.setting=value")
    value, _ = _parse(raw, f"--set {path}")
    if value in (None, "") and raw.strip() not in _NOTHING:
        raise RecipeError(
            f"--set {path}: YAML reads {raw.strip()} as nothing; put it in quotes: '{path}=\"{raw.strip()}\"'"
        )
    place, form, marks = tree, kind, ()
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        form, marks = _form_of(form, part)
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                held = f"0 to {len(place) - 1}" if place else "nothing"
                raise RecipeError(f"--set {path}: '{part}' is not a place in the list (it holds {held})")
            key: Any = int(part)
        elif isinstance(place, dict):
            key = part
        else:
            raise RecipeError(f"--set {path}: '{'.'.join(parts[:position])}' holds {_spell(place)}, not settings")
        if last:
            place[key] = value
        else:
            place[key] = _written_out(place[key] if key in _keys(place) else None, form, marks, parts[position + 1])
        place = place[key]


def _keys(place: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return place if isinstance(place, dict) else range(len(place))


def _written_out(value: Any, form: Any, marks: Sequence[Any], inner: str) -> Any:
    """What stands at a place, so that something can be set inside of it."""
    if value is None or _is_sweep_word(value):
        return {}
    if isinstance(value, dict) or (isinstance(value, list) and inner.isdecimal()):
        return value
    if (key := short_of(form, marks)) is not None:
        return {key: value}
    bare = isinstance(value, str) and form is not None and value in getattr(form, "model_fields", ())
    return {value: {}} if bare else value  # a bare step such as `- quantize`


def _form_of(form: Any, part: str) -> tuple[Any, Sequence[Any]]:
    """How settings describe what stands at a key, or at a place of a list: its annotation, and what that is marked
    with; nothing of what they don't know.
    """
    if part.isdecimal() and (held := _list_in(form)) is not None:
        return held, ()
    model = _model_in(form) if _list_in(form) is None else None
    field = model.model_fields.get(part) if model is not None else None
    return (field.annotation, field.metadata) if field is not None else (None, ())


def _list_in(annotation: Any) -> Any:
    """What a list of an annotation such as `list[Step] | None` holds; None where there is none."""
    if get_origin(annotation) is list:
        return get_args(annotation)[0]
    return next((found for part in get_args(annotation) if (found := _list_in(part)) is not None), None)


def _validate(tree: Any, kind: type[S], where: str, lines: Lines) -> S:
    try:
        as_json = json.dumps(tree)
    except (TypeError, ValueError) as error:  # a YAML date, a tuple key, a node that holds itself
        raise RecipeError(f"{where}: only words, numbers, lists and settings belong in here ({error})") from None
    try:
        return kind.model_validate_json(as_json, strict=True)
    except ValidationError as error:
        raise RecipeError(_tell_all(error, kind, where, lines)) from None


def _tell_all(error: ValidationError, kind: type[Settings], where: str, lines: Lines) -> list[str]:
    """One sentence for each path. Where a setting takes several forms pydantic complains once a form: the first
    complaint stands, and the setting's own description says the other forms.
    """
    told: dict[tuple[str, ...], str] = {}
    forms: dict[tuple[str, ...], str] = {}
    for problem in error.errors():
        path, parent = _real_path(problem["loc"], kind)
        if path in told:
            field = parent.model_fields.get(path[-1]) if parent and path else None
            forms[path] = f" [{path[-1]}: {field.description}]" if field else ""
            continue
        told[path] = (
            f"{place_of(where, path, lines)}{'.'.join(path) or 'the whole'}: {_sentence(problem, path, parent)}"
        )
    return [sentence + forms.get(path, "") for path, sentence in told.items()]


def _sentence(problem: Any, path: tuple[str, ...], parent: type[Settings] | None) -> str:
    given = problem.get("input")
    match problem["type"]:
        case "extra_forbidden" | "invalid_key":
            known = list(parent.model_fields) if parent else []
            return f"no such setting{nearest(path[-1], known)} (known here: {', '.join(known)})"
        case "missing":
            return "this setting is required"
        case "literal_error" | "enum":
            known = [word.strip("'") for word in re.split(r", | or ", problem["ctx"]["expected"])]
            return f"{_spell(given)} is not known here{nearest(str(given), known)} (known: {', '.join(known)})"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "list_type":
            entry = given if isinstance(given, str) else _spell(given)
            return f"this is a list, such as [{entry}], not {_spell(given)}"
        case "too_short":
            return f"this list holds at least {problem['ctx']['min_length']}, not {_spell(given)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"this holds settings of its own, as in {{word: value}}, not {_spell(given)}"
        case "string_pattern_mismatch":
            field = parent.model_fields.get(path[-1]) if parent else None
            form = field.description if field else problem["ctx"]["pattern"]
            return f"{_spell(given)} is not of this form: {form}"
        case _:
            return f"{problem['msg'].replace('Input should be', 'this should be')}, not {_spell(given)}"


def _real_path(location: tuple[Any, ...], kind: type[Settings]) -> tuple[tuple[str, ...], type[Settings] | None]:
    """The path as the user wrote it (without the names pydantic gives a union's arms), and whose setting it is."""
    path: list[str] = []
    parent: type[Settings] | None = None
    here: Any = kind
    for part in location:
        model = _model_in(here)
        if isinstance(part, int):
            path.append(str(part))
        elif model is not None and (part in model.model_fields or part == location[-1]):
            parent = model
            field = model.model_fields.get(part)
            here = field.annotation if field else None
            path.append(str(part))
        elif model is None and isinstance(here, type | None) and part == location[-1]:
            path.append(str(part))
    return tuple(path), parent


def _model_in(annotation: Any) -> type[Settings] | None:
    """The settings class inside an annotation such as `list[Step]` or `Distill | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _spell(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
