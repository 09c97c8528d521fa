"""The plan of a run: all that its recipe names, as far as it was found, and what was wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import card
from distill.data.loading import Splits
from distill.errors import RecipeError
from distill.recipe import settings


@dataclass
class FoundTeacher:
    """A teacher that a recipe names: its settings, where in the recipe they stand, and what was found."""

    words: settings.Member
    where: str = "teacher"
    card: card.Card | None = None
    folder: Path | None = None
    config: dict[str, Any] | None = None
    new_head: bool = False
    hub_id: str | None = None


@dataclass
class Plan:
    """What was found: folders and data for a run to go on with, and what is wrong, missing or unchecked.

    `teachers` is one, or those of an ensemble. `problems` can never work; `missing` is what this machine lacks for a
    run, with what gets it; `unchecked` needs a network that could not be reached, or waits for a run.
    """

    recipe: settings.Recipe
    beside: Path | None = None
    teachers: list[FoundTeacher] = field(default_factory=list)
    student_folder: Path | None = None
    student_hub_id: str | None = None
    masked_lm_folder: Path | None = None
    data: Splits | None = None
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def card(self) -> card.Card | None:
        """That of the teacher, or of the first."""
        return self.teachers[0].card

    @property
    def teacher_folder(self) -> Path | None:
        """That of the teacher, or of the first."""
        return self.teachers[0].folder

    @property
    def teacher_config(self) -> dict[str, Any] | None:
        """That of the teacher, or of the first: the one that a student's layers are cut from."""
        return self.teachers[0].config

    @property
    def new_head(self) -> bool:
        """Whether the teacher, or the first, has its head trained anew."""
        return self.teachers[0].new_head

    def require(self) -> Plan:
        """This plan, when a run can go on with it. Raises RecipeError with everything that is wrong or missing."""
        if self.problems or self.missing:
            raise RecipeError(self.problems + self.missing)
        return self
