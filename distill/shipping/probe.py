"""Token ids that come from no text, and what each shipped format answers on them: the claim that can always be checked.

The id at a place is SHA-256 of "SEED:PLACE" modulo the vocabulary, so any language makes the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill import checkpoint as checkpoints
from distill.engines import GRAPHS, ROUNDED, Engine, open_graph
from distill.shipping import manifest as manifests
from distill.tasks import kind_of

HOW = (
    "row r holds lengths[r] ids; the id at place p (rows end to end, from 0) is the first 8 bytes of "
    "SHA-256('SEED:p'), big-endian, modulo the vocabulary, and one more where that is the pad id; "
    "rows are padded on the right, each format answers all rows as one batch; of logits by token, end to end and 0 at "
    "the padding, each nth is kept where there are more than 32, n the number of them by 32, rounded up"
)
WRITTEN = "a decoder writes the same ids behind the token `start`"
_SEED = 7
_ROWS = 8
_TOKENS = 16
_DIGITS = 6
_COLUMNS = 32
CLOSE = 1e-3  # largest difference of fp32 logits, as a share of their largest value (at least 1), as in the export


def settle(config: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """How the probe of a model is made: rows of falling length, so that padding is probed too."""
    tokens = min(_TOKENS, max_length)
    lengths = [max(1, tokens - (tokens - 1) * row // _ROWS) for row in range(_ROWS)]
    told = {"how": HOW, "seed": _SEED, "vocabulary": int(config["vocab_size"]), "lengths": lengths}
    if kind_of(config).generates:
        told |= {"how": f"{HOW}; {WRITTEN}", "start": int(config["decoder_start_token_id"])}
    return told


def batch_of(
    seed: int, vocabulary: int, lengths: list[int], pad: int, start: int | None = None
) -> dict[str, np.ndarray]:
    """The probe's batch: input_ids, attention_mask and token_type_ids, each (rows, tokens); with a decoder's `start`
    also decoder_input_ids, which is told the same ids to write.
    """
    shape = (len(lengths), max(lengths))
    real = np.arange(shape[1]) < np.array(lengths)[:, None]
    ids = np.full(shape, pad, dtype=np.int64)
    ids[real] = [_id(seed, place, vocabulary, pad) for place in range(sum(lengths))]
    batch = {"input_ids": ids, "attention_mask": real.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
    if start is not None:
        batch["decoder_input_ids"] = np.concatenate([np.full((len(ids), 1), start), ids[:, :-1]], axis=1)
    return batch


def _id(seed: int, place: int, vocabulary: int, pad: int) -> int:
    found = int.from_bytes(hashlib.sha256(f"{seed}:{place}".encode()).digest()[:8], "big") % vocabulary
    return (found + 1) % vocabulary if found == pad else found


def open_format(folder: Path, form: str, threads: int = 0) -> Engine:
    """What answers for one format in a shipped folder. Raises CheckpointError, MachineError."""
    inside = folder / manifests.FOLDERS[form]
    if form in GRAPHS:
        return open_graph(inside / GRAPHS[form], threads)
    from distill.engines import Torch

    return Torch(checkpoints.load(inside).model)


def answer(engine: Engine, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Logits on the probe, (rows, labels); where tokens have some, end to end and zero at the padding.

    Of more than `_COLUMNS` logits each nth is kept.
    """
    found = np.asarray(engine.answer(batch), dtype=np.float64)
    if found.ndim == 2:
        return found
    real = batch["attention_mask"].astype(bool)
    found = found[..., :: max(1, -(-found.shape[-1] // _COLUMNS))]  # of a vocabulary some columns will do
    return np.where(real[..., None], found, 0).reshape(len(found), -1)


def rounded(logits: np.ndarray) -> list[list[float]]:
    """Logits as the manifest keeps them."""
    return [[round(float(value), _DIGITS) for value in row] for row in logits]


def tolerances(logits: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far each format's logits may be from the recorded ones on another machine.

    fp32 as far as the export's own check allows. Fewer bits as far again as quantization moved it: another processor's
    kernels may round otherwise.
    """
    scale = {form: CLOSE * max(1.0, float(np.abs(found).max())) for form, found in logits.items()}
    for form in logits.keys() & set(ROUNDED):
        scale[form] = max(scale[form], distance(logits[form], reference(logits)))
    return scale


def reference(logits: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the graphs are held against: torch's logits, or the fp32 graph's where torch isn't there."""
    return logits["transformers"] if "transformers" in logits else logits["onnx-fp32"]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two sets of logits; infinite when they are of another shape or no numbers."""
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one - other).max())
