"""A student whose vocabulary was trimmed cuts its training texts as its teacher does, and numbers the tokens anew: what
one of them asks, and what the other says, in the numbers of the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distill.checkpoint import Checkpoint
from distill.data import Splits, arrays
from distill.signals import Signals

_READ = ("input_ids", "decoder_input_ids")


@dataclass(frozen=True)
class Numbers:
    """`theirs` (tokens,) holds the teacher's number of each of the student's tokens; `over_tokens` says whether logits
    are over them.
    """

    theirs: Tensor
    over_tokens: bool

    @property
    def sha256(self) -> str:
        """What a result can depend on."""
        return hashlib.sha256(self.theirs.numpy(force=True).tobytes()).hexdigest()

    def asked(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A student's batch in its teacher's numbers; labels stay the student's, as only it learns from them."""
        numbers = self.theirs.to(batch["input_ids"].device)
        return batch | {name: numbers[batch[name]] for name in _READ if name in batch}

    def said(self, signals: Signals) -> Signals:
        """A teacher's signals with the logits of the student's tokens alone, in their order. The softmax is then over
        those: the teacher's distribution, given that no token comes that the student lacks.
        """
        if not self.over_tokens:
            return signals
        return replace(signals, logits=signals.logits[..., self.theirs.to(signals.logits.device)])


def numbers_between(student: Checkpoint, teacher: Checkpoint, data: Splits) -> Numbers | None:
    """How a student's tokens are numbered by its teacher; None where it has others, or cuts a training text otherwise.

    Token types and lengths must be the same too, as the teacher is given the student's rows.
    """
    known = teacher.tokenizer.get_vocab()
    number = min(len(student.tokenizer), student.model.config.vocab_size)
    named = [known.get(name) for name in student.tokenizer.convert_ids_to_tokens(list(range(number)))]
    if None in named or max(named) >= teacher.model.config.vocab_size:
        return None
    theirs, mine, read = np.array(named), student.encode(data, "train"), teacher.encode(data, "train")
    pairs = [(mine.ids, read.ids)]
    if mine.decoder_start is not None and read.decoder_start is not None:
        pairs.append((mine.targets.values, read.targets.values))
        if not _same(theirs, np.array([mine.decoder_start]), np.array([read.decoder_start])):
            return None
    if not arrays.equal(mine.offsets, read.offsets) or not all(_same(theirs, *pair) for pair in pairs):
        return None
    return Numbers(torch.from_numpy(theirs), over_tokens=not data.task.head_labels)


def _same(theirs: np.ndarray, mine: np.ndarray, read: np.ndarray) -> bool:
    """Whether a student's ids are a teacher's, each by its own numbers."""
    if mine.shape != read.shape:
        return False
    return all(
        bool((mine[part] < len(theirs)).all() and (theirs[mine[part]] == read[part]).all())
        for part in arrays.portions(len(mine))
    )
