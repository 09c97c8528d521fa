"""Texts to token ids, once, held flat: all rows end to end with their offsets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from distill.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 1000


@dataclass(frozen=True)
class Rows:
    """One split: `texts` holds one or two texts a row, `labels` what the task's head is trained on."""

    texts: list[tuple[str, ...]]
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Encoded:
    """A tokenised split. Row i's ids are `ids[offsets[i]:offsets[i + 1]]`; `types` (or None) lies alongside."""

    ids: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray
    pad: int
    truncated: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, special ones included."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the rows, in the order given."""
        flat = np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])
        offsets = np.cumsum([0, *self.lengths[rows]])
        types = None if self.types is None else self.types[flat]
        return replace(self, ids=self.ids[flat], types=types, offsets=offsets, labels=self.labels[rows])


def encode(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, title: str = "tokenise") -> Encoded:
    """Tokenises a split's one or two texts a row, cut to `max_length` tokens, and counts the rows that were cut.

    Raises CheckpointError for a tokenizer without a pad token or without fast (Rust) code.
    """
    if tokenizer.pad_token_id is None:
        raise CheckpointError("the tokenizer has no pad token, so texts can't be batched; give it one and save it")
    if not tokenizer.is_fast:
        raise CheckpointError("the tokenizer has no tokenizer.json; load it with transformers and save it again")
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    truncated = 0
    for start in tqdm(range(0, len(rows), _AT_ONCE), desc=title, leave=False, disable=len(rows) <= _AT_ONCE):
        columns = [list(column) for column in zip(*rows.texts[start : start + _AT_ONCE], strict=True)]
        try:
            found = tokenizer(*columns, truncation=True, max_length=max_length)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # what Rust's code throws is no Exception
                raise
            raise CheckpointError(f"the tokenizer gives up on a text: {error}") from None
        ids += [np.asarray(row, dtype=np.int32) for row in found["input_ids"]]
        types += [np.asarray(row, dtype=np.int32) for row in found.get("token_type_ids", ())]
        truncated += sum(bool(row.overflowing) for row in found.encodings)
    offsets = np.cumsum([0, *(len(row) for row in ids)])
    return Encoded(
        ids=np.concatenate(ids),
        types=np.concatenate(types) if types else None,
        offsets=offsets,
        labels=np.asarray(rows.labels),
        pad=tokenizer.pad_token_id,
        truncated=truncated,
    )
