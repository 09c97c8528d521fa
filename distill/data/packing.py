"""Packing: texts end to end, cut into blocks, for both kinds of language modelling.

Texts are parted by the token that the tokenizer ends a text with (BERT's [SEP], RoBERTa's </s>; else its end-of-text
token), and every block is framed as the tokenizer frames a text ([CLS] … [SEP]; <s> …; nothing). The ids of a large
corpus lie in a mapped file of the system's temporary folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.bars import bar
from distill.data import arrays
from distill.data.encoding import LACKING, Encoded, cut, padding_of
from distill.data.rows import Rows
from distill.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 1000
_LEAST = 8  # tokens of text in the last block of a split
_LONGEST_PIECE = 65535


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a text, and the token that parts texts (None where it has none)."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: int | None

    @property
    def tokens(self) -> int:
        """How many of a block's tokens are no text."""
        return len(self.before) + len(self.after)


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """A tokenizer's frame, read off what it makes of a letter. Raises CheckpointError without a fast tokenizer."""
    if not tokenizer.is_fast:
        raise CheckpointError(LACKING["fast"])
    bare = cut(tokenizer, "a", add_special_tokens=False)["input_ids"]
    whole = cut(tokenizer, "a")["input_ids"]
    starts = [place for place in range(len(whole) - len(bare) + 1) if whole[place : place + len(bare)] == bare]
    if not bare or not starts:
        raise CheckpointError("the tokenizer makes other tokens of a text with its special tokens than without them")
    before, after = tuple(whole[: starts[0]]), tuple(whole[starts[0] + len(bare) :])
    return Frame(before, after, after[-1] if after else tokenizer.eos_token_id)


def encode_texts(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, title: str, *, packed: bool, **more: Any
) -> Encoded:
    """A split's texts packed into blocks of `longest` tokens, or, not `packed`, each cut to as many.

    `more` goes to Encoded. Raises DataError where a split makes less than a block.
    """
    frame = frame_of(tokenizer)
    if longest <= frame.tokens:
        raise DataError(f"data.max_length: {longest} tokens leave no room for text between {frame.tokens} special ones")
    found = (_packed if packed else _each)(rows, tokenizer, longest, frame, title)
    pad = padding_of(tokenizer)
    labels = arrays.zeros(len(found.offsets) - 1, np.int8)  # what is right is in the ids
    typed = "token_type_ids" in tokenizer.model_input_names
    types = np.broadcast_to(np.int32(0), found.ids.shape) if typed else None
    return Encoded(
        ids=found.ids, types=types, offsets=found.offsets, labels=labels, pad=pad,
        truncated=found.truncated, sizes=found.sizes, tokenizer=tokenizer, **more,
    )  # fmt: skip


@dataclass(frozen=True)
class _Ids:
    ids: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    truncated: int = 0


def _packed(rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, frame: Frame, title: str) -> _Ids:
    """Blocks. What is left in the end is a shorter one, or nothing where it is hardly any text."""
    room, kept = longest - frame.tokens, _Growing()
    head, tail = np.array(frame.before, dtype=np.int32), np.array(frame.after, dtype=np.int32)
    ids, sizes = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint16)
    between = np.array([] if frame.between is None else [frame.between], dtype=np.int32)
    blocks = total = 0

    def add(some: np.ndarray, of: np.ndarray) -> None:
        """(blocks, tokens of text), framed."""
        number = len(some)
        kept.add(
            np.concatenate([np.tile(head, (number, 1)), some, np.tile(tail, (number, 1))], axis=1),
            np.pad(of, ((0, 0), (len(head), len(tail)))),
        )

    apart = np.zeros(len(between), dtype=np.uint16)
    for found in _tokenised(rows, tokenizer, title):
        ids = np.concatenate([ids, *(part for mine, _ in found for part in (mine, between))])
        sizes = np.concatenate([sizes, *(part for _, of in found for part in (of, apart))])
        number = len(ids) // room
        if number:
            add(ids[: number * room].reshape(number, room), sizes[: number * room].reshape(number, room))
        ids, sizes, blocks, total = ids[number * room :], sizes[number * room :], blocks + number, total + number * room
    last = len(ids) >= min(_LEAST, room)
    if last:
        add(ids[None], sizes[None])
    lengths = arrays.zeros(blocks + last, np.int64)
    lengths[:] = longest
    lengths[blocks:] = len(ids) + frame.tokens
    if len(lengths) < 2 or blocks == 0:
        many = "less than one block" if blocks == 0 else "one block alone"
        raise DataError(
            f"data: the texts of {title.split()[-1]} make {total + len(ids)} tokens, {many} of {room}; lower "
            "data.max_length, set `packed: false`, or take more text"
        )
    return _Ids(*kept.arrays(), arrays.ends(lengths))


def _each(rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, frame: Frame, title: str) -> _Ids:
    """A text a row, framed, and ended where the frame doesn't end it and the text isn't cut off."""
    kept, lengths, truncated = _Growing(), arrays.Growing(np.int64), 0
    room = longest - frame.tokens
    head, tail = np.array(frame.before, dtype=np.int32), np.array(frame.after, dtype=np.int32)
    end = np.array([] if frame.after or frame.between is None else [frame.between], dtype=np.int32)
    for found in _tokenised(rows, tokenizer, title):
        truncated += sum(len(mine) > room for mine, _ in found)
        whole = [(np.concatenate([mine, end])[:room], np.pad(of, (0, len(end)))[:room]) for mine, of in found]
        kept.add(
            np.concatenate([part for mine, _ in whole for part in (head, mine, tail)]),
            np.concatenate([np.pad(of, (len(head), len(tail))) for _, of in whole]),
        )
        lengths.add(np.array([len(mine) + frame.tokens for mine, _ in whole]))
    return _Ids(*kept.arrays(), arrays.ends(lengths.whole()), truncated)


def _tokenised(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, title: str
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """For some texts at a time the ids of each, and how many bytes of text each id stands for: those since the token
    before it, blanks included.
    """
    for start in bar(range(0, len(rows), _AT_ONCE), title=title, shown=len(rows) > _AT_ONCE):
        texts = [row[0] for row in rows.texts[start : start + _AT_ONCE]]
        found = cut(tokenizer, texts, add_special_tokens=False, verbose=False)
        yield [
            (np.array(row.ids, dtype=np.int32), _sizes(text, row.offsets))
            for text, row in zip(texts, found.encodings, strict=True)
        ]


def _sizes(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Bytes by token. A character that several tokens share counts with the last of them."""
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    if len(ends) == 0:
        return np.zeros(0, dtype=np.uint16)
    if not text.isascii():
        lengths = np.array([len(character.encode("utf-8", "surrogatepass")) for character in text])
        ends = np.cumsum([0, *lengths])[ends]
    reached = np.maximum.accumulate(ends)
    sizes = reached.copy()
    sizes[1:] -= reached[:-1]
    return np.minimum(sizes, _LONGEST_PIECE).astype(np.uint16)


class _Growing:
    """Ids and sizes that grow."""

    def __init__(self) -> None:
        self.ids, self.sizes = arrays.Growing(np.int32), arrays.Growing(np.uint16)

    def add(self, ids: np.ndarray, sizes: np.ndarray) -> None:
        """More of both."""
        self.ids.add(ids)
        self.sizes.add(sizes)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Both, whole."""
        return self.ids.whole(), self.sizes.whole()
