"""The comparison as one HTML page, in the style of a run's report."""

from __future__ import annotations

from collections.abc import Sequence

from distill.comparison.budget import Budget, Choice
from distill.comparison.comparing import Comparison
from distill.comparison.entries import Entry
from distill.comparison.groups import Group
from distill.comparison.significance import PairedTests
from distill.report import headline, markup, plots
from distill.report.markup import Html, chip, join, section, tag
from distill.tasks import LOWER, better

HELP = (
    "on the front: nothing else is at least as good in score, bytes and latency and better in one; others are grey",
    "kept: score over that of the run's own teacher, its inverse where less is better; intervals are 95 % bootstraps "
    "over the test examples",
    "vs eager: how many times as fast as the run's teacher in eager torch, in the run's own session",
)
TESTED = (
    "p of a paired randomisation test on the kept predictions, and behind it p by Holm’s correction for the number "
    "of pairs; below 0.05 the difference is hardly chance"
)


def page(comparison: Comparison, budget: Budget | None = None) -> str:
    """The whole page; equal comparisons give equal bytes."""
    choices = comparison.best(budget) if budget else []
    several = len(comparison.groups) > 1
    runs = [label for group in comparison.groups for label in group.labels]
    smoke = [run.smoke for group in comparison.groups for run in group.runs]
    title = f"{len(runs)} runs compared" if len(runs) > 1 else f"The checkpoints of {runs[0]}"
    body = [tag("header", tag("p", "distill compare", class_="kind"), tag("h1", title),
                tag("p", _lead(comparison), class_="lead"), markup.bullets(comparison.notes))]  # fmt: skip
    for number, group in enumerate(comparison.groups, 1):
        if several:
            body.append(section(f"Group {number}: {group.data}, {group.metric}", tag("p", ", ".join(group.labels))))
        chosen = next((choice for choice in choices if choice.group is group), None)
        body += [_best(chosen, budget), *_sections(group)]
    banner = "Smoke runs are among these; their figures mean nothing." if any(smoke) else ""
    return markup.document(f"{title}: distill", join(body), banner=banner)


def _lead(comparison: Comparison) -> str:
    if len(comparison.groups) > 1:
        return f"{len(comparison.groups)} groups that were measured on different data or by different metrics."
    group = comparison.groups[0]
    made = [entry for entry in group.entries if not entry.teacher]
    front = [entry for entry in made if entry.on_front]
    told = f"{len(front)} of {len(made)} checkpoints on the Pareto front"
    best = max(front, default=None, key=lambda entry: entry.row.merit)
    small = min(front, default=None, key=lambda entry: entry.row.bytes)
    if best is None or small is None:
        return f"{told}: the teachers hold it alone."
    if best is small:
        return f"{told}. {_praise(best)} is the best and the smallest of them."
    return f"{told}. {_praise(best)} scores best; {_praise(small)} is the smallest."


def _praise(entry: Entry) -> str:
    row = entry.row
    kept = "" if row.retained is None else f", {headline.percent(row.retained)} kept"
    return f"{entry.title} ({row.metric.replace('_', ' ')} {row.score:.4f}{kept}, {headline.size(row.bytes)})"


def _best(choice: Choice | None, budget: Budget | None) -> Html:
    if choice is None:
        return Html("")
    kind = chip("fits", "good") if choice.best else chip("nothing fits", "bad")
    return section(
        "Best under the budget", tag("p", join([tag("span", f"{budget}"), kind], " ")), tag("p", str(choice))
    )


def _sections(group: Group) -> list[Html]:
    what = f"{group.data}; {group.metric.replace('_', ' ')}."
    return [
        section("Checkpoints", tag("p", what, class_="say"), _table(group), markup.bullets([*group.notes, *HELP])),
        _plots(group),
        _differences(group),
        _tests(group.tests),
    ]


def cells(group: Group) -> tuple[list[str], list[list[str]]]:
    """The table's head and body as words, one line an entry: what the terminal shows too."""
    head = ["", "checkpoint", group.metric, "95 % interval", "kept", "size", "params"]
    timed = any(entry.row.latency for entry in group.entries)
    if timed:
        first = next(entry.row.latency[0] for entry in group.entries if entry.row.latency)
        head += [f"ms, batch {first.batch}", "vs eager"]
    body = []
    for number, entry in enumerate(group.entries, 1):
        row = entry.row
        line = [
            str(number),
            entry.title + (" (smoke)" if entry.run.smoke else ""), f"{row.score:.4f}",
            f"{row.interval[0]:.3f}–{row.interval[1]:.3f}", headline.percent(row.retained),
            headline.size(row.bytes), f"{row.params / 1e6:.2f} M",
        ]  # fmt: skip
        if timed:
            line += [f"{row.latency[0].p50_ms:.2f}" if row.latency else "–", headline.times(entry.against_eager)]
        body.append(line)
    return head, body


def _table(group: Group) -> Html:
    head, body = cells(group)
    marks = [chip("front", "good") if entry.on_front else "" for entry in group.entries]
    lines = [[_numbered(*line[:2]), mark, *line[2:]] for line, mark in zip(body, marks, strict=True)]
    classes = ["" if entry.on_front else "behind" for entry in group.entries]
    return markup.table([head[1], "", *(name.replace("_", " ") for name in head[2:])], lines, words=[1],
                        classes=classes, name="checkpoints")  # fmt: skip


def _numbered(number: str, title: str) -> Html:
    return join([tag("span", number, class_="number"), title], " ")


def _plots(group: Group) -> Html:
    speed = {"vs eager": "latency over the teacher’s in eager torch", "ms": f"median ms at batch {group.batch}"}
    figures = []
    for title, cost, of in (
        ("Score against size", "size in MB", lambda entry: entry.row.bytes / 1e6),
        ("Score against latency", speed.get(group.speed or "", ""), lambda entry: entry.speed),
    ):
        shown = {entry: number for number, entry in enumerate(group.entries, 1) if of(entry) is not None}
        points = {entry: _point(entry, number, of(entry)) for entry, number in shown.items()}
        lower = group.metric in LOWER
        front = _flat_front(list(points.values()), lower=lower)
        metric = group.metric.replace("_", " ") + (", less is better" if lower else "")
        drawn = plots.frontier(list(points.values()), title=title, cost=cost, kept=metric, front=front)
        marks = {True: chip("front", "good"), False: ""}
        body = [[_numbered(str(shown[entry]), entry.title), f"{point.cost:.4g}", f"{point.kept:.4f}",
                 marks[point in front]]
                for entry, point in points.items()]  # fmt: skip
        told = markup.table(["checkpoint", cost, metric, ""], body, name=title)
        key = plots.format_key([entry.row.format for entry in shown])
        figures.append(markup.figure(title, "", drawn, told, key) if drawn else "")
    if not any(figures):
        return Html("")
    caption = (
        "The line joins what nothing beats in these two respects; grey is what is not on the front. Bars are 95 % "
        "intervals; to the left is better, and up unless it is said that less is. Numbers are those of the table, "
        "names those of the runs’ results."
    )
    return section("Pareto fronts", tag("p", caption, class_="say"), markup.grid(*figures))


def _point(entry: Entry, number: int, cost: float) -> plots.Point:
    """Named by its number in the table; a run's result, and the teacher as users run it, by name too."""
    row = entry.row
    eager = entry.teacher and row.format == "transformers"
    owner = "teacher" if eager else markup.shorten(", ".join(entry.labels), 18) if entry.result else ""
    return plots.Point(f"{number} {owner}".strip(), row.format, cost, row.score, row.interval, not entry.on_front)


def _flat_front(points: Sequence[plots.Point], *, lower: bool) -> list[plots.Point]:
    """Of two respects alone: from the cheapest on, whatever scores better than all before."""
    front: list[plots.Point] = []
    for point in sorted(points, key=lambda point: (point.cost, point.kept if lower else -point.kept)):
        if not front or better(point.kept, front[-1].kept, lower=lower):
            front.append(point)
    return front


def _differences(group: Group) -> Html:
    if len(group.runs) < 2:
        return Html("")
    if not group.differences:
        return section("What differs", tag("p", "The recipes, machines and versions are the same.", class_="say"))
    body = [[tag("code", one.path), *("–" if v is None else v for v in one.values)] for one in group.differences]
    columns = range(1, len(group.runs) + 1)
    return section("What differs", markup.table(["setting", *group.labels], body, words=columns, name="differences"))


def _tests(tests: PairedTests) -> Html:
    untested = markup.bullets(f"{title}: not tested, {why}" for title, why in tests.untested)
    if len(tests.entries) < 2:
        return section("Paired tests", untested) if untested else Html("")
    head, body = matrix_cells(tests)
    lines = [[line[0], *(tag("strong", cell) if _sure(cell) else cell for cell in line[1:])] for line in body]
    return section("Paired tests", tag("p", TESTED, class_="say"), markup.table(head, lines, name="tests"), untested)


def _sure(cell: str) -> bool:
    return "(" in cell and float(cell.partition("(")[2].rstrip(")")) < 0.05


def matrix_cells(tests: PairedTests) -> tuple[list[str], list[list[str]]]:
    """The matrix of tests as words: p (p corrected), below the diagonal only."""
    titles = [entry.title for entry in tests.entries]
    body = []
    for one, title in enumerate(titles[1:], 1):
        found = [tests.of(one, other) for other in range(one)]
        line = [f"{p:.3f} ({corrected:.3f})" for p, corrected in filter(None, found)]
        body.append([title, *line, *[""] * (len(titles) - 1 - len(line))])
    return ["", *titles[:-1]], body
