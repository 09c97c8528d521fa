"""`load`: rows to three splits that share nothing, with labels in order, and everything a user should be told."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.data import arrays, overlap, sources, splitting
from distill.data.decoders import Decoder
from distill.data.encoding import NO_LIMIT, UNLIMITED, Encoded
from distill.data.held_out import HeldOut
from distill.data.more import UNLABELLED, Extra, let_in, read_unlabelled
from distill.data.readers import LANGUAGE, READERS, Reader
from distill.data.rows import Chain, Rows
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
NAMES = ("train", "validation", "test")
# Words that change what a model learns from the same texts.
_TRAINED_ON = {"packed", "mask", "target_length", "prefix", "stride"}
# Versions, of which the store doesn't take what was made by another: what tells words for masks, and how texts end.
_WHOLE_WORDS, _ENDS = 2, 2


@dataclass(frozen=True)
class Splits:
    """A data set made ready: three splits, the resolved task, and notes that a run passes on to its user.

    `extra` are rows without labels beside the training split, for steps in which a teacher says what they are.
    """

    train: Rows
    validation: Rows
    test: Rows
    task: Task
    words: settings.Data
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    extra: tuple[Extra, ...] = ()
    _encoded: dict[tuple[str, str, int, Decoder | None], Encoded] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def max_length(self) -> int | None:
        """Tokens that a text is cut to; None where only the model limits it."""
        return self.words.max_length

    def encode(
        self,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        positions: int | None = None,
        decoder: Decoder | None = None,
    ) -> Encoded:
        """A split's token ids for a tokenizer, made once; cut to `max_length` or to the positions a model has.

        `decoder` is what an encoder-decoder's config says of the texts that it writes. Raises CheckpointError.
        """
        limits = (self.max_length, positions, tokenizer.model_max_length)
        longest = min((limit for limit in limits if limit is not None and limit < NO_LIMIT), default=UNLIMITED)
        key = (split, _way_of_cutting(tokenizer), longest, decoder)
        if key not in self._encoded:
            rows, reader, words = getattr(self, split), READERS[self.task.name], self.words
            if decoder is not None and words.target_length is not None and positions is not None:
                words = words.model_copy(update={"target_length": min(words.target_length, positions)})
            if split != "train" and words.mask is not None:  # scores are over tokens that are chosen alike
                words = words.model_copy(update={"mask": words.mask.model_copy(update={"smoothing": None})})
            found = reader.encode(rows, tokenizer, longest, words, f"tokenise {split}")
            self._encoded[key] = found if found.targets is None or decoder is None else decoder.begin(found)
            self._tell(split, found, longest, words.target_length or longest)
        return self._encoded[key]

    def _tell(self, split: str, found: Encoded, longest: int, target: int) -> None:
        if found.truncated:
            log.info("%d of %d %s texts are cut to %d tokens", found.truncated, len(found), split, longest)
        if found.cut_targets:
            told = (found.cut_targets, len(found), split, target)
            log.info("%d of %d %s texts to write are cut to %d tokens (data.target_length)", *told)

    @cached_property
    def extended(self) -> Splits:
        """The same with the extra rows at the end of the training split, whose labels say nothing."""
        if not self.extra:
            return self
        more = [extra.texts for extra in self.extra]
        unknown = [READERS[self.task.name].unknown(texts, self.task) for texts in more]
        train = Rows(Chain(self.train.texts, *more), Chain(self.train.labels, *unknown))
        known = {key: found for key, found in self._encoded.items() if key[0] != "train"}
        return replace(self, train=train, words=self.words.labelled, extra=(), _encoded=known)

    @property
    def growth(self) -> float:
        """How many times the training rows there are with the extra ones, at most: of copies that are yet to be made
        some may be left out.
        """
        ways = (self.words.augment.words, self.words.augment.masked_lm) if self.awaits_copies else ()
        copies = sum(way.copies for way in ways if way is not None)
        return 1 + copies + sum(len(extra.texts) for extra in self.extra) / len(self.train)

    @property
    def awaits_copies(self) -> bool:
        """Whether the recipe asks for copies of training rows that nobody has made yet."""
        return self.words.augment is not None and all(extra.origin == UNLABELLED for extra in self.extra)

    @property
    def held_out(self) -> HeldOut:
        """Validation and test, for whatever is not to give them away."""
        texts = READERS[self.task.name].texts
        return HeldOut(itertools.chain(texts(self.validation), texts(self.test)))

    @property
    def known(self) -> np.ndarray:
        """The marks of all rows that are trained on, (rows, 2)."""
        return overlap.marks_of(Chain(self.train.texts, *(extra.texts for extra in self.extra)))

    @property
    def extra_facts(self) -> list[list[str]]:
        """What a result can depend on in the extra rows: where they come from, and a hash of them."""
        return [[extra.origin, extra.sha256] for extra in self.extra]

    @property
    def truncated(self) -> dict[str, int]:
        """Rows that were cut, by split, of what has been tokenised so far."""
        read = {split: encoded.truncated for (split, *_), encoded in self._encoded.items()}
        written = {f"{split}, to write": e.cut_targets for (split, *_), e in self._encoded.items() if e.cut_targets}
        return read | written

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every text and label of every split, in order."""
        return self._hash(NAMES)

    @cached_property
    def test_fingerprint(self) -> str:
        """SHA-256 over every text and label of the test split, in order: scores on equal ones can be compared."""
        return self._hash(("test",))

    @property
    def facts(self) -> dict[str, Any]:
        """All that a result can depend on in this data."""
        task = self.task
        return {
            "sha256": self.fingerprint,
            "max_length": self.max_length,
            "labels": list(task.labels),
            "problem": task.problem,
            "metric": task.metric,
            "seed": self.seed,
            **self.words.model_dump(mode="json", exclude_none=True, include=_TRAINED_ON),
            **({"whole_words": _WHOLE_WORDS} if self.words.mask is not None and self.words.mask.whole_words else {}),
            **({"ends": _ENDS} if self.words.packed is False else {}),
            **({"generation": task.words.model_dump(mode="json")} if task.generates or task.said else {}),
        }

    def _hash(self, names: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            rows = getattr(self, name)
            digest.update(f"{name} {len(rows)}\n".encode())
            for text, label in zip(rows.texts, rows.labels, strict=True):
                digest.update(json.dumps([text, label]).encode())
        return digest.hexdigest()


def _way_of_cutting(tokenizer: PreTrainedTokenizerBase) -> str:
    """What tells one tokenizer from another; its last truncation and padding are no part of it, but which token pads,
    masks, or ends a text is.
    """
    if not tokenizer.is_fast:
        return type(tokenizer).__name__
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    lasting = {key: fact for key, fact in facts.items() if key not in ("truncation", "padding")}
    named = [tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    given = [lasting, sorted(tokenizer.model_input_names), named]  # with or without token types
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()


def load(
    data: settings.Data,
    *,
    task: str = "text-classification",
    names: Sequence[str] | None = None,
    metric: str | None = None,
    generation: settings.Generation | None = None,
    seed: int = 0,
    beside: Path | None = None,
) -> Splits:
    """Reads, labels and splits a data set.

    `task` is its name in TASKS; `names` are a checkpoint's own label names, which the labels follow when they fit;
    `generation` says how texts are written, to tasks that write some; `beside` is the folder that relative paths start
    from. Raises DataError.
    """
    raw = {"train": sources.read_all(data, beside)}
    for name in ("validation", "test"):
        share = getattr(data, name)
        if isinstance(share, str):
            raw[name] = sources.reached(sources.read_split(share, data.source, beside, f"data.{name}"), data)
    for name, rows in raw.items():
        if len(rows) == 0:
            raise DataError(f"data: {name} is empty")
    reader = READERS[task]
    if task not in LANGUAGE:
        for word in ("packed", "mask"):
            if getattr(data, word) is not None:
                raise DataError(f"data.{word}: a word of language modelling, not of {task}; leave it out")
    elif data.unlabelled is not None or data.augment is not None:
        raise DataError(
            f"data: `unlabelled` and `augment` mean nothing for {task}, which learns from texts alone; add the texts "
            "to data.source"
        )
    splits, resolved = reader.read(raw, data, names, metric)
    resolved = resolved.writing(generation)
    if data.limit is not None:
        splits = {name: _sample(rows, reader.kinds(rows, resolved), data.limit, seed) for name, rows in splits.items()}
    splits, notes = _keep_apart(splits, data, reader, resolved, seed)
    _require_enough(splits, notes)
    reader.require_enough(splits["train"], resolved)
    notes.append(", ".join(f"{len(splits[name])} {name}" for name in NAMES) + " rows")
    notes += reader.notes(splits, resolved) + ([data.note] if data.note else [])
    found = Splits(**splits, task=resolved, words=data, seed=seed, notes=notes)
    return found if data.unlabelled is None and data.augment is None else _with_more(found, reader, beside)


def _with_more(found: Splits, reader: Reader, beside: Path | None) -> Splits:
    """The splits with the rows of `data.unlabelled`; copies are made later, where a model may be asked."""
    if found.words.unlabelled is None:
        return found
    texts, notes = read_unlabelled(found.words, reader, beside, found.seed)
    extra = let_in(UNLABELLED, texts, reader, found.held_out, found.known)
    return replace(found, extra=(extra,), notes=[*found.notes, extra.note, *notes])


def _sample(rows: Rows, kinds: Sequence[Hashable], limit: int, seed: int) -> Rows:
    return rows.take(splitting.sample(kinds, limit, seed))


def _keep_apart(
    given: dict[str, Rows], data: settings.Data, reader: Reader, task: Task, seed: int
) -> tuple[dict[str, Rows], list[str]]:
    """Cuts what the source doesn't split itself, with near-duplicates on one side.

    Splits that the source gives are left whole; rows of the others that are near-duplicates of theirs are dropped:
    from training for the sake of both, from validation for the sake of test.
    """
    held = [name for name in ("test", "validation") if name in given]
    number = sum(len(rows) for rows in given.values())
    every = itertools.chain.from_iterable(reader.texts(given[name]) for name in (*held, "train"))
    groups = overlap.group(every) if number <= overlap.LARGE else overlap.group_equal(every, number)
    notes = [f"{number} rows: only equal texts count as duplicates of each other"] if number > overlap.LARGE else []
    kept, seen, start = dict(given), arrays.zeros(number, bool), 0
    for name in (*held, "train"):
        mine, start = groups[start : start + len(given[name])], start + len(given[name])
        clean = arrays.places(len(mine), lambda part, mine=mine: ~seen[mine[part]])
        for part in arrays.portions(len(mine)):
            seen[mine[part]] = True
        dropped = len(mine) - len(clean)
        if dropped:
            notes.append(f"{dropped} of {len(mine)} {name} rows dropped: near-duplicates of held-out rows")
            kept[name] = given[name].take(clean)
            mine = arrays.filled(len(clean), np.int64, lambda part, mine=mine, clean=clean: mine[clean[part]])
    repeated = splitting.repeated(mine)
    if repeated:
        notes.append(f"{repeated} of {len(kept['train'])} rows have near-duplicates; they are kept in one split")
    shares = {name: getattr(data, name) for name in ("validation", "test") if name not in given}
    if sum(shares.values()) >= 1:
        raise DataError(
            f"data: validation and test together take {sum(shares.values()):g} of the rows; leave some to train on"
        )
    train = kept["train"]
    cut = splitting.split(mine, reader.kinds(train, task), shares, seed)
    return {**kept, **{name: train.take(rows) for name, rows in cut.items()}}, notes


def _require_enough(splits: dict[str, Rows], notes: Sequence[str]) -> None:
    sizes = ", ".join(f"{name} {len(splits[name])}" for name in NAMES)
    for name in NAMES:
        if len(splits[name]) < 2:
            why = "".join(f"; {note}" for note in notes)
            raise DataError(f"data: too few rows for three splits ({sizes}); each needs at least 2{why}")
