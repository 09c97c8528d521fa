"""What all settings share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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

    def expand(value: Any) -> Any:
        return {key: value} if value is not None and not isinstance(value, dict | BaseModel) else value

    return BeforeValidator(expand)
