"""Runs held against one another: which checkpoints are worth having, how their recipes differ, what is chance."""

from distill.comparison.budget import Budget, Choice
from distill.comparison.comparing import Comparison, compare
from distill.comparison.entries import Entry
from distill.comparison.groups import Group
from distill.comparison.reading import Run, read

__all__ = ["Budget", "Choice", "Comparison", "Entry", "Group", "Run", "compare", "read"]
