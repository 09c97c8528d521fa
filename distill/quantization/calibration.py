"""What goes into each product, measured on training texts: the ranges that static rounding keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from distill.bars import bar
from distill.data import Batch, Encoded, TokenBatches, collate
from distill.engines import files_of, open_as_written, open_session
from distill.quantization.arithmetic import activation_range
from distill.quantization.products import Product, products_of
from distill.tasks import NO_TARGET

if TYPE_CHECKING:
    import onnxruntime

_BATCH, _TOKENS = 16, 2048
_MOST = 512  # tokens of which every number is kept


def calibrate(fp32: Path, texts: Encoded, seed: int) -> dict[str, tuple[float, float]]:
    """For each product the range of what it is given in which 8 bits lose least, by the product's name.

    Padding is left out wherever a value has a place for every token; of the tokens that are there up to `_MOST` are
    drawn by the seed.
    """
    files = files_of(fp32)
    encoder = open_session(files[0]) if len(files) == 2 else None
    found: dict[str, tuple[float, float]] = {}
    for file in files:
        found |= _ranges(file, encoder if file is not files[0] else None, texts, seed)
    return found


def _ranges(
    fp32: Path, encoder: onnxruntime.InferenceSession | None, texts: Encoded, seed: int
) -> dict[str, tuple[float, float]]:
    model = ir.load(fp32)
    products = products_of(model.graph)
    values = {str(product.given.name): product.given for product in products}
    outputs = [value for value in values.values() if value not in model.graph.outputs]
    model.graph.outputs.extend(outputs)
    session = open_as_written(ir.serde.serialize_model(model).SerializeToString(), fp32.parent)
    samples = _watch(session, encoder, list(values), texts, np.random.default_rng(seed))
    ranges = {
        name: activation_range(samples[name], _importance([p for p in products if p.given.name == name]))
        for name in bar(values, title="ranges")
    }
    return {product.name: ranges[str(product.given.name)] for product in products}


def _watch(
    session: onnxruntime.InferenceSession, encoder: onnxruntime.InferenceSession | None, names: Sequence[str],
    texts: Encoded, rng: np.random.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What the values hold: a random part of the real tokens, (tokens, columns) each."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    read = texts.lengths if encoder is None else texts.targets.lengths
    share = min(1.0, _MOST / max(1, int(read.sum())))
    for rows in bar(list(TokenBatches(texts.lengths, _BATCH, _TOKENS)), title="calibration"):
        batch = collate(texts, rows)
        real = batch["attention_mask"].astype(bool) if encoder is None else batch["labels"] != NO_TARGET
        drawn = real & (rng.random(real.shape) < share)
        if not drawn.any():  # few tokens may have drawn nothing
            drawn.flat[rng.choice(np.flatnonzero(real))] = True
        for name, value in zip(names, session.run(list(names), _feed(session, encoder, batch)), strict=True):
            by_token = value.ndim == 3 and value.shape[:2] == drawn.shape
            found[name].append(value[drawn] if by_token else value.reshape(-1, value.shape[-1]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _feed(
    session: onnxruntime.InferenceSession, encoder: onnxruntime.InferenceSession | None, batch: Batch
) -> dict[str, np.ndarray]:
    """What a graph takes, with nothing in the past; of a decoder behind an encoder, what that makes of the batch."""
    feed: dict[str, np.ndarray] = {}
    if encoder is not None:
        made = [output.name for output in encoder.get_outputs()]
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        feed = {name.replace("present.", "past_key_values."): value
                for name, value in zip(made, encoder.run(made, given), strict=True)}  # fmt: skip
        feed |= {"input_ids": batch["decoder_input_ids"], "encoder_attention_mask": batch["attention_mask"]}
    for given in session.get_inputs():
        if given.name.startswith("past_key_values.") and given.name not in feed:
            shape = (len(batch["input_ids"]), given.shape[1], 0, given.shape[3])
            feed[given.name] = np.zeros(shape, np.float32)
        elif given.name not in feed:
            feed[given.name] = batch.get(given.name, np.zeros_like(batch["input_ids"]))
    return feed


def _importance(products: Sequence[Product]) -> np.ndarray:
    """How much a column of what these products are given counts: the squared norm of the weights that it meets."""
    return sum(np.square(product.weight).sum(1) for product in products)
