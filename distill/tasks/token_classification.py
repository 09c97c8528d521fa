"""Token classification: a tag for each word of a text, such as what it names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.tasks.labels import label_config, label_misfit
from distill.tasks.metrics import METRICS_OF
from distill.tasks.task import NO_TARGET, Array, Task, places_in

if TYPE_CHECKING:
    from torch import Tensor

    from distill.data import Batch, Encoded
    from distill.engines import Engine

NO_TAG = -1  # of a word that a model didn't see, of one whose tag isn't known, and of no word at all
OUTSIDE = "O"
_OF_AN_ENTITY = re.compile(r"[BILUES](?:-(.+))?")
_ANY = "_"  # the kind of entities that have none: bare B, I and O
_IOBES = {"L": "E", "U": "S"}  # BILOU's last and unit words, by the letters that seqeval knows for them


@dataclass(frozen=True)
class TokenClassification(Task):
    """A tag for each word, told by the logits at its first token.

    An answer is the logits by word, (rows, words, labels), not a number where there is no word or none that was seen; a
    prediction and `Encoded.labels` are the tags by word, (rows, words), NO_TAG there. A word beyond the length that
    texts are cut to gets no tag, which is wrong whatever its tag is, and no part of an entity. Where no tag is known
    nothing counts.
    """

    name: ClassVar[str] = "token-classification"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    head: ClassVar[str] = "ForTokenClassification"
    families: ClassVar[tuple[str, ...]] = ("encoder",)
    by_token: ClassVar[bool] = True

    @property
    def each(self) -> str:
        """What `by_class` tells, for whoever reads it."""
        return "F1 of each kind of entity" if name_entities(self.labels) else "Recall of each tag"

    @property
    def head_config(self) -> dict[str, Any]:
        """What a model's config says of the head."""
        return label_config(self.labels)

    def misfit(self, config: dict[str, Any]) -> str | None:
        """Why the head that a config describes can't serve these tags, in this order; None when it can."""
        return label_misfit(config, self.labels)

    def refuse_loss(self, asked: str) -> str | None:
        """Of two tags there is but one other."""
        return self._refuse_two(asked)

    def scored(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Those at the first token of each word, (words, labels)."""
        return logits[batch["labels"] != NO_TARGET]

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """The words' tags, (words,), NO_TARGET where none is known."""
        tags = batch["labels"][batch["labels"] != NO_TARGET]
        return tags.masked_fill(tags == NO_TAG, NO_TARGET)

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """An engine's logits at the first token of each word."""
        logits = engine.answer(batch)
        shape = (len(logits), encoded.labels.shape[1], logits.shape[-1])
        found = np.full(shape, np.nan, dtype=np.float32)
        for place, row in enumerate(batch["rows"]):
            first = encoded.about[row].first
            seen = np.flatnonzero(first >= 0)
            found[place, seen] = logits[place, first[seen]]
        return found

    def predictions(self, answers: Array, threshold: float = 0.5) -> Array:
        """The likeliest tag of each word, (rows, words)."""
        seen = np.isfinite(answers[..., 0])
        return np.where(seen, np.where(seen[..., None], answers, 0).argmax(-1), NO_TAG)

    def agreement(self, found: Array, expected: Array, threshold: float = 0.5, theirs: float | None = None) -> float:
        """The share of equal tags."""
        one, other = self.predictions(found), self.predictions(expected)
        real = (one != NO_TAG) | (other != NO_TAG)
        return float((one == other)[real].mean()) if real.any() else 1.0

    def scores(self, predictions: Array, labels: Array) -> dict[str, float]:
        """Every metric that fits the tags, the primary one first."""
        return {name: self._metric(name, predictions, labels) for name in self._fitting()}

    def score(self, predictions: Array, labels: Array) -> float:
        """The primary metric."""
        return self._metric(self.metric, predictions, labels)

    def _fitting(self) -> list[str]:
        names = METRICS_OF[self.problem] if name_entities(self.labels) else ("accuracy", "macro_f1")
        return list(dict.fromkeys((self.metric, *names)))

    def _metric(self, name: str, predictions: Array, labels: Array) -> float:
        return _from_counts(name, self._counts(name, predictions, labels).sum(0))

    def tally(self, predictions: Array, labels: Array) -> Callable[[Array], float]:
        """The primary metric of any choice of rows, from counts that are taken once."""
        counts = self._counts(self.metric, predictions, labels)
        return lambda rows: _from_counts(self.metric, counts[rows].sum(0))

    def _counts(self, name: str, predictions: Array, labels: Array) -> Array:
        """Right, given and true ones of each row: entities or words, (rows, 3), or words by tag, (rows, 3 · tags)."""
        real = labels != NO_TAG
        if name == "entity_f1":
            given = np.where(real, predictions, NO_TAG)
            found = [
                [(kinds[0] & kinds[1]).total(), *(kind.total() for kind in kinds)]
                for kinds in zip(self._entities(given), self._entities(labels), strict=True)
            ]
            return np.array(found, dtype=np.int64).reshape(-1, 3)
        right = real & (predictions == labels)
        if name == "accuracy":
            return np.stack([right.sum(1), real.sum(1), real.sum(1)], 1)
        tags = np.arange(len(self.labels))
        counts = [
            (where[..., None] & (given[..., None] == tags)).sum(1)
            for where, given in ((right, labels), (real, predictions), (real, labels))
        ]
        return np.concatenate(counts, 1)

    def _entities(self, tags: Array) -> list[Counter[tuple[str, int, int]]]:
        """Each row's entities as seqeval reads them, whatever the scheme: their kind, first and last word."""
        names = {**dict(enumerate(self.labels)), NO_TAG: OUTSIDE}
        return [Counter(_entities_in([names[tag] for tag in row])) for row in tags.tolist()]

    def unlike(self, array: Array, rows: int) -> str | None:
        """Why an array holds no predictions or labels of so many rows, behind its name; None when it can."""
        if array.ndim != 2 or not places_in(array, NO_TAG, len(self.labels)):
            return "holds values that are no tags of words"
        return super().unlike(array, rows)

    def by_class(self, predictions: Array, labels: Array) -> dict[str, float]:
        """The F1 of each kind of entity; of tags that name none the recall of each."""
        if not name_entities(self.labels):
            return {
                tag: float((predictions[labels == place] == place).mean())
                for place, tag in enumerate(self.labels)
                if (labels == place).any()
            }
        right, given, true = Counter(), Counter(), Counter()
        predictions = np.where(labels != NO_TAG, predictions, NO_TAG)
        for found, there in zip(self._entities(predictions), self._entities(labels), strict=True):
            for counter, entities in ((right, found & there), (given, found), (true, there)):
                counter.update(kind for kind, _, _ in entities)
        return {kind: 2 * right[kind] / (given[kind] + true[kind]) for kind in sorted(true)}

    def answer(self, answers: Array, threshold: float = 0.5, about: Sequence[Any] | None = None) -> list[Any]:
        """For each text its entities (of tags that name none: its words), each with text, tag, score, start and end.

        The score is the mean probability of its words' tags; start and end count words, the end is behind the last.
        """
        shares = np.exp(answers - answers.max(-1, keepdims=True))
        shares = (shares / shares.sum(-1, keepdims=True)).max(-1)
        entities = name_entities(self.labels)
        found = []
        for row, tags, scores in zip(about, self.predictions(answers), shares, strict=True):
            names = [self.labels[tag] if tag != NO_TAG else OUTSIDE for tag in tags[: len(row.words)]]
            spans = _entities_in(names) if entities else [(name, place, place) for place, name in enumerate(names)]
            found.append(
                [
                    {
                        "text": " ".join(row.words[first : last + 1]),
                        "tag": tag,
                        "score": float(np.nan_to_num(scores[first : last + 1]).mean()),
                        "start": first,
                        "end": last + 1,
                    }
                    for tag, first, last in spans
                ]
            )
        return found

    def told(self, answer: list[dict[str, Any]]) -> str:
        """Entities, or words, with their tags."""
        return ", ".join(f"{one['text']} [{one['tag']} {one['score']:.3f}]" for one in answer) or "no entity"


def name_entities(labels: Sequence[str]) -> bool:
    """Whether tags tell where entities begin and go on (IOB and its kin: O, B-city, I-city, …)."""
    inside = [label for label in labels if label != OUTSIDE]
    return bool(inside) and all(_OF_AN_ENTITY.fullmatch(label) for label in inside)


def kind_of_entity(label: str) -> str | None:
    """What kind of entity a tag is a part of; None where it is of none."""
    found = _OF_AN_ENTITY.fullmatch(label)
    return (found[1] or _ANY) if found else None


def _entities_in(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities that a row of tags tells, as seqeval reads them: their kind, first and last word."""
    from seqeval.metrics.sequence_labeling import get_entities

    return get_entities([_IOBES.get(tag[0], tag[0]) + tag[1:] for tag in tags])


def _from_counts(name: str, sums: Array) -> float:
    """Accuracy is right over true; F1 twice right over given and true, of tags its mean over those given or true."""
    if name == "accuracy":
        return float(sums[0] / max(1, sums[2]))
    right, both = sums.reshape(3, -1)[0], sums.reshape(3, -1)[1:].sum(0)
    there = both > 0
    return float((2 * right[there] / both[there]).mean()) if there.any() else 0.0
