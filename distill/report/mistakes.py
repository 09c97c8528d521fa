"""Where the result errs, beside its teacher: by class, by confusion, and how well its confidence tells."""

from __future__ import annotations

from collections.abc import Sequence

from distill.evaluation.ledger import Ledger, Row
from distill.report import headline, markup, plots
from distill.report.markup import Html, section, tag

_DRAWN = 12  # labels of a heat map; above, the most confused pairs are a table
_PAIRS = 15
_CLASSES = 20  # shown at once


def _both(ledger: Ledger) -> list[tuple[str, Row]]:
    found = [("ensemble" if ledger.ensemble else "teacher", ledger.reference)]
    return [*found, (ledger.last.title, ledger.last)] if len(ledger.rows) > 1 else found


def by_class(ledger: Ledger, each: str) -> Html:
    """Each label's own score, the result's worst first; `each` says what that is."""
    both = _both(ledger)
    result, teacher = both[-1][1], both[0][1]
    if not result.by_class:
        return Html("")
    counts = {}
    if result.confusion:
        counts = dict(zip(result.by_class, (sum(line) for line in result.confusion if sum(line)), strict=False))
    body = []
    for label, score in sorted(result.by_class.items(), key=lambda item: (item[1], item[0])):
        before = teacher.by_class.get(label)
        told = [label, *([f"{counts[label]}"] if counts else [])]
        if len(both) > 1:
            told += ["–" if before is None else f"{before:.3f}", f"{score:.3f}", _change(before, score)]
        else:
            told += [f"{score:.3f}"]
        body.append(told)
    head: list[object] = ["class", *(["examples"] if counts else []), *(name for name, _ in both)]
    head += ["change"] if len(both) > 1 else []
    rest = body[_CLASSES:]
    order = "the result’s worst first" if len(both) > 1 else "the worst first"
    return section(
        "Class by class",
        tag("p", f"{each} on the test split, {order}.", class_="say"),
        markup.table(head, body[:_CLASSES], name="class by class"),
        markup.details(f"the other {len(rest)} classes", markup.table(head, rest)) if rest else "",
    )


def _change(before: float | None, after: float) -> Html | str:
    if before is None:
        return "–"
    change = after - before
    told = f"{change:+.3f}".replace("-", "−")
    return tag("span", told, class_="bad") if change <= -0.05 else told if abs(change) >= 5e-4 else "0"


def confusion(ledger: Ledger, labels: Sequence[str]) -> Html:
    """Which label is taken for which: heat maps, or for many labels the most confused pairs."""
    found = [(name, row) for name, row in _both(ledger) if row.confusion and len(row.confusion) == len(labels)]
    if not found:
        return Html("")
    if len(labels) > _DRAWN:
        return section("Most confused", *_pairs(found, labels))
    figures = []
    for name, row in found:
        counts = row.confusion or []
        head = ["true \\ predicted", *labels]
        body = [[label, *map(str, line)] for label, line in zip(labels, counts, strict=True)]
        drawn = plots.confusion(counts, labels, f"Confusion matrix: {name}")
        wrong = sum(map(sum, counts)) - sum(line[place] for place, line in enumerate(counts))
        caption = f"{wrong} of {row.n} wrong"
        figures.append(markup.figure(name, caption, drawn, markup.table(head, body, name=f"confusion of {name}")))
    caption = "Examples of the test split. Colour is the share of the true class."
    return section("What is taken for what", tag("p", caption, class_="say"), markup.grid(*figures))


def _pairs(found: Sequence[tuple[str, Row]], labels: Sequence[str]) -> list[Html]:
    names = [name for name, _ in found]
    matrices = [row.confusion or [] for _, row in found]
    off = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j and matrices[-1][i][j]]
    off.sort(key=lambda pair: (-matrices[-1][pair[0]][pair[1]], pair))
    body = [
        [
            labels[i],
            labels[j],
            *(str(matrix[i][j]) for matrix in matrices),
            headline.percent(matrices[-1][i][j] / total),
        ]
        for i, j in off[:_PAIRS]
        if (total := sum(matrices[-1][i]))
    ]
    if not body:
        return [tag("p", f"{names[-1]} confuses no two classes.", class_="say")]
    told = f"The {len(body)} pairs that {names[-1]} confuses most, of {len(off)}; counts on the test split."
    head = ["true class", "taken for", *names, "of the class"]
    return [tag("p", told, class_="say"), markup.table(head, body, words=[1], name="most confused")]


def calibration(ledger: Ledger) -> Html:
    """How far confidence is from accuracy."""
    figures = []
    for name, row in _both(ledger):
        if not row.calibration or not row.calibration["bins"]:
            continue
        bins = row.calibration["bins"]
        body = [
            [f"{b['low']:.1f}–{b['high']:.1f}", str(b["n"]), f"{b['confidence']:.3f}", f"{b['accuracy']:.3f}"]
            for b in bins
        ]
        told = markup.table(["confidence", "examples", "mean confidence", "accuracy"], body, name=f"bins of {name}")
        drawn = plots.reliability(bins, f"Reliability: {name}")
        caption = f"expected calibration error {row.calibration['expected_error']:.3f}"
        figures.append(markup.figure(name, caption, drawn, told, plots.reliability_key()))
    caption = "Accuracy among answers of like confidence. A bar below its line is overconfident, above it too careful."
    return (
        section("How well confidence tells", tag("p", caption, class_="say"), markup.grid(*figures))
        if figures
        else (Html(""))
    )
