"""What a recipe can say: frozen, validated, every default in one place.

The words are the field's own. `Recipe` is the whole; `Finetune`, `Distill` and `Quantize` are the steps' settings
and can be written in Python just as well as in YAML.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
Metric = Literal["accuracy", "macro_f1", "micro_f1", "matthews", "spearman", "pearson"]
Share = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """Frozen settings that refuse words they don't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def _short(key: str):
    """Lets `logits: 0.7` stand for `logits: {weight: 0.7}`, and the like."""

    def expand(value: Any) -> Any:
        return {key: value} if value is not None and not isinstance(value, dict | BaseModel) else value

    return BeforeValidator(expand)


# ---------------------------------------------------------------------------------------------------- data


class Source(Settings):
    """Where the rows come from: one of `path`, `hub`, or `package` with `path`."""

    path: str | None = Field(None, description="a csv, tsv, json, jsonl, parquet or txt file, or a folder a class")
    package: str | None = Field(None, description="installed Python package that ships the files; `path` is inside it")
    hub: str | None = Field(None, description="id of a dataset on the Hugging Face Hub")
    config: str | None = Field(None, description="configuration of the Hub dataset, such as `sst2` of GLUE")
    revision: str | None = Field(None, description="revision of the Hub dataset; pin it to make a run repeatable")
    split: str = Field("train", description="split of the Hub dataset to take for training")
    encoding: str | list[str] = Field(
        "utf-8", description="how text files are encoded; of a list, the first that fits a file"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | list[str]) -> str | list[str]:
        for name in [value] if isinstance(value, str) else value:
            try:
                codecs.lookup(name)
            except LookupError:
                raise ValueError(f"Python knows no encoding '{name}'") from None
        if not value:
            raise ValueError("name an encoding, such as utf-8")
        return value

    @property
    def encodings(self) -> list[str]:
        """The encodings to try, in order."""
        return [self.encoding] if isinstance(self.encoding, str) else self.encoding

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.hub is None and self.path is None:
            raise ValueError("say where the data is: `path` (with `package` if a package ships it) or `hub`")
        if self.hub is not None and (self.path is not None or self.package is not None):
            raise ValueError("`hub` stands alone; `path` and `package` are for files on this machine")
        if self.hub is None and (self.config is not None or self.revision is not None):
            raise ValueError("`config` and `revision` belong to `hub`")
        return self


class Data(Settings):
    """The rows, what their columns mean, and how they are split."""

    source: Annotated[Source, _short("path")] = Field(description="where the rows come from")
    text: str | list[str] = Field("text", description="the text column, or a list of two for pairs of texts")
    label: str | list[str] = Field("label", description="the label column, or a list of 0/1 columns for many labels")
    separator: str | None = Field(None, description="splits one label column into many labels, such as ';'")
    problem: Problem | None = Field(
        None, description="one label, many labels or a number a row; read off the label column when not said"
    )
    validation: Share | str = Field(
        0.1, description="share of the rows, or the split or file, that choices are made on"
    )
    test: Share | str = Field(0.2, description="share of the rows, or the split or file, that is only ever scored")
    max_length: int | None = Field(None, ge=4, description="tokens a text is cut to; the teacher's limit when not said")
    limit: int | None = Field(None, ge=10, description="take only so many rows, each class in proportion")
    licence: str | None = Field(None, description="the data's licence, for the card of what is shipped")
    note: str | None = Field(None, description="what a user must know of this data; a run says it")

    @field_validator("text")
    @classmethod
    def _one_or_two(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and len(value) not in (1, 2):
            raise ValueError("one text column, or a list of two")
        return value

    @property
    def text_columns(self) -> list[str]:
        """The one or two text columns, as a list."""
        return [self.text] if isinstance(self.text, str) else self.text


# -------------------------------------------------------------------------------------------------- training


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
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimizer steps, whatever `epochs` says")
    patience: int = Field(2, ge=1, description="stop after so many epochs without a better validation score")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="what the arithmetic runs in; `auto` is bfloat16 where the hardware has it"
    )


class Finetune(Training):
    """Train on the labels alone."""


class Term(Settings):
    """One term of the loss."""

    weight: float = Field(gt=0, description="the term's factor in the sum")


class LogitsTerm(Term):
    """Imitate the teacher's logits."""

    loss: Literal["kl", "mse"] = Field(
        "kl", description="kl: softened by the temperature and scaled by its square; mse: the raw logits"
    )


class HiddenStatesTerm(Term):
    """Imitate the teacher's hidden states on real tokens."""

    loss: Literal["cosine", "mse"] = Field("cosine", description="how far a student's vector is from the teacher's")
    layers: Literal["even", "last"] | list[int] | dict[int, int] = Field(
        "even",
        description="which teacher layer each student layer follows: even, last, a list of teacher layers (one a "
        "student layer) or {student layer: teacher layer}; layers count from 1, 0 is the embeddings",
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        """The keys of a map come as words: JSON has no others."""
        if not isinstance(value, dict):
            return value
        return {int(key) if isinstance(key, str) and key.isdecimal() else key: layer for key, layer in value.items()}


class Imitate(Settings):
    """What the student imitates, and how much each term counts."""

    logits: Annotated[LogitsTerm, _short("weight")] | None = Field(None, description="the teacher's logits")
    hidden_states: Annotated[HiddenStatesTerm, _short("weight")] | None = Field(
        None, description="the teacher's hidden states"
    )
    labels: Annotated[Term, _short("weight")] | None = Field(None, description="the true labels")

    @model_validator(mode="after")
    def _something(self) -> Imitate:
        if self.logits is None and self.hidden_states is None:
            raise ValueError("give `logits` or `hidden_states` a weight (labels alone is the step `finetune`)")
        return self


class Distill(Training):
    """Train a student to imitate its teacher."""

    imitate: Imitate = Field(
        default_factory=lambda: Imitate(logits=LogitsTerm(weight=1.0)), description="the terms of the loss"
    )
    temperature: float = Field(2.0, gt=0, description="softens both distributions before they are compared")


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
    """Take heads, neurons, layers and vocabulary out, the least important first."""

    heads: Share | None = Field(None, description="share of the attention heads to take out")
    neurons: Share | None = Field(None, description="share of the feed-forward neurons to take out")
    layers: int | None = Field(None, ge=1, description="how many whole layers to take out")
    vocabulary: Annotated[Vocabulary, _short("keep")] | None = Field(
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


class Step(Settings):
    """One step: exactly one of these words."""

    finetune: Finetune | None = Field(None, description="train on the labels alone")
    distill: Distill | None = Field(None, description="train the student to imitate the teacher")
    prune: Prune | None = Field(None, description="take heads, neurons and layers out, the least important first")
    quantize: Quantize | None = Field(None, description="export to ONNX and store weights in fewer bits; comes last")

    @model_validator(mode="before")
    @classmethod
    def _bare_word(cls, value: Any) -> Any:
        """`- quantize` stands for `- quantize: {}`, and so does `- quantize:` with nothing behind it."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {key: {} if inner is None else inner for key, inner in value.items()}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Step:
        if len([name for name in type(self).model_fields if getattr(self, name) is not None]) != 1:
            raise ValueError(f"a step is exactly one of: {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """The step's word."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def settings(self) -> Finetune | Distill | Prune | Quantize:
        """The step's settings."""
        return getattr(self, self.kind)


# ----------------------------------------------------------------------------------------- teacher and student


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


# ----------------------------------------------------------------------------------------- expect and timing

_BOUND = re.compile(r"\s*at (least|most)\s+([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


class Bound(Settings):
    """`at least 0.97` or `at most 0.2`."""

    side: Literal["least", "most"]
    value: float

    def holds(self, measured: float) -> bool:
        """Whether a measured value keeps the bound."""
        return measured >= self.value if self.side == "least" else measured <= self.value

    def __str__(self) -> str:
        return f"at {self.side} {self.value:g}"


def _read_bound(value: Any) -> Any:
    if isinstance(value, dict | Bound) or value is None:
        return value
    found = _BOUND.fullmatch(str(value))
    if found is None:
        raise ValueError(f"write 'at least 0.97' or 'at most 0.2', not {value!r}")
    return {"side": found[1], "value": float(found[2])}


AtLeastOrMost = Annotated[Bound, BeforeValidator(_read_bound)]


class Expect(Settings):
    """What the last step's checkpoint must reach, or the run exits with 1. Ratios are to the teacher."""

    retained: AtLeastOrMost | None = Field(None, description="score divided by the teacher's score")
    score: AtLeastOrMost | None = Field(None, description="the score itself")
    size: AtLeastOrMost | None = Field(None, description="bytes of the files an engine needs, over the teacher's")
    parameters: AtLeastOrMost | None = Field(None, description="number of parameters, over the teacher's")
    latency_vs_eager: AtLeastOrMost | None = Field(
        None, description="median latency over that of the teacher in eager torch, first timing batch"
    )
    latency_same_engine: AtLeastOrMost | None = Field(
        None, description="median latency over that of the teacher on the same engine, first timing batch"
    )


class Timing(Settings):
    """How latency is measured: all checkpoints interleaved in one session."""

    batch: list[int] = Field([1, 32], min_length=1, description="batch sizes; `expect` judges the first")
    tokens: int | None = Field(None, ge=2, description="tokens an example; the median of the test split when not said")
    threads: int = Field(1, ge=1, description="threads an engine may use")
    rounds: int = Field(10, ge=3, description="measured answers for each engine and batch")

    @field_validator("batch")
    @classmethod
    def _positive(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("a batch holds at least one example")
        return value


# ----------------------------------------------------------------------------------------- ship and track

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


def _formats(value: Any) -> Any:
    """`[transformers, onnx]` stands for `{formats: [transformers, onnx]}`."""
    return {"formats": value} if isinstance(value, list) else value


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
        None, pattern=r"^[A-Z]{3}$", description="ISO code such as FRA, whose grid turns energy into CO2"
    )


# ------------------------------------------------------------------------------------------------- the whole


class Recipe(Settings):
    """A teacher, a student, data, steps in order, and what is expected of the result."""

    task: Literal["text-classification"] = Field(description="what the checkpoint is for")
    metric: Metric | None = Field(None, description="the score that decides; each kind of problem has its own")
    teacher: Annotated[Teacher, _short("card")] = Field(description="whom the student learns from")
    student: Student = Field(description="who learns")
    data: Data = Field(description="what both are trained and measured on")
    steps: list[Step] = Field(min_length=1, description="what is done to the student, in this order")
    expect: Expect = Field(default_factory=Expect, description="what the result must reach")
    timing: Timing = Field(default_factory=Timing, description="how latency is measured")
    ship: Annotated[Ship, BeforeValidator(_formats)] | None = Field(
        None, description="what is handed over, if anything"
    )
    track: Track = Field(default_factory=Track, description="what is told to W&B, and the energy of training")
    seed: int = Field(0, ge=0, lt=2**32, description="of splits, initial weights, batches and dropout")

    @field_validator("steps")
    @classmethod
    def _quantize_last(cls, steps: list[Step]) -> list[Step]:
        for position, step in enumerate(steps[:-1]):
            if step.kind == "quantize":
                after = ", ".join(later.kind for later in steps[position + 1 :])
                raise ValueError(f"quantize comes last, but step {position} is followed by: {after}")
        return steps

    @model_validator(mode="after")
    def _something_to_ship(self) -> Recipe:
        if self.ship is not None and "onnx" in self.ship.formats and self.steps[-1].kind != "quantize":
            raise ValueError(
                "ship: onnx needs a graph; add `- quantize` as the last step, or ship [transformers] alone"
            )
        return self
