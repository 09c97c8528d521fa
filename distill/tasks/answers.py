"""How answers are compared: SQuAD's normalisation, exact match and F1 of words (Rajpurkar et al. 2016, 2018).

The scores are the official script's. Words are held as numbers made of a word and its context, so that predictions can
be kept and handed over, and tell no text to whoever doesn't have it.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

NOTHING = 0  # behind the last word
NO_MORE = -1  # in the place of an answer, where a row has fewer right ones than another
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> list[str]:
    """The words that count: in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(given: Sequence[object], right: Sequence[Sequence[object]]) -> float:
    """1 where an answer's words are those of one of the right answers."""
    return float(any(list(given) == list(one) for one in right))


def f1(given: Sequence[object], right: Sequence[Sequence[object]]) -> float:
    """The best F1 of an answer's words to those of one of the right answers; no answer fits no answer only."""
    return max(_f1(given, one) for one in right)


def _f1(given: Sequence[object], right: Sequence[object]) -> float:
    if not given or not right:
        return float(not given and not right)
    same = (Counter(given) & Counter(right)).total()
    return 2 * same / (len(given) + len(right))


class Numbers:
    """Words of a context as numbers from 1 up that a float holds whole."""

    def __init__(self, context: str) -> None:
        self.key = hashlib.blake2b(context.encode(), digest_size=16).digest()

    def of(self, text: str) -> list[int]:
        """The numbers of the words that count in an answer."""
        return [self._number(word) for word in normalise(text)]

    def _number(self, word: str) -> int:
        return 1 + int.from_bytes(hashlib.blake2b(word.encode(), digest_size=6, key=self.key).digest(), "big")


def laid_out(right: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """Each row's right answers in numbers, (rows, most answers, most words); one without words where there is none."""
    answers = [[one for one in row if one] or [[]] for row in right]
    most = max(map(len, answers), default=1), max((len(one) for row in answers for one in row), default=0)
    found = np.full((len(answers), most[0], max(1, most[1])), NOTHING, dtype=np.int64)
    for place, row in enumerate(answers):
        found[place, len(row) :, 0] = NO_MORE
        for number, one in enumerate(row):
            found[place, number, : len(one)] = one
    return found


def compare(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each row's F1 and exact match, (rows, 2), of answers (rows, words) to the right ones (rows, answers, words)."""
    found = []
    for given, right in zip(predictions.tolist(), labels.tolist(), strict=True):
        words = [word for word in given if word != NOTHING]
        answers = [[word for word in one if word != NOTHING] for one in right if one[0] != NO_MORE]
        found.append((f1(words, answers), exact_match(words, answers)))
    return np.array(found, dtype=np.float64).reshape(-1, 2)
