"""report.html: one page of its own, made from report.json alone, that needs neither network nor JavaScript."""

from __future__ import annotations

from typing import Any

from distill.evaluation.ledger import Ledger, Row
from distill.report import controls, headline, markup, mistakes, plots, work
from distill.report.markup import Html, join, section, tag
from distill.report.reading import reading_help
from distill.tasks import LOWER, restored, retained

SMOKE = "A smoke run: everything on a sliver of the data. Its figures mean nothing."


def page(report: dict[str, Any]) -> str:
    """The whole of report.html, from the content of report.json (schema 2).

    Everything in it is escaped; equal reports give equal bytes.
    """
    ledger, data = Ledger.told(report), report["data"]
    task = restored(data["problem"], data["labels"], ledger.teacher.metric)
    body = join([
        _head(report, ledger),
        _expectations(report),
        section("Ledger", ledger_tables(ledger), markup.bullets(reading_help(ledger))),
        controls.shown(report.get("controls")),
        _trade(ledger),
        mistakes.by_class(ledger, task.each),
        mistakes.confusion(ledger, report["data"]["labels"]),
        mistakes.calibration(ledger),
        work.training(report["training"], ledger.teacher.metric),
        work.energy(report.get("energy")),
        work.steps(report),
        work.parity(report.get("parity")),
        work.data(report),
        tag("footer", f"Made by distill {report['versions'].get('distill-toolkit', '')} from report.json, which holds "
            "every figure."),
    ])  # fmt: skip
    return markup.document(f"{report['run']}: distill report", body, banner=SMOKE if report["smoke"] else "")


def _head(report: dict[str, Any], ledger: Ledger) -> Html:
    name = report["data"].get("name")
    return tag(
        "header",
        tag("p", join(["distill report", f"on {name}" if name else ""], " · "), class_="kind"),
        tag("h1", report["run"]),
        tag("p", headline.lead(ledger), class_="lead"),
        tag("p", headline.sureness(ledger.last, ledger.reference, f"{_whose(ledger)}’s"), class_="sure")
        if len(ledger.rows) > 1
        else "",
        tag("p", " ".join(report["controls"]["in_words"]), class_="sure") if report.get("controls") else "",
        _facts(ledger),
    )


def _facts(ledger: Ledger) -> Html:
    row = ledger.last
    if len(ledger.rows) < 2:
        return Html("")
    of, same = f"of {_whose(ledger)}’s", ledger.against_same_engine(row)
    first = "the first teacher" if ledger.ensemble else "the teacher"
    facts = [
        ("kept", headline.percent(row.retained), f"{of} {row.metric.replace('_', ' ')}", row.retained),
        ("size", headline.size(row.bytes), f"{first} has {headline.size(ledger.teacher.bytes)}", row.bytes),
        ("speed", headline.times(ledger.against_eager(row)), f"{first}’s in eager torch", row.latency),
        ("speed, engine aside", headline.times(same), f"{first}’s on the same engine", same),
        ("parameters", f"{row.params / 1e6:.2f} M", f"{first} has {ledger.teacher.params / 1e6:.2f} M", row.params),
    ]
    told = [tag("div", tag("dt", n), tag("dd", v, tag("small", more))) for n, v, more, shown in facts if shown]
    return tag("dl", *told, class_="facts")


def _whose(ledger: Ledger) -> str:
    """Whose score it is that others are held against."""
    return "the ensemble" if ledger.ensemble else "the teacher"


def _expectations(report: dict[str, Any]) -> Html:
    def measured(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.4g}"

    body = [
        [line["word"].replace("_", " "), line["bound"], measured(line["measured"]),
         markup.chip("met", "good") if line["met"] else markup.chip("missed", "bad")]
        for line in report["expect"]
    ]  # fmt: skip
    if not body:
        return Html("")
    missed = sum(not line["met"] for line in report["expect"])
    told = "Everything that the recipe expects was met." if not missed else f"{missed} of {len(body)} missed."
    return section("Expected", tag("p", told, class_="say"),
                   markup.table(["", "bound", "measured", ""], body, name="expectations"))  # fmt: skip


def ledger_tables(ledger: Ledger) -> Html:
    """The ledger in its three parts, each narrow enough to be read whole; the result's row stands out."""
    head, body = ledger.cells()
    classes = ["result" if row is ledger.last and len(ledger.rows) > 1 else "" for row in ledger.shown]
    parts = []
    for name, columns in ledger.groups():
        if not columns:
            continue
        lines = [[line[0], *(line[column] for column in columns)] for line in body]
        heads = ["checkpoint", *(head[column].replace("_", " ") for column in columns)]
        parts += [tag("h3", name.capitalize()), markup.table(heads, lines, classes=classes, name=f"ledger, {name}")]
    return join(parts)


def _trade(ledger: Ledger) -> Html:
    """Kept against size and against latency."""

    def shares(row: Row) -> tuple[float, tuple[float, float]]:
        if not relative:
            return row.score, row.interval
        found = [retained(score, ledger.reference.score, lower=lower) or 0 for score in (row.score, *row.interval)]
        low, high = sorted(found[1:])
        return 100 * found[0], (100 * low, 100 * high)

    relative, lower = ledger.reference.score > 0, ledger.teacher.metric in LOWER
    kept = f"{ledger.teacher.metric}, % of {_whose(ledger)}’s" if relative else ledger.teacher.metric
    timed = [row for row in ledger.rows if row.latency]
    figures = []
    for title, cost, rows, of in (
        ("Kept against size", "size in MB", ledger.shown, lambda row: row.bytes / 1e6),
        ("Kept against latency", f"median ms at batch {timed[0].latency[0].batch}" if timed else "", timed,
         lambda row: row.latency[0].p50_ms),
    ):  # fmt: skip
        points = [plots.Point(row.title, row.format, of(row), *shares(row)) for row in rows]
        drawn = plots.frontier(points, title=title, cost=cost, kept=kept)
        body = [[p.name, plots.drawing.plain(round(p.cost, 3)), f"{p.kept:.4g}",
                 f"{p.interval[0]:.4g}–{p.interval[1]:.4g}"] for p in points]  # fmt: skip
        told = markup.table(["checkpoint", cost, kept, "95 % interval"], body, name=title)
        key = plots.format_key([row.format for row in rows])
        figures.append(markup.figure(title, "", drawn, told, key) if drawn else "")
    caption = (
        "Bars are 95 % bootstrap intervals of each score. Costs are on logarithmic axes: up and to the left is better."
    )
    return (
        section("What it keeps, and what it costs", tag("p", caption, class_="say"), markup.grid(*figures))
        if any(figures)
        else Html("")
    )
