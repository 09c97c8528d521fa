"""Text to text: an encoder-decoder reads one text and writes another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distill.tasks.metrics import METRICS, PERFECT
from distill.tasks.task import NO_TARGET, Array, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from distill.data import Batch, Encoded
    from distill.engines import Engine

CUT_OFF = "cut off"


@dataclass(frozen=True)
class TextToText(Task):
    """One text to another. Answers and predictions are texts; there are no labels, as the classes are the vocabulary.

    `prefix` is what stands before each text that is read. An answer is a row of two: the text, and a mark where it has
    as many tokens as it may have.
    """

    prefix: str = ""

    name: ClassVar[str] = "text-to-text"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    head: ClassVar[str] = "ForConditionalGeneration"
    families: ClassVar[tuple[str, ...]] = ("encoder-decoder",)
    head_labels: ClassVar[bool] = False
    by_token: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    activation: ClassVar[str] = "none"
    writes: ClassVar[bool] = True

    @classmethod
    def serves(cls, architecture: str) -> bool:
        """Marian has a name of its own."""
        return architecture.endswith((cls.head, "MarianMTModel"))

    @property
    def output_shape(self) -> list[str | int]:
        """Of a decoder's logits."""
        return ["batch", "tokens", "vocabulary"]

    @property
    def head_config(self) -> dict[str, Any]:
        """The task's name, which no architecture tells, and the prefix."""
        return {"task": self.name, "prefix": self.prefix}

    def settle(self, model: PreTrainedModel) -> None:
        """Writes down, in a model's configs, what whoever answers with it must know."""
        for key, value in self.head_config.items():
            setattr(model.config, key, value)
        self._settle_writing(model)

    # -------------------------------------------------------------------------------------------- what is trained

    def scored(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Those at the tokens of the text to write, (tokens, vocabulary)."""
        return logits[batch["labels"] != NO_TARGET]

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """The tokens of the text to write, (tokens,)."""
        return batch["labels"][batch["labels"] != NO_TARGET]

    # ------------------------------------------------------------------------------------------- what is answered

    def ask(self, engine: Engine, batch: Batch, encoded: Encoded) -> Array:
        """What an engine writes, (rows, 2)."""
        return self.read_back(engine.generate(batch, self.words), encoded.tokenizer)

    def read_back(self, written: Sequence[Sequence[int]], tokenizer: Any) -> Array:
        """Token ids as answers, without special tokens."""
        cutter = getattr(tokenizer, "backend_tokenizer", tokenizer)  # the same text with and without transformers
        most = self.words.max_new_tokens
        rows = [
            (cutter.decode(list(ids), skip_special_tokens=True).strip(), CUT_OFF if len(ids) >= most else "")
            for ids in written
        ]
        return np.array(rows, dtype=np.str_).reshape(-1, 2)

    def reduce(self, logits: Array, batch: Batch) -> Array:
        """(rows, 2): the loss, in nats, of all tokens of the text to write, each behind the right ones, and how many
        there are.
        """
        labels = batch["labels"]
        real = labels != NO_TARGET
        found = np.zeros((len(labels), 2))
        for row, (given, right, mask) in enumerate(zip(logits, labels, real, strict=True)):
            mine = given[mask].astype(np.float64)
            highest = mine.max(-1)
            total = highest + np.log(np.exp(mine - highest[:, None]).sum(-1))
            found[row] = (total - mine[np.arange(len(mine)), right[mask]]).sum(), mask.sum()
        return found

    def predictions(self, answers: Array, threshold: float = 0.5) -> Array:
        """The texts."""
        return answers[:, 0]

    def unended(self, answers: Array) -> float:
        """The share of texts that have as many tokens as they may have."""
        return float((answers[:, 1] == CUT_OFF).mean())

    def moved(self, found: Array, expected: Array) -> float:
        """One less the chrF of what is written now to what was, both in whole."""
        return 1 - METRICS["chrf"](found[:, 0], expected[:, 0]) / PERFECT["chrf"]

    # ---------------------------------------------------------------------------------------------- how it is judged

    def tally(self, predictions: Array, labels: Array) -> Callable[[Array], float]:
        """The primary metric of any choice of rows, whose counts are worked out once."""
        metric = METRICS[self.metric]
        counts = metric.counts(predictions, labels)
        return lambda rows: metric.of(counts[rows].sum(0))

    def unlike(self, array: Array, rows: int) -> str | None:
        """Why an array holds no texts of so many rows, behind its name; None when it does."""
        if array.shape != (rows,):
            return f"has the shape {array.shape}, not {(rows,)}"
        return None if array.dtype.kind == "U" else "holds values that are no texts"

    def answer(self, answers: Array, threshold: float = 0.5, about: Sequence[Any] | None = None) -> list[str]:
        """The texts."""
        return self.predictions(answers).tolist()


@dataclass(frozen=True)
class Translation(TextToText):
    """A text in one language to the same in another."""

    name: ClassVar[str] = "translation"


@dataclass(frozen=True)
class Summarization(TextToText):
    """A long text to what matters of it."""

    name: ClassVar[str] = "summarization"
