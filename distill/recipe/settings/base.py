"""What all settings share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Problem = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "masked_language_modelling",
    "causal_language_modelling",
    "text_to_text",
    "translation",
    "summarization",
    "token_classification",
    "question_answering",
]
Metric = Literal[
    "accuracy",
    "macro_f1",
    "micro_f1",
    "matthews",
    "spearman",
    "pearson",
    "perplexity",
    "bits_per_byte",
    "token_accuracy",
    "chrf",
    "bleu",
    "rouge1",
    "rouge2",
    "rouge_l",
    "entity_f1",
    "f1",
    "exact_match",
]
Share = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """Frozen settings that refuse words they don't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def short(key: str) -> BeforeValidator:
    """Lets `logits: 0.7` stand for `logits: {weight: 0.7}`, and the like."""
    return BeforeValidator(partial(_expanded, key))


def _expanded(key: str, value: Any) -> Any:
    return {key: value} if value is not None and not isinstance(value, dict | BaseModel) else value


def short_of(annotation: Any, marks: Sequence[Any] = ()) -> str | None:
    """The setting that a lone value stands for, where `short` lets it; `marks` are what a field's annotation had."""
    for mark in marks:
        if isinstance(mark, BeforeValidator) and getattr(mark.func, "func", None) is _expanded:
            return mark.func.args[0]
    if hasattr(annotation, "__metadata__"):
        return short_of(annotation.__origin__, annotation.__metadata__)
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return next((found for part in parts if (found := short_of(part))), None)
