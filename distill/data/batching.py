"""Batches by length: rows of like length together, so that little is padded; and how a batch is laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from distill.data import arrays
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
    windows = encoded.windows
    lengths = encoded.tokens.lengths_of(rows) if windows is None else windows.values[windows.places(rows)]
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
        lengths = np.asarray(lengths)
        self.rounded = arrays.filled(len(lengths), np.int32, lambda part: -(-lengths[part] // _STEP) * _STEP)
        self.seed, self.epoch = seed, 0
        self.counts: Counter[int] = Counter()
        for part in arrays.portions(len(lengths)):
            found, often = np.unique(self.rounded[part], return_counts=True)
            self.counts.update(dict(zip(found.tolist(), often.tolist(), strict=True)))
        self.cuts = _cut(sorted(self.counts.items()), batch_size, batch_tokens)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            order, turns = self._order(None), np.arange(len(self))
        else:
            rng = np.random.default_rng((self.seed, self.epoch))
            draws = arrays.zeros(len(self.rounded), np.float64)
            rng.random(out=draws)
            order, turns = self._order(draws), rng.permutation(len(self))
        for turn in turns:
            yield order[self.cuts[turn] : self.cuts[turn + 1]].tolist()

    def _order(self, draws: np.ndarray | None) -> np.ndarray:
        """Row numbers by length, and rows of a length by what was drawn for them, or as they stand."""
        order, at = arrays.zeros(len(self.rounded), np.int64), 0
        for length, number in sorted(self.counts.items()):
            shares = 1 if draws is None else -(-number // arrays.PORTION)  # rows of a length, sorted share by share
            for share in range(shares):
                rows = arrays.places(len(self.rounded), partial(self._in, length, draws, share, shares))
                order[at : at + len(rows)] = rows if draws is None else rows[np.argsort(draws[rows], kind="stable")]
                at += len(rows)
        return order

    def _in(self, length: int, draws: np.ndarray | None, share: int, shares: int, part: slice) -> np.ndarray:
        found = self.rounded[part] == length
        if shares == 1:
            return found
        return found & (np.minimum((draws[part] * shares).astype(np.int64), shares - 1) == share)


def _cut(counts: Sequence[tuple[int, int]], batch_size: int, batch_tokens: int) -> np.ndarray:
    """Where each batch of rising lengths begins, and the end; `counts` says how many rows a length has."""
    cuts, end = [0], 0
    for length, number in counts:
        start, end = end, end + number
        most = max(1, min(batch_size, batch_tokens // max(1, length)))
        while cuts[-1] + most < end:
            cuts.append(max(start, cuts[-1] + most))
    return np.array([*cuts, end])
