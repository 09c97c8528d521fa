"""The steps that make a checkpoint smaller without training: prune and quantize."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from distill.recipe.settings.base import Settings, Share, short


class Calibration(Settings):
    """The texts on which static activation ranges are measured."""

    split: Literal["train", "validation"] = Field("train", description="where they come from; never the test split")
    examples: int = Field(256, ge=1, description="how many")

    @field_validator("split", mode="before")
    @classmethod
    def _not_the_test(cls, split: Any) -> Any:
        if split == "test":
            raise ValueError("what chooses ranges must not see the examples that score; take train")
        return split


class Quantize(Settings):
    """Export to ONNX, then store weights in fewer bits. Comes last."""

    weights: Literal["int8", "int4"] = Field("int8", description="what the weights become")
    embeddings: Literal["int8", "int4"] | None = Field(
        None, description="what the embedding tables become, with a scale a row or group; like the weights if unset"
    )
    activations: Literal["static", "token"] = Field(
        "static",
        description="how int8 activations are scaled: by ranges measured beforehand, which is fastest, or each token "
        "by its own values; with int4 weights always by token",
    )
    calibration: Annotated[Calibration, short("examples")] = Field(
        default_factory=Calibration, description="the texts on which static ranges are measured"
    )
    group: Literal[16, 32, 64, 128] = Field(32, description="how many 4-bit weights share a scale")
    changed: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of validation answers that may change before sensitive layers are left in more bits",
    )


class Vocabulary(Settings):
    """Which tokens stay."""

    keep: Literal["used"] | Annotated[int, Field(ge=16)] = Field(
        "used", description="those that training texts use, or the most used ones up to this number"
    )
    margin: float = Field(
        0.1, ge=0, le=10, description="unused tokens that stay beside the used ones, as a share of them"
    )


class Prune(Settings):
    """Take heads, neurons, layers and vocabulary out, the least important first."""

    heads: Share | None = Field(None, description="share of the attention heads to take out")
    neurons: Share | None = Field(None, description="share of the feed-forward neurons to take out")
    layers: int | None = Field(None, ge=1, description="how many whole layers to take out")
    vocabulary: Annotated[Vocabulary, short("keep")] | None = Field(
        None, description="trim the vocabulary, and the embeddings with it: used, or a number of tokens"
    )
    by: Literal["magnitude", "activations", "taylor", "fisher"] = Field(
        "fisher",
        description="what makes a head or neuron important: its weights; what it adds on training texts; how much the "
        "loss would change without it, to the first order; or the same with what it shares with others",
    )
    uniform: bool = Field(False, description="the same number in every layer; otherwise layers may differ")
    reconstruct: bool = Field(
        True, description="refit, by least squares on training texts, what is left to answer as the whole did"
    )
    examples: int = Field(512, ge=8, description="training texts that importance and refit are measured on")
    multiple_of: int = Field(8, ge=1, description="neurons are kept in multiples of this, as kernels like them")

    @model_validator(mode="after")
    def _something(self) -> Prune:
        if all(given is None for given in (self.heads, self.neurons, self.layers, self.vocabulary)):
            raise ValueError("say what to take out: a share of `heads` or `neurons`, `layers`, or `vocabulary`")
        return self
