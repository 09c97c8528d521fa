"""Masking: which tokens a masked language model has to find, dealt by turn and row alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill.data.encoding import LACKING
from distill.errors import CheckpointError
from distill.recipe import settings
from distill.tasks import NO_TARGET

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MASKED, _OTHER = 0.8, 0.1  # of the tokens that are chosen; the rest stays (Devlin et al. 2019)
_AT_ONCE = 1 << 22  # ids that are counted at once
_WORD_MARKS = ("▁", "Ġ")


@dataclass(frozen=True)
class Masking:
    """How rows are masked: the share, the mask token, and for each id of the vocabulary whether it may be chosen,
    whether it begins a word (None where pieces are chosen one by one), and its weight where some are chosen more often
    (None where all are alike).
    """

    share: float
    mask: int
    choosable: np.ndarray
    begins: np.ndarray | None
    weights: np.ndarray | None = None

    def apply(self, ids: np.ndarray, turn: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """A row as the model sees it, and its targets: the ids that were chosen, −100 elsewhere.

        The same for the same ids and turn.
        """
        rng = np.random.default_rng(turn)
        candidates = np.flatnonzero(self.choosable[ids])
        number = max(1, round(self.share * len(candidates)))
        chosen = self._chosen(ids, candidates, number, rng)
        seen, targets = ids.copy(), np.full(len(ids), NO_TARGET, dtype=ids.dtype)
        targets[chosen] = ids[chosen]
        drawn = rng.random(len(chosen))
        seen[chosen[drawn < _MASKED]] = self.mask
        other = chosen[(drawn >= _MASKED) & (drawn < _MASKED + _OTHER)]
        seen[other] = rng.choice(np.flatnonzero(self.choosable), len(other))
        return seen, targets

    def _chosen(
        self, ids: np.ndarray, candidates: np.ndarray, number: int, rng: np.random.Generator
    ) -> np.ndarray:  # fmt: skip
        weights = None if self.weights is None else self.weights[ids[candidates]]
        if self.begins is None or len(candidates) == 0:
            return candidates[_drawn(weights, len(candidates), rng)[:number]]
        # A piece belongs to the word before it unless it begins one, or something that is never chosen lies between.
        begins = self.begins[ids[candidates]] | (np.diff(candidates, prepend=-2) > 1)
        cuts = np.flatnonzero(begins)[1:] if begins[0] else np.flatnonzero(begins)
        words = np.split(candidates, cuts)
        if weights is not None:  # a word's is its pieces' mean
            weights = np.array([part.mean() for part in np.split(weights, cuts)])
        taken: list[np.ndarray] = []
        for place in _drawn(weights, len(words), rng):
            if number <= 0:
                break
            taken.append(words[place])
            number -= len(words[place])
        return np.concatenate(taken)


def _drawn(weights: np.ndarray | None, number: int, rng: np.random.Generator) -> np.ndarray:
    """The places 0 … number − 1 in the order in which they are drawn, heavier ones likelier before lighter ones."""
    if weights is None:
        return rng.permutation(number)
    # Drawing by weight without putting back, by an exponential clock each (Efraimidis and Spirakis 2006).
    return np.argsort(rng.exponential(size=number) / weights)


def weights_of(ids: np.ndarray, vocabulary: int, smoothing: float) -> np.ndarray:
    """(vocabulary,) each token's count among `ids` to the power of −smoothing; one that never occurs counts once."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(ids), _AT_ONCE):  # ids may lie in a file
        counts += np.bincount(ids[start : start + _AT_ONCE], minlength=vocabulary)
    return np.maximum(counts, 1).astype(np.float64) ** -smoothing


def masking_for(tokenizer: PreTrainedTokenizerBase, words: settings.Mask) -> Masking:
    """How a tokenizer's rows are masked, all tokens alike. Raises CheckpointError for one without a mask token."""
    if tokenizer.mask_token_id is None:
        raise CheckpointError(LACKING["mask"])
    choosable = np.ones(len(tokenizer), dtype=bool)
    choosable[[number for number in tokenizer.all_special_ids if number < len(choosable)]] = False
    begins = None
    if words.whole_words:
        pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        marked = _marks_words(tokenizer) and any(piece.startswith(_WORD_MARKS) for piece in pieces)
        first = [piece.startswith(_WORD_MARKS) if marked else not piece.startswith("##") for piece in pieces]
        begins = np.array(first)
    return Masking(words.share, tokenizer.mask_token_id, choosable, begins)


def _marks_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether pieces that begin a word are marked. WordPiece marks those that don't, some BPE those that end one; in
    their vocabularies a piece with such a mark is a letter like others.
    """
    model = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    unmarked = ("continuing_subword_prefix", "end_of_word_suffix")
    return type(model).__name__ in ("BPE", "Unigram") and not any(getattr(model, word, None) for word in unmarked)
