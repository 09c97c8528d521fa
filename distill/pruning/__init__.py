"""The step `prune`: which heads, neurons and layers are the least important, and what is left refitted."""

from distill.pruning.pruning import prune

__all__ = ["prune"]
