"""distill: distil and compress transformer checkpoints.

Names are imported when they are first used, so that `import distill` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.checkpoint import Checkpoint, load
    from distill.data import Splits
    from distill.data import load as load_data
    from distill.distillation import distill, finetune
    from distill.errors import DistillError
    from distill.evaluation import evaluate
    from distill.pipeline import run
    from distill.predict import Predictor
    from distill.pruning import prune
    from distill.quantization import quantize
    from distill.recipe import Data, Distill, Finetune, Prune, Quantize, Recipe
    from distill.recipe import load as load_recipe
    from distill.student import cut
    from distill.teacher import Ensemble
    from distill.teacher import load as load_teacher

_HOMES = {
    "Checkpoint": ("distill.checkpoint", "Checkpoint"),
    "Data": ("distill.recipe", "Data"),
    "Distill": ("distill.recipe", "Distill"),
    "DistillError": ("distill.errors", "DistillError"),
    "Ensemble": ("distill.teacher", "Ensemble"),
    "Finetune": ("distill.recipe", "Finetune"),
    "Predictor": ("distill.predict", "Predictor"),
    "Prune": ("distill.recipe", "Prune"),
    "Quantize": ("distill.recipe", "Quantize"),
    "Recipe": ("distill.recipe", "Recipe"),
    "Splits": ("distill.data", "Splits"),
    "cut": ("distill.student", "cut"),
    "distill": ("distill.distillation", "distill"),
    "evaluate": ("distill.evaluation", "evaluate"),
    "finetune": ("distill.distillation", "finetune"),
    "load": ("distill.checkpoint", "load"),
    "load_data": ("distill.data", "load"),
    "load_recipe": ("distill.recipe", "load"),
    "load_teacher": ("distill.teacher", "load"),
    "prune": ("distill.pruning", "prune"),
    "quantize": ("distill.quantization", "quantize"),
    "run": ("distill.pipeline", "run"),
}

__all__ = [
    "Checkpoint",
    "Data",
    "Distill",
    "DistillError",
    "Ensemble",
    "Finetune",
    "Predictor",
    "Prune",
    "Quantize",
    "Recipe",
    "Splits",
    "cut",
    "distill",
    "evaluate",
    "finetune",
    "load",
    "load_data",
    "load_recipe",
    "load_teacher",
    "prune",
    "quantize",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'distill' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
