"""The training steps: `distill` imitates a teacher, `finetune` learns from labels alone; one objective serves both."""

from distill.distillation.asking import name_of
from distill.distillation.comparing import token_loss
from distill.distillation.fitting import held_out, layer_pairs, require_alike, require_fit
from distill.distillation.lesson import Lesson
from distill.distillation.steps import distill, finetune, settle
from distill.distillation.writing import cut_off, taught

__all__ = [
    "Lesson",
    "cut_off",
    "distill",
    "finetune",
    "held_out",
    "layer_pairs",
    "name_of",
    "require_alike",
    "require_fit",
    "settle",
    "taught",
    "token_loss",
]
