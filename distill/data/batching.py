"""Batches by length: rows of like length together, so that little is padded; and how a batch is laid out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distill.data.encoding import Encoded, Ragged
from distill.tasks import NO_TARGET

Batch = dict[str, np.ndarray]
_STEP = 4  # lengths are rounded up to this before rows are grouped, so that neighbours mix


def collate(encoded: Encoded, rows: Sequence[int], turn: tuple[int, ...] = (0,)) -> Batch:
    """Rows as arrays padded to the longest: input_ids, attention_mask, token_type_ids where the tokenizer has them
    (batch, tokens); rows (batch,); labels (batch,), or for each token (batch, tokens) with −100 where none is right.

    Where a decoder writes the targets, labels are its text and decoder_input_ids the same, shifted right. Masked rows
    are masked by `turn` (in training the seed and the epoch) and their number alone. A row that is read in several
    windows is as many sequences of the batch, one behind the other, and still one of `rows`.
    """
    lengths = encoded.lengths[rows] if encoded.windows is None else encoded.windows.values[encoded.windows.places(rows)]
    real = np.arange(int(lengths.max())) < lengths[:, None]
    batch = {"input_ids": encoded.tokens.padded(rows, encoded.pad, lengths), "attention_mask": real.astype(np.int64)}
    if encoded.types is not None:
        batch["token_type_ids"] = Ragged(encoded.types, encoded.offsets).padded(rows, 0, lengths)
    if encoded.sizes is not None:
        batch["sizes"] = Ragged(encoded.sizes, encoded.offsets).padded(rows, 0)
    if encoded.masking is not None:
        masked = [encoded.masking.apply(encoded.tokens[row], (*turn, int(row))) for row in rows]
        seen, targets = (Ragged.of(found) for found in zip(*masked, strict=True))
        batch["input_ids"] = seen.padded(range(len(rows)), encoded.pad)
        batch["labels"] = targets.padded(range(len(rows)), NO_TARGET)
    elif encoded.targets is None:
        batch["labels"] = encoded.labels[rows]
    else:
        batch["labels"] = encoded.targets.padded(rows, NO_TARGET, None if encoded.windows is None else lengths)
    if encoded.decoder_start is not None:
        batch["decoder_input_ids"] = _shifted(batch["labels"], encoded.decoder_start, encoded.pad)
    batch["rows"] = np.asarray(rows, dtype=np.int64)
    return batch


def _shifted(labels: np.ndarray, start: int, pad: int) -> np.ndarray:
    """What a decoder is given to write the labels: its start token, and then each token but the last."""
    before = np.concatenate([np.full((len(labels), 1), start, dtype=np.int64), labels[:, :-1]], axis=1)
    return np.where(before == NO_TARGET, pad, before)


class TokenBatches:
    """A batch sampler: lists of row numbers, at most `batch_size` rows and `batch_tokens` padded tokens each.

    Every epoch deals the rows of like length anew and shuffles the batches, by seed and epoch alone. The number of
    batches is the same in each epoch, because the sorted lengths are. Without a seed the order is by length.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, batch_tokens: int, seed: int | None = None) -> None:
        self.rounded = -(-np.asarray(lengths) // _STEP) * _STEP
        self.seed, self.epoch = seed, 0
        self.cuts = _cut(np.sort(self.rounded), batch_size, batch_tokens)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            order, turns = np.argsort(self.rounded, kind="stable"), np.arange(len(self))
        else:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = np.lexsort((rng.random(len(self.rounded)), self.rounded))
            turns = rng.permutation(len(self))
        for turn in turns:
            yield order[self.cuts[turn] : self.cuts[turn + 1]].tolist()


def _cut(lengths: np.ndarray, batch_size: int, batch_tokens: int) -> list[int]:
    """Where each batch of rising lengths begins, and the end."""
    cuts = [0]
    for position, length in enumerate(lengths):
        rows = position - cuts[-1] + 1
        if rows > 1 and (rows > batch_size or rows * length > batch_tokens):
            cuts.append(position)
    return [*cuts, len(lengths)]
