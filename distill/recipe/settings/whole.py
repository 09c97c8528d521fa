"""The whole recipe: a teacher, a student, data, steps in order, and what is expected of the result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from distill.recipe.settings.base import Metric, Settings, short
from distill.recipe.settings.compression import Prune, Quantize
from distill.recipe.settings.data import Data
from distill.recipe.settings.generation import Generation
from distill.recipe.settings.judging import Expect, Timing
from distill.recipe.settings.models import Student, Teacher
from distill.recipe.settings.telling import Ship, Track
from distill.recipe.settings.training import Distill, Finetune


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


Control = Literal["finetune", "random-init"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _listed(value: Any) -> Any:
    """`control: finetune` stands for `control: [finetune]`."""
    return [value] if isinstance(value, str) else value


_WRITING = ("text-to-text", "translation", "summarization")
# Words that only some tasks have a use for.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "generation": (*_WRITING, "causal-language-modelling"),
    "data.problem": ("text-classification",),
    "data.separator": ("text-classification",),
    "data.classes": ("text-classification", "token-classification"),
    "data.prefix": _WRITING,
    "data.target_length": _WRITING,
    "timing.new_tokens": (*_WRITING, "causal-language-modelling"),
}


class Recipe(Settings):
    """A teacher, a student, data, steps in order, and what is expected of the result."""

    task: Literal[
        "text-classification",
        "masked-language-modelling",
        "causal-language-modelling",
        "text-to-text",
        "translation",
        "summarization",
        "token-classification",
        "question-answering",
    ] = Field(description="what the checkpoint is for")
    metric: Metric | None = Field(None, description="the score that decides; each kind of problem has its own")
    teacher: Annotated[Teacher, short("card")] = Field(description="whom the student learns from")
    student: Student = Field(description="who learns")
    data: Data = Field(description="what both are trained and measured on")
    generation: Generation | None = Field(None, description="how text is written, for checkpoints that write some")
    steps: list[Step] = Field(min_length=1, description="what is done to the student, in this order")
    control: Annotated[list[Control], Field(min_length=1), BeforeValidator(_listed)] | None = Field(
        None,
        description="what is carried out beside the steps, on the same budget, so that the report can say what "
        "distillation bought: `finetune` is the same student without its teacher (every `distill` becomes a `finetune` "
        "on the labels), `random-init` the same steps from random weights of the student's shape",
    )
    expect: Expect = Field(default_factory=Expect, description="what the result must reach")
    timing: Timing = Field(default_factory=Timing, description="how latency is measured")
    ship: Annotated[Ship, short("formats")] | None = Field(None, description="what is handed over, if anything")
    track: Track = Field(default_factory=Track, description="what is told to W&B, and the energy of training")
    seed: int = Field(0, ge=0, lt=2**32, description="of splits, initial weights, batches and dropout")
    seeds: Annotated[int, Field(ge=1, le=100)] | Annotated[list[Seed], Field(min_length=1)] | None = Field(
        None,
        description="how many times the student's way is gone, with `seed`, `seed` + 1, …, or a list of seeds; splits "
        "and teacher stay those of `seed`, and what is measured in full and ships is the first one's; once when not "
        "said",
    )

    @field_validator("steps")
    @classmethod
    def _rounds_written_out(cls, steps: list[Step]) -> list[Step]:
        """A prune that goes gradually becomes the prunes and distillations that it stands for."""
        written: list[Step] = []
        for step in steps:
            if step.prune is not None and step.prune.gradually is not None:
                rounds = step.prune.rounds()
                written += [Step(**{"prune" if isinstance(one, Prune) else "distill": one}) for one in rounds]
            else:
                written.append(step)
        return written

    @field_validator("steps")
    @classmethod
    def _quantize_last(cls, steps: list[Step]) -> list[Step]:
        for position, step in enumerate(steps[:-1]):
            if step.kind == "quantize":
                after = ", ".join(later.kind for later in steps[position + 1 :])
                raise ValueError(f"quantize comes last, but steps.{position} is one, and behind it come: {after}")
        return steps

    @field_validator("control")
    @classmethod
    def _something_to_control(cls, control: list[Control] | None, info: ValidationInfo) -> list[Control] | None:
        steps, student = info.data.get("steps"), info.data.get("student")
        if control is None or steps is None or student is None:
            return control
        if len(set(control)) < len(control):
            raise ValueError(f"names one twice: {', '.join(control)}")
        if not any(step.kind == "distill" for step in steps):
            raise ValueError("no step is a `distill`, so there is nothing to hold against it; leave `control` out")
        if "random-init" in control and student.config is not None:
            raise ValueError("random-init: a student made from a `config` has random weights anyway; leave it out")
        return control

    @field_validator("seeds")
    @classmethod
    def _seeds_that_differ(cls, seeds: int | list[int] | None, info: ValidationInfo) -> int | list[int] | None:
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise ValueError(f"names one twice: {', '.join(map(str, seeds))}")
        if isinstance(seeds, int) and info.data.get("seed", 0) + seeds > 2**32:
            raise ValueError(f"{seeds} seeds from {info.data['seed']} on go beyond {2**32 - 1}; list them instead")
        several = seeds is not None and seeds != 1 and seeds != [info.data.get("seed")]
        if several and not any(step.kind in ("distill", "finetune") for step in info.data.get("steps", ())):
            raise ValueError("no step trains, so every seed would give much the same; leave `seeds` out")
        return seeds

    @model_validator(mode="after")
    def _words_of_the_task(self) -> Recipe:
        idle: dict[tuple[str, ...], list[str]] = {}
        for path, tasks in _ONLY_FOR.items():
            section, _, word = path.rpartition(".")
            said = getattr(getattr(self, section) if section else self, word) is not None
            if said and self.task not in tasks:
                idle.setdefault(tasks, []).append(path)
        for place, step in enumerate(self.steps):
            if step.distill is not None and step.distill.targets is not None and self.task not in _WRITING:
                idle.setdefault(_WRITING, []).append(f"steps.{place}.distill.targets")
        if idle:
            told = [
                f"{', '.join(words)}: {self.task} has no use for it; {', '.join(tasks)} have"
                for tasks, words in idle.items()
            ]
            raise ValueError("; ".join(told))
        return self

    @model_validator(mode="after")
    def _label_is_no_text(self) -> Recipe:
        both = set(self.data.text_columns) & set(self.data.columns[len(self.data.text_columns) :])
        if both and self.task == "text-classification":
            raise ValueError(
                f"data: column '{min(both)}' is a text and the label, so a model would read the answer; leave it out "
                "of data.text"
            )
        return self

    @model_validator(mode="after")
    def _several_write_no_text(self) -> Recipe:
        if self.teacher.ensemble is None:
            return self
        if self.task in _WRITING or any(step.distill is not None and step.distill.targets for step in self.steps):
            raise ValueError(
                "teacher.ensemble: a text is written token by token by one model, so an ensemble writes none and its "
                "score can't be measured; name one teacher"
            )
        return self

    @model_validator(mode="after")
    def _texts_of_writers_alone(self) -> Recipe:
        for position, step in enumerate(self.steps):
            if step.distill is not None and step.distill.targets is not None and self.task not in _WRITING:
                raise ValueError(
                    f"steps.{position}.distill.targets: {self.task} learns no texts that a teacher writes; "
                    f"{', '.join(_WRITING)} do; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _something_to_ship(self) -> Recipe:
        if self.ship is not None and "onnx" in self.ship.formats and self.steps[-1].kind != "quantize":
            raise ValueError(
                "ship: onnx needs a graph; add `- quantize` as the last step, or ship [transformers] alone"
            )
        return self
