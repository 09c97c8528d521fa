"""How text is written, wherever a checkpoint writes some."""

from __future__ import annotations

from pydantic import Field

from distill.recipe.settings.base import Settings


class Generation(Settings):
    """How text is written, in torch as in graphs: where it is scored, timed and compared, and by what ships."""

    max_new_tokens: int = Field(128, ge=1, description="tokens after which a text ends, whether it is done or not")
    beams: int = Field(1, ge=1, description="beams of the search; 1 is greedy")
    length_penalty: float = Field(1.0, description="of several beams, above 0 favours longer texts")
    early_stopping: bool = Field(False, description="of several beams, whether as many ended texts as beams are enough")
