"""`distill evaluate` and `distill predict`: checkpoints that are there already."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from distill.cli.talking import hush_loading, print_ledger, read, sets, talking


@click.command(short_help="Measure checkpoint folders on a recipe's data.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--recipe", required=True, help="Whose data, metric and timing are used")
@sets
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON")
def evaluate(folders: tuple[Path, ...], recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measure checkpoint FOLDERS on a recipe's test split, side by side; the others are held against the first."""
    import json

    path, settings = read(recipe, overrides)
    with talking():
        from distill import checkpoint
        from distill.data import load
        from distill.evaluation import evaluate as measure
        from distill.predict import formats_of

        hush_loading()
        found = {}
        for folder in folders:
            found |= formats_of(_title(folder, folders), folder)
        names = checkpoint.label_names(checkpoint.read_config(next(iter(found.values()))))
        data = load(
            settings.data.labelled, task=settings.task, names=names, metric=settings.metric,
            generation=settings.generation, seed=settings.seed,
            beside=path.parent,
        )  # fmt: skip
        for note in data.notes:
            logging.getLogger("distill").info("%s", note)
        ledger = measure(found, data=data, timing=settings.timing)
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in ledger.rows], indent=2))
    else:
        print_ledger(ledger, f"{path.stem}: test split")


@click.command(short_help="Ask a checkpoint, or a run's result.")
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

    with talking(quiet=True):
        predictor = Predictor(folder)
        try:
            given = list(texts) or _lines(sys.stdin.buffer.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"predict: standard input is not UTF-8 text ({error.reason})") from None
        if not given or not all(text.strip() for text in given):
            raise DataError("predict: an empty text; give texts behind the folder, or lines on standard input")
        pairs = predictor.task.pairs and predictor.cutter.texts != 1
        answers = predictor.predict([tuple(text.split("\t", 1)) if pairs and "\t" in text else text for text in given])
    for text, answer in zip(given, answers, strict=True):
        if as_json:
            click.echo(json.dumps({"text": text, "answer": answer}, ensure_ascii=False))
        else:
            told = predictor.task.told(answer)
            click.echo(told if len(given) == 1 else f"{told}\t{text}")


def _lines(text: str) -> list[str]:
    """The lines of a file of any system."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _title(folder: Path, folders: tuple[Path, ...]) -> str:
    """The folder's own name, with as much of its path as tells it from the others."""
    same = [other for other in folders if other.name == folder.name]
    return folder.name if len(same) == 1 and folder.name else str(folder)
