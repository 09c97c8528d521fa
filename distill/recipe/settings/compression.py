"""The steps that make a checkpoint smaller without training: prune and quantize."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from distill.recipe.settings.base import Settings, Share, short
from distill.recipe.settings.models import Side
from distill.recipe.settings.training import Distill


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
    group: Literal[16, 32, 64] = Field(32, description="how many 4-bit weights share a scale")
    changed: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of validation answers that may change before sensitive layers are left in more bits; of a "
        "model that foretells tokens, the share by which its perplexity may grow",
    )

    @property
    def is_static(self) -> bool:
        """Whether activations are scaled by ranges measured beforehand."""
        return self.weights == "int8" and self.activations == "static"


_MARGIN = 0.1


class Vocabulary(Settings):
    """Which tokens stay."""

    keep: Literal["used"] | Annotated[int, Field(ge=16)] = Field(
        "used",
        description="those that training texts use, or the most used ones up to this number; single characters, bytes "
        "and special tokens stay in any case",
    )
    margin: float = Field(
        _MARGIN, ge=0, le=10, description="unused tokens that stay beside the used ones, as a share of them"
    )

    @model_validator(mode="after")
    def _margin_beside_used(self) -> Vocabulary:
        if self.keep != "used" and self.margin != _MARGIN:
            raise ValueError("`margin` stands beside `keep: used`; a number says by itself how many tokens stay")
        return self


class Target(Settings):
    """What the checkpoint may still cost, as a share of what it costs before the step: exactly one of them."""

    latency: Share | None = Field(None, description="time of an answer on ONNX Runtime in fp32, on this machine")
    size: Share | None = Field(None, description="bytes of the file that holds the weights")
    parameters: Share | None = Field(None, description="number of parameters, tied ones counted once")
    batch: int = Field(1, ge=1, description="examples in the batch whose latency counts")
    tokens: int | None = Field(
        None, ge=2, description="tokens an example in it; the median of the training split when not said"
    )
    threads: int = Field(1, ge=1, description="threads that ONNX Runtime may use for it")

    @model_validator(mode="after")
    def _exactly_one(self) -> Target:
        if sum(given is not None for given in (self.latency, self.size, self.parameters)) != 1:
            raise ValueError("name exactly one of `latency`, `size` and `parameters`")
        idle = [word for word in ("batch", "tokens", "threads") if word in self.model_fields_set]
        if self.latency is None and any(getattr(self, word) != _TIMED[word] for word in idle):
            raise ValueError(
                f"{', '.join(f'`{word}`' for word in idle)} say how latency is measured; the target is not"
            )
        return self

    @property
    def word(self) -> Literal["latency", "size", "parameters"]:
        """What counts."""
        return "latency" if self.latency is not None else "size" if self.size is not None else "parameters"

    @property
    def share(self) -> float:
        """What may be left of it."""
        return getattr(self, self.word)


_TIMED = {word: Target.model_fields[word].default for word in ("batch", "tokens", "threads")}


class Gradually(Settings):
    """Prune in rounds with distillation after each; a recipe writes them out as steps of their own."""

    rounds: int = Field(3, ge=2, le=100, description="how many times it is pruned, and distilled after it")
    schedule: Literal["cubic", "linear"] = Field(
        "cubic",
        description="how shares and targets grow, most in the first rounds (Zhu and Gupta 2017) or evenly; layers go "
        "evenly",
    )
    distill: Distill = Field(default_factory=Distill, description="the distillation after each round")

    def shares(self) -> list[float]:
        """How much of all that goes is gone after each round; the last is 1."""
        done = [round_ / self.rounds for round_ in range(1, self.rounds + 1)]
        return [1 - (1 - share) ** 3 if self.schedule == "cubic" else share for share in done]


Going = Annotated[int, Field(ge=1)]


class Prune(Settings):
    """Take heads, neurons, layers and vocabulary out, the least important first, and factorise the embeddings."""

    heads: Share | None = Field(None, description="share of the attention heads to take out")
    neurons: Share | None = Field(None, description="share of the feed-forward neurons to take out")
    hidden_size: Share | None = Field(
        None, description="share of the hidden dimensions to take out, with the heads that there is no room for then"
    )
    layers: Going | dict[Side, Going] | None = Field(
        None,
        description="how many whole layers to take out, wherever they matter least; of an encoder-decoder also by "
        "side, as {decoder: 3}",
    )
    vocabulary: Annotated[Vocabulary, short("keep")] | None = Field(
        None, description="trim the vocabulary, and the embeddings with it: used, or a number of tokens"
    )
    embeddings: int | None = Field(
        None,
        ge=1,
        description="factorise the token table, V × H, into V × this · this × H, so that the tokens which training "
        "texts use most lose least; after the vocabulary is trimmed",
    )
    to: Target | None = Field(
        None, description="heads and neurons go wherever they matter least for what they cost, down to this target"
    )
    gradually: Gradually | None = Field(
        None, description="in rounds, with a distillation after each; shares and targets are those of the whole"
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
        words = (*_SHARES, "layers", "to", *_AT_ONCE)
        if all(getattr(self, word) is None for word in words):
            raise ValueError(
                "say what to take out: a share of `heads`, `neurons` or `hidden_size`, `layers`, `vocabulary`, a rank "
                "for `embeddings`, or `to`"
            )
        if self.to is not None and (self.heads is not None or self.neurons is not None):
            raise ValueError("`to` decides how many heads and neurons go; leave their shares out, or leave `to` out")
        if self.gradually is not None and all(getattr(self, word) is None for word in (*_SHARES, "layers", "to")):
            raise ValueError("`gradually` needs something that goes bit by bit: shares, `layers`, or `to`")
        at_once = next((word for word in _AT_ONCE if getattr(self, word) is not None), None)
        if self.gradually is not None and at_once is not None and self.to is not None and self.to.latency is None:
            raise ValueError(
                f"`{at_once}` goes in the first round and counts for `to: {{{self.to.word}: …}}`, so later rounds take "
                f"too much; put `{at_once}` into a `prune` step of its own before this one"
            )
        return self

    def rounds(self) -> list[Prune | Distill]:
        """The steps that `gradually` stands for: each round takes a share of what the round before has left.

        When s of all is to be gone after a round and r was gone before it, the round takes 1 - (1 - s)/(1 - r). The
        vocabulary, which no distillation brings back, goes in the first, and so do the embeddings' dimensions. A share
        too small to be told in six digits is not taken.
        """
        steps: list[Prune | Distill] = []
        before = 0.0
        for number, done in enumerate(self.gradually.shares(), start=1):
            told = {name: getattr(self, name) for name in type(self).model_fields}
            told |= {"gradually": None}
            for what in _SHARES:
                if (share := told.get(what)) is not None:
                    told[what] = _digits(1 - (1 - share * done) / (1 - share * before)) or None
            if self.to is not None:
                gone = 1 - self.to.share
                left = _digits((1 - gone * done) / (1 - gone * before))
                told["to"] = self.to.model_copy(update={self.to.word: left}) if left < 1 else None
            if self.layers is not None:
                told["layers"] = self._layers_in(number)
            if number > 1:
                told |= dict.fromkeys(_AT_ONCE)
            before = done
            if any(told.get(word) is not None for word in (*_SHARES, "layers", "to", *_AT_ONCE)):
                steps += [type(self)(**told), self.gradually.distill]
        return steps

    def _layers_in(self, number: int) -> int | dict[str, int] | None:
        """How many layers go in a round, counted from 1: evenly, on each side."""

        def share(of: int) -> int:
            return round(of * number / self.gradually.rounds) - round(of * (number - 1) / self.gradually.rounds)

        if not isinstance(self.layers, dict):
            return share(self.layers) or None
        return {side: share(of) for side, of in self.layers.items() if share(of)} or None


_SHARES = ("heads", "neurons", "hidden_size")  # what goes share by share
_AT_ONCE = ("vocabulary", "embeddings")  # what goes in the first of several rounds


def _digits(share: float) -> float:
    return round(share, 6)
