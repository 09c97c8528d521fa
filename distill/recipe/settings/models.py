"""Whom the student learns from, and who learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from distill.recipe.settings.base import Settings, short
from distill.recipe.settings.training import Finetune

Side = Literal["encoder", "decoder"]


class _Named(Settings):
    """A teacher by card or by checkpoint."""

    card: str | None = Field(None, description="a shipped teacher card by name, or the path of one of your own")
    checkpoint: str | None = Field(None, description="a folder, a Hub id, or a GGUF file")
    revision: str | None = Field(None, description="revision of the Hub id")
    finetune: Finetune | None = Field(None, description="train the teacher on the task first")

    @model_validator(mode="after")
    def _pinned_once(self) -> _Named:
        if self.revision is not None and self.checkpoint is None:
            raise ValueError("`revision` belongs to `checkpoint`; a card pins its own")
        return self


class Member(_Named):
    """One teacher of an ensemble."""

    weight: float = Field(1.0, gt=0, description="how much it counts beside the others, in any scale")

    @model_validator(mode="after")
    def _one_place(self) -> Member:
        if (self.card is None) == (self.checkpoint is None):
            raise ValueError("name each teacher by `card` or by `checkpoint`, not by both")
        return self


class Teacher(_Named):
    """Whom the student learns from."""

    ensemble: list[Annotated[Member, short("card")]] | None = Field(
        None,
        min_length=2,
        description="several teachers in place of one: the weighted mean of their probabilities is imitated; the first "
        "is the one that a student's layers are cut from",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Teacher:
        named = [word for word in ("card", "checkpoint", "ensemble") if getattr(self, word) is not None]
        if self.ensemble is not None and (len(named) > 1 or self.finetune is not None):
            raise ValueError(
                "`card`, `checkpoint` and `finetune` belong to each teacher of an `ensemble`, not beside it"
            )
        if len(named) != 1:
            raise ValueError(
                "name the teacher by `card` or by `checkpoint` (a folder, a Hub id or a GGUF file), not by both; or "
                "several by `ensemble`"
            )
        return self

    @field_validator("ensemble")
    @classmethod
    def _no_twins(cls, members: list[Member] | None) -> list[Member] | None:
        """A teacher that is trained twice is two, as each has a seed of its own; one that is ready is not."""
        ready = [(one.card, one.checkpoint, one.revision) for one in members or [] if one.finetune is None]
        twice = [one for place, one in enumerate(ready) if one in ready[:place]]
        if twice:
            raise ValueError(f"names {twice[0][0] or twice[0][1]} twice; once, with more `weight`, is the same")
        return members

    @property
    def members(self) -> list[Member]:
        """Every teacher, the one that a student's layers are cut from first."""
        words = ("card", "checkpoint", "revision", "finetune")
        return self.ensemble or [Member(**{word: getattr(self, word) for word in words})]


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
