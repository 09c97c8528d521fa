"""More rows to learn from: without labels, so that a teacher says what they are, and never one that is held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from distill.bars import bar
from distill.data import arrays, overlap, sources, splitting
from distill.data.held_out import EQUAL, NEAR, HeldOut
from distill.data.readers import Reader
from distill.data.readers.columns import MANY
from distill.data.rows import Alike, Rows, taken
from distill.errors import CheckpointError, DataError
from distill.recipe import settings
from distill.tasks import MaskedLanguageModelling, Task

UNLABELLED, WORDS, MASKED_LM = "data.unlabelled", "data.augment.words", "data.augment.masked_lm"
BLANK = "blank"
_REASONS = (None, EQUAL, NEAR, BLANK)  # why a row stays out; None where it doesn't
_Texts = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Extra:
    """Rows without labels from one place: `origin` is the setting that names it, `given` how many there were, and of
    those that were dropped `held_out` equal or contain a validation or test example, `near` are near-duplicates of one,
    `repeated` are blank, or equal to training rows or to each other.
    """

    origin: str
    texts: _Texts
    given: int
    held_out: int = 0
    near: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """A hash over every text, in order."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps(text).encode())
        return digest.hexdigest()

    @property
    def told(self) -> dict[str, Any]:
        """Its numbers, for a report."""
        return {**self.numbers, "rows": len(self), "sha256": self.sha256}

    @property
    def numbers(self) -> dict[str, Any]:
        """All but its texts."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "texts"}

    @property
    def note(self) -> str:
        """Its numbers, for a reader."""
        dropped = f"{self.held_out} that {EQUAL}, {self.near} {NEAR}, {self.repeated} blank or repeated"
        what = "rows without labels" if self.origin == UNLABELLED else "copies of training rows"
        return f"{self.origin}: {self.given} {what}; dropped: {dropped}; {len(self)} are for the teacher to label"


def let_in(origin: str, texts: Iterable[tuple[str, ...]], reader: Reader, held: HeldOut, known: np.ndarray) -> Extra:
    """Those rows that give nothing away and say something new; `known` are the marks of rows that are there already.

    A sequence that reads its rows when they are asked for stays one. Raises DataError where none is left.
    """
    listed = texts if isinstance(texts, Sequence) else None
    made: list[tuple[str, ...]] = []
    reasons, marks = arrays.Growing(np.int8), overlap.Marks()
    for row in bar(texts, title=origin, shown=listed is not None and len(listed) > MANY):
        clean = [overlap.normalise(text) for text in row]
        (shown,) = reader.texts(Rows([row], [None]))
        reasons.extend((_REASONS.index(held.tells(shown) if any(clean) else BLANK),))
        marks.add(clean)
        if listed is None:
            made.append(row)
    why, mine = reasons.whole(), marks.whole()
    given, counts = len(why), np.bincount(why, minlength=len(_REASONS)) if len(why) else np.zeros(len(_REASONS), int)
    first = overlap.first_equal(_joined(known, mine))[len(known) :]
    new = arrays.places(
        given, lambda part: (why[part] == 0) & (first[part] == np.arange(part.start, part.stop) + len(known))
    )
    kept = taken(made if listed is None else listed, new)
    numbers = dict(zip(_REASONS, counts.tolist(), strict=True))
    repeated = numbers[BLANK] + numbers[None] - len(new)
    found = Extra(origin, kept, given, numbers[EQUAL], numbers[NEAR], repeated)
    if given == 0:
        raise DataError(f"{origin}: holds no rows" if origin == UNLABELLED else f"{origin}: no row has enough words")
    if not len(kept):
        raise DataError(f"{found.note}: nothing to learn from; take other rows, or leave {origin} out")
    return found


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Marks behind one another."""
    found = arrays.zeros((len(one) + len(other), 2), np.uint64)
    for start, some in ((0, one), (len(one), other)):
        for part in arrays.portions(len(some)):
            found[start + part.start : start + part.stop] = some[part]
    return found


def read_unlabelled(data: settings.Data, reader: Reader, beside: Path | None, seed: int) -> tuple[_Texts, list[str]]:
    """The texts of `data.unlabelled`, and what a user should know of them. Raises DataError."""
    source = data.unlabelled
    rows = sources.reached(sources.read(source, beside, UNLABELLED), data)
    if len(rows) == 0:
        raise DataError(f"{UNLABELLED}: holds no rows")
    if sources.are_tagged(rows, source):
        raise DataError(
            f"{UNLABELLED}: lines of words with their tags are no unlabelled texts; give a column of word lists, or a "
            "txt file of sentences"
        )
    texts = reader.unlabelled(rows, data)
    unread = [column for column in data.columns if column in rows.column_names and column not in data.text_columns]
    notes = [f"{UNLABELLED}: its column '{unread[0]}' is not read: the teacher labels these rows"] if unread else []
    if data.limit is not None and len(texts) > data.limit:
        texts = taken(texts, splitting.sample(Alike(0, len(texts)), data.limit, seed))
    return texts, notes


def require_masked_lm(config: Mapping[str, Any], name: str) -> None:
    """Raises CheckpointError for a checkpoint without a masked-language-model head, by what its config names."""
    heads = config.get("architectures") or []
    if not any(map(MaskedLanguageModelling.serves, heads)):
        raise CheckpointError(
            f"{MASKED_LM}.checkpoint: {name} is a {', '.join(heads) or 'checkpoint without a named head'}, which can't "
            "say what a masked word may be; name one with a masked-language-model head, such as bert-base-uncased"
        )


def refusal(task: type[Task], words: settings.Distill) -> str | None:
    """Why a step can't learn from rows without labels; None where it can."""
    if task.generates and words.targets != "teacher":
        return (
            "rows of data.unlabelled and data.augment have no text to write; let the teacher write one: set "
            "`targets: teacher`"
        )
    if words.imitate.logits is not None and words.imitate.logits.loss == "decoupled_kl":
        return (
            "imitate.logits.loss: decoupled_kl sets the true class apart, and rows of data.unlabelled and data.augment "
            "have none; take kl"
        )
    return None
