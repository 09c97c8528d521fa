"""From a label column, in whatever form it comes, to what a head is trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from numbers import Number
from typing import TYPE_CHECKING, Any

from distill.data.readers.columns import Values, distinct, values_of
from distill.data.readers.reader import require_column
from distill.errors import DataError
from distill.recipe import settings

if TYPE_CHECKING:
    from datasets import Dataset

Names = Sequence[str] | None
UNMARKED = (-1, -100)  # what data sets have in the place of a class number where there is no label
_FLAGS = {"0": 0, "0.0": 0, "False": 0, "false": 0, "1": 1, "1.0": 1, "True": 1, "true": 1}
_WRITTEN: tuple[tuple[Callable[[str], Any], re.Pattern[str]], ...] = (  # as .csv files have them
    (int, re.compile(r"[-+]?(?:0|[1-9]\d*)", re.ASCII)),
    (float, re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)),
    (lambda word: word.strip().casefold() == "true", re.compile("True|False|true|false|TRUE|FALSE")),
)


def read_labels(raw: Mapping[str, Dataset], data: settings.Data) -> dict[str, Sequence[Any]]:
    """Each row's label of each split as the source has it: one value, or a list of values for many labels.

    Class numbers of a Hub data set become their names, and a column of a .csv or .tsv is numbers where all of it is.
    What form a column has is decided once, over all splits. Raises DataError for a missing column or an empty cell.
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
        values |= {split: _changed(values[split], change) for split in written}
    if _are_flags([value for found in values.values() for value in distinct(found)]):
        values = {
            split: [[i for i, flag in enumerate(row) if flag] for row in found] for split, found in values.items()
        }
    for split, found in values.items():
        _require_whole(found, data, split)
    return values


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
        values = _changed(cells, _FLAGS.get if _is_written(data, split) else None)
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


def _changed(values: Sequence[Any], change: Callable[[Any], Any] | None) -> Sequence[Any]:
    if change is None:
        return values
    return values.changed(change) if isinstance(values, Values) else [change(value) for value in values]


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


def named(rows: Dataset, column: str, *, whole: bool = True) -> Sequence[Any]:
    """A column's values, class numbers replaced by the names that the data set gives them.

    −1 and −100 mean unlabelled. Raises DataError for those, unless labels needn't be `whole`: then they stay.
    """
    feature = rows.features[column]
    inner = getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    values = values_of(rows, column)
    if names is None:
        return values
    inside = {one for value in distinct(values) for one in (value if isinstance(value, list) else [value])}
    if whole and (marks := [mark for mark in UNMARKED if mark in inside]):
        raise DataError(
            f"data.label: column '{column}' holds {_signed(marks[0])}, which marks rows without a label; choose "
            "another split"
        )
    name_of = {None: None, **{mark: mark for mark in UNMARKED}, **dict(enumerate(names))}
    if isinstance(values, Values):
        return values.changed(name_of.__getitem__)
    return [[name_of[v] for v in value] if isinstance(value, list) else name_of[value] for value in values]


def refuse_unmarked(values: Sequence[Any], known: Names, split: str) -> None:
    """Raises DataError for class numbers that mark rows without a label: −100, and −1 where the others are 0, 1, 2, …

    Beside 0 and 1 alone −1 may be a class, as where opinions are −1, 0 and 1.
    """
    found = {plain(one) for row in distinct(values) for one in (row if isinstance(row, list) else [row])}
    numbers = {one for one in found if isinstance(one, int) and str(one) not in (known or ())}
    if -100 in numbers:
        mark = -100
    elif len(numbers) > 3 and numbers == set(range(-1, len(numbers) - 1)):
        mark = -1
    else:
        return
    place = next(i for i, row in enumerate(values) if mark in (row if isinstance(row, list) else [row]))
    raise DataError(
        f"data.label: row {place} of {split} has the label {_signed(mark)}, which marks rows without one; leave such "
        "rows out, or, where it is a class, give the classes names"
    )


def refuse_hidden(values: Sequence[Any], split: str) -> None:
    """Raises DataError where every number is −1 or −100, as where the labels of a test are kept secret."""
    found = set(distinct(values))
    if len(values) > 1 and len(found) == 1 and found & set(UNMARKED):
        raise DataError(
            f"data.label: every row of {split} has the number {_signed(int(found.pop()))}, which marks rows without a "
            "label; choose another split"
        )


def _signed(number: int) -> str:
    return f"−{-number}"


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
    if any(isinstance(value, float) and not float(value).is_integer() for value in distinct(values)):
        return "regression"
    return "single_label_classification"


def order_names(values: Sequence[Any], problem: settings.Problem, data: settings.Data, known: Names) -> list[str]:
    """The label names in the order of the logits: the checkpoint's own when the data's fit into them, else sorted.

    Numbers sort as numbers. Raises DataError for a single class.
    """
    if problem == "regression":
        return [data.label if isinstance(data.label, str) else data.label[0]]
    found = {plain(value) for row in distinct(values) for value in (row if isinstance(row, list) else [row])}
    if known is not None and all(index_of(value, known) is not None for value in found):
        return list(known)
    if isinstance(data.label, list):
        return list(data.label)
    names = [str(value) for value in sorted(found, key=lambda v: (isinstance(v, str), v))]
    if not names:
        raise DataError(f"data.label: no row of the training split has a label in column '{data.label}'")
    if problem == "single_label_classification" and len(names) < 2:
        raise DataError(
            f"data.label: the training split has one class only ({', '.join(names) or 'none'}); it takes two"
        )
    return names


def encode_labels(values: Sequence[Any], problem: settings.Problem, names: Sequence[str], split: str) -> Sequence[Any]:
    """Values to class indices, to lists of zeros and ones, or to numbers.

    Raises DataError for a label that is none of the names, or a number that is none.
    """
    if problem == "regression":
        for position, value in enumerate(values):
            if not isinstance(value, Number) or isinstance(value, bool) or not isfinite(value):
                raise DataError(f"data.label: row {position} of {split} holds {value!r}, which is not a number")
        return [float(value) for value in values]
    every = (value for row in distinct(values) for value in (row if isinstance(row, list) else [row]))
    table = {value: index_of(plain(value), names) for value in every}
    unknown = [value for value, index in table.items() if index is None]
    if unknown:
        raise DataError(
            f"data.label: {split} has the label {unknown[0]!r}, which is none of the known ones: {listed(names)}"
        )
    if problem == "multi_label_classification":
        given = [{table[value] for value in row} for row in values]
        return [[float(i in indices) for i in range(len(names))] for indices in given]
    return values.changed(table.__getitem__) if isinstance(values, Values) else [table[value] for value in values]


def index_of(value: Any, names: Sequence[str]) -> int | None:
    """A label's place among names: by name, by name whatever its case, or by number; True is also 1, and False 0."""
    text = str(value)
    if text in names:
        return list(names).index(text)
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    if isinstance(value, bool):
        return index_of(int(value), names)
    if isinstance(value, int) and not any(name.lstrip("-").isdigit() for name in names) and 0 <= value < len(names):
        return value
    return None


def plain(value: Any) -> Any:
    """1.0 is the class number 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
