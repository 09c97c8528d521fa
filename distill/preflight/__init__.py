"""Recipe, card, checkpoints and data held against each other before anything expensive, without torch."""

from distill.preflight.plan import Plan, prepare

__all__ = ["Plan", "prepare"]
