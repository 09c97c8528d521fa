"""How many places of a vocabulary's logits are worked on at once: few enough to stay close to the processor."""

from __future__ import annotations

_NUMBERS = 1 << 21  # 8 MB in float32, and a few times as much on the way
_ACCELERATOR_NUMBERS = 1 << 25  # where each operation is a launch: 128 MB


def places_at_once(classes: int, device: str = "cpu") -> int:
    """At least one; `device` is a type of torch's."""
    return max(1, (_NUMBERS if device == "cpu" else _ACCELERATOR_NUMBERS) // classes)
