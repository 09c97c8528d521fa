"""What several seeds found, as one figure with its spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(found: Sequence[float]) -> dict[str, Any]:
    """Every seed's value, their mean and standard deviation (none of a single one)."""
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.mean(found), "deviation": deviation, "each": list(found)}
