"""The figures of a report that can be measured again, each with how far off it may be and why.

A claim's name says what to measure: `score FORMAT`, `size FORMAT`, `parameters FORMAT`, `parity FORMAT`,
`latency FORMAT / BASELINE, batch N`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.errors import CheckpointError
from distill.shipping import probe
from distill.shipping.manifest import Claim
from distill.tasks import LOWER, PERFECT

if TYPE_CHECKING:
    from distill.evaluation import Row

HALF_A_POINT = 0.005
REWRITTEN = 4096  # bytes that a tokenizer's files may change by when its limit and padding are written out
SLOWER = 1.6
TEACHER = {"transformers": "teacher", "onnx-fp32": "teacher onnx-fp32"}


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """A report's ledger. Raises CheckpointError when it has none that can be read."""
    from distill.evaluation import Row

    try:
        rows = [Row.from_dict(row) for row in report["rows"]]
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"report.json: its rows can't be read ({type(error).__name__}: {error})") from None
    if not rows:
        raise CheckpointError("report.json: it holds no rows")
    return rows


def shipped_rows(rows: Sequence[Row], formats: Sequence[str]) -> dict[str, Row]:
    """The row of each shipped format: the last one of that format. Raises CheckpointError when there is none."""
    last = {row.format: row for row in rows[1:]}
    absent = [form for form in formats if form not in last]
    if absent:
        raise CheckpointError(f"report.json: no row of {', '.join(absent)} behind the teacher's; nothing to ship")
    return {form: last[form] for form in formats}


def of_rows(rows: Sequence[Row], formats: Sequence[str]) -> list[Claim]:
    """Score, size, parameters and ratios of latency of what is shipped."""
    found: list[Claim] = []
    shipped = shipped_rows(rows, formats)
    for form, row in shipped.items():
        found += [
            Claim(
                name=f"score {form}", value=row.score, unit=row.metric,
                tolerance=of_score(row.n, row.metric, row.score),
                about="on the recipe's test split; half a point, or one text where one counts for more, because "
                "another processor rounds otherwise and a text on the edge may fall to the other side",
            ),
            Claim(
                name=f"size {form}", value=row.bytes, tolerance=REWRITTEN, unit="bytes",
                about="weights, config and tokenizer; the tokenizer's limit and padding are written out when it ships",
            ),
            Claim(
                name=f"parameters {form}", value=row.params, tolerance=0, unit="parameters",
                about="of a graph the values in its weights, without scales and zero points",
            ),
        ]  # fmt: skip
    return found + latencies(rows, shipped)


def of_score(examples: int, metric: str, score: float) -> float:
    """How far off a score may be: half a point of a perfect one, or one of so many examples where one counts for more;
    where less is better and nothing is perfect, half a hundredth of the score itself.
    """
    if metric in LOWER:
        return HALF_A_POINT * score
    return PERFECT.get(metric, 1.0) * max(HALF_A_POINT, 1 / max(examples, 1))


def latencies(rows: Sequence[Row], shipped: Mapping[str, Row]) -> list[Claim]:
    """Each format against the other ones it comes with, and against the teacher's, at every batch that was timed."""
    baselines = {TEACHER[row.format]: row for row in rows if row.name == rows[0].name and row.format in TEACHER}
    found = []
    for form, row in shipped.items():
        slower = dict(list(shipped.items())[: list(shipped).index(form)])
        for title, other in {**slower, **baselines}.items():
            for place, spent in enumerate(row.latency):
                if place >= len(other.latency) or not other.latency[place].p50_ms > 0:
                    continue
                found.append(
                    Claim(
                        name=f"latency {form} / {title}, batch {spent.batch}",
                        value=round(spent.p50_ms / other.latency[place].p50_ms, 4), tolerance=SLOWER,
                        unit=f"ratio of median latency, {spent.tokens} tokens, {spent.threads} thread(s)",
                        about=f"holds when it is not slower than {SLOWER} times that: machines differ in their kernels",
                    )
                )  # fmt: skip
    return found


def of_probe(logits: Mapping[str, np.ndarray]) -> list[Claim]:
    """How far each graph is from torch on the probe."""
    expected, close = probe.reference(logits), probe.tolerances(logits)
    return [
        Claim(
            name=f"parity {form}", value=round(probe.distance(found, expected), 6), tolerance=close[form],
            unit="largest difference of logits", about="to torch's, on the probe's token ids",
        )
        for form, found in logits.items()
        if found is not expected
    ]  # fmt: skip
