"""What is handed over, and what is told to W&B."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from distill.recipe.settings.base import Settings

_HUB_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Format = Literal["transformers", "onnx"]


class Ship(Settings):
    """What is handed over: a folder that works without this package, with a model card and a manifest."""

    formats: list[Format] = Field(
        ["transformers", "onnx"], min_length=1, description="what the folder holds; onnx takes a `quantize` step"
    )
    hub: str | None = Field(None, description="push the folder to this repository (organisation/name) on the Hub")
    private: bool = Field(True, description="whether a repository that the push makes is private")
    licence: str | None = Field(None, description="licence of what is shipped; the teacher's own when not said")

    @field_validator("hub")
    @classmethod
    def _repository(cls, value: str | None) -> str | None:
        if value is not None and (not _HUB_REPOSITORY.fullmatch(value) or ".." in value or "--" in value):
            raise ValueError("a repository on the Hub is named organisation/name")
        return value


class Track(Settings):
    """What is told to Weights & Biases, and how the energy of training is estimated."""

    wandb: Literal["auto", "offline", "online", "off"] = Field(
        "auto", description="auto: online where an API key is at hand, else offline, to be uploaded by `wandb sync`"
    )
    project: str = Field("distill", min_length=1, description="the W&B project")
    entity: str | None = Field(None, description="the W&B team or user; the key's own when not said")
    tags: list[str] = Field([], description="tags beside those that the recipe gives by itself")
    weights: Literal["none", "result", "all"] = Field(
        "result", description="whose weights go into W&B artifacts; the others are told by hash, size and score"
    )
    energy: bool = Field(True, description="estimate the energy of training with codecarbon, without a network")
    country: str | None = Field(
        None,
        pattern=r"^[A-Z]{3}$",
        description="ISO code of three capital letters such as FRA, whose grid turns energy into CO2",
    )
