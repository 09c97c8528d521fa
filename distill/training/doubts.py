"""What a training warns of: terms that hardly count."""

from __future__ import annotations

import logging

from distill.training.record import TrainingLog

log = logging.getLogger(__name__)
_LOSS, _GRADIENT = 0.01, 0.001  # shares below which a term is negligible


def warn(record: TrainingLog, warned: set[str]) -> None:
    """Says, once, of a term whose share of the loss or of the gradient stayed negligible for the epoch that ended.

    `warned` holds the names of the terms that were told of.
    """
    recent = record.records[-max(1, len(record.records) // len(record.epochs)) :]
    for name in recent[-1]["terms"] if recent else ():
        terms = [point["terms"][name] for point in recent]
        if name in warned:
            continue
        share = max(term["share"] for term in terms)
        gradient = max((term["gradient"] for term in terms if "gradient" in term), default=1.0)
        if share < _LOSS:
            what = f"is {100 * share:.2g} % of the loss: it hardly counts"
        elif gradient < _GRADIENT:
            what = f"has {100 * gradient:.2g} % of the gradient: its scale is off by orders"
        else:
            continue
        warned.add(name)
        log.warning("%s: the term '%s' %s; raise its weight or leave it out", record.step, name, what)
