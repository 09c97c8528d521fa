"""Changed copies of training rows, which a teacher labels: made once, by seed and row alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill import anatomy
from distill import checkpoint as checkpoints
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, TokenBatches, collate
from distill.data.copies import Line, change, chosen, lines_of, row_of
from distill.data.encoding import Sheet, encodings_of
from distill.data.masking import masking_for
from distill.data.more import MASKED_LM, UNLABELLED, WORDS, Extra, let_in, require_masked_lm
from distill.data.readers import READERS
from distill.data.scripts import WORD
from distill.disk import write_text
from distill.errors import DataError
from distill.recipe import settings
from distill.signals import NOTHING, tensors
from distill.tasks import MaskedLanguageModelling
from distill.teacher import Live
from distill.training import choose_dtype

_LIKELIEST = 15  # words that one is drawn from, as in TinyBERT
_NUMBERS = 1 << 26  # logits at once: 256 MB
_ROWS = 2000  # rows whose copies are made at once
_WHOLE_WORD = re.compile(WORD)


def augment(data: Splits, masked_lm: Checkpoint | None = None) -> Splits:
    """The data with the copies that its words ask for among its extra rows; the same data where they are there.

    `masked_lm` is the checkpoint that replaces words, loaded by its name where it isn't given. Copies that give
    validation or test examples away are left out. Raises DataError where none is left, CheckpointError.
    """
    if not data.awaits_copies:
        return data
    words, reader, made = data.words.augment, READERS[data.task.name], []
    held = data.held_out
    if words.words is not None:
        made.append(let_in(WORDS, _changed(data, words.words), reader, held, data.known))
    if words.masked_lm is not None:
        asked = words.masked_lm
        found = masked_lm or load_masked_lm(checkpoints.locate(asked.checkpoint, asked.revision))
        known = _with_copies(data, made).known
        made.append(let_in(MASKED_LM, _replaced(data, asked, found), reader, held, known))
    return _with_copies(data, made)


def write_copies(data: Splits, folder: Path) -> list[dict[str, Any]]:
    """Writes the copies among the extra rows, a file for each way, and gives back what else is known of them."""
    told = []
    for extra in data.extra:
        if extra.origin != UNLABELLED:
            file = f"{extra.origin.rpartition('.')[2]}.jsonl"
            write_text(folder / file, "".join(json.dumps(row) + "\n" for row in extra.texts))
            told.append({"file": file, **extra.numbers})
    return told


def read_copies(data: Splits, folder: Path, told: Sequence[Mapping[str, Any]]) -> Splits:
    """The data with copies that were made and written before."""
    found = []
    for numbers in told:
        lines = (folder / numbers["file"]).read_text(encoding="utf-8").split("\n")[:-1]
        texts = [tuple(json.loads(line)) for line in lines]
        found.append(Extra(texts=texts, **{name: value for name, value in numbers.items() if name != "file"}))
    return _with_copies(data, found)


def _with_copies(data: Splits, copies: Sequence[Extra]) -> Splits:
    notes = [*data.notes, *(extra.note for extra in copies)]
    return replace(data, extra=(*data.extra, *copies), notes=notes)


def load_masked_lm(folder: Path) -> Checkpoint:
    """The checkpoint that replaces words. Raises CheckpointError where it has no masked-language-model head."""
    require_masked_lm(checkpoints.read_config(folder), folder.name)
    return checkpoints.load(folder, MaskedLanguageModelling("masked_language_modelling", (), "perplexity"))


def _changed(data: Splits, words: settings.WordCopies) -> Iterator[tuple[str, ...]]:
    """Copies with some words swapped, deleted or replaced."""
    apart = READERS[data.task.name].apart
    vocabulary = [word for row in data.train.texts for line in lines_of(row, apart=apart) for word in line.words]
    if not vocabulary:
        raise DataError(f"{WORDS}: the training split holds no words")
    for copy in range(words.copies):
        for number, row in enumerate(data.train.texts):
            rng = np.random.default_rng((data.seed, 1, copy, number))
            way = words.ways[rng.integers(len(words.ways))]
            lines = lines_of(row, apart=apart)
            yield row_of([change(line, way, words.share, vocabulary, rng) for line in lines])


def _replaced(data: Splits, words: settings.MaskedCopies, masked_lm: Checkpoint) -> Iterator[tuple[str, ...]]:
    """Copies in which a masked language model has replaced some words."""
    apart, texts = READERS[data.task.name].apart, data.train.texts
    guess = _Guess(masked_lm)
    for copy in range(words.copies):
        for start in range(0, len(texts), _ROWS):
            rows = [lines_of(row, apart=apart) for row in texts[start : start + _ROWS]]
            rngs = [np.random.default_rng((data.seed, 2, copy, start + place)) for place in range(len(rows))]
            asked = [
                (line, chosen(line, words.share, rng), rng) for row, rng in zip(rows, rngs, strict=True) for line in row
            ]
            found = iter(guess.instead(asked))
            for row in rows:
                yield row_of([next(found) for _ in row])


class _Guess:
    """What a masked language model would put in the place of words."""

    def __init__(self, masked_lm: Checkpoint) -> None:
        self.tokenizer = masked_lm.tokenizer
        masking = masking_for(self.tokenizer, settings.Mask(whole_words=True))
        self.mask = masking.mask
        told = [self.tokenizer.decode([number]).strip() for number in range(len(self.tokenizer))]
        self.told = [word if _WHOLE_WORD.fullmatch(word) else "" for word in told]
        usable = masking.choosable & masking.begins & np.array([bool(word) for word in self.told])
        self.usable = torch.from_numpy(usable).to(masked_lm.model.device)
        positions = anatomy.size(masked_lm.model.config.to_dict(), "positions")
        limits = [limit for limit in (self.tokenizer.model_max_length, positions) if limit is not None]
        self.longest = min(limits)
        self.live = Live(masked_lm, NOTHING, choose_dtype("auto"))

    def instead(self, asked: Sequence[tuple[Line, list[int], np.random.Generator]]) -> list[Line]:
        """Each line with other words at the chosen places; words beyond the model's length stay as they are."""
        token = self.tokenizer.mask_token
        masked = [line.put(at, [token] * len(at)).text for line, at, _ in asked]
        able = [place for place, (line, at, _) in enumerate(asked) if at and token not in line.text]
        guesses = self._guess([masked[place] for place in able])
        found = [line for line, _, _ in asked]
        for place, each in zip(able, guesses, strict=True):
            line, at, rng = asked[place]
            reached = at[: len(each)]
            words = [self._draw(line.words[number], *one, rng) for number, one in zip(reached, each, strict=False)]
            found[place] = line.put(reached, words)
        return found

    def _guess(self, texts: Sequence[str]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """For each mask of each text the likeliest tokens and their probabilities."""
        found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in texts]
        if not texts:
            return found
        encoded = self._encoded(texts)
        for rows in TokenBatches(encoded.lengths, 256, max(self.longest, _NUMBERS // len(self.usable))):
            batch = tensors(collate(encoded, rows), self.live.model.device)
            logits = self.live.signals(batch).logits[..., : len(self.usable)].float()
            masks = batch["input_ids"] == self.mask
            scores = logits[masks].masked_fill(~self.usable[: logits.shape[-1]], -torch.inf)
            shares, ids = scores.softmax(-1).topk(min(_LIKELIEST, int(self.usable.sum())))
            owners = masks.nonzero()[:, 0].tolist()
            for owner, each, numbers in zip(owners, shares.numpy(force=True), ids.numpy(force=True), strict=True):
                found[rows[owner]].append((numbers, each))
        return found

    def _encoded(self, texts: Sequence[str]) -> Encoded:
        sheet = Sheet()
        pieces = [(text,) for text in texts]
        for chunk in encodings_of(pieces, self.tokenizer, "words replaced", truncation=True, max_length=self.longest):
            for encoding in chunk:
                sheet.add(encoding)
        return sheet.encoded(np.zeros(len(texts)), self.tokenizer)

    def _draw(self, word: str, numbers: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> str:
        """One of the likeliest words, but never the word itself, by their probabilities; written as the word is."""
        others = [place for place, number in enumerate(numbers) if self.told[number].casefold() != word.casefold()]
        weights = shares[others].astype(np.float64)
        if not weights.sum() > 0:
            return word
        drawn = self.told[numbers[others[rng.choice(len(others), p=weights / weights.sum())]]]
        return drawn.capitalize() if word[:1].isupper() and word[1:].islower() else drawn
