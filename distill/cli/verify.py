"""`distill verify`: a shipped folder's claims, measured again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from distill.cli.talking import hush_loading, sets, talking


@click.command(short_help="Measure a shipped folder's claims again.")
@click.argument("folder", type=click.Path(path_type=Path))
@sets
@click.option("--quick", is_flag=True, help="Leave out score and latency, which take minutes")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(3), help="Timed answers of each engine")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON")
def verify(folder: Path, overrides: tuple[str, ...], quick: bool, rounds: int, as_json: bool) -> None:
    """Measure the claims of a shipped FOLDER again, one line a claim, and exit with 1 when one fails.

    Hashes, sizes, the card against the report, answers to made-up ids; the score where the recipe's data is at hand
    (say where with --set data.source=PATH); ratios of latency, also to the teacher where it is at hand.
    """
    import json
    from dataclasses import asdict

    with talking(quiet=True):
        from distill.disk import expanded
        from distill.verification import verify as measure

        hush_loading()
        findings = measure(expanded(folder), overrides=overrides, quick=quick, rounds=rounds)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(str(finding))
    failing = [finding.name for finding in findings if finding.outcome == "FAILS"]
    aside = sum(finding.outcome == "not checked" for finding in findings)
    held = len(findings) - len(failing) - aside
    click.echo(f"{held} hold, {len(failing)} fail, {aside} not checked", err=True)
    if failing:
        click.echo(f"error: these claims fail: {'; '.join(failing)}", err=True)
        sys.exit(1)
