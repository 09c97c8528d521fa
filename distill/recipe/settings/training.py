"""The two training steps: finetune and distill."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from distill.recipe.settings.base import Settings, short
from distill.recipe.settings.signals import Kept


class Training(Settings):
    """The words that both training steps share."""

    epochs: float = Field(3, gt=0, description="passes over the training split")
    learning_rate: float = Field(5e-5, gt=0, lt=1, description="the highest learning rate of the schedule")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="how the rate falls after warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's decay of weights, not of biases and norms")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout while training; the checkpoint's own when not said, and 0 is fastest",
    )
    batch_size: int = Field(32, ge=1, description="most examples in a batch")
    batch_tokens: int = Field(8192, ge=16, description="most tokens in a batch, padding included")
    accumulate: int = Field(
        1, ge=1, description="batches whose gradients make one optimizer step; each counts alike, however much is in it"
    )
    freeze: list[Literal["embeddings", "encoder"]] = Field(
        [], description="parts whose weights stay as they are; a head that is tied to the embeddings stays with them"
    )
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimizer steps, whatever `epochs` says")
    patience: int = Field(2, ge=1, description="stop after so many epochs without a better validation score")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="what the arithmetic runs in; `auto` is bfloat16 where the hardware has it"
    )
    compile: bool | None = Field(
        None,
        description="compile student and teacher (torch.compile) while training: it pays in long trainings, and takes "
        "a C++ compiler",
    )
    simulate: Literal["int8"] | None = Field(
        None,
        description="train, and choose the best epoch, with every weight matrix and what enters it rounded as "
        "`quantize` will round them (quantization-aware); the checkpoint keeps its own weights",
    )

    @field_validator("compile")
    @classmethod
    def _said(cls, value: bool | None) -> bool | None:
        """False is what it is when nothing is said, and gives the same key."""
        return value or None

    @model_validator(mode="after")
    def _compiles(self) -> Training:
        if self.compile and self.simulate is not None:
            raise ValueError("`simulate` changes layers in ways that are not compiled; leave `compile` out")
        return self


class Finetune(Training):
    """Train on the labels alone."""


class Term(Settings):
    """One term of the loss."""

    weight: float = Field(gt=0, description="the term's factor in the sum")


class LogitsTerm(Term):
    """Imitate the teacher's logits."""

    loss: Literal["kl", "reverse_kl", "js", "skew_kl", "decoupled_kl", "mse"] = Field(
        "kl",
        description="mse compares raw logits; the others distributions that the temperature softens, scaled by its "
        "square: kl (teacher to student), reverse_kl (student to teacher), js (both to their mixture), skew_kl "
        "(teacher to a mixture with itself), decoupled_kl (the true class apart from the others)",
    )
    beta: float | None = Field(
        None, ge=0, le=1, description="js: the teacher's share in the mixture; 0.5 if not said, 0 is kl, 1 reverse_kl"
    )
    skew: float | None = Field(None, ge=0, lt=1, description="skew_kl: the teacher's share; 0.1 if not said")
    target: float | None = Field(None, ge=0, description="decoupled_kl: weight of the true class; 1 if not said")
    others: float | None = Field(None, ge=0, description="decoupled_kl: weight of the other classes; 8 if not said")

    @model_validator(mode="after")
    def _own_words(self) -> LogitsTerm:
        for word, loss in (("beta", "js"), ("skew", "skew_kl"), ("target", "decoupled_kl"), ("others", "decoupled_kl")):
            if getattr(self, word) is not None and self.loss != loss:
                raise ValueError(f"`{word}` belongs to `loss: {loss}`, not to {self.loss}")
        return self

    @property
    def needs_whole(self) -> str | None:
        """Why the loss can do nothing with a few tokens' logits and the mass of all others; None where it can."""
        return {
            "mse": "it compares every logit, and mass says nothing of the logits in it",
            "decoupled_kl": "it parts the true class from the others, and the true class may be among those not kept",
        }.get(self.loss)

    @property
    def words(self) -> dict[str, float]:
        """What the loss is told beside the logits and the temperature."""
        return self.model_dump(include={"beta", "skew", "target", "others"}, exclude_none=True)


_Map = Literal["even", "skip", "last", "top", "learned"] | list[int] | dict[int, int]


class _LayeredTerm(Term):
    """A term that compares layers."""

    layers: _Map = Field(
        "even",
        description="which teacher layer each student layer follows: even (spread over all), skip (every k-th, the "
        "last left out), last (the last ones), top (the last of each alone), learned (a mixture of all, whose weights "
        "are trained along), a list of teacher layers (one a student layer) or {student layer: teacher layer}; layers "
        "count from 1, and 0 is the embeddings",
    )
    map_learning_rate: float | None = Field(
        None, gt=0, lt=1, description="learned: the highest learning rate of the map's own weights; 0.01 if not said"
    )
    side: Literal["encoder", "decoder", "both"] | None = Field(
        None, description="of an encoder-decoder, whose layers these are; the decoder's when not said"
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        """The keys of a map come as words: JSON has no others."""
        if not isinstance(value, dict):
            return value
        return {int(key) if isinstance(key, str) and key.isdecimal() else key: layer for key, layer in value.items()}

    @model_validator(mode="after")
    def _learned(self) -> _LayeredTerm:
        if self.map_learning_rate is not None and self.layers != "learned":
            raise ValueError(f"`map_learning_rate` belongs to `layers: learned`, not to {self.layers}")
        return self

    @property
    def map_rate(self) -> float:
        """The learning rate of a learned map: far above a student's, as its few weights start at nearly nothing."""
        return self.map_learning_rate or 0.01


class HiddenStatesTerm(_LayeredTerm):
    """Imitate the teacher's hidden states on real tokens."""

    loss: Literal["cosine", "mse"] = Field("cosine", description="how far a student's vector is from the teacher's")
    projection_learning_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the highest learning rate of the projections that bridge different widths; the student's own "
        "`learning_rate` when not said",
    )


class AttentionsTerm(_LayeredTerm):
    """Imitate where the teacher's tokens look: KL between attention distributions, head by head, or between their means
    over the heads where the two have different numbers of heads.
    """


class RelationsTerm(_LayeredTerm):
    """Imitate how the teacher's tokens relate to each other in their queries, keys and values (MiniLMv2): KL between
    softmax(A Aᵀ / √d), so that neither widths nor head counts must match.
    """

    layers: _Map = Field(
        "top",
        description="which teacher layer each student layer follows: top (the last of each alone, as in MiniLMv2), or "
        "as for hidden states",
    )
    of: list[Literal["query", "key", "value"]] = Field(
        ["query", "key", "value"], min_length=1, description="which vectors are related"
    )
    heads: int | None = Field(
        None, ge=1, description="relation heads that all vectors are cut into; the teacher's own number when not said"
    )


class Imitate(Settings):
    """What the student imitates, and how much each term counts."""

    logits: Annotated[LogitsTerm, short("weight")] | None = Field(None, description="the teacher's logits")
    hidden_states: Annotated[HiddenStatesTerm, short("weight")] | None = Field(
        None, description="the teacher's hidden states"
    )
    attentions: Annotated[AttentionsTerm, short("weight")] | None = Field(
        None, description="where the teacher's tokens look; takes eager attention, and a teacher in every step"
    )
    relations: Annotated[RelationsTerm, short("weight")] | None = Field(
        None, description="how the teacher's tokens relate to each other in their queries, keys and values"
    )
    labels: Annotated[Term, short("weight")] | None = Field(None, description="the true labels")

    @property
    def by_layer(self) -> dict[str, HiddenStatesTerm | AttentionsTerm | RelationsTerm]:
        """The terms that compare layers, by name."""
        named = {"hidden_states": self.hidden_states, "attentions": self.attentions, "relations": self.relations}
        return {name: term for name, term in named.items() if term is not None}


class Distill(Training):
    """Train a student to imitate its teacher."""

    targets: Literal["teacher"] | None = Field(
        None,
        description="whose texts a student learns to write: the data's when not said, or the teacher's, who writes one "
        "for each text of the training split (sequence-level distillation), once, as `generation` says; they are kept",
    )
    imitate: Imitate = Field(
        default_factory=lambda: Imitate(logits=LogitsTerm(weight=1.0)), description="the terms of the loss"
    )
    temperature: float = Field(2.0, gt=0, description="softens both distributions before they are compared")
    signals: Annotated[Kept, short("logits")] | None = Field(
        None, description="how the teacher's signals are kept; a word or number alone is for `logits`"
    )

    @model_validator(mode="before")
    @classmethod
    def _texts_are_labels(cls, value: Any) -> Any:
        """`targets: teacher` alone is plain sequence-level distillation: the texts are all that is imitated."""
        if isinstance(value, dict) and value.get("targets") == "teacher" and value.get("imitate") is None:
            return {**value, "imitate": {"labels": 1.0}}
        return value

    @model_validator(mode="after")
    def _compiles_without_hooks(self) -> Distill:
        if self.compile and self.imitate.relations is not None:
            raise ValueError(
                "`relations` are read off layers through hooks, which are set anew in every step and would be compiled "
                "anew; leave `compile` or `relations` out"
            )
        return self

    @field_validator("imitate")
    @classmethod
    def _something(cls, value: Imitate, info: ValidationInfo) -> Imitate:
        written = info.data.get("targets") is not None and value.labels is not None
        if value.logits is None and not value.by_layer and not written:
            raise ValueError(
                "give `logits`, `hidden_states`, `attentions` or `relations` a weight (labels alone is the step "
                "`finetune`)"
            )
        return value

    @model_validator(mode="after")
    def _can_be_kept(self) -> Distill:
        """Some of the logits serve some losses; and what runs in every step keeps nothing."""
        kept, logits = self.kept, self.imitate.logits
        if self.labelled_by_graph and self.imitate.by_layer:
            raise ValueError(
                f"signals.engine: {self.signals.engine}: a graph gives logits alone, and "
                f"{' and '.join(self.imitate.by_layer)} are imitated too; say bfloat16, or auto"
            )
        engine = self.signals.engine if self.signals else None
        if self.imitate.attentions is not None and (engine is not None or kept not in (None, "off", "auto")):
            raise ValueError("attentions take a teacher in every step, so no signals are kept; leave `signals` out")
        if kept in (None, "off", "auto"):
            return self
        if logits is None:
            raise ValueError("`signals.logits` says how imitated logits are kept; give `imitate.logits` a weight")
        if kept != "whole" and (reason := logits.needs_whole):
            raise ValueError(f"signals.logits: {kept}: {logits.loss} takes whole logits: {reason}; say whole, or auto")
        return self

    @property
    def kept(self) -> str | int | None:
        """What is kept of logits over a vocabulary, where the recipe says so."""
        return self.signals.logits if self.signals is not None else None

    @property
    def labelled_by_graph(self) -> bool:
        """Whether a graph on ONNX Runtime is asked for to compute the teacher's signals."""
        return self.signals is not None and self.signals.engine in ("onnx-fp32", "onnx-int8")
