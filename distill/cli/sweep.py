"""`distill sweep`: a W&B sweep out of a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

_FIRST_LINE = "# A W&B sweep, written by `distill sweep`"


@click.command(short_help="Write a W&B sweep file from a recipe.")
@click.argument("recipe")
@click.option("--output", type=click.Path(path_type=Path), help="The sweep file  [default: RECIPE-sweep.yaml]")
@click.option("--metric", default="retained", show_default=True, help="What is optimised: a word of `expect`")
@click.option(
    "--method", type=click.Choice(["grid", "random", "bayes"]), help="How values are picked  [default: grid, or bayes]"
)
@click.option("--project", help="The W&B project  [default: the recipe's]")
def sweep(recipe: str, output: Path | None, metric: str, method: str | None, project: str | None) -> None:
    """Write a W&B sweep file from RECIPE, whose settings may be {choose: [a, b]} or {between: [low, high]}.

    Every combination is read as a recipe first. `wandb sweep FILE` then makes the sweep, and `wandb agent` runs it, on
    as many machines as there are.
    """
    from distill import library
    from distill.disk import write_text
    from distill.errors import RecipeError
    from distill.tracking.sweep import name_for_agents, to_yaml
    from distill.tracking.sweep import sweep as make

    path = library.find("recipes", recipe)
    made = make(path, metric=metric, method=method, project=project)
    output = output or Path(f"{path.stem}-sweep.yaml")
    if output.exists() and not _is_ours(output):
        raise RecipeError(f"--output {output}: already there, and no sweep file of ours; it is not overwritten")
    if not output.parent.is_dir():
        raise RecipeError(f"--output {output}: no folder {output.parent}")
    write_text(output, f"{_FIRST_LINE} {path.name}\n{to_yaml(made)}")
    click.echo(f"{output}: {len(made['parameters'])} settings, {made['method']}, {made['metric']['goal']} {metric}")
    click.echo(f"start it:  wandb sweep {shlex.quote(str(output))}")
    where = "here" if Path(name_for_agents(path)).exists() else f"in a folder that holds {path.name}"
    click.echo(f"then run the agents that it names {where}, on as many machines as you like")


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().startswith(_FIRST_LINE)
    except (OSError, UnicodeDecodeError):
        return False
