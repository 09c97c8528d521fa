"""The arms of a recipe: what is carried out beside its own chain, to see what distillation bought and what luck did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from distill.recipe.settings import Control, Distill, Finetune, Recipe, Step

RECIPE = "recipe"  # what the recipe's own chain is called among its arms
Growth = Callable[[Distill], float]


def _none(_: Distill) -> float:
    return 1.0


@dataclass(frozen=True)
class Arm:
    """The student's way from start to last torch checkpoint, once more: with another seed, or as a control."""

    seed: int
    control: Control | None = None

    @property
    def kind(self) -> str:
        """What is carried out: the recipe itself, or a control."""
        return self.control or RECIPE

    @property
    def name(self) -> str:
        """As stages and folders have it."""
        return f"{self.kind}-{self.seed}"

    def steps(self, recipe: Recipe, growth: Growth = _none) -> list[tuple[str, Step]]:
        """The steps with their titles, as this arm carries them out: up to the last torch checkpoint.

        `growth` is how many times the steps of an epoch over labelled texts a distillation takes, with those that its
        teacher labels.
        """
        told = [_without_teacher(step, growth) if self.control == "finetune" else step for step in recipe.steps]
        return [(f"{place}-{step.kind}", step) for place, step in enumerate(told, 1) if step.quantize is None]


def seeds_of(recipe: Recipe) -> list[int]:
    """The seeds of the student, the one that ships first."""
    if isinstance(recipe.seeds, list):
        return recipe.seeds
    return list(range(recipe.seed, recipe.seed + (recipe.seeds or 1)))


def arms_of(recipe: Recipe) -> list[Arm]:
    """Everything beside the recipe's own chain, which has the first seed."""
    seeds = seeds_of(recipe)
    return [Arm(seed) for seed in seeds[1:]] + [Arm(s, control) for control in recipe.control or () for s in seeds]


def trainings_in(recipe: Recipe, arm: Arm, growth: Growth = _none) -> list[tuple[str, Distill | Finetune]]:
    """The titles and settings of the steps that train."""
    steps = arm.steps(recipe, growth)
    return [(title, step.settings) for title, step in steps if step.kind in ("distill", "finetune")]


def _without_teacher(step: Step, growth: Growth) -> Step:
    """The same training on the labels alone: every word that both training steps know stays as it is, but for epochs
    (and the patience, which counts them): over fewer texts there are more of them in as many steps.
    """
    if step.distill is None:
        return step
    words = {word: getattr(step.distill, word) for word in Finetune.model_fields}
    if (times := growth(step.distill)) != 1:
        words |= {"epochs": times * words["epochs"], "patience": math.ceil(times * words["patience"])}
    return Step(finetune=Finetune(**words))
