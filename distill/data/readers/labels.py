"""From a label column, in whatever form it comes, to what a head is trained on."""

from __future__ import annotations

from collections.abc import Sequence
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


def raw_labels(rows: Dataset, data: settings.Data, split: str) -> Sequence[Any]:
    """Each row's label as the source has it: one value, or a list of values for many labels.

    Class numbers of a Hub data set become their names. Raises DataError for a missing column or an empty cell.
    """
    columns = data.label if isinstance(data.label, list) else [data.label]
    for column in columns:
        require_column(rows, column, "data.label", split)
    if isinstance(data.label, list):
        flags = [rows[column] for column in columns]
        for column, values in zip(columns, flags, strict=True):
            odd = next((value for value in values if value not in (0, 1)), None)
            if odd is not None:
                raise DataError(
                    f"data.label: column '{column}' of {split} holds {odd!r}; many-label columns hold 0 or 1"
                )
        return [[column for column, flag in zip(columns, row, strict=True) if flag] for row in zip(*flags, strict=True)]
    values = named(rows, data.label)
    if data.separator is not None:
        values = [[part.strip() for part in str(value).split(data.separator) if part.strip()] for value in values]
    if _is_multi_hot(values):
        values = [[place for place, flag in enumerate(row) if flag] for row in values]
    if isinstance(values, Values) and None not in values.distinct and "" not in values.distinct:
        return values
    for position, value in enumerate(values):
        parts = value if isinstance(value, list) else [value]
        if None in parts or value == "":
            raise DataError(f"data.label: row {position} of {split} has no label in column '{data.label}'")
        if any(isinstance(part, dict | list) for part in parts):
            raise DataError(
                f"data.label: row {position} of {split} holds {value!r} in column '{data.label}', not labels"
            )
    return values


def _is_multi_hot(values: Sequence[Any]) -> bool:
    """Whether every row is a list of the same length with a zero or a one for each label."""
    lists = [value for value in distinct(values) if isinstance(value, list)]
    if len(lists) != len(values) or not lists or len({len(value) for value in lists}) != 1 or len(lists[0]) < 2:
        return False
    flags_only = all(flag in (0, 1) and not isinstance(flag, str) for value in lists for flag in value)
    return flags_only and any(len(set(value)) < len(value) for value in lists)


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
    """A label's place among names: by name, by name whatever its case, or by number."""
    text = str(value)
    if text in names:
        return list(names).index(text)
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    if isinstance(value, int) and not any(name.lstrip("-").isdigit() for name in names) and 0 <= value < len(names):
        return value
    return None


def plain(value: Any) -> Any:
    """True and 1.0 are the class numbers 1, as everything that reads such a column will see them."""
    if isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
