"""One interface to what answers: a torch model, or an ONNX graph on ONNX Runtime.

An engine answers a batch with logits. No torch at import, so that a graph can be served without it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from distill.bars import bar
from distill.data.batching import Batch, TokenBatches, collate
from distill.data.encoding import Encoded
from distill.errors import MachineError
from distill.recipe.settings import Generation
from distill.tasks import Task

if TYPE_CHECKING:
    import onnxruntime
    import torch
    from transformers import PreTrainedModel

GRAPHS = {  # the smaller one first
    "onnx-int4": "model_int4.onnx",
    "onnx-int8": "model_int8.onnx",
    "onnx-fp32": "model.onnx",
}
ROUNDED = ("onnx-int4", "onnx-int8")  # the formats whose weights and activations have few bits
# On x86 processors without VNNI the sum of two products of unsigned by signed 8 bits overflows its 16 bits, and the
# largest number that fits is taken; with this entry ONNX Runtime multiplies unsigned by unsigned there, which is exact.
EXACT = ("session.x64quantprecision", "1")
_BESIDE = "session.model_external_initializers_file_folder_path"  # where a graph out of memory has its weights' files


class Engine(Protocol):
    """What answers."""

    name: str
    format: str
    batch_dependent: bool

    @property
    def counts_padding(self) -> bool:
        """Whether what it writes behind a text hangs on the text's padding."""
        ...

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
        self.model, self.dtype, self.writing = model.eval(), dtype, threading.Lock()

    @property
    def counts_padding(self) -> bool:
        """Whether what it writes behind a text hangs on the text's padding."""
        from distill.generation.rules import rules_of

        return rules_of(self.model.generation_config.to_dict()).counts_padding

    def answer(self, batch: Batch) -> np.ndarray:
        """Logits in float32: (batch, labels), (batch, tokens, classes), or (batch, tokens, 2) of spans."""
        import torch

        from distill.signals import read, tensors

        device = self.model.device
        low = self.dtype not in (None, torch.float32)
        with torch.inference_mode(), torch.autocast(device.type, self.dtype if low else None, enabled=low):
            return read(self.model, tensors(batch, device)).logits.float().numpy(force=True)

    def generate(self, batch: Batch, words: Generation, *, forced: int | None = None) -> list[list[int]]:
        """What a decoder or encoder-decoder writes after each text, the ending token included; with `forced` exactly
        so many tokens, whatever would end them. Of the checkpoint's own generation settings its special tokens count.
        """
        with self.writing:  # what writes takes its settings from the model
            return self._write(batch, words, forced)

    def _write(self, batch: Batch, words: Generation, forced: int | None) -> list[list[int]]:
        import torch
        from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

        from distill.generation.rules import prompt_of, rules_of, until_end
        from distill.signals import tensors

        model, own = self.model, self.model.generation_config
        rules = rules_of(own.to_dict())
        told = (rules.endless() if forced else rules).for_transformers(words, forced)
        given = tensors(prompt_of(batch, left=not model.config.is_encoder_decoder), model.device)
        if model.config.is_encoder_decoder:  # transformers would count the layers of the wrong side for some
            given["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
        low = self.dtype not in (None, torch.float32)
        model.generation_config = GenerationConfig(**told)  # what it doesn't say would be filled in from the model's
        try:
            with torch.inference_mode(), torch.autocast(model.device.type, self.dtype if low else None, enabled=low):
                texts = model.generate(**given).numpy(force=True)
        finally:
            model.generation_config = own
        start = 1 if model.config.is_encoder_decoder else given["input_ids"].shape[1]
        return [until_end(text[start:].tolist(), () if forced else rules.ends) for text in texts]


class OnnxRuntime:
    """An ONNX graph on ONNX Runtime's CPU provider.

    `batch_dependent` tells that an answer may hang on the rest of its batch, as it does in dynamic int8. Graphs made
    here don't, but any graph with rounded activations is held to that, by scoring it in batches of two sizes.
    """

    name = "onnxruntime"
    counts_padding = False

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Opens a graph; 0 threads means one a core. Raises MachineError when ONNX Runtime can't, or isn't there."""
        self.session = open_session(path, threads)
        self.path = path
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.format = form_of(path)
        self.batch_dependent = self.format in ROUNDED

    def answer(self, batch: Batch) -> np.ndarray:
        """Logits in float32. Raises MachineError when ONNX Runtime can't work the graph out."""
        shape = batch["input_ids"].shape
        feed = {name: batch[name] if name in batch else np.zeros(shape, dtype=np.int64) for name in self.inputs}
        try:
            return self.session.run(["logits"], feed)[0]
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise MachineError(f"{self.path}: ONNX Runtime can't run it: {error}") from error


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """A graph opened; 0 threads means one a core. Raises MachineError when ONNX Runtime can't, or isn't there."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MachineError(
            f"ONNX Runtime isn't installed or doesn't load ({error}); `pip install onnxruntime`"
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT)
    options.add_session_config_entry("session.force_spinning_stop", "1")  # behind an answer: else it slows what is next
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base of their own
        raise MachineError(f"{path}: ONNX Runtime can't open it: {error}") from error


def open_as_written(graph: bytes, beside: Path) -> onnxruntime.InferenceSession:
    """A graph out of memory, node by node as it is, so that each value of it can be asked for; weights that it keeps in
    files of their own are looked for in the folder `beside`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry(_BESIDE, str(beside.resolve()))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def open_graph(graph: Path, threads: int = 0) -> Engine:
    """The engine for a folder's graph: one that writes as well where the graph takes a past."""
    if files_of(graph) == [graph]:
        engine = OnnxRuntime(graph, threads)
        if not any(name.startswith("past_key_values.") for name in engine.inputs):
            return engine
    from distill.generation import OnnxGenerator

    return OnnxGenerator(graph.parent, form_of(graph), threads)


def form_of(graph: Path) -> str:
    """The format that a graph's file name tells."""
    return next((name for name, file in GRAPHS.items() if file == graph.name), "onnx-fp32")


def answer_all(
    engine: Engine, encoded: Encoded, task: Task | None = None, *, batch_size: int = 64, batch_tokens: int = 8192,
    title: str | None = None,
) -> np.ndarray:  # fmt: skip
    """What a task keeps of the answers to a whole split, an entry a row in its order; answered in batches by length.

    Without a task that is the logits, (rows, labels).
    """
    order: list[int] = []
    parts: list[np.ndarray] = []
    with bar(title=title, shown=title is not None, total=len(encoded), unit="text") as answered:
        for rows in TokenBatches(encoded.lengths, batch_size, batch_tokens):
            batch = collate(encoded, rows)
            parts.append(engine.answer(batch) if task is None else task.ask(engine, batch, encoded))
            order += rows
            answered.update(len(rows))
    joined = np.concatenate(parts) if task is None else task.joined(parts)
    return joined[np.argsort(order)]


def graph_in(folder: Path, form: str | None = None) -> Path | None:
    """The graph of a folder: the one of the given format, else the smallest; None when it holds none.

    An encoder-decoder's two go by the name of the one that others have: `model_int8.onnx` for `encoder_model_int8.onnx`
    and `decoder_model_merged_int8.onnx`. `files_of` tells which files those are.
    """
    graphs = [folder / GRAPHS[form]] if form else [folder / file for file in GRAPHS.values()]
    return next((graph for graph in graphs if all(file.is_file() for file in files_of(graph))), None)


def files_of(graph: Path) -> list[Path]:
    """The files that a graph consists of: itself, or an encoder-decoder's two."""
    return pair(graph) if not graph.is_file() and pair(graph)[1].is_file() else [graph]


def pair(graph: Path) -> list[Path]:
    """The two files of an encoder-decoder that go by a graph's name."""
    rest = graph.name.removeprefix("model")
    return [graph.with_name(f"encoder_model{rest}"), graph.with_name(f"decoder_model_merged{rest}")]
