"""From a module to an ONNX program, and from a program to a clean file."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.errors import MachineError
from distill.export.attention import one_node
from distill.export.products import name_weights
from distill.export.tidying import tidy
from distill.export.traced import Traced

OPSET = 23
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal


def trace(module: Traced, given: Mapping[str, Tensor], outputs: list[str], free: Any) -> torch.onnx.ONNXProgram:
    """A module as an ONNX program. Raises MachineError when torch can't export it."""
    with _quiet(), one_node(module.model):
        try:
            return torch.onnx.export(
                module, tuple(given.values()), input_names=list(given), output_names=outputs,
                dynamic_shapes=free, dynamo=True, opset_version=OPSET, verbose=False,
            )  # fmt: skip
        except Exception as error:  # torch.export and the ONNX exporter raise kinds of their own without a common base
            why = _ESCAPES.sub("", str(error)).strip().partition("\n")[0] or type(error).__name__
            raise MachineError(
                f"torch can't export a {type(module.model).__name__} to ONNX ({why}); it can still ship as a "
                "checkpoint of transformers, without a step that makes a graph (quantize)"
            ) from error


def save(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Tidies a program and writes it without the exporter's own stack traces, half a megabyte of them."""
    graph = program.model.graph
    name_weights(graph)
    tidy(program.model)
    made = (value for node in graph.all_nodes() for value in node.outputs)
    for thing in (graph, *graph.inputs, *graph.initializers.values(), *graph.all_nodes(), *made):
        thing.metadata_props.clear()
    program.save(path)


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
