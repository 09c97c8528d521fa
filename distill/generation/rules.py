"""What a checkpoint's generation config says of tokens: which begin and end a text, which never come, and which not
again or not yet.

The same holds for torch (`for_transformers`) and for graphs (`apply`), in transformers' own order. Its other words, of
the longest text, beams and drawing at random, don't count: `settings.Generation` says how text is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import ValidationError

from distill import safety
from distill.errors import CheckpointError
from distill.recipe import settings

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class Rules:
    """Token ids; None or nothing where the config says nothing.

    `start` is what an encoder-decoder's text begins with, unseen; `ends` are the tokens that end one.
    """

    start: int | None = None
    ends: tuple[int, ...] = ()
    pad: int | None = None
    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()
    banned: tuple[tuple[int, ...], ...] = ()  # tokens in a row that never come
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    once: int = 0  # so many tokens in a row never come a second time
    repetition: float = 1.0  # what makes a token that was there already less likely (Keskar et al. 2019)
    least: int = 0  # tokens of a whole text before which nothing ends it
    least_new: int = 0  # the same of those that are written

    @property
    def counts_padding(self) -> bool:
        """Whether what stands before a text to pad it changes what is written: lengths are a batch's."""
        return self.least > 0 or self.forced_first is not None or self.once == 1

    def endless(self) -> Rules:
        """The same for a text of a length that is given: nothing ends it."""
        return replace(self, forced_last=(), suppressed=(*self.suppressed, *self.ends), least=0, least_new=0)

    def apply(
        self, scores: np.ndarray, texts: np.ndarray, before: int, longest: int, padding: np.ndarray | int = 0
    ) -> np.ndarray:
        """Scores (rows, vocabulary) of each token to come after texts (rows, length), with what may not come at -inf.

        `before` tokens were there at first, the first `padding` of each text (rows,) none of it; a text is over with
        `longest`.
        """
        scores, length = scores.copy(), texts.shape[1]
        if self.repetition != 1:
            held = np.where(np.arange(length) < np.reshape(padding, (-1, 1)), texts[:, -1:], texts)  # twice counts once
            there = np.take_along_axis(scores, held, axis=1)
            there = np.where(there < 0, there * self.repetition, there / self.repetition)
            np.put_along_axis(scores, held, there.astype(scores.dtype), axis=1)
        if 0 < self.once <= length:
            runs = sliding_window_view(texts, self.once, axis=1)  # (rows, places, tokens in a row)
            again = (runs[..., :-1] == texts[:, None, length - self.once + 1 :]).all(-1)
            scores[np.nonzero(again)[0], runs[..., -1][again]] = _NEVER
        for *head, token in self.banned:
            if len(head) <= length:
                scores[(texts[:, length - len(head) :] == head).all(1), token] = _NEVER
        if length < self.least or length - before < self.least_new:
            scores[:, _known(self.ends, scores)] = _NEVER
        if self.forced_first is not None and length == 1:
            scores = _only(scores, (self.forced_first,))
        if self.forced_last and length == longest - 1:
            scores = _only(scores, self.forced_last)
        scores[:, _known(self.suppressed, scores)] = _NEVER
        if length == (before if before > 1 or self.forced_first is None else before + 1):
            scores[:, _known(self.suppressed_first, scores)] = _NEVER
        return scores

    def for_transformers(self, words: settings.Generation, length: int | None = None) -> dict[str, Any]:
        """What transformers' `generate` is told, so that it does the same."""
        many = words.beams > 1
        return {
            "max_new_tokens": length or words.max_new_tokens, "do_sample": False, "num_beams": words.beams,
            "length_penalty": words.length_penalty if many else None, "use_cache": True,
            "early_stopping": words.early_stopping if many else None,
            "decoder_start_token_id": self.start, "eos_token_id": list(self.ends) or None,
            "pad_token_id": self.pad if self.pad is not None else next(iter(self.ends), None),
            "forced_bos_token_id": self.forced_first, "forced_eos_token_id": list(self.forced_last) or None,
            "bad_words_ids": [list(row) for row in self.banned] or None,
            "suppress_tokens": list(self.suppressed) or None,
            "begin_suppress_tokens": list(self.suppressed_first) or None,
            "no_repeat_ngram_size": self.once or None,
            "repetition_penalty": self.repetition if self.repetition != 1 else None,
            "min_length": self.least or None, "min_new_tokens": self.least_new or None,
        }  # fmt: skip


def _known(tokens: tuple[int, ...], scores: np.ndarray) -> list[int]:
    """Those that the vocabulary has: configs of small models often keep the ids of a larger one."""
    return [token for token in tokens if token < scores.shape[1]]


def _only(scores: np.ndarray, tokens: tuple[int, ...]) -> np.ndarray:
    made = np.full_like(scores, _NEVER)
    made[:, list(tokens)] = 0
    return made


def rules_of(config: Mapping[str, Any]) -> Rules:
    """The rules that a generation config's words amount to."""
    ends = _ids(config.get("eos_token_id"))
    banned = tuple(tuple(row) for row in config.get("bad_words_ids") or ())
    start = config.get("decoder_start_token_id")
    return Rules(
        start=start if start is not None else config.get("bos_token_id"),
        ends=ends,
        pad=config.get("pad_token_id"),
        forced_first=config.get("forced_bos_token_id"),
        forced_last=_ids(config.get("forced_eos_token_id")),
        banned=tuple(row for row in banned if row not in {(end,) for end in ends}),
        suppressed=_ids(config.get("suppress_tokens")),
        suppressed_first=_ids(config.get("begin_suppress_tokens")),
        once=int(config.get("no_repeat_ngram_size") or 0),
        repetition=float(config.get("repetition_penalty") or 1),
        least=int(config.get("min_length") or 0),
        least_new=int(config.get("min_new_tokens") or 0),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's generation_config.json; nothing where it has none. Raises CheckpointError."""
    path = folder / "generation_config.json"
    told = safety.read_json(path) if path.is_file() else {}
    if not isinstance(told, dict):
        raise CheckpointError(f"{path}: says nothing of how text is written")
    return told


def read_rules(folder: Path) -> Rules:
    """The rules of a checkpoint's folder: of its generation_config.json, or of its config where it has none.

    Where only the config says what an encoder-decoder's texts begin with, they begin with that.
    """
    told, path = read_config(folder), folder / "config.json"
    config = safety.read_json(path) if path.is_file() or not told else {}
    if told.get("decoder_start_token_id") is None:
        told = told and {**told, "decoder_start_token_id": config.get("decoder_start_token_id")}
    return rules_of(told or config)


def words_of(folder: Path) -> settings.Generation | None:
    """The words of a recipe that a checkpoint was made with, as its generation_config.json keeps them; None without it.

    What it doesn't say is as a recipe has it that doesn't.
    """
    told = read_config(folder)
    if not told:
        return None
    said = {
        "max_new_tokens": told.get("max_new_tokens") or told.get("max_length"),
        "beams": told.get("num_beams"),
        "length_penalty": told.get("length_penalty"),
        "early_stopping": told.get("early_stopping") is True or None,
    }
    try:
        return settings.Generation(**{word: value for word, value in said.items() if value is not None})
    except ValidationError as error:
        word, why = error.errors()[0]["loc"][0], error.errors()[0]["msg"]
        raise CheckpointError(f"{folder}/generation_config.json: {word}: {why}, not {said[word]!r:.40}") from None


def _ids(told: int | list[int] | None) -> tuple[int, ...]:
    return () if told is None else (told,) if isinstance(told, int) else tuple(told)


def until_end(text: list[int], ends: tuple[int, ...]) -> list[int]:
    """A text up to the token that ends it, and with it."""
    last = next((place for place, token in enumerate(text) if token in ends), len(text))
    return text[: last + 1]


def prompt_of(batch: Mapping[str, np.ndarray], *, left: bool) -> dict[str, np.ndarray]:
    """A batch's input_ids and attention_mask; padded on the left where what is written goes on from the last token."""
    ids, seen = batch["input_ids"], batch["attention_mask"]
    if left and not seen[:, -1].all():
        order = np.argsort(seen, axis=1, kind="stable")  # what isn't there comes first
        ids, seen = np.take_along_axis(ids, order, 1), np.take_along_axis(seen, order, 1)
    return {"input_ids": ids, "attention_mask": seen}
