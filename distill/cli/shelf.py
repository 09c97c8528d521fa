"""`distill list`, `show` and `copy`: what is shipped with the package."""

from __future__ import annotations

import shlex
from pathlib import Path

import click


@click.command("list")
def list_() -> None:
    """List the shipped recipes and teacher cards."""
    from distill import library

    kinds: tuple[library.Kind, ...] = ("recipes", "teachers")
    for kind in kinds:
        click.echo(f"{kind}:")
        for name in library.names(kind):
            click.echo(f"  {name:<16} {library.summary(library.find(kind, name))}")


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a shipped recipe or teacher card."""
    click.echo(_shelved(name).read_text(encoding="utf-8"), nl=False)


@click.command(short_help="Copy a shipped recipe or card.")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), required=False)
def copy(name: str, target: Path | None) -> None:
    """Copy a shipped recipe or card to TARGET, to make it your own.  [default: NAME.yaml]"""
    from distill.disk import write_text
    from distill.errors import RecipeError

    source = _shelved(name)
    target = target / source.name if target and target.is_dir() else target or Path(source.name)
    if target.exists():
        raise RecipeError(f"{target}: already there; it is not overwritten")
    if not target.parent.is_dir():
        raise RecipeError(f"{target}: no folder {target.parent}")
    write_text(target, source.read_text(encoding="utf-8"))
    path = shlex.quote(str(target) if len(target.parts) > 1 else f"./{target.name}")
    is_recipe = source.parent.name == "recipes"
    click.echo(
        f"{target}  ({f'run it with: distill run {path}' if is_recipe else f'name it in a recipe: teacher: {path}'})"
    )


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
