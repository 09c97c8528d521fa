"""Masked and causal language modelling: how well a model foretells the tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.portions import places_at_once
from distill.recipe.settings import Kept
from distill.tasks.task import NO_TARGET, Array, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from distill.data import Batch, Encoded
    from distill.engines import Engine

_LOGITS = 1 << 26  # numbers that an engine answers with at once: 256 MB
_CANDIDATES = 5  # for a blank
# Classes with a masked-language-model head and another beside it, which is left out. ELECTRA's and Funnel's classes of
# that name tell replaced tokens.
_WITH_ANOTHER = frozenset(
    f"{name}ForPreTraining"
    for name in ("Albert", "Bert", "BigBird", "Ernie", "FNet", "MegatronBert", "MobileBert", "RoCBert")
)
SUMS = 4  # nats, tokens, bytes, right


@dataclass(frozen=True)
class LanguageModelling(Task):
    """Tokens foretold at the places that have a target.

    Answers are (rows, 4 + places): the row's nats (the sum of negative log likelihoods), the number of its tokens that
    are foretold, their bytes of text, how many of them are the likeliest, and then the likeliest token at each place,
    filled up with NaN. Predictions are the first four. Scores are ratios of sums over rows.
    """

    head_labels: ClassVar[bool] = False
    by_token: ClassVar[bool] = True
    activation: ClassVar[str] = "softmax over the vocabulary"
    ahead: ClassVar[int] = 0  # how many tokens after its own a place foretells

    @property
    def output_shape(self) -> list[str | int]:
        """Of the logits that a graph gives."""
        return ["batch", "tokens", "vocabulary"]

    def scored(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The logits of the places that have a target, (places, vocabulary)."""
        right = batch["labels"][:, self.ahead :]
        return logits[:, : right.shape[1]][right != NO_TARGET]

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """(places,) token ids."""
        right = batch["labels"][:, self.ahead :]
        return right[right != NO_TARGET]

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """An answer a row; a batch whose logits would take too much memory is asked in parts."""
        tokens = batch["input_ids"].shape[1]
        size = tokens * (len(encoded.tokenizer) if encoded.tokenizer is not None else 1)
        parts = _parts(batch, max(1, _LOGITS // size))
        return self.joined([self.reduce(engine.answer(part), part) for part in parts])

    def reduce(self, logits: Array, batch: Batch) -> Array:
        """(batch, tokens, vocabulary) logits to answers. Without `sizes` in the batch no bytes are counted."""
        right = batch["labels"][:, self.ahead :]
        there = right != NO_TARGET
        rows, places = np.nonzero(there)
        nats, likeliest = _foretold(logits, rows, places, right[there])
        sizes = batch["sizes"][:, self.ahead :][there] if "sizes" in batch else np.zeros(len(rows))
        answers = np.full((len(right), SUMS + right.shape[1]), np.nan)
        for column, values in enumerate((nats, np.ones(len(rows)), sizes, likeliest == right[there])):
            answers[:, column] = np.bincount(rows, values, minlength=len(right))
        answers[rows, SUMS + places] = likeliest
        return answers

    def joined(self, parts: list[Array]) -> Array:
        """Rows of several batches, filled up to the longest."""
        width = max(part.shape[1] for part in parts)
        grown = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=np.nan) for part in parts]
        return np.concatenate(grown)

    def tally(self, predictions: Array, labels: Array) -> Callable[[Array], float]:
        """Perplexities of any choice of rows, from sums."""
        return lambda rows: self.score(predictions[rows], labels)

    def predictions(self, answers: Array, threshold: float = 0.5) -> Array:
        """(n, 4): nats, tokens, bytes, right."""
        return answers[:, :SUMS]

    def moved(self, found: Array, expected: Array) -> float:
        """The mean square between a row's nats by token."""
        return float(np.square(_by_token(found) - _by_token(expected)).mean())

    def apart(self, found: Array, expected: Array) -> float:
        """The largest difference between a row's nats by token."""
        return float(np.abs(_by_token(found) - _by_token(expected)).max())

    def agreement(self, found: Array, expected: Array, threshold: float = 0.5, theirs: float | None = None) -> float:
        """The share of places with the same likeliest token."""
        width = min(found.shape[1], expected.shape[1])
        one, other = found[:, SUMS:width], expected[:, SUMS:width]
        there = np.isfinite(one) & np.isfinite(other)
        return float((one[there] == other[there]).mean()) if there.any() else 1.0


@dataclass(frozen=True)
class MaskedLanguageModelling(LanguageModelling):
    """Masked tokens are found again. Perplexities are over them alone, each by all the rest of its row."""

    name: ClassVar[str] = "masked-language-modelling"
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    head: ClassVar[str] = "ForMaskedLM"
    families: ClassVar[tuple[str, ...]] = ("encoder",)
    special: ClassVar[tuple[str, ...]] = ("mask",)

    @classmethod
    def serves(cls, architecture: str) -> bool:
        """Also what a model was pretrained as with a second head, and XLM's and FlauBERT's older name."""
        return architecture.endswith((cls.head, "WithLMHeadModel")) or architecture in _WITH_ANOTHER

    def refuse_loss(self, asked: str) -> str | None:
        """Of most imitated tokens nothing is asked, so none is the true class."""
        if asked == "decoupled_kl":
            return "it parts the true class from the others, but most tokens are not masked; take kl"
        return super().refuse_loss(asked)

    def refuse_kept(self, words: Kept) -> str | None:
        """Nothing is said twice of the same tokens, so nothing is kept."""
        if words.logits == "whole" or isinstance(words.logits, int):
            return f"logits: {words.logits}: texts are masked anew in each epoch, so nothing is kept; leave it out"
        if words.engine is not None:
            return (
                f"engine: {words.engine}: texts are masked anew in each epoch, so there is no label pass; leave it out"
            )
        return super().refuse_kept(words)

    def imitated(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The logits of every real token, masked or not, as DistilBERT's code has it (restrict_ce_to_mask: false)."""
        return logits[batch["attention_mask"].bool()]

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """An answer a row; for what a user asks (rows, blanks, 2, 5): the likeliest tokens with their probabilities."""
        if encoded.about is None:
            return super().ask(engine, batch, encoded)
        logits, most = engine.answer(batch), max(len(encoded.about[row].places) for row in batch["rows"])
        found = np.full((len(logits), most, 2, _CANDIDATES), np.nan)
        for row, mine in zip(batch["rows"], logits, strict=True):
            for place, blank in enumerate(encoded.about[row].places):
                shares = np.exp(mine[blank].astype(np.float64) - mine[blank].max())
                best = np.argsort(-shares, kind="stable")[:_CANDIDATES]
                found[row, place, :, : len(best)] = best, shares[best] / shares.sum()
        return found

    def answer(self, answers: Array, threshold: float = 0.5, about: Sequence[Any] | None = None) -> list[Any]:
        """For each text its blanks in order, each with the likeliest tokens and their probabilities, best first."""
        return [
            [
                {row.named(int(token)): float(share) for token, share in blank.T if np.isfinite(token)}
                for blank in mine[: len(row.places)]
            ]
            for mine, row in zip(answers, about, strict=True)
        ]

    def told(self, answer: list[dict[str, float]]) -> str:
        """The candidates of each blank."""
        return " | ".join(", ".join(f"{token} {share:.3f}" for token, share in blank.items()) for blank in answer)


@dataclass(frozen=True)
class CausalLanguageModelling(LanguageModelling):
    """Each token is foretold by those before it in its row."""

    name: ClassVar[str] = "causal-language-modelling"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    head: ClassVar[str] = "ForCausalLM"
    families: ClassVar[tuple[str, ...]] = ("decoder",)
    special: ClassVar[tuple[str, ...]] = ()
    continues: ClassVar[bool] = True
    ahead: ClassVar[int] = 1
    writes: ClassVar[bool] = True

    @classmethod
    def serves(cls, architecture: str) -> bool:
        """Also GPT-2's older name."""
        return architecture.endswith((cls.head, "LMHeadModel"))

    def settle(self, model: PreTrainedModel) -> None:
        """How texts are written, where a recipe says so; else what the model has of its teacher stays."""
        if self.said:
            self._settle_writing(model)

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """An answer a row; for what a user asks the tokens that are written on, (rows, tokens), filled up with −1."""
        if encoded.about is None:
            return super().ask(engine, batch, encoded)
        rooms = np.array([encoded.about[row].room for row in batch["rows"]])
        found = np.full((len(rooms), rooms.max()), -1, dtype=np.int64)
        lengths = batch["attention_mask"].sum(1) if engine.counts_padding else np.zeros_like(rooms)
        kinds = np.stack([rooms, lengths], axis=1)
        for room, length in np.unique(kinds, axis=0):  # texts alike together, so that none hangs on a longer one
            mine = np.flatnonzero((kinds == (room, length)).all(1))
            there = batch["attention_mask"][mine].any(0)
            part = {name: batch[name][mine][:, there] for name in ("input_ids", "attention_mask")}
            words = self.words.model_copy(update={"max_new_tokens": int(room)})
            for row, tokens in zip(mine, engine.generate(part, words), strict=True):
                found[row, : len(tokens)] = tokens
        return found

    def answer(self, answers: Array, threshold: float = 0.5, about: Sequence[Any] | None = None) -> list[str]:
        """How each text goes on."""
        return [row.read(mine[mine >= 0].tolist()) for mine, row in zip(answers, about, strict=True)]


def _parts(batch: Batch, rows: int) -> Iterator[Batch]:
    for start in range(0, len(batch["input_ids"]), rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}


def _foretold(logits: Array, rows: Array, places: Array, right: Array) -> tuple[Array, Array]:
    """At each place the negative log likelihood of what is right, and the likeliest token; worked out in portions."""
    nats, likeliest = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    size = places_at_once(logits.shape[-1])
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        found = logits[rows[some], places[some]].astype(np.float32)
        most = found.max(-1, keepdims=True)
        sums = np.log(np.exp(found - most).sum(-1, dtype=np.float64)) + most[:, 0]
        nats[some] = sums - found[np.arange(len(found)), right[some]]
        likeliest[some] = found.argmax(-1)
    return nats, likeliest


def _by_token(answers: Array) -> Array:
    return answers[:, 0] / np.maximum(1, answers[:, 1])
