"""What goes into each product, measured on training texts: the ranges that static rounding keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from tqdm.auto import tqdm

from distill.data import Encoded, TokenBatches, collate
from distill.quantization.arithmetic import activation_range
from distill.quantization.products import Product, products_of

if TYPE_CHECKING:
    import onnxruntime

_BATCH, _TOKENS = 16, 2048
_MOST = 512  # tokens of which every number is kept


def calibrate(fp32: Path, texts: Encoded, seed: int) -> dict[str, tuple[float, float]]:
    """For each value that goes into a product the range in which 8 bits lose least, by the value's name.

    Padding is left out wherever a value has a place for every token; of the tokens that are there up to `_MOST` are
    drawn by the seed.
    """
    model = ir.load(fp32)
    products = products_of(model.graph)
    values = {str(product.given.name): product.given for product in products}
    outputs = [value for value in values.values() if value not in model.graph.outputs]
    model.graph.outputs.extend(outputs)
    session = _open(model)
    samples = _watch(session, list(values), texts, np.random.default_rng(seed))
    return {
        name: activation_range(samples[name], _importance([p for p in products if p.given.name == name]))
        for name in tqdm(values, desc="ranges", leave=False)
    }


def _open(model: ir.Model) -> onnxruntime.InferenceSession:
    """The graph as it is: fusing would do away with the values that are watched."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    graph = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _watch(
    session: onnxruntime.InferenceSession, names: Sequence[str], texts: Encoded, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What the values hold: a random part of the real tokens, (tokens, columns) each."""
    inputs = [given.name for given in session.get_inputs()]
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    share = min(1.0, _MOST / max(1, int(texts.lengths.sum())))
    for rows in tqdm(list(TokenBatches(texts.lengths, _BATCH, _TOKENS)), desc="calibration", leave=False):
        batch = collate(texts, rows)
        feed = {name: batch.get(name, np.zeros_like(batch["input_ids"])) for name in inputs}
        drawn = batch["attention_mask"].astype(bool) & (rng.random(batch["input_ids"].shape) < share)
        drawn[:, 0] |= not drawn.any()  # a short text may have drawn nothing
        for name, value in zip(names, session.run(list(names), feed), strict=True):
            by_token = value.ndim == 3 and value.shape[:2] == drawn.shape
            found[name].append(value[drawn] if by_token else value.reshape(-1, value.shape[-1]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _importance(products: Sequence[Product]) -> np.ndarray:
    """How much a column of what these products are given counts: the squared norm of the weights that it meets."""
    return sum(np.square(product.weight).sum(1) for product in products)
