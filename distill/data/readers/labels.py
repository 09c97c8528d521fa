"""From a label column, in whatever form it comes, to what a head is trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.data.readers.classes import called, named
from distill.data.readers.columns import NUMBER, Values, changed, distinct, is_number
from distill.data.readers.reader import require_column
from distill.errors import DataError
from distill.recipe import settings

if TYPE_CHECKING:
    from datasets import Dataset

_FLAGS = {"0": 0, "0.0": 0, "False": 0, "false": 0, "1": 1, "1.0": 1, "True": 1, "true": 1}
_WRITTEN: tuple[tuple[Callable[[str], Any], re.Pattern[str]], ...] = (  # as .csv files have them
    (int, re.compile(r"[-+]?(?:0|[1-9]\d*)", re.ASCII)),
    (float, NUMBER),
    (lambda word: word.strip().casefold() == "true", re.compile("True|False|true|false|TRUE|FALSE")),
)


def read_labels(raw: Mapping[str, Dataset], data: settings.Data) -> dict[str, Sequence[Any]]:
    """Each row's label of each split as the source has it: one value, or a list of values for many labels.

    Class numbers become the names that the recipe or a Hub data set gives them, and a column of a .csv or .tsv is
    numbers where all of it is. What form a column has is decided once, over all splits. Raises DataError for a
    missing column or an empty cell.
    """
    if isinstance(data.label, list):
        return {split: _flagged(rows, data, split) for split, rows in raw.items()}
    for split, rows in raw.items():
        require_column(rows, data.label, "data.label", split)
    values = {split: named(rows, data.label) for split, rows in raw.items()}
    if data.separator is not None:
        values = {split: _parted(found, data, split) for split, found in values.items()}
    else:
        written = [split for split in raw if _is_written(data, split)]
        change = _number_of([value for split in written for value in distinct(values[split])])
        values |= {split: changed(values[split], change) for split in written}
    if _are_flags([value for found in values.values() for value in distinct(found)]):
        values = {
            split: [[i for i, flag in enumerate(row) if flag] for row in found] for split, found in values.items()
        }
    for split, found in values.items():
        _require_whole(found, data, split)
    if data.classes is None:
        return values
    return {split: called(found, data.classes, split) for split, found in values.items()}


def _is_written(data: settings.Data, split: str) -> bool:
    """Whether a split's values are texts that stand for what they are: those of .csv and .tsv files."""
    paths = [source.path for source in data.sources] if split == "train" else [getattr(data, split)]
    return any(str(path).lower().endswith((".csv", ".tsv")) for path in paths)


def _flagged(rows: Dataset, data: settings.Data, split: str) -> list[list[str]]:
    """The columns that hold a one, row by row."""
    columns, flags = list(data.label), []
    for column in columns:
        require_column(rows, column, "data.label", split)
        cells = list(rows[column])
        values = changed(cells, _FLAGS.get if _is_written(data, split) else None)
        for value, cell in zip(values, cells, strict=True):
            if value not in (0, 1):
                raise DataError(
                    f"data.label: column '{column}' of {split} holds {cell!r}; many-label columns hold 0 or 1"
                )
        flags.append(values)
    return [[column for column, flag in zip(columns, row, strict=True) if flag] for row in zip(*flags, strict=True)]


def _parted(values: Sequence[Any], data: settings.Data, split: str) -> list[list[str]]:
    """Texts cut at the separator."""
    for place, value in enumerate(values):
        if value is None or isinstance(value, list | dict):
            holds = "has no label" if value is None else f"holds {value!r}, not a text to be cut at data.separator,"
            raise DataError(f"data.label: row {place} of {split} {holds} in column '{data.label}'")
    return [[part.strip() for part in str(value).split(data.separator) if part.strip()] for value in values]


def _require_whole(values: Sequence[Any], data: settings.Data, split: str) -> None:
    """Raises DataError for a row without a label, or with something that is none."""
    if isinstance(values, Values) and None not in values.distinct and "" not in values.distinct:
        return
    for place, value in enumerate(values):
        parts = value if isinstance(value, list) else [value]
        if None in parts or value == "":
            raise DataError(f"data.label: row {place} of {split} has no label in column '{data.label}'")
        if any(isinstance(part, dict | list) for part in parts):
            raise DataError(f"data.label: row {place} of {split} holds {value!r} in column '{data.label}', not labels")


def _number_of(values: Sequence[Any]) -> Callable[[Any], Any] | None:
    """What makes numbers of a column that was written down, where all of it is whole numbers, all numbers, or all true
    or false. `007` is a word, and so is `nan`.
    """
    words = {value.strip() for value in values if isinstance(value, str)} - {""}
    for kind, pattern in _WRITTEN:
        if words and all(pattern.fullmatch(word) for word in words):
            return lambda value, kind=kind: kind(value) if isinstance(value, str) and value.strip() else value
    return None


def _are_flags(values: Sequence[Any]) -> bool:
    """Whether every row is a list of the same length, with a zero or a one for each label.

    Rows of two that are [0, 1] or [1, 0] alone are flags too: as numbers of classes they would all say the same.
    """
    if not values or not all(isinstance(value, list) for value in values):
        return False
    if len({len(value) for value in values}) != 1 or len(values[0]) < 2:
        return False
    flags_only = all(flag in (0, 1) and not isinstance(flag, str) for value in values for flag in value)
    return flags_only and (len(values[0]) == 2 or any(len(set(value)) < len(value) for value in values))


def infer_problem(values: Sequence[Any], data: settings.Data) -> settings.Problem:
    """Lists are many labels, fractions a regression, everything else one label a row."""
    if data.problem is not None:
        is_list = isinstance(values[0], list)
        if is_list != (data.problem == "multi_label_classification"):
            form = "lists of labels" if is_list else "one value a row"
            hint = "" if is_list else " (a text column with several labels needs data.separator)"
            raise DataError(f"data.problem: {data.problem}, but the label column holds {form}{hint}")
        return data.problem
    if isinstance(values[0], list):
        return "multi_label_classification"
    found = distinct(values)
    if any(isinstance(value, float) and not float(value).is_integer() for value in found):
        return "regression"
    numbers = [value for value in found if is_number(value)]
    words = {value for value in found if isinstance(value, str)}.difference(numbers)
    if words and len(numbers) > len(words) and any(float(number) % 1 for number in numbers):
        odd = next(place for place, value in enumerate(values) if value in words)
        raise DataError(
            f"data.label: row {odd} of train holds {values[odd]!r:.60} in column '{data.label}', where most are "
            "numbers; leave it out, or say data.problem if they are names of classes"
        )
    return "single_label_classification"
