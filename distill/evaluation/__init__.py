"""Measuring: quality with its uncertainty, latency side by side, memory in a process of its own."""

from distill.evaluation.evaluate import Subject, evaluate, make_ledger, score, subjects_in
from distill.evaluation.ledger import Ledger, Row
from distill.evaluation.quality import Quality

__all__ = ["Ledger", "Quality", "Row", "Subject", "evaluate", "make_ledger", "score", "subjects_in"]
