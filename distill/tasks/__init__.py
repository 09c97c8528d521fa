"""What a checkpoint is for: its head, the form of a label and of a prediction, and how predictions are scored.

A file a task, and the one dict that names them. No torch at import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.errors import DistillError
from distill.recipe.settings import Problem
from distill.tasks.classification import TextClassification
from distill.tasks.labels import ordered_names
from distill.tasks.language import CausalLanguageModelling, LanguageModelling, MaskedLanguageModelling
from distill.tasks.metrics import LOWER, METRICS, METRICS_OF, PERFECT, choose_metric
from distill.tasks.question_answering import QuestionAnswering
from distill.tasks.task import NO_TARGET, Task, better, retained
from distill.tasks.token_classification import TokenClassification
from distill.tasks.writing import Summarization, TextToText, Translation

TASKS: dict[str, type[Task]] = {
    TextClassification.name: TextClassification,
    MaskedLanguageModelling.name: MaskedLanguageModelling,
    CausalLanguageModelling.name: CausalLanguageModelling,
    TextToText.name: TextToText,
    Translation.name: Translation,
    Summarization.name: Summarization,
    TokenClassification.name: TokenClassification,
    QuestionAnswering.name: QuestionAnswering,
}

_TASK_OF: dict[Problem, type[Task]] = {
    "single_label_classification": TextClassification,
    "multi_label_classification": TextClassification,
    "regression": TextClassification,
    "masked_language_modelling": MaskedLanguageModelling,
    "causal_language_modelling": CausalLanguageModelling,
    "text_to_text": TextToText,
    "translation": Translation,
    "summarization": Summarization,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
}

__all__ = [
    "LOWER",
    "METRICS",
    "METRICS_OF",
    "NO_TARGET",
    "PERFECT",
    "TASKS",
    "CausalLanguageModelling",
    "LanguageModelling",
    "MaskedLanguageModelling",
    "QuestionAnswering",
    "Task",
    "TextClassification",
    "TokenClassification",
    "better",
    "choose_metric",
    "from_config",
    "kind_of",
    "ordered_names",
    "restored",
    "retained",
    "threshold_of",
]


def restored(problem: Problem, labels: Sequence[str], metric: str | None = None) -> Task:
    """A resolved task from what a report or a manifest tells of it. Raises DistillError for an unknown problem."""
    if problem not in _TASK_OF:
        raise DistillError(f"problem: '{problem}' is none of: {', '.join(_TASK_OF)}")
    return _TASK_OF[problem](problem, tuple(labels), metric or METRICS_OF[problem][0])


def kind_of(config: dict[str, Any]) -> type[Task]:
    """The task whose head a config names; text classification where it names none. Where several tasks share a head,
    the config's own `task` says which.

    Raises DistillError for a head of no task known here.
    """
    heads = config.get("architectures") or []
    found = [task for task in TASKS.values() if any(task.serves(head) for head in heads)]
    if heads and not found:
        raise DistillError(f"this checkpoint is a {', '.join(heads)}; it has no head for {', '.join(TASKS)}")
    named = TASKS.get(str(config.get("task")))
    return named if named in found else found[0] if found else TextClassification


def threshold_of(config: dict[str, Any]) -> float:
    """The probability from which something counts, as a checkpoint's config keeps it, or its task has it."""
    return float(config.get("threshold", kind_of(config).threshold))


def from_config(config: dict[str, Any]) -> Task:
    """The task that a saved checkpoint's config describes. Raises DistillError when it has no head known here."""
    kind, problem = kind_of(config), config.get("problem_type")
    if kind is not TextClassification:
        problem = next(name for name, task in _TASK_OF.items() if task is kind)
        return restored(problem, ordered_names(config) if kind.head_labels else ())
    ordered = ordered_names(config)
    if problem is None:
        problem = "regression" if len(ordered) == 1 else "single_label_classification"
    if _TASK_OF.get(problem) is not TextClassification:
        known = ", ".join(name for name, task in _TASK_OF.items() if task is TextClassification)
        raise DistillError(f"config.json: problem_type '{problem}' is none of: {known}")
    return restored(problem, ordered)
