"""From torch to a clean ONNX graph, with the check that both say the same.

Opset 23 keeps attention as one native node; the padding mask is folded to one additive (batch, 1, tokens, tokens)
tensor before the model, so that no layer rebuilds it. Hidden states keep their names in the graph
(`hidden_states.3`), and a parity check that fails can say where the two part. What is left is tidied.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from distill import anatomy
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, collate
from distill.disk import atomic_folder
from distill.engines import GRAPHS
from distill.errors import MachineError
from distill.export.parity import check_parity
from distill.export.tidying import tidy
from distill.signals import inputs_for

OPSET = 23
_PARITY_ROWS, _AT_ONCE = 256, 32


class _Exported(nn.Module):
    """A model as a graph sees it: flat inputs, the mask folded, logits first and then every hidden state."""

    def __init__(self, model: nn.Module, names: list[str], fold: bool) -> None:
        super().__init__()
        self.model, self.names, self.fold = model, names, fold

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        if self.fold:
            mask = given["attention_mask"]
            away = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
            given["attention_mask"] = away.expand(-1, 1, mask.shape[1], -1)
        output = self.model(**given, output_hidden_states=True)
        return (output.logits, *output.hidden_states)


def export(checkpoint: Checkpoint, path: Path) -> Path:
    """Writes a checkpoint's graph: int64 inputs (batch, tokens), both of any size, and `logits` (batch, labels).

    Raises MachineError when torch can't export the model.
    """
    model = checkpoint.model.eval()
    device = model.device
    sample = torch.arange(14, device=device).reshape(2, 7) % model.config.vocab_size
    shown = torch.ones_like(sample)
    shown[1, 5:] = 0
    given = inputs_for(
        model, {"input_ids": sample, "attention_mask": shown, "token_type_ids": torch.zeros_like(sample)}
    )
    names = list(given)
    family = anatomy.FAMILIES.get(model.config.model_type)
    fold = family is not None and family.kind == "encoder" and not any(stack.lists for stack in family.stacks)
    with torch.inference_mode():
        states = len(model(**given, output_hidden_states=True).hidden_states)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet():
        try:
            program = torch.onnx.export(
                _Exported(model, names, fold), tuple(given.values()), input_names=names,
                output_names=["logits", *(f"hidden_states.{layer}" for layer in range(states))],
                dynamic_shapes={"inputs": tuple(free for _ in names)}, dynamo=True, opset_version=OPSET, verbose=False,
            )  # fmt: skip
        except Exception as error:  # torch.export and the ONNX exporter raise kinds of their own without a common base
            raise MachineError(f"torch can't export a {type(model).__name__} to ONNX: {error}") from error
    graph = program.model.graph
    while len(graph.outputs) > 1:  # `del` would leave them marked as outputs
        graph.outputs.pop()
    tidy(program.model)
    made = (value for node in graph.all_nodes() for value in node.outputs)
    for thing in (graph, *graph.inputs, *graph.initializers.values(), *graph.all_nodes(), *made):
        thing.metadata_props.clear()  # the exporter's own stack traces, half a megabyte of them
    program.save(path)
    return path


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
