"""How the signals that a student imitates are computed and kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.recipe.settings.base import Settings


class Kept(Settings):
    """How the teacher's signals are computed and kept."""

    logits: Literal["auto", "whole", "off"] | Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None,
        description="what is kept of each token's logits over a vocabulary: a number of likeliest tokens with the mass "
        "of all others, whole logits, off (nothing of any signal: the teacher runs in every step), or auto, which "
        "estimates what pays; when not said whole logits, as long as they take less than 4 GB",
    )
    engine: Literal["auto", "float32", "bfloat16", "onnx-fp32", "onnx-int8"] | None = Field(
        None,
        description="what computes the signals that are saved: torch in float32 or bfloat16, a graph on ONNX Runtime, "
        "or, with auto, the fastest of them; used only within the two bounds, measured on training rows against torch "
        "in float32, which labels where nothing is; when not said torch in the training's dtype",
    )
    divergence: float = Field(
        0.01, gt=0, description="largest mean KL of the engine's answers, in nats at the training's temperature"
    )
    agreement: float = Field(0.99, gt=0, le=1, description="smallest share of answers that stay the same")

    @model_validator(mode="after")
    def _is_of_use(self) -> Kept:
        idle = [word for word in ("divergence", "agreement") if word in self.model_fields_set]
        if self.engine in (None, "float32") and any(getattr(self, word) != _BOUNDS[word] for word in idle):
            raise ValueError(
                f"{' and '.join(f'`{word}`' for word in idle)} says how far a faster engine may stray, and there is "
                "none; name an `engine`, or leave it out"
            )
        if self.engine is not None and self.logits == "off":
            raise ValueError("`engine` computes signals that are saved, and `logits: off` saves none")
        return self


_BOUNDS = {word: Kept.model_fields[word].default for word in ("divergence", "agreement")}
