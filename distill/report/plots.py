"""The plots of a report, each a small inline SVG: kept against cost, curves, confusion, reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.report import drawing
from distill.report.drawing import INK, MUTED, PAPER, SERIES, canvas, svg
from distill.report.markup import Html, join, shorten, tag

FORMATS = {
    "transformers": ("o", SERIES[0]),
    "onnx-fp32": ("s", SERIES[1]),
    "onnx-int8": ("D", SERIES[2]),
    "onnx-int4": ("v", SERIES[2]),
}
_OTHER = ("^", SERIES[3])
_LINES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)))
_LONGEST = 16  # characters of a label on an axis


@dataclass(frozen=True)
class Point:
    """A checkpoint in a plot: what it costs, what it keeps with its interval, and how it is told apart."""

    name: str
    format: str
    cost: float
    kept: float
    interval: tuple[float, float]
    behind: bool = False


def frontier(points: Sequence[Point], *, title: str, cost: str, kept: str, front: Sequence[Point] = ()) -> Html:
    """Kept against cost (logarithmic), intervals as bars; a line along the points of a Pareto front, if given.

    Empty when fewer than two points have figures.
    """
    points = [p for p in points if p.cost > 0 and all(map(math.isfinite, (p.cost, p.kept, *p.interval)))]
    if len(points) < 2:
        return Html("")
    with canvas(252) as (drawn, (axes,)):
        drawing.log_axis(axes.xaxis, min(p.cost for p in points), max(p.cost for p in points))
        along = sorted((p for p in front if p in points), key=lambda p: p.cost)
        axes.plot([p.cost for p in along], [p.kept for p in along], color=MUTED, linewidth=1, zorder=1)
        for p in points:
            marker, colour = _look(p)
            ends = [[max(0.0, p.kept - p.interval[0])], [max(0.0, p.interval[1] - p.kept)]]
            axes.errorbar(p.cost, p.kept, yerr=ends, color=colour, elinewidth=1, alpha=0.45 if p.behind else 0.75)
            # hollow and larger, so that it shows around a point of another format at the same place
            hollow = p.behind or p.format == "onnx-fp32"
            axes.plot(
                p.cost, p.kept, marker, color=colour, markersize=8 if hollow else 6, markeredgewidth=1.3, zorder=3,
                markerfacecolor="none" if hollow else colour,
            )  # fmt: skip
        axes.set_xlabel(cost)
        axes.set_title(kept, loc="left", fontsize=11, color=MUTED)
        axes.grid(axis="x", visible=False)
        named = [(p.cost, p.kept, shorten(p.name, 26), MUTED if p.behind else INK) for p in reversed(points) if p.name]
        drawing.place_labels(axes, named, [(p.cost, *p.interval) for p in points])
        return svg(drawn, title, halo=True)


def _look(point: Point) -> tuple[str, str]:
    marker, colour = FORMATS.get(point.format, _OTHER)
    return marker, MUTED if point.behind else colour


_SHAPES = {
    "o": '<circle cx="11" cy="6" r="4"/>', "s": '<rect x="7.2" y="2.2" width="7.6" height="7.6"/>',
    "D": '<path d="M11 1 16 6 11 11 6 6z"/>', "^": '<path d="M11 1.5 16 10.5H6z"/>',
    "v": '<path d="M11 10.5 16 1.5H6z"/>',
}  # fmt: skip


def format_key(formats: Sequence[str]) -> Html:
    """Which mark is which format."""
    return _key([
        (f'<g {_paint(name, colour)}>{_SHAPES[marker]}</g>', name)
        for name in dict.fromkeys(formats)
        for marker, colour in [FORMATS.get(name, _OTHER)]
    ])  # fmt: skip


def _paint(form: str, colour: str) -> str:
    page = f'"var(--series-{1 + SERIES.index(colour)})"'
    return f'fill="none" stroke={page} stroke-width="1.5"' if form == "onnx-fp32" else f"fill={page}"


def _key(entries: Sequence[tuple[str, str]]) -> Html:
    items = [
        tag("li", join([Html(f'<svg viewBox="0 0 22 12" aria-hidden="true">{mark}</svg>'), name], ""))
        for mark, name in entries
    ]
    return tag("ul", *items, class_="key")


def terms_of(training: dict[str, Any]) -> list[str]:
    """The names of the terms of a training's loss."""
    return list(dict.fromkeys(name for record in training["records"] for name in record["terms"]))


def curves(training: dict[str, Any], metric: str) -> Html:
    """A training's loss, each term as it counts in it, and below the validation score by epoch."""
    records = [record for record in training["records"] if math.isfinite(record["loss"])]
    epochs = [epoch for epoch in training["epochs"] if math.isfinite(epoch["score"])]
    panels = [name for name, found in (("loss", len(records) > 1), ("score", epochs)) if found]
    if not panels:
        return Html("")
    heights = [{"loss": 3, "score": 2}[name] for name in panels]
    with canvas(44 + 48 * sum(heights), nrows=len(panels), sharex=True, height_ratios=heights) as (drawn, axes):
        for name, ax in zip(panels, axes, strict=True):
            if name == "loss":
                _loss_panel(ax, records, terms_of(training))
            else:
                _score_panel(ax, epochs, training["best_epoch"], metric)
            ax.grid(axis="x", visible=False)
        axes[-1].set_xlabel("epoch")
        return svg(drawn, f"Loss and validation score by epoch: {training['step']}")


def _loss_panel(ax: Any, records: list[dict[str, Any]], terms: list[str]) -> None:
    at = [record["epoch"] for record in records]
    lines = {"loss": [record["loss"] for record in records]} if len(terms) != 1 else {}
    for name in terms:
        parts = [record["terms"].get(name, {"value": math.nan, "weight": 1}) for record in records]
        lines[name] = [part["value"] * part["weight"] for part in parts]
    seen = [value for line in lines.values() for value in line if math.isfinite(value) and value > 0]
    if seen and max(seen) > 20 * min(seen) and all(record["loss"] > 0 for record in records):
        drawing.log_axis(ax.yaxis, min(seen), max(seen))
    for place, (name, line) in enumerate(lines.items()):
        colour, dash = _line_look(place, name)
        ax.plot(at, line, color=colour, linestyle=dash, linewidth=1.2 if name != "loss" else 1.8)
    ax.set_title("training loss", loc="left", fontsize=11, color=MUTED)


def _line_look(place: int, name: str) -> tuple[str, Any]:
    if name == "loss":
        return INK, "-"
    return SERIES[place % len(SERIES)], _LINES[place % len(_LINES)]


def curves_key(training: dict[str, Any]) -> Html:
    """Which line is which term."""
    terms = terms_of(training)
    names = ["loss", *terms] if len(terms) != 1 else terms
    marks = []
    for place, name in enumerate(names):
        colour, dash = _line_look(place, name)
        stroke = "var(--ink)" if colour == INK else f"var(--series-{1 + SERIES.index(colour)})"
        pattern = "" if dash == "-" else f' stroke-dasharray="{" ".join(str(1.4 * part) for part in dash[1])}"'
        told = "loss (the sum)" if name == "loss" else name
        marks.append((f'<path d="M0 6H22" fill="none" stroke="{stroke}" stroke-width="2"{pattern}/>', told))
    return _key(marks)


def _score_panel(ax: Any, epochs: list[dict[str, float]], best: float, metric: str) -> None:
    at, scores = [epoch["epoch"] for epoch in epochs], [epoch["score"] for epoch in epochs]
    ax.plot(at, scores, color=INK, linewidth=1.4, marker="o", markersize=4, markerfacecolor=PAPER)
    kept = [(epoch, score) for epoch, score in zip(at, scores, strict=True) if epoch == best]
    for epoch, score in kept:
        ax.plot(epoch, score, "o", color=INK, markersize=6)
        ax.annotate(
            f"{score:.4f}, kept", (epoch, score), (0, 8), textcoords="offset points", color=INK,
            ha="left" if epoch == at[0] and len(at) > 1 else "right" if epoch == at[-1] and epoch > 0 else "center",
        )  # fmt: skip
    ax.margins(y=0.35)
    ax.set_title(f"validation {metric}", loc="left", fontsize=11, color=MUTED)


def strips(rows: Sequence[tuple[str, Sequence[float], float]], metric: str) -> Html:
    """Scores as dots, a line for each name, its mean as a bar. Empty when there are no two names with a number."""
    rows = [row for row in rows if all(map(math.isfinite, row[1]))]
    if len(rows) < 2:
        return Html("")
    with canvas(56 + 34 * len(rows)) as (drawn, (axes,)):
        for place, (_, scores, mean) in enumerate(rows):
            colour = SERIES[min(place, len(SERIES) - 1)]
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color=INK, linewidth=1.6, zorder=2)
            axes.plot(scores, [place] * len(scores), "o", color=colour, markersize=6, alpha=0.8, zorder=3)
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=metric)
        axes.set_yticks(range(len(rows)), [shorten(name, 24) for name, _, _ in rows], color=INK)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        return svg(drawn, f"{metric} by arm")


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> Html:
    """A heat map: rows are the true labels, columns the predicted; colour is the share of the row, figures counts."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    number = len(labels)
    names = [shorten(label, _LONGEST) for label in labels]
    upright = max(map(len, names)) * number > 40
    with canvas(150 + 24 * number if number < 7 else 120 + 22 * number) as (drawn, (axes,)):
        for row, line in enumerate(counts):
            total = sum(line)
            for column, count in enumerate(line):
                share = count / total if total else 0.0
                colour = to_rgba(SERIES[0], round(0.04 + 0.96 * share, 3) if count else 0.03)
                axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=colour, linewidth=0))
                if count:
                    ink = PAPER if share > 0.55 else INK
                    size = 11 if number < 9 else 9
                    axes.text(column + 0.5, row + 0.5, f"{count}", ha="center", va="center", color=ink, fontsize=size)
        axes.set(xlim=(0, number), ylim=(number, 0))
        places = [place + 0.5 for place in range(number)]
        axes.set_yticks(places, names, color=INK)
        axes.set_xticks(places, names, color=INK, rotation=90 if upright else 0)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return svg(drawn, title)


def reliability(bins: Sequence[dict[str, Any]], title: str) -> Html:
    """Accuracy within each bin of confidence, against the diagonal on which the two agree."""
    with canvas(228) as (drawn, (axes,)):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
        for found in bins:
            low, wide = found["low"] + 0.006, found["high"] - found["low"] - 0.012
            axes.bar(low, found["accuracy"], wide, align="edge", color=SERIES[0], alpha=0.8, linewidth=0)
            few = found["accuracy"] < 0.9  # room above the bar
            axes.annotate(
                f"{found['n']}", (low + wide / 2, found["accuracy"]), (0, 3 if few else -11), ha="center", fontsize=9,
                textcoords="offset points", color=MUTED if few else PAPER,
            )  # fmt: skip
            axes.plot([low, low + wide], [found["confidence"]] * 2, color=SERIES[1], linewidth=2.4, zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1.04), xlabel="confidence")
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_yticks([0, 0.5, 1])
        axes.grid(axis="x", visible=False)
        axes.set_title("accuracy", loc="left", fontsize=11, color=MUTED)
        return svg(drawn, title)


def reliability_key() -> Html:
    """What the bars and the lines are."""
    return _key([
        ('<rect x="4" y="1" width="14" height="10" fill="var(--series-1)" opacity=".8"/>', "accuracy"),
        ('<path d="M2 6H20" stroke="var(--series-2)" stroke-width="2.4"/>', "mean confidence"),
        ('<path d="M0 6H22" stroke="var(--muted)" stroke-dasharray="4 3"/>', "where the two would agree"),
    ])  # fmt: skip
