"""The command line. Commands import what they need when they are called, so that `--help` costs nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from distill.evaluation import Ledger
    from distill.preflight import Plan
    from distill.recipe import Recipe

_SETS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a setting: steps.0.distill.epochs=1",
)


class _Commands(click.Group):
    """Turns what a user can mend into one clear message and its exit code."""

    def invoke(self, context: click.Context) -> object:
        """Runs a command; nothing but a defect of this package ends in a traceback."""
        from distill.errors import DistillError

        try:
            return super().invoke(context)
        except DistillError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            context.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
            context.exit(0)
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nstopped", err=True)
            context.exit(130)

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order in which they are met."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="distill-toolkit", prog_name="distill")
def main() -> None:
    """Distil and compress transformer checkpoints.

    A recipe takes a teacher checkpoint to a compact one that can be shipped, with a report of what was gained (size,
    speed, memory) and what was kept. Start with: distill run quickstart
    """


@main.command()
@click.argument("recipe")
@click.option("--output", type=click.Path(path_type=Path), help="The run's folder  [default: runs/RECIPE]")
@_SETS
@click.option(
    "--smoke",
    is_flag=True,
    help="Everything on a sliver of the data, in under a minute; figures mean nothing",
)
def run(recipe: str, output: Path | None, overrides: tuple[str, ...], smoke: bool) -> None:
    """Carry out RECIPE: a shipped one by name, or the path of one of your own."""
    path, settings = _read(recipe, overrides)
    with _talking():
        from distill.pipeline import free_folder
        from distill.pipeline import run as carry_out

        _hush_loading()
        folder = output or free_folder(path.stem, Path("runs"))
        click.echo(f"{path.stem} → {folder}", err=True)
        report = carry_out(settings, folder, name=path.stem, beside=path.parent, smoke=smoke)
    _print_ledger(report.ledger, path.stem)
    for expectation in report.expectations:
        click.secho(f"expected {expectation}", fg="green" if expectation.met else "red")
    if smoke:
        click.echo("a smoke run: it works, but its figures mean nothing, and what the recipe expects is not judged")
    result = folder / report.ledger.last.name
    click.echo(f"\nreport:  {folder / 'report.md'}  (figures: report.json, recipe as run: recipe.yaml)")
    click.echo(f"result:  {result}")
    click.echo(f'try it:  distill predict {folder} "a text of yours"')
    if report.missed:
        sys.exit(1)


@main.command()
@click.argument("recipe")
@_SETS
def check(recipe: str, overrides: tuple[str, ...]) -> None:
    """Hold RECIPE against its card, checkpoints and data; tell every problem at once. Downloads nothing."""
    path, settings = _read(recipe, overrides)
    with _talking():
        from distill.preflight import prepare

        plan = prepare(settings, path.parent, fetch=False)
    _print_plan(plan)
    if plan.problems:
        sys.exit(2)
    what = "nothing wrong" if not (plan.missing or plan.unchecked) else "nothing wrong in what could be checked"
    click.echo(f"{path.stem}: {what}")


@main.command("list")
def list_() -> None:
    """List the shipped recipes and teacher cards."""
    from distill import library

    kinds: tuple[library.Kind, ...] = ("recipes", "teachers")
    for kind in kinds:
        click.echo(f"{kind}:")
        for name in library.names(kind):
            click.echo(f"  {name:<16} {library.summary(library.find(kind, name))}")


@main.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a shipped recipe or teacher card."""
    click.echo(_shelved(name).read_text(encoding="utf-8"), nl=False)


@main.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), required=False)
def copy(name: str, target: Path | None) -> None:
    """Copy a shipped recipe or card to TARGET, to make it your own.  [default: NAME.yaml]"""
    from distill.checkpoint import write_text
    from distill.errors import RecipeError

    source = _shelved(name)
    target = target / source.name if target and target.is_dir() else target or Path(source.name)
    if target.exists():
        raise RecipeError(f"{target}: already there; it is not overwritten")
    if not target.parent.is_dir():
        raise RecipeError(f"{target}: no folder {target.parent}")
    write_text(target, source.read_text(encoding="utf-8"))
    click.echo(f"{target}  (run it with: distill run {target if len(target.parts) > 1 else './' + target.name})")


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--recipe", required=True, help="Whose data, metric and timing are used")
@_SETS
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON")
def evaluate(folders: tuple[Path, ...], recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measure checkpoint FOLDERS on a recipe's test split, side by side; the others are held against the first."""
    import json

    path, settings = _read(recipe, overrides)
    with _talking():
        from distill import checkpoint
        from distill.data import load
        from distill.evaluation import evaluate as measure
        from distill.predict import result_of

        _hush_loading()
        found = {_title(folder, folders): result_of(folder) for folder in folders}
        names = checkpoint.label_names(checkpoint.read_config(next(iter(found.values()))))
        data = load(settings.data, names=names, metric=settings.metric, seed=settings.seed, beside=path.parent)
        for note in data.notes:
            logging.getLogger("distill").info("%s", note)
        ledger = measure(found, data=data, timing=settings.timing)
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in ledger.rows], indent=2))
    else:
        _print_ledger(ledger, f"{path.stem}: test split")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a text")
def predict(folder: Path, texts: tuple[str, ...], as_json: bool) -> None:
    """Ask the checkpoint in FOLDER (or a run's result) about TEXTS, or about lines of standard input.

    The two texts of a pair are separated by a tab.
    """
    import json

    from distill.errors import DataError
    from distill.predict import Predictor

    with _talking(quiet=True):
        predictor = Predictor(folder)
        try:
            given = list(texts) or [line.rstrip("\n") for line in sys.stdin]
        except UnicodeDecodeError as error:
            raise DataError(f"predict: standard input is not UTF-8 text ({error.reason})") from None
        if not given or not all(text.strip() for text in given):
            raise DataError("predict: an empty text; give texts behind the folder, or lines on standard input")
        answers = predictor.predict([tuple(text.split("\t", 1)) if "\t" in text else text for text in given])
    for text, answer in zip(given, answers, strict=True):
        if as_json:
            click.echo(json.dumps({"text": text, "answer": answer}, ensure_ascii=False))
        else:
            told = ", ".join(f"{label} {value:.3f}" for label, value in answer.items()) or "no label"
            click.echo(told if len(given) == 1 else f"{told}\t{text}")


# ------------------------------------------------------------------------------------------------------- helpers


def _read(name: str, overrides: tuple[str, ...]) -> tuple[Path, Recipe]:
    from distill import library, recipe

    path = library.find("recipes", name)
    return path, recipe.load(path, overrides)


def _shelved(name: str) -> Path:
    from distill import library
    from distill.errors import RecipeError

    kinds: tuple[library.Kind, ...] = ("recipes", "teachers")
    for kind in kinds:
        if name in library.names(kind):
            return library.find(kind, name)
    known = [known for kind in kinds for known in library.names(kind)]
    raise RecipeError(
        f"{name}: nothing of this name is shipped{library.nearest(name, known)} (there are: {', '.join(known)})"
    )


def _title(folder: Path, folders: tuple[Path, ...]) -> str:
    """The folder's own name, with as much of its path as tells it from the others."""
    same = [other for other in folders if other.name == folder.name]
    return folder.name if len(same) == 1 and folder.name else str(folder)


@contextlib.contextmanager
def _talking(quiet: bool = False) -> Iterator[None]:
    """What this package says goes to standard error, between the progress bars; other libraries keep still."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    handler = _BesideBars()
    handler.setFormatter(_Plain())
    ours = logging.getLogger("distill")
    ours.setLevel(logging.WARNING if quiet else logging.INFO)
    ours.addHandler(handler)
    ours.propagate = False
    try:
        _hush()
        yield
    finally:
        ours.removeHandler(handler)
        ours.propagate = True


def _hush() -> None:
    """Other libraries' advice to programmers is no news to someone who runs a recipe; their errors still raise."""
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("transformers", "accelerate", "datasets", "torch", "onnxruntime"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|datasets|onnx.*)(\..*)?")


def _hush_loading() -> None:
    """No bars of transformers for reading and writing weights, which take a moment; ours stay."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return f"warning: {message}" if record.levelno >= logging.WARNING else message


class _BesideBars(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _print_plan(plan: Plan) -> None:
    if plan.data is not None:
        for note in plan.data.notes:
            click.echo(f"data: {note}")
    for note in plan.notes:
        click.echo(f"note: {note}")
    for word, lines in (("not checked", plan.unchecked), ("a run needs", plan.missing)):
        for line in lines:
            click.echo(f"{word}: {line}")
    for problem in plan.problems:
        click.echo(f"error: {problem}", err=True)


def _print_ledger(ledger: Ledger, title: str) -> None:
    """The ledger as narrow tables: what was kept, what became smaller, what became faster."""
    from rich.console import Console
    from rich.table import Table

    from distill.report import reading_help

    head, body = ledger.cells()
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name, columns in ledger.groups():
        table = Table(title=f"{title}: {name}", title_justify="left", header_style="bold")
        table.add_column("checkpoint", no_wrap=True)
        for column in columns:
            table.add_column(head[column], justify="right", no_wrap=True)
        for row in body:
            table.add_row(row[0], *(row[column] for column in columns))
        console.print(table)
    for line in reading_help(ledger):
        console.print(line, style="dim", highlight=False)


if __name__ == "__main__":
    main()
