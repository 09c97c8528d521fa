"""Sizes, spans and latencies as they are written on the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.errors import DataError

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)"


def parse_size(option: str, told: str) -> float:
    """Bytes, from words like 5MB, 900kB or 1.5GB. Raises DataError."""
    found = re.fullmatch(rf"\s*{_NUMBER}\s*([a-z]+)\s*", told.lower())
    if found is None or found[2] not in _BYTES or not float(found[1]):
        raise _wrong(option, told, "a size like 5MB, 900kB or 1.5GB")
    return float(found[1]) * _BYTES[found[2]]


def parse_span(option: str, told: str) -> float:
    """Seconds, from words like 12h, 30d or 8w. Raises DataError."""
    found = re.fullmatch(rf"\s*{_NUMBER}\s*([hdw])\s*", told.lower())
    if found is None:
        raise _wrong(option, told, "a span like 12h, 30d or 8w")
    return float(found[1]) * _SECONDS[found[2]]


def parse_latency(option: str, told: str) -> tuple[float | None, float | None]:
    """(share of the teacher's in eager torch, milliseconds), one of them None: 0.5 or 12ms. Raises DataError."""
    found = re.fullmatch(rf"\s*{_NUMBER}\s*(ms)?\s*", told.lower())
    if found is None or not float(found[1]):
        raise _wrong(option, told, "a latency like 0.5 (of the teacher's in eager torch) or 12ms")
    return (None, float(found[1])) if found[2] else (float(found[1]), None)


def _wrong(option: str, told: str, right: str) -> DataError:
    from distill.errors import DataError

    return DataError(f"{option} {told}: write {right}")
