"""What the commands share: reading a recipe, what is said on standard error, tables on the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from distill.evaluation import Ledger
    from distill.recipe import Recipe

sets = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a setting: steps.0.distill.epochs=1",
)


def read(name: str, overrides: tuple[str, ...]) -> tuple[Path, Recipe]:
    """A recipe's path and settings, by shipped name or path. Raises RecipeError."""
    from distill import library, recipe

    path = library.find("recipes", name)
    return path, recipe.load(path, overrides)


@contextlib.contextmanager
def locating(path: Path, overrides: tuple[str, ...]) -> Iterator[None]:
    """What turns out to be wrong with a recipe is told with the line of the setting that it is about."""
    from distill.errors import RecipeError
    from distill.recipe import locate

    try:
        yield
    except RecipeError as error:
        raise RecipeError(locate(error.problems, path, overrides)) from error


@contextlib.contextmanager
def gone_on_with() -> Iterator[None]:
    """A run that is stopped says that nothing is lost; a polite kill (SIGTERM) stops it as Ctrl-C does."""
    import signal

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nfinished steps are kept; the same command goes on from here", err=True)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def talking(quiet: bool = False) -> Iterator[None]:
    """What this package says goes to standard error, between the progress bars; other libraries keep still."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    handler = _BesideBars()
    handler.setFormatter(_Plain())
    ours = logging.getLogger("distill")
    before = ours.level
    ours.setLevel(logging.WARNING if quiet else logging.INFO)
    ours.addHandler(handler)
    ours.propagate = False
    try:
        _hush()
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)
        ours.propagate = True


def _hush() -> None:
    """Other libraries' advice to programmers is no news to someone who runs a recipe; their errors still raise."""
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("transformers", "accelerate", "datasets", "torch", "onnxruntime"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|datasets|huggingface_hub|onnx.*)(\..*)?")


def hush_loading() -> None:
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


def print_ledger(ledger: Ledger, title: str) -> None:
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
