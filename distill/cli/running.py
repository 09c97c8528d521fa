"""`distill run` and `distill check`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distill.cli.talking import gone_on_with, hush_loading, locating, print_ledger, read, sets, talking

if TYPE_CHECKING:
    from distill.preflight import Plan
    from distill.recipe.settings import Step


@click.command(short_help="Carry out a recipe, or go on with it.")
@click.argument("recipe")
@click.argument("assignments", nargs=-1, metavar="[PATH=VALUE]...")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The run's folder  [default: runs/RECIPE; of a changed recipe runs/RECIPE-2; with --smoke runs/RECIPE-smoke]",
)
@sets
@click.option(
    "--smoke",
    is_flag=True,
    help="Everything on a sliver of the data, in a minute or so; figures mean nothing",
)
def run(
    recipe: str, assignments: tuple[str, ...], output: Path | None, overrides: tuple[str, ...], smoke: bool
) -> None:
    """Carry out RECIPE: a shipped one by name, or the path of one of your own.

    PATH=VALUE changes a setting, as --set does. Finished steps are kept in a store and never done twice: after a crash,
    or to measure again, give the same command.
    """
    overrides += assignments
    path, settings = read(recipe, overrides)
    with talking(), gone_on_with(), locating(path, overrides):
        from distill.errors import BusyError
        from distill.pipeline import Asked, choose_folder, serve_unless_first, sliver
        from distill.pipeline import run as carry_out

        hush_loading()
        serve_unless_first()
        asked = Asked.of(sliver(settings) if smoke else settings, path.parent)
        report = None
        while report is None:
            folder = output or choose_folder(f"{path.stem}-smoke" if smoke else path.stem, asked, Path("runs"))
            click.echo(f"{path.stem} → {folder}", err=True)
            try:
                report = carry_out(settings, folder, name=path.stem, beside=path.parent, smoke=smoke)
            except BusyError:  # another run of the recipe was quicker to take it
                if output is not None:
                    raise
    print_ledger(report.ledger, path.stem)
    for line in (report.controls or {}).get("in_words", ()):
        click.echo(line)
    for expectation in report.expectations:
        click.secho(f"expected {expectation}", fg="green" if expectation.met else "red")
    if smoke:
        click.echo("a smoke run: it works, but its figures mean nothing, and what the recipe expects is not judged")
    result, quoted = folder / report.ledger.last.name, shlex.quote(str(folder))
    click.echo(f"\nreport:  {folder / 'report.html'}  (also report.md; figures: report.json; recipe: recipe.yaml)")
    click.echo(f"result:  {result}")
    if settings.ship is not None and not report.missed:
        click.echo(f"shipped: {folder / 'shipped'}  (its claims are checked by: distill verify {quoted}/shipped)")
    click.echo(f'try it:  distill predict {quoted} "a text of yours"')
    if report.missed:
        sys.exit(1)


@click.command(short_help="Tell what is wrong with a recipe.")
@click.argument("recipe")
@click.argument("assignments", nargs=-1, metavar="[PATH=VALUE]...")
@sets
def check(recipe: str, assignments: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Hold RECIPE against its card, checkpoints and data; tell what is wrong. Downloads nothing."""
    overrides += assignments
    path, settings = read(recipe, overrides)
    with talking():
        from distill.preflight import prepare
        from distill.recipe import locate
        from distill.recipe.arms import arms_of

        plan = prepare(settings, path.parent, fetch=False)
        problems = locate(plan.problems, path, overrides)
    _print_notes(plan)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if plan.problems:
        sys.exit(2)
    for place, step in enumerate(settings.steps, start=1):
        click.echo(f"step {place}-{step.kind}: {_told(step)}")
    for arm in arms_of(settings):
        click.echo(f"arm {arm.name}: {', '.join(['student', *(title for title, _ in arm.steps(settings))])}")
    what = "nothing wrong" if not (plan.missing or plan.unchecked) else "nothing wrong in what could be checked"
    click.echo(f"{path.stem}: {what}")


def _told(step: Step) -> str:
    """A step's own words, those that were said."""
    given = step.settings.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    words = [f"{word} {_plain(value)}" for word, value in given.items()]
    return ", ".join(words) or "as by default"


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "{" + ", ".join(f"{word}: {_plain(inner)}" for word, inner in value.items()) + "}"


def _print_notes(plan: Plan) -> None:
    if plan.data is not None:
        for note in plan.data.notes:
            click.echo(f"data: {note}")
    for note in plan.notes:
        click.echo(f"note: {note}")
    for word, lines in (("not checked", plan.unchecked), ("a run needs", plan.missing)):
        for line in lines:
            click.echo(f"{word}: {line}")
