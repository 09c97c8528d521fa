"""Training: the one loop, what it tells, and what it can go on from."""

from distill.training.conditions import blocks_kept, choose_dtype
from distill.training.loop import fit
from distill.training.rates import Rate
from distill.training.record import TrainingLog, Watch
from distill.training.trainer import Objective

__all__ = ["Objective", "Rate", "TrainingLog", "Watch", "blocks_kept", "choose_dtype", "fit"]
