"""Training: the one loop, what it tells, and what it can go on from."""

from distill.training.loop import Objective, choose_dtype, fit
from distill.training.record import TrainingLog, Watch

__all__ = ["Objective", "TrainingLog", "Watch", "choose_dtype", "fit"]
