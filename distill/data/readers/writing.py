"""The rows of text to text: a text that is read, and the text that is to be written."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.bars import bar
from distill.data.encoding import Encoded, Ragged, Sheet, cut, encode
from distill.data.readers.reader import Cutter, plain_texts, texts_of
from distill.data.rows import Alike, Rows
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import TASKS, Task, choose_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 1000


@dataclass(frozen=True)
class WritingReader:
    """One text column that is read and one that is written."""

    apart: ClassVar[bool] = False
    problem: settings.Problem

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], Task]:
        """Both texts as they are. Raises DataError for a text to write that is empty."""
        name = self.problem.replace("_", "-")
        if len(data.text_columns) != 1 or isinstance(data.label, list):
            raise DataError(f"data: {name} reads one column, `text`, and writes one, `label`; name one column each")
        rows = {}
        for split, given in raw.items():
            texts = texts_of(given, data.text_columns, "data.text", split)
            targets = [target for (target,) in texts_of(given, [data.label], "data.label", split)]
            if (empty := next((i for i, target in enumerate(targets) if not target.strip()), None)) is not None:
                raise DataError(f"data.label: row {empty} of {split} has an empty text to write; leave the row out")
            rows[split] = Rows(texts, targets)
        task = TASKS[name](self.problem, (), choose_metric(self.problem, metric), prefix=data.prefix or "")
        return rows, task

    def kinds(self, rows: Rows, task: Task) -> list[Hashable]:
        """All are of one kind."""
        return [0] * len(rows)

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """The texts that are read."""
        return rows.texts

    def require_enough(self, train: Rows, task: Task) -> None:
        """Any text teaches something."""

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """How long the texts are."""
        train = splits["train"]
        read, written = (
            np.median([len(text.split()) for text in texts])
            for texts in ([text for (text,) in train.texts], train.labels)
        )
        return [f"half of the training texts have {read:g} words or more, and {written:g} to write"]

    def unlabelled(self, rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
        """The texts that are read."""
        return plain_texts(rows, data)

    def unknown(self, texts: Sequence[tuple[str, ...]], task: Task) -> Alike:
        """Nothing to write, until the teacher has written it."""
        return Alike("", len(texts))

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """The texts that are read behind the prefix, and as targets the tokens of those to write."""
        prefix = words.prefix or ""
        read = encode(Rows([(prefix + text,) for (text,) in rows.texts], rows.labels), tokenizer, longest, title)
        targets: list[np.ndarray] = []
        too_long = 0
        for start in bar(range(0, len(rows), _AT_ONCE), title=title, shown=len(rows) > _AT_ONCE):
            how = {"truncation": True, "max_length": words.target_length or longest}
            found = cut(tokenizer, text_target=rows.labels[start : start + _AT_ONCE], **how)
            targets += [np.asarray(row, dtype=np.int32) for row in found["input_ids"]]
            too_long += sum(bool(row.overflowing) for row in found.encodings)
        labels = np.array(rows.labels, dtype=np.dtypes.StringDType())  # each as long as it is
        return replace(read, types=None, labels=labels, targets=Ragged.of(targets), cut_targets=too_long)

    def asked(self, texts: Sequence[Any], cutter: Cutter) -> Encoded:
        """Texts, behind the prefix that the checkpoint was trained with. Raises DataError for a pair of texts."""
        if any(not isinstance(text, str) for text in texts):
            raise DataError("predict: what writes reads one text at a time, not a pair")
        sheet = Sheet(cutter.pad)
        for encoding in cutter.tokenizer.encode_batch([cutter.prefix + text for text in texts]):
            sheet.add(encoding)
        found = sheet.laid_out(np.zeros(len(texts)), cutter.pad, typed=False)
        return replace(found, tokenizer=cutter.tokenizer)
