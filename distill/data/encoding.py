"""Texts to token ids, once, held flat: all rows end to end with their offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from distill.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from distill.data.masking import Masking

_AT_ONCE = 1000


@dataclass(frozen=True)
class Rows:
    """One split: `texts` holds one or more texts a row, `labels` what is right; both can be written as JSON."""

    texts: Sequence[tuple[str, ...]]
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, positions: Sequence[int]) -> Rows:
        """Some of the rows, in the order given; texts that are read when they are asked for stay so."""
        take = getattr(self.texts, "take", None)
        texts = take(positions) if take else [self.texts[i] for i in positions]
        return Rows(texts, [self.labels[i] for i in positions])


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, end to end: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Values in each row."""
        return np.diff(self.offsets)

    def places(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where the values of some rows are, end to end."""
        found = [np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def take(self, rows: np.ndarray) -> Ragged:
        """Some of the rows, in the order given."""
        return Ragged(self.values[self.places(rows)], np.cumsum([0, *self.lengths[rows]]))

    def padded(self, rows: Sequence[int], fill: int) -> np.ndarray:
        """Rows side by side, (rows, longest) int64, shorter ones filled up on the right."""
        chosen = np.asarray(rows)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        found = np.full((len(rows), int(lengths.max())), fill, dtype=np.int64)
        found[np.arange(found.shape[1]) < lengths[:, None]] = self.values[self.places(rows)]
        return found

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | np.ndarray]) -> Ragged:
        """From rows of their own."""
        values = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]) if len(rows) else np.zeros(0, int)
        return cls(values, np.cumsum([0, *(len(row) for row in rows)]))


@dataclass(frozen=True)
class Encoded:
    """A tokenised split. Row i's ids are `ids[offsets[i]:offsets[i + 1]]`; `types` (or None) lies alongside.

    `labels` has an entry a row, and is what predictions are held against. Where an answer has a right class for each
    token, `targets` holds them: alongside the ids, or, with a `decoder_start`, as the text that a decoder is to write.
    `truncated` and `cut_targets` count what was longer than it may be. `about` is what else a task needs of each row to
    read an answer, and `tokenizer` what wrote the ids. Of language modelling `sizes` tells the bytes of text that each
    id stands for, and `masking` how rows are masked in a batch.
    """

    ids: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray
    pad: int
    truncated: int
    targets: Ragged | None = None
    decoder_start: int | None = None
    cut_targets: int = 0
    about: Sequence[Any] | None = None
    sizes: np.ndarray | None = None
    masking: Masking | None = field(default=None, repr=False, compare=False)
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, special ones included."""
        return np.diff(self.offsets)

    @property
    def work(self) -> np.ndarray:
        """Tokens of each row that a model works through: those that it reads, and those that it writes."""
        return self.lengths + self.targets.lengths if self.decoder_start is not None else self.lengths

    @property
    def tokens(self) -> Ragged:
        """The ids by row."""
        return Ragged(self.ids, self.offsets)

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the rows, in the order given."""
        places = self.tokens.places(rows)
        return replace(
            self,
            ids=self.ids[places],
            types=None if self.types is None else self.types[places],
            offsets=np.cumsum([0, *self.lengths[rows]]),
            labels=self.labels[rows],
            sizes=None if self.sizes is None else self.sizes[places],
            targets=None if self.targets is None else self.targets.take(rows),
            about=None if self.about is None else [self.about[row] for row in rows],
        )


def encode(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, title: str = "tokenise") -> Encoded:
    """Tokenises a split's one or two texts a row, cut to `max_length` tokens, and counts the rows that were cut.

    Raises CheckpointError for a tokenizer without a pad token or without fast (Rust) code.
    """
    require_usable(tokenizer)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    truncated = 0
    for start in tqdm(range(0, len(rows), _AT_ONCE), desc=title, leave=False, disable=len(rows) <= _AT_ONCE):
        columns = [list(column) for column in zip(*rows.texts[start : start + _AT_ONCE], strict=True)]
        found = cut(tokenizer, *columns, truncation=True, max_length=max_length)
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
        tokenizer=tokenizer,
    )


def require_usable(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises CheckpointError for a tokenizer without a pad token or without fast (Rust) code."""
    if tokenizer.pad_token_id is None:
        raise CheckpointError("the tokenizer has no pad token, so texts can't be batched; give it one and save it")
    if not tokenizer.is_fast:
        raise CheckpointError("the tokenizer has no tokenizer.json; load it with transformers and save it again")


def cut(tokenizer: PreTrainedTokenizerBase, *texts: Any, **how: Any) -> BatchEncoding:
    """What a tokenizer makes of some texts. Raises CheckpointError where its Rust code gives up."""
    try:
        return tokenizer(*texts, **how)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust's code throws is no Exception
            raise
        raise CheckpointError(f"the tokenizer gives up on a text: {error}") from None
