"""Whom the student learns from, and who learns."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from distill.recipe.settings.base import Settings
from distill.recipe.settings.training import Finetune

Side = Literal["encoder", "decoder"]


class Teacher(Settings):
    """Whom the student learns from."""

    card: str | None = Field(None, description="a shipped teacher card by name, or the path of one of your own")
    checkpoint: str | None = Field(None, description="a folder, a Hub id, or a GGUF file")
    revision: str | None = Field(None, description="revision of the Hub id")
    finetune: Finetune | None = Field(None, description="train the teacher on the task first")

    @model_validator(mode="after")
    def _one_place(self) -> Teacher:
        if (self.card is None) == (self.checkpoint is None):
            raise ValueError(
                "name the teacher by `card` or by `checkpoint` (a folder, a Hub id or a GGUF file), not by both"
            )
        if self.revision is not None and self.checkpoint is None:
            raise ValueError("`revision` belongs to `checkpoint`; a card pins its own")
        return self


class Student(Settings):
    """Who learns: some of the teacher's layers, a smaller checkpoint of its own, or a config from random weights."""

    layers: int | list[int] | dict[Side, int | list[int]] | None = Field(
        None,
        description="how many of the teacher's layers, or which (from 1); of an encoder-decoder by side, as "
        "{encoder: 6, decoder: 3}, where a side that isn't named stays whole",
    )
    choose: Literal["even", "first", "last", "importance"] = Field(
        "even",
        description="which layers, where a number is asked for: evenly spread up to the last, the first, the last, or "
        "those that the teacher's answers to training texts hang on most",
    )
    checkpoint: str | None = Field(None, description="a folder, a Hub id, or a GGUF file")
    revision: str | None = Field(None, description="revision of the Hub id")
    config: dict[str, Any] | None = Field(
        None,
        description="a transformers config with its `model_type`: random weights, the teacher's tokenizer",
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _sides(cls, value: Any) -> Any:
        if isinstance(value, dict) and (not value or not set(value) <= set(get_args(Side))):
            raise ValueError(f"name the sides of an encoder-decoder: {', '.join(get_args(Side))}")
        return value

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, value: Any) -> Any:
        for layers in value.values() if isinstance(value, dict) else [value]:
            chosen = layers if isinstance(layers, list) else []
            if layers is not None and (layers == [] or (isinstance(layers, int) and layers < 1)):
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
