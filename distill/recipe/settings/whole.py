"""The whole recipe: a teacher, a student, data, steps in order, and what is expected of the result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from distill.recipe.settings.base import Metric, Settings, short
from distill.recipe.settings.compression import Prune, Quantize
from distill.recipe.settings.data import Data
from distill.recipe.settings.generation import Generation
from distill.recipe.settings.judging import Expect, Timing
from distill.recipe.settings.models import Student, Teacher
from distill.recipe.settings.telling import Ship, Track, _formats
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


_WRITING = ("text-to-text", "translation", "summarization")
# Words that only some tasks have a use for.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "generation": (*_WRITING, "causal-language-modelling"),
    "data.prefix": _WRITING,
    "data.target_length": _WRITING,
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
    generation: Generation | None = Field(None, description="how text is written, for tasks whose answer is one")
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
                raise ValueError(f"quantize comes last, but step {position} is followed by: {after}")
        return steps

    @model_validator(mode="after")
    def _words_of_the_task(self) -> Recipe:
        idle: dict[tuple[str, ...], list[str]] = {}
        for path, tasks in _ONLY_FOR.items():
            section, _, word = path.rpartition(".")
            said = getattr(getattr(self, section) if section else self, word) is not None
            if said and self.task not in tasks:
                idle.setdefault(tasks, []).append(path)
        if idle:
            told = [
                f"{', '.join(words)}: {self.task} has no use for it; {', '.join(tasks)} have"
                for tasks, words in idle.items()
            ]
            raise ValueError("; ".join(told))
        return self

    @model_validator(mode="after")
    def _something_to_ship(self) -> Recipe:
        if self.ship is not None and "onnx" in self.ship.formats and self.steps[-1].kind != "quantize":
            raise ValueError(
                "ship: onnx needs a graph; add `- quantize` as the last step, or ship [transformers] alone"
            )
        return self
