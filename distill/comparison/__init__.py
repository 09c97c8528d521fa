"""Runs held against one another: which checkpoints are worth having, how their recipes differ, what is chance."""

from distill.comparison.budget import Budget, Choice
from distill.comparison.groups import Comparison, Entry, Group, compare
from distill.comparison.reading import Run, read

__all__ = ["Budget", "Choice", "Comparison", "Entry", "Group", "Run", "compare", "read"]
