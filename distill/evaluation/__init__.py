"""Measuring: quality with its uncertainty, latency side by side, memory in a process of its own."""

from distill.evaluation.gains import Gain, measure_gain
from distill.evaluation.ledger import Ledger, Row
from distill.evaluation.quality import Quality
from distill.evaluation.session import (
    Subject,
    Together,
    add_teacher_graph,
    evaluate,
    make_ledger,
    note_of_tokens,
    score,
    score_together,
    subjects_in,
)

__all__ = [
    "Gain",
    "Ledger",
    "Quality",
    "Row",
    "Subject",
    "Together",
    "add_teacher_graph",
    "evaluate",
    "make_ledger",
    "measure_gain",
    "note_of_tokens",
    "score",
    "score_together",
    "subjects_in",
]
