"""The steps that make a checkpoint smaller without training: prune and quantize."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.recipe.settings.base import Settings, Share, short


class Quantize(Settings):
    """Export to ONNX, then store weights in fewer bits. Comes last."""

    weights: Literal["int8"] = Field("int8", description="what the weights, the embedding table included, become")


class Vocabulary(Settings):
    """Which tokens stay."""

    keep: Literal["used"] | Annotated[int, Field(ge=16)] = Field(
        "used", description="those that training texts use, or the most used ones up to this number"
    )
    margin: float = Field(
        0.1, ge=0, le=10, description="unused tokens that stay beside the used ones, as a share of them"
    )


class Prune(Settings):
    """Take heads, neurons, layers and vocabulary out, the least important first, and factorise the embeddings."""

    heads: Share | None = Field(None, description="share of the attention heads to take out")
    neurons: Share | None = Field(None, description="share of the feed-forward neurons to take out")
    layers: int | None = Field(None, ge=1, description="how many whole layers to take out")
    vocabulary: Annotated[Vocabulary, short("keep")] | None = Field(
        None, description="trim the vocabulary, and the embeddings with it: used, or a number of tokens"
    )
    embeddings: int | None = Field(
        None,
        ge=1,
        description="factorise the token table, V × H, into V × this · this × H, so that the tokens which training "
        "texts use most lose least; after the vocabulary is trimmed",
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
        if all(given is None for given in (self.heads, self.neurons, self.layers, self.vocabulary, self.embeddings)):
            raise ValueError(
                "say what to take out: a share of `heads` or `neurons`, `layers`, `vocabulary`, or a rank for "
                "`embeddings`"
            )
        return self
