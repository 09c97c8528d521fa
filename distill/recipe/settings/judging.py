"""What is expected of the result, and how latency is measured."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from distill.recipe.settings.base import Settings

_BOUND = re.compile(r"\s*at (least|most)\s+([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_LARGEST_SHARE = 2.0  # that anyone can mean


class Bound(Settings):
    """`at least 0.97` or `at most 0.2`."""

    side: Literal["least", "most"]
    value: float

    def holds(self, measured: float) -> bool:
        """Whether a measured value keeps the bound."""
        return measured >= self.value if self.side == "least" else measured <= self.value

    def __str__(self) -> str:
        return f"at {self.side} {self.value:.15g}"


def _read_bound(value: Any) -> Any:
    if isinstance(value, dict | Bound) or value is None:
        return value
    found = _BOUND.fullmatch(str(value))
    if found is None:
        raise ValueError(f"write 'at least 0.97' or 'at most 0.2', not {value!r}")
    return {"side": found[1], "value": float(found[2])}


AtLeastOrMost = Annotated[Bound, BeforeValidator(_read_bound)]


class Expect(Settings):
    """What the last step's checkpoint must reach, or the run exits with 1. Ratios are to the teacher."""

    retained: AtLeastOrMost | None = Field(None, description="score divided by the teacher's score")
    score: AtLeastOrMost | None = Field(None, description="the score itself")
    size: AtLeastOrMost | None = Field(None, description="bytes of the files an engine needs, over the teacher's")
    parameters: AtLeastOrMost | None = Field(None, description="number of parameters, over the teacher's")
    latency_vs_eager: AtLeastOrMost | None = Field(
        None, description="median latency over that of the teacher in eager torch, first timing batch"
    )
    latency_same_engine: AtLeastOrMost | None = Field(
        None, description="median latency over that of the teacher on the same engine, first timing batch"
    )

    @field_validator("retained", "size", "parameters", "latency_vs_eager", "latency_same_engine")
    @classmethod
    def _bounds(cls, bound: Bound | None, info: ValidationInfo) -> Bound | None:
        """A bound on the wrong side, or in percent, could never be missed or never be met."""
        if bound is None:
            return bound
        side = "least" if info.field_name == "retained" else "most"
        if bound.side != side:
            better = "more" if side == "least" else "less"
            raise ValueError(f"{better} of it is better, so write 'at {side} {bound.value:g}', not '{bound}'")
        if not info.field_name.startswith("latency") and bound.value > _LARGEST_SHARE:
            raise ValueError(f"it is a ratio to the teacher's: write 40 % as 0.4, not '{bound}'")
        return bound


class Timing(Settings):
    """How latency is measured: all checkpoints interleaved in one session."""

    batch: list[int] = Field([1, 32], min_length=1, description="batch sizes; `expect` judges the first")
    tokens: int | None = Field(None, ge=2, description="tokens an example; the median of the test split when not said")
    new_tokens: int | None = Field(
        None,
        ge=2,
        description="tokens that are written for an example, whatever would end them; the median of the test split's "
        "texts to write when not said, 32 where it has none, and no more than `generation.max_new_tokens`",
    )
    threads: int = Field(1, ge=1, description="threads an engine may use")
    rounds: int = Field(10, ge=3, description="measured answers for each engine and batch")

    @field_validator("batch")
    @classmethod
    def _positive(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("a batch holds at least one example")
        return value
