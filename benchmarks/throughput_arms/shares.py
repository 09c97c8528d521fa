"""Which part of a training step an event of a torch profile belongs to."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatch
from typing import Any

RANGES = {"Optimizer.step#": "optimizer", "enumerate(DataLoader)#": "data", "telling": "telling", "signals": "signals"}
OPERATORS = {
    "attention": ("*softmax*", "*bmm*", "*scaled_dot_product*", "masked_fill*"),
    "matrix products": ("mm", "addmm", "linear*", "matmul*", "mkldnn*"),
    "gradient norm and clipping": ("_foreach*", "linalg_vector_norm", "clamp*"),
    "embeddings and rows of tokens": ("*embedding*", "*index*"),
    "casts and copies": ("copy_", "_to_copy", "to", "clone", "contiguous"),
    "GELU, layer norm and other elementwise": ("*",),
}


def where(events: Any, seconds: float) -> dict[str, float]:
    """Each part's share of the profiled time; what is in no operator is Python's, between them."""
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        spent[part(event)] += event.self_cpu_time_total / 1e6
    shares = {name: found / seconds for name, found in sorted(spent.items(), key=lambda item: -item[1])}
    return shares | {"Python between operators": max(0.0, 1 - sum(shares.values()))}


def part(event: Any) -> str:
    """Which part of a step an event belongs to: the range it lies in, or what its operator does."""
    outer = event
    while outer is not None:
        for start, name in RANGES.items():
            if outer.name.startswith(start):
                return name
        outer = outer.cpu_parent
    if not event.name.startswith("aten::"):
        return "autograd between operators"
    operator = event.name.removeprefix("aten::")
    return next(part for part, names in OPERATORS.items() if any(fnmatch(operator, name) for name in names))
