"""A W&B sweep out of a recipe in which settings are left open: `{choose: [a, b]}` or `{between: [low, high]}`."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from distill.errors import RecipeError
from distill.library import nearest
from distill.recipe.lines import Lines, line_of
from distill.recipe.reading import read_tree, settle, sweep_words
from distill.recipe.settings import Expect, Recipe
from distill.tasks import LOWER
from distill.tasks.metrics import METRICS_OF

Method = Literal["grid", "random", "bayes"]
METRICS = tuple(Expect.model_fields)  # what a run tells W&B of its result
_MOST_COMBINATIONS = 5000
_ORDERS = 100  # high over low, from where on values are drawn evenly over orders of magnitude
Sweep = dict[str, Any]
Choices = dict[str, list[Any]]  # dotted path → the values, or both ends


def sweep(path: Path, *, metric: str = "retained", method: Method | None = None, project: str | None = None) -> Sweep:
    """The sweep's configuration, as `wandb sweep` reads it.

    Its agents run `distill run RECIPE PATH=VALUE…`. Between two whole numbers only whole numbers are tried; where the
    higher number is 100 times the lower or more, values are drawn evenly on a logarithmic scale. The method is grid
    where everything is chosen from lists, else bayes. The project is the recipe's when not said. Raises RecipeError
    when a combination of values is no valid recipe.
    """
    if metric not in METRICS:
        raise RecipeError(f"--metric {metric}: not known{nearest(metric, list(METRICS))} (known: {', '.join(METRICS)})")
    tree, lines = read_tree(path)
    open_ = {".".join(place): word for place, word in sweep_words(tree)}
    if not open_:
        raise RecipeError(
            f"{path}: nothing to sweep over; write {{choose: [a, b]}} or {{between: [low, high]}} in place of a value"
        )
    parameters, choices, problems = {}, {}, []
    for place, word in open_.items():
        try:
            parameters[place], choices[place] = _parameter(word)
        except ValueError as error:
            problems.append(f"{path}{line_of(tuple(place.split('.')), lines)}: {place}: {error}")
    if problems:
        raise RecipeError(problems)
    recipe = _check(tree, lines, path, choices)
    track, scored = recipe.track, recipe.metric or METRICS_OF.get(recipe.task.replace("-", "_"), ("accuracy",))[0]
    rising = metric == "retained" or (metric == "score" and scored not in LOWER)
    listed = all("values" in parameter for parameter in parameters.values())
    if method == "grid" and not listed:
        raise RecipeError("--method grid: tries lists of values only; use bayes or random, or {choose: […]} throughout")
    return {
        "name": path.stem,
        "project": project or track.project,
        **({"entity": track.entity} if track.entity else {}),
        "program": "distill",
        "command": ["${env}", "distill", "run", name_for_agents(path), "${args_no_hyphens}"],
        "method": method or ("grid" if listed else "bayes"),
        "metric": {"name": metric, "goal": "maximize" if rising else "minimize"},
        "parameters": parameters,
    }


def to_yaml(made: Sweep) -> str:
    """The configuration as YAML, written by the library that wandb reads it with: `off` and `5e-05` need its quotes."""
    import yaml

    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def name_for_agents(path: Path) -> str:
    """How the recipe is named on an agent's command line: from the working directory where it lies below it, else by
    its file name. W&B is told this line, and no path of this machine.
    """
    here, there = Path.cwd(), path.resolve()
    name = str(there.relative_to(here)) if there.is_relative_to(here) else there.name
    return name if name.endswith((".yaml", ".yml")) or os.sep in name else f"./{name}"


def _parameter(word: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """A parameter in W&B's words, and the values that are checked. Raises ValueError."""
    kind, given = next(iter(word.items()))
    if kind == "choose":
        if not isinstance(given, list) or not given:
            raise ValueError("{choose: […]} takes a list of values, at least one")
        if any(given.count(value) > 1 for value in given):
            raise ValueError("{choose: […]} names a value twice")
        return {"values": given}, given
    numbers = isinstance(given, list) and len(given) == 2 and all(type(value) in (int, float) for value in given)
    if not numbers or not all(map(math.isfinite, given)) or given[0] >= given[1]:
        raise ValueError("{between: [low, high]} takes two numbers, the lower one first")
    low, high = given
    if isinstance(low, int) and isinstance(high, int):
        distribution = "int_uniform"
    else:
        distribution = "log_uniform_values" if low > 0 and high / low >= _ORDERS else "uniform"
    return {"distribution": distribution, "min": low, "max": high}, [low, high]


def _check(tree: dict[str, Any], lines: Lines, path: Path, choices: Choices) -> Recipe:
    """Every combination must be a recipe, spelled as an agent spells it on its command line; gives one of them."""
    told: dict[str, str] = {}
    for combination in _combinations(choices):
        overrides = [f"{place}={value}" for place, value in combination.items()]
        try:
            recipe = settle(tree, Recipe, str(path), lines, overrides, in_file=True)
        except RecipeError as error:
            for problem in error.problems:
                told.setdefault(problem, f"{problem} (tried: {', '.join(overrides)})")
            continue
        if recipe.track.wandb in ("off", "offline"):
            raise RecipeError(f"{path}: track.wandb: {recipe.track.wandb}; a sweep is led by W&B, so leave it at auto")
    if told:
        raise RecipeError(list(told.values()))
    return recipe


def _combinations(choices: Choices) -> Iterator[dict[str, Any]]:
    """All of them; where they are too many, each value once, beside the others' first."""
    if math.prod(map(len, choices.values())) <= _MOST_COMBINATIONS:
        for values in itertools.product(*choices.values()):
            yield dict(zip(choices, values, strict=True))
        return
    first = {place: values[0] for place, values in choices.items()}
    for place, values in choices.items():
        for value in values:
            yield first | {place: value}
