"""One interface to what answers: a torch model, or an ONNX graph on ONNX Runtime.

An engine answers a batch with logits. No torch at import, so that a graph can be served without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm.auto import tqdm

from distill.data.batching import Batch, TokenBatches, collate
from distill.data.encoding import Encoded
from distill.errors import MachineError
from distill.recipe.settings import Generation
from distill.tasks import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GRAPHS = {  # the smaller one first
    "onnx-int4": "model_int4.onnx",
    "onnx-int8": "model_int8.onnx",
    "onnx-fp32": "model.onnx",
}
ROUNDED = ("onnx-int4", "onnx-int8")  # the formats whose weights and activations have few bits


_READ = ("input_ids", "attention_mask", "token_type_ids")  # what of a batch is there before anything is written


class Engine(Protocol):
    """What answers."""

    name: str
    format: str
    batch_dependent: bool

    def answer(self, batch: Batch) -> np.ndarray:
        """Logits in float32: (batch, labels), (batch, tokens, classes), or (batch, tokens, 2) of spans."""
        ...

    def generate(self, batch: Batch, words: Generation, *, forced: int | None = None) -> list[list[int]]:
        """The tokens written for each row: see Torch."""
        ...


class Torch:
    """A model in eager torch, where it is placed; under autocast when another dtype than float32 is asked for."""

    format = "transformers"
    batch_dependent = False

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        device = model.device.type
        self.name = "torch" if device == "cpu" else f"torch-{device}"
        self.model, self.dtype = model.eval(), dtype

    def answer(self, batch: Batch) -> np.ndarray:
        """Logits in float32: (batch, labels), (batch, tokens, classes), or (batch, tokens, 2) of spans."""
        import torch

        from distill.signals import read, tensors

        device = self.model.device
        low = self.dtype not in (None, torch.float32)
        with torch.inference_mode(), torch.autocast(device.type, self.dtype if low else None, enabled=low):
            return read(self.model, tensors(batch, device)).logits.float().numpy(force=True)

    def generate(self, batch: Batch, words: Generation, *, forced: int | None = None) -> list[list[int]]:
        """The tokens that are written for each row, the end token among them; no padding and no start token.

        `forced` writes exactly so many of them, so that times can be compared. What the checkpoint's own generation
        settings say counts only for its special tokens.
        """
        import torch
        from transformers import GenerationConfig

        from distill.signals import inputs_for, tensors

        model, many = self.model, words.beams > 1
        given = inputs_for(model, tensors({name: batch[name] for name in _READ if name in batch}, model.device))
        plain = {"do_sample": False, "min_length": 0, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0}
        how = GenerationConfig(
            **plain,
            max_new_tokens=forced or words.max_new_tokens,
            min_new_tokens=forced or 0,
            num_beams=words.beams,
            length_penalty=words.length_penalty if many else None,
            early_stopping=words.early_stopping if many else None,
        )
        low = self.dtype not in (None, torch.float32)
        with torch.inference_mode(), torch.autocast(model.device.type, self.dtype if low else None, enabled=low):
            found = model.generate(**given, generation_config=how).numpy(force=True)
        start = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
        return [_ended(row[start:].tolist(), model.generation_config.eos_token_id) for row in found]


def _ended(ids: list[int], ends: int | list[int] | None) -> list[int]:
    """A row up to its end token; what is behind it is padding."""
    known = set(ends) if isinstance(ends, list) else {ends}
    place = next((place for place, token in enumerate(ids) if token in known), len(ids))
    return ids[: place + 1]


class OnnxRuntime:
    """An ONNX graph on ONNX Runtime's CPU provider.

    `batch_dependent` tells that an answer may hang on the rest of its batch, as it does in dynamic int8. Graphs made
    here don't, but any graph with rounded activations is held to that, by scoring it in batches of two sizes.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Opens a graph; 0 threads means one a core. Raises MachineError when ONNX Runtime can't, or isn't there."""
        try:
            import onnxruntime
        except ImportError as error:
            raise MachineError(
                f"ONNX Runtime isn't installed or doesn't load ({error}); `pip install onnxruntime`"
            ) from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise MachineError(f"{path}: ONNX Runtime can't open it: {error}") from error
        self.path = path
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.format = next((name for name, file in GRAPHS.items() if file == path.name), "onnx-fp32")
        self.batch_dependent = self.format in ROUNDED

    def answer(self, batch: Batch) -> np.ndarray:
        """Logits (batch, labels) in float32. Raises MachineError when ONNX Runtime can't work the graph out."""
        shape = batch["input_ids"].shape
        feed = {name: batch[name] if name in batch else np.zeros(shape, dtype=np.int64) for name in self.inputs}
        try:
            return self.session.run(["logits"], feed)[0]
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise MachineError(f"{self.path}: ONNX Runtime can't run it: {error}") from error


def answer_all(
    engine: Engine, encoded: Encoded, task: Task | None = None, *, batch_size: int = 64, batch_tokens: int = 8192,
    title: str | None = None,
) -> np.ndarray:  # fmt: skip
    """What a task keeps of the answers to a whole split, an entry a row in its order; answered in batches by length.

    Without a task that is the logits, (rows, labels).
    """
    order: list[int] = []
    parts: list[np.ndarray] = []
    with tqdm(total=len(encoded), desc=title, unit="text", leave=False, disable=title is None) as bar:
        for rows in TokenBatches(encoded.lengths, batch_size, batch_tokens):
            batch = collate(encoded, rows)
            parts.append(engine.answer(batch) if task is None else task.ask(engine, batch, encoded))
            order += rows
            bar.update(len(rows))
    joined = np.concatenate(parts) if task is None else task.joined(parts)
    return joined[np.argsort(order)]


def graph_in(folder: Path, form: str | None = None) -> Path | None:
    """The graph of a folder: the one of the given format, else the smallest; None when it holds none."""
    files = [folder / GRAPHS[form]] if form else [folder / file for file in GRAPHS.values()]
    return next((file for file in files if file.is_file()), None)
