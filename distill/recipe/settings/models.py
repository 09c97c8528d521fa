"""Whom the student learns from, and who learns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distill.recipe.settings.base import Settings
from distill.recipe.settings.training import Finetune


class Teacher(Settings):
    """Whom the student learns from."""

    card: str | None = Field(None, description="a shipped teacher card by name, or the path of one of your own")
    checkpoint: str | None = Field(None, description="a folder, or a Hub id")
    revision: str | None = Field(None, description="revision of the Hub id")
    finetune: Finetune | None = Field(None, description="train the teacher on the task first")

    @model_validator(mode="after")
    def _one_place(self) -> Teacher:
        if (self.card is None) == (self.checkpoint is None):
            raise ValueError("name the teacher by `card` or by `checkpoint` (a folder or a Hub id), not by both")
        if self.revision is not None and self.checkpoint is None:
            raise ValueError("`revision` belongs to `checkpoint`; a card pins its own")
        return self


class Student(Settings):
    """Who learns: some of the teacher's layers, a smaller checkpoint of its own, or a config from random weights."""

    layers: int | list[int] | None = Field(None, description="how many of the teacher's layers, or which (from 1)")
    choose: Literal["even", "first", "last"] = Field("even", description="which layers, when `layers` is a number")
    checkpoint: str | None = Field(None, description="a folder, or a Hub id")
    revision: str | None = Field(None, description="revision of the Hub id")
    config: dict[str, Any] | None = Field(
        None,
        description="a transformers config with its `model_type`: random weights, the teacher's tokenizer",
    )

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, value: int | list[int] | None) -> int | list[int] | None:
        chosen = value if isinstance(value, list) else []
        if value is not None and (value == [] or (isinstance(value, int) and value < 1)):
            raise ValueError("keep at least one layer")
        if chosen != sorted(set(chosen)) or any(layer < 1 for layer in chosen):
            raise ValueError("layers are counted from 1 and listed in rising order, each once")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Student:
        if sum(given is not None for given in (self.layers, self.checkpoint, self.config)) != 1:
            raise ValueError("make the student from one of: `layers`, `checkpoint`, `config`")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("`config` needs a `model_type`, such as bert")
        if self.revision is not None and self.checkpoint is None:
            raise ValueError("`revision` belongs to `checkpoint`")
        return self
