"""Whether a graph says what torch says, and where the two part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import torch

from distill.checkpoint import Checkpoint
from distill.data import Batch
from distill.engines import Torch, open_as_written, open_graph
from distill.errors import MachineError
from distill.export.first_position import FIRST
from distill.signals import inputs_for, tensors

TOLERANCE = 1e-3  # largest difference of fp32 logits, as a share of their largest value (at least 1)


def check_parity(checkpoint: Checkpoint, path: Path, batches: Iterable[Batch]) -> float:
    """The largest difference between torch's and the graph's fp32 logits on batches of real examples.

    Raises MachineError naming the first tensor that differs when it is beyond TOLERANCE.
    """
    torch_engine, graph, largest = Torch(checkpoint.model), open_graph(path), 0.0
    for batch in batches:
        expected, found = torch_engine.answer(batch), graph.answer(batch)
        if expected.ndim == 3 and not checkpoint.model.config.is_encoder_decoder:
            real = batch["attention_mask"].astype(bool)
            expected, found = expected[real], found[real]
        difference = float(np.abs(expected - found).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            where = first_difference(checkpoint, path, batch)
            raise MachineError(f"{path}: the graph's logits differ from torch's by {difference:.3g}; {where}")
        largest = max(largest, difference)
    return largest


def first_difference(checkpoint: Checkpoint, path: Path, batch: Batch) -> str:
    """The first hidden state, from the embeddings up, on which torch and a graph disagree; in words."""
    model = checkpoint.model.eval()
    if model.can_generate() or model.config.is_encoder_decoder:
        return "which layer differs first is told of graphs that only answer, with one run of layers"
    given = inputs_for(model, tensors(batch, model.device))
    with torch.inference_mode():
        expected = model(**given, output_hidden_states=True).hidden_states
    graph = onnx.load(path, load_external_data=False)
    made = {name for node in graph.graph.node for name in node.output}
    names = [
        name
        for layer in range(len(expected))
        for name in (f"hidden_states.{layer}", f"hidden_states.{layer}{FIRST}")
        if name in made
    ]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = open_as_written(graph.SerializeToString(), path.parent)
    feed = {name: tensor.numpy(force=True) for name, tensor in given.items()}
    real = batch["attention_mask"].astype(bool)
    for name, found in zip(names, session.run(names, feed), strict=True):
        theirs = expected[int(name.removesuffix(FIRST).rsplit(".", 1)[1])].float().numpy(force=True)
        positions = found.shape[1]  # the last layer may be worked out for the first one only
        difference = np.abs(theirs[:, :positions] - found)[real[:, :positions]].max()
        if not difference <= TOLERANCE * max(1.0, float(np.abs(theirs).max())):
            return f"the first tensor that differs is {name.removesuffix(FIRST)}"
    return "every hidden state agrees, so the first tensor that differs is in the head"
