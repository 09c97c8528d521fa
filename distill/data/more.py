"""More rows to learn from: without labels, so that a teacher says what they are, and never one that is held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.data import sources, splitting
from distill.data.encoding import Rows
from distill.data.held_out import EQUAL, NEAR, HeldOut
from distill.data.overlap import normalise
from distill.data.readers import Reader
from distill.errors import CheckpointError, DataError
from distill.recipe import settings
from distill.tasks import MaskedLanguageModelling, Task

UNLABELLED, WORDS, MASKED_LM = "data.unlabelled", "data.augment.words", "data.augment.masked_lm"
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
        numbers = {name: value for name, value in asdict(self).items() if name != "texts"}
        return {**numbers, "rows": len(self), "sha256": self.sha256}

    @property
    def note(self) -> str:
        """Its numbers, for a reader."""
        dropped = f"{self.held_out} that {EQUAL}, {self.near} {NEAR}, {self.repeated} blank or repeated"
        what = "rows without labels" if self.origin == UNLABELLED else "copies of training rows"
        return f"{self.origin}: {self.given} {what}; dropped: {dropped}; {len(self)} are for the teacher to label"


def let_in(origin: str, texts: Iterable[tuple[str, ...]], reader: Reader, held: HeldOut, known: set[str]) -> Extra:
    """Those rows that give nothing away and say something new; `known` are the marks of rows that are there already,
    and grows by theirs.

    Raises DataError where none is left.
    """
    why: Counter[str | None] = Counter()
    kept: list[tuple[str, ...]] = []
    given = 0
    for row in texts:
        given += 1
        (shown,) = reader.texts(Rows([row], [None]))
        mark = mark_of(row)
        reason = held.tells(shown) if mark else None
        if reason is None and (not mark or mark in known):
            reason = "repeated"
        why[reason] += 1
        if reason is None:
            known.add(mark)
            kept.append(row)
    found = Extra(origin, kept, given, why[EQUAL], why[NEAR], why["repeated"])
    if given == 0:
        raise DataError(f"{origin}: holds no rows" if origin == UNLABELLED else f"{origin}: no row has enough words")
    if not kept:
        raise DataError(f"{found.note}: nothing to learn from; take other rows, or leave {origin} out")
    return found


def mark_of(row: tuple[str, ...]) -> str:
    """What equal rows share, whatever their case, punctuation and spacing; nothing of a blank row."""
    clean = [normalise(text) for text in row]
    return "\0".join(clean) if any(clean) else ""


def read_unlabelled(data: settings.Data, reader: Reader, beside: Path | None, seed: int) -> tuple[_Texts, list[str]]:
    """The texts of `data.unlabelled`, and what a user should know of them. Raises DataError."""
    source = data.unlabelled
    if data.unlabelled.path is not None and data.unlabelled.path.lower().endswith(".conll"):
        raise DataError(
            f"{UNLABELLED}: lines of a .conll file carry tags; give a column of word lists, or a txt file of sentences"
        )
    rows = sources.read(source, beside, UNLABELLED)
    if len(rows) == 0:
        raise DataError(f"{UNLABELLED}: holds no rows")
    texts = reader.unlabelled(rows, data)
    labels = data.label if isinstance(data.label, list) else [data.label]
    unread = [column for column in labels if column in rows.column_names and column not in data.text_columns]
    notes = [f"{UNLABELLED}: its column '{unread[0]}' is not read: the teacher labels these rows"] if unread else []
    if data.limit is not None and len(texts) > data.limit:
        texts = [texts[place] for place in splitting.sample([0] * len(texts), data.limit, seed)]
    return texts, notes


def require_masked_lm(config: Mapping[str, Any], name: str) -> None:
    """Raises CheckpointError for a checkpoint without a masked-language-model head, by what its config names."""
    heads = config.get("architectures") or []
    if not any(MaskedLanguageModelling.serves(head) or head.endswith("BertForPreTraining") for head in heads):
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
