"""`distill status` and `distill cache`: what is done, what lies in the store, what can go."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill.cli.talking import talking
from distill.cli.units import parse_size, parse_span

if TYPE_CHECKING:
    from distill.pipeline.state import Stage, State
    from distill.store import Piece, Store


@click.command(short_help="Tell what a run has done and is at.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print run.json")
def status(folder: Path, as_json: bool) -> None:
    """Tell what a run has done, what it is at, and what is still to do."""
    from rich.console import Console
    from rich.table import Table

    from distill.errors import RecipeError
    from distill.pipeline.state import is_busy, read_state

    state = read_state(folder)
    if state is None:
        raise RecipeError(f"{folder}: not a run's folder (it holds no run.json)")
    if as_json:
        click.echo((folder / "run.json").read_text(encoding="utf-8"), nl=False)
        return
    busy = is_busy(folder)
    table = Table(header_style="bold")
    for column in ("step", "", "seconds", "finished", "in the store as"):
        table.add_column(column, no_wrap=True)
    for stage in state.stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:.0f}"
        piece = (stage.piece or "")[:24] + ("  (taken from there)" if stage.reused else "")
        table.add_row(stage.name, _standing(stage, state, busy), seconds, (stage.finished or "")[:19], piece)
    Console(width=120).print(table)
    if busy:
        click.echo(f"a process is at work in it (sitting {state.sittings})")
    elif state.standing == "done":
        click.echo("finished; the same command measures again, without training again")
    else:
        how = "was cut off" if state.standing == "at work" else state.standing
        click.echo(f"not finished ({how}); the same command goes on from here")


def _standing(stage: Stage, state: State, busy: bool) -> str:
    if stage.standing != "at work":
        return stage.standing
    if not busy:
        return "cut off"
    told = state.progress
    return f"step {told['step']} of {told['steps']}, loss {told['loss']:.3g}" if told else "at work"


@click.group()
def cache() -> None:
    """Look into the store of finished steps, and make room in it."""


@cache.command("list")
def list_() -> None:
    """List what lies in the store, the last used first."""
    from rich.console import Console
    from rich.table import Table

    from distill.store import Store

    store = Store()
    table = Table(header_style="bold")
    for column in ("piece", "MB", "seconds to make", "made", "last used", "from"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("MB", "seconds to make") else "left")
    pieces = store.pieces()
    for piece in pieces:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.last_used(piece)))
        made = piece.finished[:16].replace("T", " ")
        size, seconds = f"{piece.bytes / 1e6:.1f}", f"{piece.seconds:.0f}"
        table.add_row(f"{piece.kind}-{piece.key[:8]}", size, seconds, made, used, _origin(piece))
    if pieces:
        Console(width=130).print(table)
    for name in store.unfinished():
        click.echo(f"unfinished: {name[:40]}" + ("  (a process is at work on it)" if store.is_busy(name) else ""))
    total = sum(piece.bytes for piece in pieces) / 1e6
    click.echo(f"{len(pieces)} pieces, {total:.1f} MB, in {store.folder}")


@cache.command()
@click.option("--older-than", default=None, metavar="SPAN", help="Drop what was not used for a span: 12h, 30d, 8w")
@click.option("--keep", default=None, metavar="SIZE", help="Drop the longest unused until so much is left: 500MB, 20GB")
@click.option("--unfinished", is_flag=True, help="Drop what nobody finished, training checkpoints included")
@click.option("--all", "everything", is_flag=True, help="Drop everything")
@click.option("--dry-run", is_flag=True, help="Only say what would go")
def prune(older_than: str | None, keep: str | None, unfinished: bool, everything: bool, dry_run: bool) -> None:
    """Make room in the store. Run folders stay whole: they hold links of their own. What is in use stays.

    Without options: what was not used for 30 days.
    """
    from distill.store import Store

    if not (older_than or keep or unfinished or everything):
        older_than = "30d"
    store = Store()
    going = [piece.name for piece in _choose(store, older_than, keep, everything)]
    going += store.unfinished() if unfinished or everything else []
    with talking():
        dropped = freed = 0
        for name in going:
            size, links = _weigh(store, name)
            gone = not store.is_busy(name) if dry_run else store.drop(name)
            dropped, freed = dropped + gone, freed + (size if gone else 0)
            word = ("would drop" if dry_run else "dropped") if gone else "in use, kept:"
            shared = "  (a run folder still holds its files)" if links else ""
            click.echo(f"{word} {name[:40]}  {size / 1e6:.1f} MB{shared}")
    click.echo(f"{dropped} pieces, {freed / 1e6:.1f} MB {'would be' if dry_run else ''} freed".replace("  ", " "))


def _choose(store: Store, older_than: str | None, keep: str | None, everything: bool) -> list[Piece]:
    pieces = store.pieces()
    if everything:
        return pieces
    going = []
    if older_than is not None:
        oldest = time.time() - parse_span("--older-than", older_than)
        going = [piece for piece in pieces if store.last_used(piece) < oldest]
    if keep is not None:
        room, left = parse_size("--keep", keep), 0
        for piece in pieces:  # the last used first
            left += piece.bytes
            if left > room and piece not in going:
                going.append(piece)
    return going


def _weigh(store: Store, name: str) -> tuple[int, bool]:
    """Bytes that go when a piece goes, and whether some of its files stay behind as links in a run folder."""
    folders = [store.folder / name, store.folder / "unfinished" / name]
    files = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # somebody is at work on it
            files += [path.stat()] if path.is_file() else []
    return sum(file.st_size for file in files if file.st_nlink == 1), any(file.st_nlink > 1 for file in files)


def _origin(piece: Piece) -> str:
    """What a reader recognises a piece by."""
    facts, told = piece.facts, piece.told
    settings = facts.get("settings") or {}
    if "quality" in told:
        return f"{told['quality']['metric']} {told['quality']['score']:.4f}, {facts['format']}"
    if "training" in told:
        scores = [epoch["score"] for epoch in told["training"]["epochs"]] or [float("nan")]
        best = min(scores) if told["training"].get("lower") else max(scores)
        return f"{settings.get('epochs', 0):g} epochs, validation {best:.4f}, seed {facts['seed']}"
    return f"{len(piece.files)} files"
