"""A decoder's graph, or an encoder-decoder's two, as one engine that answers and writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.batching import Batch
from distill.engines import GRAPHS, ROUNDED, files_of, open_session
from distill.errors import MachineError
from distill.generation.rules import prompt_of, read_rules
from distill.generation.searching import write
from distill.recipe import settings

_PAST, _PRESENT, _KEPT = "past_key_values.", "present.", "num_logits_to_keep"


class OnnxGenerator:
    """ONNX graphs that write, on ONNX Runtime's CPU provider; the past stays with the runtime between tokens."""

    name = "onnxruntime"

    def __init__(self, folder: Path, form: str = "onnx-fp32", threads: int = 0) -> None:
        """Opens a folder's graphs; 0 threads means one a core. Raises MachineError when ONNX Runtime can't."""
        self.folder, self.format = folder, form
        self.batch_dependent = form in ROUNDED
        self.files = files_of(folder / GRAPHS[form])
        *encoder, self.decoder = [open_session(file, threads) for file in self.files]
        self.encoder = encoder[0] if encoder else None
        self.rules = read_rules(folder)
        self.counts_padding = self.rules.counts_padding

    def answer(self, batch: Batch) -> np.ndarray:
        """Logits (batch, tokens, vocabulary) in float32 of each next token; an encoder-decoder's at the batch's
        `decoder_input_ids`. Raises MachineError when ONNX Runtime can't work the graph out.
        """
        text = _Text(self, batch)
        if self.encoder is None:
            return text.read(batch["input_ids"], kept=0)
        if "decoder_input_ids" not in batch:
            raise MachineError(f"{self.folder}: an encoder-decoder answers at `decoder_input_ids`; the batch has none")
        return text.read(batch["decoder_input_ids"], kept=0)

    def generate(self, batch: Batch, words: settings.Generation, *, forced: int | None = None) -> list[list[int]]:
        """What is written after each text, the ending token included; with `forced` exactly so many tokens, whatever
        would end them. Raises MachineError when ONNX Runtime can't work the graph out.
        """
        prompts = prompt_of(batch, left=self.encoder is None)
        text, begun, padding = _Text(self, prompts), prompts["input_ids"], (prompts["attention_mask"] == 0).sum(1)
        if self.encoder is not None:
            if self.rules.start is None:
                raise MachineError(f"{self.folder}: generation_config.json says no decoder_start_token_id")
            begun, padding = np.full((len(begun), 1), self.rules.start, np.int64), None
        return write(text, begun, text.read(begun, kept=1)[:, -1], self.rules, words, forced, padding)


class _Text:
    """The texts of one batch as far as they are written: the past of each, and which tokens are there: a decoder's own
    so far (`coming`: its prompt's, which are yet to be read), or an encoder-decoder's source.
    """

    def __init__(self, engine: OnnxGenerator, batch: Mapping[str, np.ndarray]) -> None:
        from onnxruntime import OrtValue

        self.engine, self.hold = engine, OrtValue.ortvalue_from_numpy
        shown = np.ascontiguousarray(batch["attention_mask"], np.int64)
        self.past: dict[str, Any] = {
            given.name: self.hold(np.zeros((len(shown), given.shape[1], 0, given.shape[3]), np.float32))
            for given in engine.decoder.get_inputs()
            if given.name.startswith(_PAST) and ".encoder." not in given.name
        }
        self.outputs = ["logits", *(name.replace(_PAST, _PRESENT) for name in self.past)]
        self.limits = any(given.name == _KEPT for given in engine.decoder.get_overridable_initializers())
        self.source: dict[str, Any] = {}
        if engine.encoder is None:
            self.mask, self.seen, self.coming = "attention_mask", shown[:, :0], shown
            return
        self.mask, self.seen, self.coming = "encoder_attention_mask", shown, None
        made = [output.name for output in engine.encoder.get_outputs()]
        feed = {"input_ids": self._whole(batch["input_ids"]), "attention_mask": self._whole(shown)}
        found = self._run(engine.encoder, made, feed)
        self.source = {name.replace(_PRESENT, _PAST): value for name, value in zip(made, found, strict=True)}

    def read(self, tokens: np.ndarray, kept: int) -> np.ndarray:
        """Takes tokens, (texts, tokens); gives their logits, or of a decoder only the last `kept` ones' if not 0."""
        if self.engine.encoder is None:
            there = np.ones(tokens.shape, np.int64) if self.coming is None else self.coming
            self.seen, self.coming = np.concatenate([self.seen, there], 1), None
        feed = {"input_ids": self._whole(tokens), self.mask: self._whole(self.seen), **self.past, **self.source}
        if self.limits:
            feed[_KEPT] = self.hold(np.array([kept], np.int64))
        logits, *present = self._run(self.engine.decoder, self.outputs, feed)
        self.past = dict(zip(self.past, present, strict=True))
        return logits.numpy()

    def step(self, tokens: np.ndarray, of: np.ndarray | None) -> np.ndarray:
        """One more token a text, each going on from the text that `of` says; logits (texts, vocabulary)."""
        if of is not None and not np.array_equal(of, np.arange(len(self.seen))):
            self.past = {name: self.hold(value.numpy()[of]) for name, value in self.past.items()}
            if len(of) != len(self.seen):  # later on every text goes on from one with the same source
                self.source = {name: self.hold(value.numpy()[of]) for name, value in self.source.items()}
            self.seen = self.seen[of]
        return self.read(tokens[:, None], kept=1)[:, -1]

    def _whole(self, array: np.ndarray) -> Any:
        return self.hold(np.ascontiguousarray(array, np.int64))

    def _run(self, session: Any, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        try:
            return session.run_with_ort_values(outputs, feed)
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise MachineError(f"{self.engine.folder}: ONNX Runtime can't run its graph: {error}") from error
