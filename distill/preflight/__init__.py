"""Recipe, card, checkpoints and data held against each other before anything expensive, without torch."""

from distill.preflight.plan import FoundTeacher, Plan
from distill.preflight.preparing import prepare

__all__ = ["FoundTeacher", "Plan", "prepare"]
