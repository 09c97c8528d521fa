"""What gives a held-out text away, the slow way."""

from __future__ import annotations

from distill.data.overlap import normalise


def contains(text: str, held: str) -> bool:
    """Word by word, after normalisation."""
    return f" {normalise(held)} " in f" {normalise(text)} "
