"""Texts to token ids, once, held flat: all rows end to end with their offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.bars import bar
from distill.data import arrays
from distill.data.rows import Rows
from distill.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from distill.data.masking import Masking

NO_LIMIT = 1e9  # transformers writes 1e30 for a tokenizer that knows no limit
UNLIMITED = 512  # tokens that a text is cut to where nothing says how many
LACKING = {  # what is said of a tokenizer without a special token that a task needs
    "pad": "the tokenizer has no pad token, so texts can't be batched; give it one (tokenizer.pad_token = "
    "tokenizer.eos_token, say) and save it",
    "mask": "the tokenizer has no mask token, so nothing can be masked; take an encoder that was trained with one, or "
    "give it one and save it",
    "fast": "the tokenizer has no tokenizer.json; load it with transformers and save it again. Where that writes none, "
    "as of a tokenizer in Python alone (BioGPT's), the checkpoint needs another, with the same tokens, that has one",
}
_AT_ONCE = 1000


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
        return arrays.differences(self.offsets)

    def lengths_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Values in each of some rows."""
        chosen = np.asarray(rows, dtype=np.int64)
        return self.offsets[chosen + 1] - self.offsets[chosen]

    def places(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where the values of some rows are, end to end."""
        lengths = self.lengths_of(rows)
        starts = self.offsets[np.asarray(rows, dtype=np.int64)] - (np.cumsum(lengths) - lengths)
        return np.arange(lengths.sum()) + np.repeat(starts, lengths)

    def take(self, rows: np.ndarray) -> Ragged:
        """Some of the rows, in the order given."""
        offsets = self.offsets_of(rows)
        return Ragged(self.along(self.values, rows, offsets), offsets)

    def offsets_of(self, rows: np.ndarray) -> np.ndarray:
        """Where some rows begin and end when they lie end to end by themselves."""
        return arrays.ends(arrays.filled(len(rows), np.int64, lambda part: self.lengths_of(rows[part])))

    def along(self, values: np.ndarray, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Of values that lie alongside these those of some rows, end to end as `offsets_of` has it."""
        found = arrays.zeros(int(offsets[-1]), values.dtype)
        for part in arrays.portions(len(rows)):
            found[offsets[part.start] : offsets[part.stop]] = values[self.places(rows[part])]
        return found

    def padded(self, rows: Sequence[int], fill: int, lengths: np.ndarray | None = None) -> np.ndarray:
        """Rows side by side, (rows, longest) int64, shorter ones filled up on the right.

        `lengths` cuts the same values, end to end, into other sequences than the rows.
        """
        lengths = self.lengths_of(rows) if lengths is None else lengths
        found = np.full((len(lengths), int(lengths.max())), fill, dtype=np.int64)
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
    Where a row is read in several sequences, its ids are those of all of them, and `windows` how long each is.
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
    windows: Ragged | None = None
    about: Sequence[Any] | None = None
    sizes: np.ndarray | None = None
    masking: Masking | None = field(default=None, repr=False, compare=False)
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, special ones included."""
        return self.tokens.lengths

    @property
    def work(self) -> np.ndarray:
        """Tokens of each row that a model works through: those that it reads, and those that it writes."""
        return self.lengths + self.targets.lengths if self.decoder_start is not None else self.lengths

    @property
    def sequences(self) -> np.ndarray:
        """Tokens in each sequence that a model reads: in each row, or in each of its windows."""
        return self.lengths if self.windows is None else self.windows.values

    @property
    def tokens(self) -> Ragged:
        """The ids by row."""
        return Ragged(self.ids, self.offsets)

    def first(self, rows: int, tokens: int, least: int = 1) -> Encoded:
        """The first rows: `rows` at most, with no more than `tokens` tokens of work, but `least` all the same."""
        fitting = int(np.searchsorted(np.cumsum(self.work), tokens, side="right"))
        return self.take(np.arange(min(max(fitting, least), rows, len(self))))

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the rows, in the order given."""
        offsets = self.tokens.offsets_of(rows)
        ids, types, sizes = (
            None if values is None else self.tokens.along(values, rows, offsets)
            for values in (self.ids, self.types, self.sizes)
        )
        return replace(
            self,
            ids=ids,
            types=types,
            offsets=offsets,
            labels=self.labels[rows],
            sizes=sizes,
            targets=None if self.targets is None else self.targets.take(rows),
            windows=None if self.windows is None else self.windows.take(rows),
            about=None if self.about is None else [self.about[row] for row in rows],
        )


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """What pads a row of ids. It is masked, so where a tokenizer has no token for it any will do that it has."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(number for number in known if number is not None)


def cut_alike(one: Encoded, other: Encoded) -> bool:
    """Whether two splits hold the same tokens, row by row, whatever their numbers; those to write aside."""
    if one is other or (arrays.equal(one.ids, other.ids) and arrays.equal(one.offsets, other.offsets)):
        return True
    if not arrays.equal(one.offsets, other.offsets) or one.tokenizer is None or other.tokenizer is None:
        return False
    pairs = np.zeros((2, 0), dtype=np.int64)
    for part in arrays.portions(len(one.ids)):
        pairs = np.unique(np.concatenate([pairs, np.stack([one.ids[part], other.ids[part]])], axis=1), axis=1)
    tokens = [
        encoded.tokenizer.convert_ids_to_tokens(ids) for encoded, ids in zip((one, other), pairs.tolist(), strict=True)
    ]
    return tokens[0] == tokens[1]


def encode(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, title: str = "tokenise") -> Encoded:
    """Tokenises a split's one or two texts a row, cut to `max_length` tokens, and counts the rows that were cut.

    Raises CheckpointError for a tokenizer without a pad token or without fast (Rust) code.
    """
    sheet = Sheet(tokenizer.pad_token_id)
    for chunk in encodings_of(rows.texts, tokenizer, title, truncation=True, max_length=max_length):
        for encoding in chunk:
            sheet.add(encoding)
    return sheet.encoded(np.asarray(rows.labels), tokenizer)


def encodings_of(
    texts: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, title: str, **how: Any
) -> Iterator[list[Encoding]]:
    """What the tokenizer's Rust code makes of one or two texts a row, a thousand rows at a time.

    Raises CheckpointError for a tokenizer without a pad token or without fast (Rust) code.
    """
    require_usable(tokenizer)
    for start in bar(range(0, len(texts), _AT_ONCE), title=title, shown=len(texts) > _AT_ONCE):
        columns = [list(column) for column in zip(*texts[start : start + _AT_ONCE], strict=True)]
        yield cut(tokenizer, *columns, **how).encodings


class Sheet:
    """Rows of tokens, written one behind the other.

    `blank` stands for a text of which a tokenizer without special tokens makes nothing: models read a token at least.
    """

    def __init__(self, blank: int | None = None) -> None:
        self.blank = blank
        self.ids, self.types, self.lengths = (arrays.Growing(kind) for kind in (np.int32, np.int32, np.int64))
        self.truncated = 0

    def add(self, encoding: Encoding) -> None:
        """A row as the tokenizer's Rust code gives it."""
        if encoding.ids or self.blank is None:
            self.write(encoding.ids, encoding.type_ids, cut=bool(encoding.overflowing))
        else:
            self.write([self.blank], [0])

    def write(self, ids: Sequence[int], types: Sequence[int], *, cut: bool = False) -> None:
        """A row of token ids and token types; `cut` says that it isn't the whole text."""
        self.ids.extend(ids)
        self.types.extend(types)
        self.lengths.extend((len(ids),))
        self.truncated += cut

    def encoded(self, labels: np.ndarray, tokenizer: PreTrainedTokenizerBase, **more: Any) -> Encoded:
        """All rows, with token types where the tokenizer tells them."""
        typed = "token_type_ids" in tokenizer.model_input_names
        return self.laid_out(labels, tokenizer.pad_token_id, typed=typed, tokenizer=tokenizer, **more)

    def laid_out(self, labels: np.ndarray, pad: int, *, typed: bool, **more: Any) -> Encoded:
        """All rows, for whoever knows no more of the tokenizer than its padding."""
        return Encoded(
            ids=self.ids.whole(),
            types=self.types.whole() if typed else None,
            offsets=arrays.ends(self.lengths.whole()),
            labels=labels,
            pad=pad,
            truncated=self.truncated,
            **more,
        )


def require_usable(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises CheckpointError for a tokenizer without a pad token or without fast (Rust) code."""
    if tokenizer.pad_token_id is None:
        raise CheckpointError(LACKING["pad"])
    if not tokenizer.is_fast:
        raise CheckpointError(LACKING["fast"])


def cut(tokenizer: PreTrainedTokenizerBase, *texts: Any, **how: Any) -> BatchEncoding:
    """What a tokenizer makes of some texts. Raises CheckpointError where its Rust code gives up."""
    try:
        return tokenizer(*texts, **how)
    except BaseException as error:  # what Rust's code throws is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"the tokenizer gives up on a text: {error}") from None
