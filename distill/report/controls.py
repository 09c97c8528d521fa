"""What distillation bought, and what luck does: the recipe's own chain beside its controls, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.report import markup, plots
from distill.report.markup import Html, join, section, tag
from distill.tasks import LOWER, PERFECT

_NAMES = {
    "recipe": "the recipe",
    "finetune": "without the teacher (finetune)",
    "random-init": "from random weights (random-init)",
}
_TRADES = {  # what was bought, and over what
    "finetune": ("Distillation", "the same student without its teacher"),
    "random-init": ("Starting from {start}", "the same distillation from random weights"),
}
_STARTS = {"layers": "the teacher’s layers", "checkpoint": "the student’s own checkpoint"}


def in_words(controls: Mapping[str, Any]) -> list[str]:
    """One sentence for each control, what was bought with its interval; then one for the spread over seeds."""
    told = [_bought(controls, gain) for gain in controls["gains"]]
    seeds = len(controls["seeds"])
    if seeds > 1:
        own = controls["arms"][0]
        metric = controls["metric"].replace("_", " ")
        told.append(
            f"Over {seeds} seeds the recipe has {metric} {own['mean']:.4f} ± {own['spread']:.4f} (mean and standard "
            f"deviation; {', '.join(f'{score:.4f}' for score in own['scores'])}); what ships is the first one's."
        )
    return told


def _bought(controls: Mapping[str, Any], gain: Mapping[str, Any]) -> str:
    what, over = _TRADES[gain["over"]]
    what = what.format(start=_STARTS[controls["start"]])
    (low, high), value = gain["interval"], gain["gain"]
    seeds, n = len(controls["seeds"]), controls["n"]
    of = f"{seeds} seed{'s' * (seeds > 1)}, {n:,} texts"
    metric = controls["metric"]
    inside = f"95 % interval {_number(low, metric)} to {_number(high, metric)}"
    if low <= 0 <= high:
        return (
            f"{what} made no difference that can be told from chance: {_amount(value, metric)} against {over} "
            f"({inside}, which holds zero; {of})."
        )
    if value < 0:
        return f"{what} cost {_amount(value, metric).lstrip('−')} against {over} ({inside}, {of})."
    return f"{what} bought {_amount(value, metric)} over {over} ({inside}, {of})."


def _scale(metric: str) -> float:
    """Scores up to 1 are told in points, of which a perfect one has 100."""
    return 1.0 if metric in LOWER else 100.0 / PERFECT.get(metric, 1.0)


def _number(value: float, metric: str) -> str:
    told = f"{_scale(metric) * value:.{2 if metric in LOWER else 1}f}".replace("-", "−")
    return told.removeprefix("−") if float(told.replace("−", "-")) == 0 else told


def _amount(value: float, metric: str) -> str:
    name = metric.replace("_", " ")
    told = _number(value, metric)
    if metric in LOWER:
        return f"{_number(abs(value), metric)} {'less' if value >= 0 else 'more'} {name}"
    return f"{told if told.startswith('−') else f'+{told}'} points of {name}"


def title(controls: Mapping[str, Any]) -> str:
    """The section's name."""
    return "What distillation bought" if controls["gains"] else "The spread over seeds"


def cells(controls: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table's head and body, as words."""
    seeds = controls["seeds"]
    head = ["", *(f"seed {seed}" for seed in seeds), *(["mean", "spread"] if len(seeds) > 1 else []), "minutes"]
    body = []
    for arm in controls["arms"]:
        mean = [f"{arm['mean']:.4f}", f"{arm['spread']:.4f}"] if len(seeds) > 1 else []
        scores = [f"{score:.4f}" for score in arm["scores"]]
        body.append([_NAMES[arm["arm"]], *scores, *mean, f"{arm['seconds'] / 60:.1f}"])
    return head, body


def reading(controls: Mapping[str, Any]) -> list[str]:
    """How the figures are to be read."""
    several = len(controls["seeds"]) > 1
    drawn = "test texts and seeds alike" if several else "test texts"
    lines = [
        f"{controls['metric']} on {controls['n']} test examples, of the last torch checkpoint of each chain (before "
        "`quantize`), each at its best epoch on validation; nothing was chosen on test"
    ]
    if controls["gains"]:
        lines.append(f"the interval is a paired bootstrap over {drawn}: both sides answer the same drawn ones")
        if not several:
            lines.append(
                "of one seed: how far two trainings are apart by luck is not in the interval (`seeds: 3` puts it in)"
            )
    lines.append("minutes: what all of a row's steps took when they were made, once for each seed")
    return lines


def markdown(controls: Mapping[str, Any]) -> list[str]:
    """The section of report.md, part by part."""
    head, body = cells(controls)
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]
    return [
        f"## {title(controls)}",
        "\n".join(f"* {line}" for line in controls["in_words"]),
        "\n".join(lines),
        "\n".join(f"* {line}" for line in reading(controls)),
    ]


def shown(controls: Mapping[str, Any] | None) -> Html:
    """The section of report.html."""
    if not controls:
        return Html("")
    head, body = cells(controls)
    rows = [(_NAMES[arm["arm"]].partition(" (")[0], arm["scores"], arm["mean"]) for arm in controls["arms"]]
    drawn = plots.strips(rows, controls["metric"].replace("_", " "))
    figure = markup.figure("Scores by arm", "A dot is a seed, the bar their mean.", drawn, "") if drawn else ""
    return section(
        title(controls),
        join([tag("p", line) for line in controls["in_words"]]),
        markup.table(head, body, name="arms"),
        markup.grid(figure),
        markup.bullets(reading(controls)),
    )
