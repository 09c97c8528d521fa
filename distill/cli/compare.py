"""`distill compare`: runs held against one another, on the terminal, as a page or as JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill.cli.talking import talking
from distill.cli.units import parse_latency, parse_size

if TYPE_CHECKING:
    from rich.console import Console

    from distill.comparison import Budget, Comparison, Group


@click.command(short_help="Hold runs against one another.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN…]")
@click.option("--max-size", metavar="SIZE", help="Budget: at most so many bytes, like 5MB, 900kB or 1.5GB")
@click.option("--min-retained", type=float, metavar="SHARE", help="Budget: at least this share of the teacher's score")
@click.option("--min-score", type=float, metavar="SCORE", help="Budget: this score or a better one")
@click.option("--max-latency", metavar="RATIO|MS", help="Budget: 0.5 of the teacher's latency in eager torch, or 12ms")
@click.option("--max-memory", metavar="SIZE", help="Budget: peak memory of a process that answers, like 100MB")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the comparison as a page")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON")
def compare(
    runs: tuple[str, ...], max_size: str | None, min_retained: float | None, min_score: float | None,
    max_latency: str | None, max_memory: str | None, html: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare runs: one table, its Pareto front, how the recipes differ, which differences are more than chance.

    A RUN is a run's folder, a shipped folder, a W&B offline run's folder, or a run on W&B (entity/project/id). With a
    budget the best that fits is told; when nothing does, what comes nearest, and the exit code is 1.
    """
    import json

    with talking():
        from distill.comparison import Budget, compare, read
        from distill.comparison.page import page
        from distill.disk import write_text
        from distill.errors import DataError

        if html is not None and html.is_dir():
            raise DataError(f"--html {html}: a folder; name the file to write")
        if html is not None and not html.parent.is_dir():
            raise DataError(f"{html}: no folder {html.parent}")
        ratio, ms = parse_latency("--max-latency", max_latency) if max_latency else (None, None)
        budget = Budget(
            size=parse_size("--max-size", max_size) if max_size else None, retained=min_retained, score=min_score,
            latency=ratio, latency_ms=ms, memory=parse_size("--max-memory", max_memory) / 1e6 if max_memory else None,
        )  # fmt: skip
        comparison = compare([read(run) for run in runs])
        if html is not None:
            write_text(html, page(comparison, budget))
    choices = comparison.best(budget) if budget else []
    if as_json:
        best = [{"fits": c.best is not None, "told": str(c)} for c in choices]
        click.echo(json.dumps({**comparison.as_dict(), **({"best": best} if budget else {})}, indent=2))
    else:
        _print(comparison, budget)
    if html is not None:
        click.echo(f"page: {html}", err=as_json)
    if choices and not any(choice.best for choice in choices):
        sys.exit(1)


def _print(comparison: Comparison, budget: Budget) -> None:
    from rich.console import Console

    from distill.comparison.page import HELP
    from distill.report.markup import clean

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)
    for note in comparison.notes:
        console.print(f"note: {clean(note)}", style="yellow")
    choices = comparison.best(budget) if budget else [None] * len(comparison.groups)
    for group, choice in zip(comparison.groups, choices, strict=True):
        _print_group(console, group)
        if choice is not None:
            told = clean(f"best with {budget}: {choice}")
            console.print(told, style="green" if choice.best else "red")
    for line in HELP:
        console.print(line, style="dim")


def _print_group(console: Console, group: Group) -> None:
    from distill.comparison.page import TESTED, cells, matrix_cells
    from distill.report.markup import clean

    head, body = cells(group)
    styles = ["bold" if entry.on_front else "dim" for entry in group.entries]
    marked = [
        [*line[:2], "front" if entry.on_front else "", *line[2:]]
        for line, entry in zip(body, group.entries, strict=True)
    ]
    title = f"{', '.join(group.labels)} on {group.data}"
    _print_table(console, title, [*head[:2], "", *head[2:]], marked, styles, words=2)
    for note in group.notes:
        console.print(f"note: {note}", style="yellow")
    if group.differences:
        lines = [[one.path, *("–" if v is None else v for v in one.values)] for one in group.differences]
        _print_table(console, "what differs", ["setting", *group.labels], lines, fold=True)
    tests = group.tests
    if len(tests.entries) > 1:
        _print_table(console, "paired tests", *matrix_cells(tests), fold=True)
        console.print(TESTED, style="dim")
    for title, why in tests.untested:
        console.print(clean(f"{title}: not tested, {why}"), style="dim")


def _print_table(
    console: Console, title: str, head: list[str], body: list[list[str]], styles: list[str] | None = None,
    *, fold: bool = False, words: int = 1,
) -> None:  # fmt: skip
    from rich.table import Table
    from rich.text import Text

    from distill.report.markup import clean

    table = Table(title=Text(clean(title)), title_justify="left", header_style="bold")
    for place, column in enumerate(head):
        beside = place >= words  # the figures, behind the columns of words
        table.add_column(
            Text(clean(column)), justify="right" if beside else "left", no_wrap=beside and not fold, overflow="fold"
        )
    for line, style in zip(body, styles or [""] * len(body), strict=True):
        table.add_row(*(Text(clean(cell)) for cell in line), style=style)
    console.print(table)
