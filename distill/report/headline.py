"""A report in words: what was kept, how much smaller and faster, and how sure that is."""

from __future__ import annotations

from distill.evaluation.ledger import Latency, Ledger, Row

_BUSY = 1.5  # times the CPU's time, of wall time that waited for something else


def size(count: float) -> str:
    """Bytes as people write them."""
    for unit, many in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= many:
            return f"{count / many:.{2 if count < 10 * many else 1}f} {unit}"
    return f"{count:.0f} B"


def percent(share: float | None) -> str:
    """A share in per cent; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def times(ratio: float | None) -> str:
    """How many times less: the inverse of a ratio; a dash where there is none."""
    return "–" if not ratio else f"{1 / ratio:.2f}x" if 1 / ratio < 10 else f"{1 / ratio:.1f}x"


def lead(ledger: Ledger) -> str:
    """The one sentence (or two) that a reader takes away."""
    row, teacher = ledger.last, ledger.teacher
    metric = row.metric.replace("_", " ")
    if len(ledger.rows) < 2:
        return f"Only the teacher was measured: {metric} {teacher.score:.3f} in {size(teacher.bytes)}."
    whose, of = ("its teachers’ ensemble", " of the first of them") if ledger.ensemble else ("its teacher", "")
    if row.retained is None:
        kept = f"{row.name} has {metric} {row.score:.3f}, where {whose} has {ledger.reference.score:.3f},"
    else:
        kept = f"{row.name} keeps {percent(row.retained)} of {whose}’s {metric}"
    smaller = f"in {percent(ledger.ratio_of_size(row))} of the size{of}"
    return f"{kept} {smaller}. {_speed(ledger)}".strip()


def _speed(ledger: Ledger) -> str:
    row = ledger.last
    eager, same = ledger.against_eager(row), ledger.against_same_engine(row)
    if not eager:
        return ""
    who = "the first teacher" if ledger.ensemble else "the teacher"
    told = f"At batch {row.latency[0].batch} it {_pace(eager)} {who} as users run it (eager torch)"
    if row.latency[0].engine == ledger.teacher.latency[0].engine:
        told += ", which is also its own engine."
    elif not same:
        told += f"; {who} was not timed on the same engine."
    else:
        told += f", and {_pace(same)} {who} on the same engine."
    return told + _doubt(row.latency[0], ledger.teacher.latency[0], who)


def _doubt(mine: Latency, theirs: Latency, who: str) -> str:
    """A sentence on times that waited for other work: then wall time is far above the CPU's."""
    both = (mine, theirs)  # a graphics card's work is no CPU time, and "torch-cuda" the name of such an engine
    if any("-" in timed.engine or not timed.cpu_ms for timed in both) or all(
        timed.p50_ms < _BUSY * timed.cpu_ms for timed in both
    ):
        return ""
    pace = _pace(mine.cpu_ms / theirs.cpu_ms)
    return f" The machine was busy meanwhile, so these are rough: by CPU time it {pace} {who} as users run it."


def _pace(ratio: float) -> str:
    if 0.98 < ratio < 1.02:
        return "is as fast as"
    return f"is {1 / ratio:.1f} times as fast as" if ratio < 1 else f"takes {ratio:.1f} times as long as"


def sureness(row: Row, teacher: Row, whose: str = "the teacher’s") -> str:
    """The scores behind the headline, with the interval and the paired test."""
    told = (
        f"{row.metric.replace('_', ' ').capitalize()} {row.score:.4f} (95 % interval {row.interval[0]:.3f} to "
        f"{row.interval[1]:.3f}) on {row.n} test examples, {whose} {teacher.score:.4f} on "
        f"{'the same' if row.n == teacher.n else teacher.n}."
    )
    if row.p_value is None:
        return told
    small = "hardly chance" if row.p_value < 0.05 else "within what chance gives"
    p = "p < 0.001" if row.p_value < 0.001 else f"p = {row.p_value:.3f}"
    return f"{told} The difference is {small} (paired test, {p})."
