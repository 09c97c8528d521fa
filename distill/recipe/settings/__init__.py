"""What a recipe can say: frozen, validated, every default in one place.

The words are the field's own. `Recipe` is the whole; `Finetune`, `Distill`, `Prune` and `Quantize` are the steps'
settings and can be written in Python just as well as in YAML.
"""

from distill.recipe.settings.base import Metric, Problem, Settings, Share
from distill.recipe.settings.compression import Calibration, Gradually, Prune, Quantize, Target, Vocabulary
from distill.recipe.settings.data import Augment, Data, Mask, MaskedCopies, Source, WordCopies
from distill.recipe.settings.generation import Generation
from distill.recipe.settings.judging import AtLeastOrMost, Bound, Expect, Timing
from distill.recipe.settings.models import Member, Side, Student, Teacher
from distill.recipe.settings.signals import Kept
from distill.recipe.settings.telling import Format, Ship, Track
from distill.recipe.settings.training import (
    AttentionsTerm,
    Distill,
    Finetune,
    HiddenStatesTerm,
    Imitate,
    LogitsTerm,
    RelationsTerm,
    Term,
    Training,
)
from distill.recipe.settings.whole import Control, Recipe, Step

__all__ = [
    "AtLeastOrMost",
    "AttentionsTerm",
    "Augment",
    "Bound",
    "Calibration",
    "Control",
    "Data",
    "Distill",
    "Expect",
    "Finetune",
    "Format",
    "Generation",
    "Gradually",
    "HiddenStatesTerm",
    "Imitate",
    "Kept",
    "LogitsTerm",
    "Mask",
    "MaskedCopies",
    "Member",
    "Metric",
    "Problem",
    "Prune",
    "Quantize",
    "Recipe",
    "RelationsTerm",
    "Settings",
    "Share",
    "Ship",
    "Side",
    "Source",
    "Step",
    "Student",
    "Target",
    "Teacher",
    "Term",
    "Timing",
    "Track",
    "Training",
    "Vocabulary",
    "WordCopies",
]
