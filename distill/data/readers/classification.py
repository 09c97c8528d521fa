"""Text classification's rows: one or two texts, and a label in whatever form it comes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.data import splitting
from distill.data.encoding import Encoded, Sheet, encode
from distill.data.readers.classes import encode_labels, order_names, refuse_hidden, refuse_unmarked
from distill.data.readers.labels import infer_problem, read_labels
from distill.data.readers.reader import Cutter, plain_texts, refuse_idle, short, texts_of
from distill.data.rows import Alike, Rows
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import NO_TARGET, Task, TextClassification, choose_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class ClassificationReader:
    """One or two text columns; a label column, or a 0/1 column a label."""

    apart = False

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], TextClassification]:
        """Labels in the checkpoint's own order where they fit it, else sorted. Raises DataError."""
        refuse_idle(data, "text-classification", ("stride",))
        texts = {name: texts_of(rows, data.text_columns, "data.text", name) for name, rows in raw.items()}
        values = read_labels(raw, data)
        problem = infer_problem(values["train"], data)
        for name in raw:
            if problem == "regression":
                refuse_hidden(values[name], name)
            else:
                refuse_unmarked(values[name], known, name)
        ordered = order_names(values["train"], problem, data, known)
        coded = {name: encode_labels(values[name], problem, ordered, name) for name in raw}
        task = TextClassification(problem, tuple(ordered), choose_metric(problem, metric))
        return {name: Rows(texts[name], coded[name]) for name in raw}, task

    def kinds(self, rows: Rows, task: Task) -> Sequence[Hashable]:
        """The class, the rarest of many labels, or the tenth of the range of a number."""
        return splitting.strata(rows.labels, task.problem)

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """The texts themselves."""
        return rows.texts

    def require_enough(self, train: Rows, task: Task) -> None:
        """One class alone teaches nothing. Raises DataError."""
        if task.problem == "single_label_classification":
            classes = set(train.labels)
            if len(classes) < 2:
                raise DataError(
                    f"data.label: the training split has one class only ({task.labels[classes.pop()]}); it takes two"
                )

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """The labels; many rows of one class against few of another; classes that a split lacks."""
        notes = [f"labels: {short(task.labels)}"]
        if task.problem == "regression":
            same = [(name, rows.labels[0]) for name, rows in splits.items() if len(set(rows.labels)) == 1]
            return notes + [f"every row of {name} has the number {number:g}: no correlation" for name, number in same]
        many_labels = task.problem == "multi_label_classification"
        given = {name: _counts(rows, len(task.labels), many_labels) for name, rows in splits.items()}
        counts = given["train"]
        most, least = counts.argmax(), counts.argmin()
        if counts[most] >= 3 * counts[least]:
            notes.append(
                f"classes are imbalanced: {counts[most]} training rows of {task.labels[most]}, {counts[least]} of "
                f"{task.labels[least]}; read macro_f1 and the worst class beside the {task.metric}"
            )
        for name in splits:
            absent = [label for label, count in zip(task.labels, given[name], strict=True) if not count]
            if absent:
                notes.append(f"{name} holds no row of: {short(absent)}")
        return notes

    def unlabelled(self, rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
        """The texts alone."""
        return plain_texts(rows, data)

    def unknown(self, texts: Sequence[tuple[str, ...]], task: Task) -> Alike:
        """No class; of many labels, and of a number, not a number."""
        if task.problem == "single_label_classification":
            return Alike(NO_TARGET, len(texts))
        return Alike(math.nan if task.problem == "regression" else [math.nan] * len(task.labels), len(texts))

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """One or two texts a row, cut to `longest` tokens."""
        return encode(rows, tokenizer, longest, title)

    def asked(self, texts: Sequence[Any], cutter: Cutter) -> Encoded:
        """Texts, or pairs of them. Raises DataError for anything else, and for one where two are read."""
        for given in texts:
            parts = (given,) if isinstance(given, str) else given
            if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
                raise DataError(f"predict: takes a text, or a pair of texts; not {given!r:.60}")
            if len(parts) not in ((1, 2) if cutter.texts is None else (cutter.texts,)):
                what = {1: "one text", 2: "two texts, a pair"}.get(cutter.texts, "a text, or a pair of texts")
                raise DataError(f"predict: this checkpoint reads {what} at a time, not {len(parts)}: {given!r:.60}")
        sheet = Sheet(cutter.pad)
        for encoding in cutter.tokenizer.encode_batch(list(texts)):
            sheet.add(encoding)
        return sheet.laid_out(np.zeros(len(texts)), cutter.pad, typed=cutter.typed)


def _counts(rows: Rows, classes: int, many_labels: bool) -> np.ndarray:
    """Rows of each class."""
    if many_labels:
        return np.asarray(rows.labels).sum(0).astype(int)
    return np.bincount(rows.labels, minlength=classes)
