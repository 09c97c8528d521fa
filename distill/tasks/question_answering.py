"""Extractive question answering: the piece of a text that answers a question, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.tasks import answers as squad
from distill.tasks.labels import label_config, label_misfit
from distill.tasks.task import NO_TARGET, Array, Task

if TYPE_CHECKING:
    from torch import Tensor

    from distill.data import Batch, Encoded
    from distill.engines import Engine

LONGEST_ANSWER = 30  # tokens, as in the official baselines
SIDES = ("start", "end")  # its labels
_START, _END, _SCORE, _NONE, _SHARE, _WORDS = range(6)  # the columns of an answer; words follow
_AWAY = -1e4  # the logit of a place that can't be; a number, so that sums of it stay numbers


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """The span of a context that answers a question, told by a logit for its start and one for its end at each token.

    An answer is the best span over all windows of a context: its first character, the one behind its last, its score
    (the sum of its two logits), the lowest score of no answer in any window (at the window's first token), its
    probability in its window, and its words as numbers. A prediction is those words, (rows, words), none where no
    answer is likelier than the threshold; `Encoded.labels` are those of every right answer, (rows, answers, words).
    """

    name: ClassVar[str] = "question-answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    head: ClassVar[str] = "ForQuestionAnswering"
    families: ClassVar[tuple[str, ...]] = ("encoder",)
    by_token: ClassVar[bool] = True
    pairs: ClassVar[bool] = True
    windows: ClassVar[bool] = True
    threshold: ClassVar[float] = 1.0  # whoever says nothing of unanswerable questions always answers
    activation: ClassVar[str] = "softmax over tokens"
    chooses: ClassVar[bool] = True

    @property
    def each(self) -> str:
        """What `by_class` tells, for whoever reads it."""
        return f"{self.metric} of questions that the text answers, and of those that it doesn't,"

    @property
    def head_config(self) -> dict[str, Any]:
        """What a model's config says of the head."""
        return label_config(self.labels)

    def misfit(self, config: dict[str, Any]) -> str | None:
        """Why the head that a config describes tells no start and end; None when it does."""
        return label_misfit(config, self.labels)

    def scored(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Each window's logits for a start and for an end over its tokens, (2 · windows, tokens)."""
        away = batch["attention_mask"] == 0
        return logits.float().masked_fill(away[..., None], _AWAY).transpose(1, 2).flatten(0, 1)

    def real_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Those at tokens of a window, (2 · windows, tokens)."""
        return batch["attention_mask"].bool().repeat_interleave(2, dim=0)

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """The tokens at which each window's answer starts and ends, (2 · windows,), NO_TARGET where none is known."""
        flags = batch["labels"].clamp(min=0)
        each = flags[:, None] >> flags.new_tensor([0, 1])[:, None] & 1
        return each.argmax(-1).masked_fill(each.amax(-1) == 0, NO_TARGET).flatten()

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """The best span of each row, over its windows."""
        logits = engine.answer(batch).astype(np.float64)
        length, found, at = logits.shape[1], [], 0
        for row in batch["rows"]:
            passage, lengths = encoded.about[row], encoded.windows[row]
            places = np.full((len(lengths), length, 2), -1)
            places[np.arange(length) < lengths[:, None]] = passage.places
            found.append(_best(logits[at : at + len(lengths)], places, lengths, passage.context))
            at += len(lengths)
        return np.array(found).reshape(len(found), _WORDS + LONGEST_ANSWER)

    def predictions(self, answers: Array, threshold: float = 1.0) -> Array:
        """The words of the answers, (rows, words), none where none is more likely than the threshold."""
        none = no_answer(answers) > threshold
        return np.where(none[:, None], squad.NOTHING, answers[:, _WORDS:]).astype(np.int64)

    def choose_threshold(self, answers: Array, labels: Array) -> float:
        """The probability of no answer above which none is given: the best of 19, or 1 where all can be answered.

        Never call it on a test split.
        """
        if (labels[:, 0, 0] != squad.NOTHING).all():
            return 1.0
        candidates = sorted((step / 20 for step in range(1, 21)), key=lambda value: abs(value - 0.5))
        return max(candidates, key=lambda value: self.score(self.predictions(answers, value), labels))

    def moved(self, found: Array, expected: Array) -> float:
        """The mean square between the scores of spans and of none."""
        return float(np.square(_scores(found) - _scores(expected)).mean())

    def apart(self, found: Array, expected: Array) -> float:
        """The largest difference between those."""
        return float(np.abs(_scores(found) - _scores(expected)).max())

    def scores(self, predictions: Array, labels: Array) -> dict[str, float]:
        """F1 and exact match, the primary one first."""
        f1, exact = squad.compare(predictions, labels).mean(0).tolist()
        told = {"f1": f1, "exact_match": exact}
        return {name: told[name] for name in sorted(told, key=lambda name: name != self.metric)}

    def score(self, predictions: Array, labels: Array) -> float:
        """The primary metric."""
        return self.scores(predictions, labels)[self.metric]

    def tally(self, predictions: Array, labels: Array) -> Callable[[Array], float]:
        """The primary metric of any choice of rows, each held against its answers once."""
        each = squad.compare(predictions, labels)[:, int(self.metric == "exact_match")]
        return lambda rows: float(each[rows].mean())

    def by_class(self, predictions: Array, labels: Array) -> dict[str, float]:
        """The primary metric of questions that the text answers, and of those that it doesn't, where there are both."""
        none = labels[:, 0, 0] == squad.NOTHING
        if not none.any() or none.all():
            return {}
        return {
            name: self.score(predictions[rows], labels[rows])
            for name, rows in (("answerable", ~none), ("unanswerable", none))
        }

    def unlike(self, array: Array, rows: int) -> str | None:
        """Why an array holds no predictions or labels of so many rows, behind its name; None when it can."""
        if array.ndim not in (2, 3) or array.dtype.kind not in "iu":
            return "holds values that are no words of answers"
        return super().unlike(array, rows)

    def answer(self, answers: Array, threshold: float = 1.0, about: Sequence[Any] | None = None) -> list[Any]:
        """For each question its answer: text, score (its probability), start and end in characters of the context.

        An empty text, without a place, where no answer is likelier than the threshold; its score is that of none.
        """
        found = []
        for row, passage, none in zip(answers, about, no_answer(answers), strict=True):
            start, end = int(row[_START]), int(row[_END])
            if none > threshold or end <= start:
                found.append({"text": "", "score": float(none), "start": None, "end": None})
            else:
                text = passage.context[start:end]
                found.append({"text": text, "score": float(row[_SHARE]), "start": start, "end": end})
        return found

    def told(self, answer: dict[str, Any]) -> str:
        """The answer with its probability."""
        return f"{answer['text'] or 'no answer'} ({answer['score']:.3f})"


def no_answer(answers: Array) -> Array:
    """The probability of none beside the best span, (rows,)."""
    return 1 / (1 + np.exp(np.clip(answers[:, _SCORE] - answers[:, _NONE], -500, 500)))


def _scores(answers: Array) -> Array:
    return answers[:, [_SCORE, _NONE]]


def _best(logits: Array, places: Array, lengths: Array, context: str) -> Array:
    """The best span over one row's windows, as an answer: of tokens of the context, LONGEST_ANSWER at most."""
    inside = places[..., 0] >= 0
    starts, ends = (np.where(inside, logits[..., which], -np.inf) for which in (0, 1))
    none = float(logits[:, 0].sum(-1).min())
    best, where = -np.inf, (0, 0, 0)
    for more in range(min(LONGEST_ANSWER, starts.shape[1])):
        sums = starts[:, : starts.shape[1] - more] + ends[:, more:]
        window, token = np.unravel_index(sums.argmax(), sums.shape)
        if sums[window, token] > best:
            best, where = float(sums[window, token]), (int(window), int(token), int(token) + more)
    found = np.zeros(_WORDS + LONGEST_ANSWER)
    if not np.isfinite(best):  # a context of nothing that the tokenizer knows
        found[[_SCORE, _NONE, _SHARE]] = none + _AWAY, none, 0.0
        return found
    window, first, last = where
    start, end = int(places[window, first, 0]), int(places[window, last, 1])
    text = context[start:end]
    start += len(text) - len(text.lstrip())  # SentencePiece counts the blank before a word to it
    both = logits[window, : lengths[window]]
    total = sum(np.log(np.exp(both[:, which] - both[:, which].max()).sum()) + both[:, which].max() for which in (0, 1))
    words = squad.Numbers(context).of(text)[:LONGEST_ANSWER]
    found[:_WORDS] = start, end, best, none, np.exp(best - total)
    found[_WORDS : _WORDS + len(words)] = words
    return found
