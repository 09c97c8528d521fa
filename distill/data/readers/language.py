"""Language modelling's rows: texts, read when they are asked for, and nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.data import arrays
from distill.data.encoding import Encoded, Sheet
from distill.data.masking import masking_for, weights_of
from distill.data.packing import encode_texts
from distill.data.readers.columns import Texts, pages
from distill.data.readers.reader import Cutter, require_column
from distill.data.rows import Alike, Rows
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import LanguageModelling, MaskedLanguageModelling, Task, choose_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

_MASKS = ("[MASK]", "<mask>")  # where a tokenizer doesn't say
_BLOCK = 512  # tokens, where neither the recipe nor the model says less


class LanguageReader:
    """One text column; blank rows are left out."""

    apart = False

    def __init__(self, task: type[LanguageModelling], problem: settings.Problem) -> None:
        self.task, self.problem = task, problem

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], LanguageModelling]:
        """Texts alone. Raises DataError for a missing column, what is no text, and words about labels."""
        for word in ("label", "separator", "problem", "classes"):
            if getattr(data, word) != type(data).model_fields[word].default:  # a recipe may write defaults out
                raise DataError(f"data.{word}: {self.task.name} learns from the texts alone; leave it out")
        if len(data.text_columns) != 1:
            raise DataError(f"data.text: {self.task.name} takes one text column")
        if data.mask is not None and self.task is not MaskedLanguageModelling:
            raise DataError("data.mask: only masked-language-modelling masks; leave it out")
        splits = {name: _texts(rows, data.text_columns[0], name) for name, rows in raw.items()}
        task = self.task(self.problem, (), choose_metric(self.problem, metric))
        return {name: Rows(texts, Alike(0, len(texts))) for name, texts in splits.items()}, task

    def kinds(self, rows: Rows, task: Task) -> Sequence[Hashable]:
        """All of one kind."""
        return rows.labels

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """The texts themselves."""
        return rows.texts

    def require_enough(self, train: Rows, task: Task) -> None:
        """Whether the texts make a block is known when they are tokens."""

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """Nothing beyond the numbers of rows."""
        return []

    def unlabelled(self, rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
        """As all rows."""
        return _texts(rows, data.text_columns[0], "data.unlabelled")

    def unknown(self, texts: Sequence[tuple[str, ...]], task: Task) -> Sequence[Any]:
        """What is right is in the text itself."""
        return Alike(0, len(texts))

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """Blocks, or a text a row. Raises CheckpointError without a mask token where one is needed."""
        masked = self.task is MaskedLanguageModelling
        how = words.mask or settings.Mask()
        masking = masking_for(tokenizer, how) if masked else None
        longest = longest if words.max_length is not None else min(longest, _BLOCK)
        found = encode_texts(rows, tokenizer, longest, title, packed=words.packed is not False, masking=masking)
        if masking is None:
            return replace(found, targets=found.tokens)
        if how.smoothing is None:
            return found
        weights = weights_of(found.ids, len(masking.choosable), how.smoothing)
        return replace(found, masking=replace(masking, weights=weights))

    def asked(self, texts: Sequence[Any], cutter: Cutter) -> Encoded:
        """Texts with blanks to be filled in, or to be written on. Raises DataError for one without a blank."""
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"predict: {self.task.name} takes texts that are not empty")
        encodings, about = cutter.tokenizer.encode_batch(list(texts)), []
        sheet, masked = Sheet(), self.task is MaskedLanguageModelling
        for text, encoding in zip(texts, encodings, strict=True):
            if masked:
                about.append(_blanks(text, encoding, cutter))
                sheet.add(encoding)
                continue
            ids, types = _open_end(encoding)
            most = max(cutter.longest - cutter.written, cutter.longest // 2)  # of a long text the end is read
            sheet.write(ids[-most:], types[-most:], cut=len(ids) > most)
            room = min(cutter.written, cutter.longest - min(most, len(ids)))
            about.append(Start(room, cutter.tokenizer, ids[-most:]))
        return sheet.laid_out(np.zeros(len(texts)), cutter.pad, typed=cutter.typed, about=about)


@dataclass(frozen=True)
class Blanks:
    """Where a text has its blanks, and the tokenizer that names what fills them."""

    places: list[int]
    tokenizer: Tokenizer

    def named(self, token: int) -> str:
        """A token as it is written."""
        return self.tokenizer.decode([token]).strip() or str(self.tokenizer.id_to_token(token))


@dataclass(frozen=True)
class Start:
    """How many tokens there is room for behind a text, the tokenizer that reads them, and the text's own."""

    room: int
    tokenizer: Tokenizer
    before: list[int]

    def read(self, tokens: list[int]) -> str:
        """Tokens as the text goes on with them, its first blank included; without special ones."""
        return self.tokenizer.decode([*self.before, *tokens])[len(self.tokenizer.decode(self.before)) :]


def _open_end(encoding: Encoding) -> tuple[list[int], list[int]]:
    """A text's tokens and token types, without the special ones that the tokenizer ends it with: it is to go on."""
    ids, added = encoding.ids, encoding.special_tokens_mask
    end = max((place for place, special in enumerate(added, start=1) if not special), default=len(ids))
    return ids[:end], encoding.type_ids[:end]


def _blanks(text: str, encoding: Encoding, cutter: Cutter) -> Blanks:
    names = _MASKS if cutter.mask is None else (cutter.mask,)
    masks = [cutter.tokenizer.token_to_id(name) for name in names]
    places = [place for place, token in enumerate(encoding.ids) if token in masks and token is not None]
    if not places:
        name = next((name for name, number in zip(names, masks, strict=True) if number is not None), names[0])
        raise DataError(f"predict: {text[:40]!r} has no {name}; write one where a word is to be filled in")
    return Blanks(places, cutter.tokenizer)


def _texts(rows: Dataset, column: str, split: str) -> Texts:
    """The rows that have a text. Raises DataError."""
    require_column(rows, column, "data.text", split)
    kept = arrays.Growing(np.int64)
    for start, (texts,) in pages(rows, [column], f"read {split}"):
        for position, value in enumerate(texts, start=start):
            if value is not None and not isinstance(value, str):
                kind = f"{value!r}, a {type(value).__name__}"
                raise DataError(f"data.text: row {position} of {split} holds {kind} in column '{column}', not a text")
            if value and not value.isspace():
                kept.extend((position,))
    positions = kept.whole()
    if not len(positions):
        raise DataError(f"data.text: no row of {split} has a text in column '{column}'")
    return Texts(rows.select_columns(column), [column], positions)
