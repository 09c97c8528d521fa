"""Classes: their names, the numbers that stand for them, and their order in the logits."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from math import isfinite
from numbers import Number
from typing import TYPE_CHECKING, Any

from distill.data.readers.columns import changed, distinct, is_number, values_of
from distill.errors import DataError
from distill.recipe import settings

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
Names = Sequence[str] | None
UNMARKED = (-1, -100)  # what data sets have in the place of a class number where there is no label


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
    if whole:
        _require_marked(inside, f"column '{column}' holds")
    name_of = {None: None, **{mark: mark for mark in UNMARKED}, **dict(enumerate(names))}
    return changed(values, lambda value: [name_of[v] for v in value] if isinstance(value, list) else name_of[value])


def called(values: Sequence[Any], classes: Sequence[str], split: str, *, whole: bool = True) -> Sequence[Any]:
    """Labels, or lists of them, in which class numbers are replaced by the names that a recipe gives them.

    A label that is one of the names already stays, and digits are a number too. −1 and −100 mean unlabelled. Raises
    DataError for those, unless labels needn't be `whole`, and for what is neither a name nor the number of one.
    """
    name_of: dict[Any, Any] = {str(number): name for number, name in enumerate(classes)}
    name_of |= {**dict(enumerate(classes)), **{name: name for name in classes}, **{mark: mark for mark in UNMARKED}}
    inside = {plain(one) for value in distinct(values) for one in (value if isinstance(value, list) else [value])}
    if whole:
        _require_marked(inside, f"{split} holds")
    if unknown := [one for one in inside if one not in name_of]:
        raise DataError(
            f"data.classes: names {len(classes)} classes, 0 to {len(classes) - 1}; {split} has the label {unknown[0]!r}"
        )
    return changed(
        values, lambda value: [name_of[plain(v)] for v in value] if isinstance(value, list) else name_of[plain(value)]
    )


def _require_marked(inside: set[Any], where: str) -> None:
    """Raises DataError where numbers are among labels that mark rows without one."""
    if marks := [mark for mark in UNMARKED if mark in inside]:
        raise DataError(
            f"data.label: {where} {_signed(marks[0])}, which marks rows without a label; choose another split"
        )


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


def order_names(values: Sequence[Any], problem: settings.Problem, data: settings.Data, known: Names) -> list[str]:
    """The label names in the order of the logits: the checkpoint's own when the data's fit into them, else the
    recipe's, else sorted.

    Numbers sort as numbers. Raises DataError for a single class.
    """
    if problem == "regression":
        return [data.label if isinstance(data.label, str) else data.label[0]]
    found = {plain(value) for row in distinct(values) for value in (row if isinstance(row, list) else [row])}
    if known is not None and all(index_of(value, known) is not None for value in found):
        _tell_merged(found, known)
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
    return names if data.classes is None else list(data.classes)


def _tell_merged(found: Collection[Any], known: Sequence[str]) -> None:
    """Says which labels of the data are one class to a checkpoint."""
    labels_of: dict[int | None, list[str]] = {}
    for value in sorted(found, key=str):
        labels_of.setdefault(index_of(value, known), []).append(repr(str(value)))
    for place, mine in labels_of.items():
        if len(mine) > 1:
            log.warning("data.label: %s are one class of the checkpoint, '%s'", ", ".join(mine), known[place])


def encode_labels(values: Sequence[Any], problem: settings.Problem, names: Sequence[str], split: str) -> Sequence[Any]:
    """Values to class indices, to lists of zeros and ones, or to numbers.

    Raises DataError for a label that is none of the names, or a number that is none.
    """
    if problem == "regression":
        for position, value in enumerate(values):
            if is_number(value):  # as it is written; a column stays text where another cell is no number
                continue
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
    return changed(values, table.__getitem__)


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
