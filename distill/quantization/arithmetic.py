"""Rounding weights and activations to few bits: pure functions of arrays.

Weights are symmetric around zero; activations have a zero point, because what GELU gives is not symmetric.
"""

from __future__ import annotations

import numpy as np

_LEAST = np.float32(1e-12)  # a scale for what is all zero
_SHRINKINGS = np.linspace(1.0, 0.35, 27)  # how much of a range is tried


def by_column(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A weight (inputs, outputs) as int8 of the same shape, and a scale an output, (outputs,)."""
    scales = np.maximum(np.abs(weight).max(0) / 127, _LEAST).astype(np.float32)
    return np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales


def in_blocks(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """A weight (rows, columns) as unsigned integers around 2^(bits-1), and a scale for every `block` columns of a row.

    8 bits are scaled by the largest value. With 4 bits the scale is the one, out of a few, that leaves the least
    squared error. The integers are (rows, blocks, block), the last block filled with zeros; scales (rows, blocks).
    """
    rows, columns = weight.shape
    blocks = -(-columns // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :columns] = weight
    padded = padded.reshape(rows, blocks, block)
    middle, most = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    largest = np.take_along_axis(padded, np.abs(padded).argmax(-1, keepdims=True), -1)[..., 0]
    if bits == 8:
        candidates = [np.abs(largest) / most]
    else:  # the most negative integer has no positive twin, so that the largest value may take it
        candidates = [-largest / middle * share for share in np.linspace(0.7, 1.1, 17)]
        candidates += [np.abs(largest) / most * share for share in np.linspace(0.7, 1.0, 13)]
    best, least, kept = None, None, None
    for scales in candidates:
        scales = np.where(np.abs(scales) < _LEAST, _LEAST, scales).astype(np.float32)[..., None]
        integers = np.clip(np.rint(padded / scales), -middle if bits < 8 else -most, most)
        error = np.square(integers * scales - padded).sum(-1, keepdims=True)
        if least is None:
            best, least, kept = integers, error, scales
        else:
            better = error < least
            best, kept = np.where(better, integers, best), np.where(better, scales, kept)
            least = np.minimum(error, least)
    return (best + middle).astype(np.uint8), kept[..., 0]


def packed(integers: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers with two 4-bit ones in a byte, the first in the low half; 8-bit ones as they are."""
    if bits == 8:
        return integers
    return integers[..., 0::2] | (integers[..., 1::2] << 4)


def activation_range(sample: np.ndarray, importance: np.ndarray) -> tuple[float, float]:
    """The range (low ≤ 0 ≤ high) within which 8 bits lose least of a sample (rows, columns) of what a weight is given.

    What lies outside is cut off. A column counts by its importance: the squared norm of the weights that it meets, so
    that the error that is minimised is that of the products.
    """
    low, high = min(0.0, float(sample.min())), max(0.0, float(sample.max()))
    best, least = (low, high), np.inf
    for bottom, top in ((low * a, high * b) for a, b in _tries(low, high)):
        scale, zero = scale_of(bottom, top)
        rounded = (np.clip(np.rint(sample / scale) + zero, 0, 255) - zero) * scale
        error = float(np.square(rounded - sample).mean(0) @ importance)
        if error < least:
            best, least = (bottom, top), error
    return best


def _tries(low: float, high: float) -> list[tuple[float, float]]:
    """Shares of the low and the high end: both shrunk alike, and each alone down to the other's size."""
    tries = [(float(share), float(share)) for share in _SHRINKINGS]
    if -low > high:
        tries += [(float(share), 1.0) for share in _SHRINKINGS if -low * share >= high]
    else:
        tries += [(1.0, float(share)) for share in _SHRINKINGS if high * share >= -low]
    return tries


def scale_of(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """The scale and the zero point of a range in unsigned 8 bits."""
    scale = np.float32(max((high - low) / 255, float(_LEAST)))
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))
