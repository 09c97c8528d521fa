"""Which token comes next: greedy search and beam search over anything that says how likely each is.

Token by token as transformers' `generate` does it, so that a graph writes what torch writes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from distill.generation.rules import Rules, until_end
from distill.recipe import settings

_NONE = np.float32(-1e9)  # the score of what isn't there


class Writer(Protocol):
    """What says which token is likely to come next, and remembers the texts so far."""

    def step(self, tokens: np.ndarray, of: np.ndarray | None) -> np.ndarray:
        """Takes one more token a text, (texts,); gives logits (texts, vocabulary) of the next one.

        `of` says which of the texts so far each one goes on from; None where each goes on from its own.
        """
        ...


def write(
    writer: Writer, prompts: np.ndarray, logits: np.ndarray, rules: Rules, words: settings.Generation,
    forced: int | None = None, padding: np.ndarray | None = None,
) -> list[list[int]]:  # fmt: skip
    """What comes after each prompt, (texts, tokens), whose next token's logits are given; the ending token included.

    With `forced` exactly so many tokens, whatever would end them. `padding` is how many of each prompt's first tokens
    are none of it, (texts,).
    """
    padding = np.zeros(len(prompts), np.int64) if padding is None else padding
    if forced is not None:
        rules, words = rules.endless(), words.model_copy(update={"max_new_tokens": forced})
    search = _greedy if words.beams == 1 else _beams
    texts = search(writer, prompts, logits, rules, words, padding)[:, prompts.shape[1] :]
    return [until_end(text.tolist(), rules.ends if forced is None else ()) for text in texts]


def _greedy(
    writer: Writer, texts: np.ndarray, logits: np.ndarray, rules: Rules, words: settings.Generation, padding: np.ndarray
) -> np.ndarray:
    before = texts.shape[1]
    longest, going = before + words.max_new_tokens, np.ones(len(texts), bool)
    filler = rules.pad if rules.pad is not None else next(iter(rules.ends), 0)
    while True:
        tokens = rules.apply(logits, texts, before, longest, padding).argmax(-1)
        tokens = np.where(going, tokens, filler)
        texts = np.concatenate([texts, tokens[:, None]], 1)
        going &= ~np.isin(tokens, rules.ends)
        if texts.shape[1] == longest or not going.any():
            return texts
        logits = writer.step(tokens, None)


def _beams(
    writer: Writer, prompts: np.ndarray, logits: np.ndarray, rules: Rules, words: settings.Generation,
    padding: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Arrays are (prompts, beams, …); `running` texts go on, `over` is the best of those that have ended."""
    (number, before), beams = prompts.shape, words.beams
    longest = before + words.max_new_tokens
    running = np.repeat(prompts[:, None], beams, 1)
    scores = np.where(np.arange(beams) == 0, 0, _NONE).astype(np.float32)[None].repeat(number, 0)
    over = _Over(number, beams, before, longest, words, rules.pad if rules.pad is not None else 0)
    own, first = np.arange(number), True
    logits, padding = logits.repeat(beams, 0), padding.repeat(beams)
    keep = max(2, 1 + len(rules.ends)) * beams
    while True:
        flat = running.reshape(number * beams, -1)
        likely = rules.apply(_log_softmax(logits), flat, before, longest, padding).reshape(number, beams, -1)
        vocabulary = likely.shape[-1]
        best, best_scores = _largest((likely + scores[..., None]).reshape(number, -1), keep)
        of, tokens = best // vocabulary, best % vocabulary
        candidates = np.concatenate([np.take_along_axis(running, of[..., None], 1), tokens[..., None]], -1)
        ended = np.isin(tokens, rules.ends) | (candidates.shape[-1] == longest)
        chosen, scores = _largest(best_scores + np.where(ended, _NONE, 0).astype(np.float32), beams)
        running = np.take_along_axis(candidates, chosen[..., None], 1)
        over.add(candidates, best_scores, ended)
        if not over.improvable(scores, candidates.shape[-1]) or ended.all():
            return over.best(running)
        of = np.take_along_axis(of, chosen, 1)
        rows = own[:, None] + 0 * of if first else own[:, None] * beams + of  # one text a prompt at first
        logits, first = writer.step(running[..., -1].reshape(-1), rows.reshape(-1)), False


class _Over:
    """For each prompt the best texts that have ended, as many as there are beams."""

    def __init__(
        self, number: int, beams: int, before: int, longest: int, words: settings.Generation, padding: int
    ) -> None:
        self.texts = np.full((number, beams, longest), padding, np.int64)
        self.scores = np.full((number, beams), _NONE, np.float32)
        self.full = np.zeros((number, beams), bool)
        self.open = np.ones((number, 1), bool)  # whether what runs may still turn out better
        self.before, self.longest, self.words = before, longest, words

    def add(self, texts: np.ndarray, scores: np.ndarray, ended: np.ndarray) -> None:
        """Takes those of the first beams' worth of candidates that have ended, by their score for their length."""
        length, beams = texts.shape[-1], self.words.beams
        ended = ended & (np.arange(ended.shape[1]) < beams)
        scores = scores / np.float32((length - self.before) ** self.words.length_penalty)
        closed = self.full.all(1, keepdims=True) & (self.words.early_stopping)
        scores = scores + np.where(closed, _NONE, 0) + np.where(self.open, 0, _NONE) + np.where(ended, 0, _NONE)
        padded = np.pad(texts, ((0, 0), (0, 0), (0, self.longest - length)), constant_values=0)
        merged = np.concatenate([self.scores, scores.astype(np.float32)], 1)
        chosen, self.scores = _largest(merged, beams)
        self.texts = np.take_along_axis(np.concatenate([self.texts, padded], 1), chosen[..., None], 1)
        self.full = np.take_along_axis(np.concatenate([self.full, ended], 1), chosen, 1)

    def improvable(self, running: np.ndarray, length: int) -> bool:
        """Whether any text that runs can still become better than the worst that has ended."""
        possible = running[:, :1] / np.float32((length - self.before) ** self.words.length_penalty)
        worst = np.where(self.full, self.scores.min(1, keepdims=True), _NONE)
        self.open = self.open & (possible > worst).any(-1, keepdims=True)
        return bool(self.open.any()) and not (self.full.all() and self.words.early_stopping)

    def best(self, running: np.ndarray) -> np.ndarray:
        """The best text of each prompt: one that has ended, or the best that runs where none has."""
        none = ~self.full.any(1)
        self.texts[none, 0, : running.shape[-1]] = running[none, 0]
        return self.texts[:, 0]


def _largest(values: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the largest numbers of each row, the largest first."""
    number = min(number, values.shape[1])
    places = np.argpartition(-values, number - 1, axis=1)[:, :number]
    places.sort(axis=1)  # equal ones in their order
    order = np.argsort(-np.take_along_axis(values, places, 1), axis=1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return places, np.take_along_axis(values, places, 1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
