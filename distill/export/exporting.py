"""From torch to a clean ONNX graph, with the check that both say the same.

Opset 23 keeps attention as one native node; the mask is made once, before the model, so that no layer rebuilds it.
Hidden states keep their names in the graph
(`hidden_states.3`), and a parity check that fails can say where the two part. What is left is tidied.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, collate
from distill.disk import atomic_folder
from distill.engines import GRAPHS
from distill.errors import MachineError
from distill.export.attention import one_node
from distill.export.parity import check_parity
from distill.export.tidying import tidy
from distill.export.traced import Answering, Traced
from distill.signals import inputs_for

OPSET = 23
_PARITY_ROWS, _AT_ONCE = 256, 32


def export(checkpoint: Checkpoint, path: Path) -> Path:
    """Writes a checkpoint's graph: int64 inputs (batch, tokens), both of any size, and `logits`: (batch, labels) of a
    text, (batch, tokens, classes) of its tokens, or for question answering (batch, tokens, 2), starts and ends.

    Raises MachineError when torch can't export the model.
    """
    model = checkpoint.model.eval()
    sample = torch.arange(14, device=model.device).reshape(2, 7) % model.config.vocab_size
    shown = torch.ones_like(sample)
    shown[1, 5:] = 0
    given = inputs_for(
        model, {"input_ids": sample, "attention_mask": shown, "token_type_ids": torch.zeros_like(sample)}
    )
    answering = Answering(model, list(given))
    with torch.inference_mode():
        answering(*given.values())
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = trace(answering, given, ["logits", *answering.states], {"inputs": tuple(free for _ in given)})
    graph = program.model.graph
    while len(graph.outputs) > 1:  # `del` would leave them marked as outputs
        graph.outputs.pop()
    save(program, path)
    return path


def trace(module: Traced, given: Mapping[str, Tensor], outputs: list[str], free: Any) -> torch.onnx.ONNXProgram:
    """A module as an ONNX program. Raises MachineError when torch can't export it."""
    with _quiet(), one_node(module.model):
        try:
            return torch.onnx.export(
                module, tuple(given.values()), input_names=list(given), output_names=outputs,
                dynamic_shapes=free, dynamo=True, opset_version=OPSET, verbose=False,
            )  # fmt: skip
        except Exception as error:  # torch.export and the ONNX exporter raise kinds of their own without a common base
            raise MachineError(f"torch can't export a {type(module.model).__name__} to ONNX: {error}") from error


def save(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Tidies a program and writes it without the exporter's own stack traces, half a megabyte of them."""
    graph = program.model.graph
    tidy(program.model)
    made = (value for node in graph.all_nodes() for value in node.outputs)
    for thing in (graph, *graph.inputs, *graph.initializers.values(), *graph.all_nodes(), *made):
        thing.metadata_props.clear()
    program.save(path)


def as_graph(checkpoint: Checkpoint, *, data: Splits, folder: Path) -> Path:
    """Writes a folder with a checkpoint's fp32 graph only: what it answers on ONNX Runtime without compression.

    Raises MachineError when the graph doesn't say what torch says.
    """
    with atomic_folder(Path(folder)) as unfinished:
        write_graph(checkpoint, unfinished, checkpoint.encode(data, "validation"))
    return Path(folder)


def write_graph(checkpoint: Checkpoint, folder: Path, held: Encoded) -> Path:
    """A checkpoint's fp32 graph with the config and tokenizer that an engine needs beside it, parity checked."""
    checkpoint.model.config.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    path = export(checkpoint, folder / GRAPHS["onnx-fp32"])
    for start in range(0, min(_PARITY_ROWS, len(held)), _AT_ONCE):
        check_parity(checkpoint, path, collate(held, list(range(start, min(start + _AT_ONCE, len(held))))))
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's advice to its own developers is kept from the user; what fails still raises."""
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
