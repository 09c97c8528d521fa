"""The card's snippets: each way of use, ready to run in the shipped folder, none with more than it says it needs.

A file a task, and the one dict that names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from distill.shipping.snippets import classification, language, question_answering, token_classification, writing
from distill.shipping.snippets.choosing import left_out
from distill.shipping.snippets.common import from_hub

WRITERS: dict[str, ModuleType] = {
    "text-classification": classification,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "masked-language-modelling": language,
    "causal-language-modelling": language,
    "text-to-text": writing,
    "translation": writing,
    "summarization": writing,
}

__all__ = ["WRITERS", "from_hub", "left_out", "onnxruntime_alone", "predictor", "transformers_alone"]


def transformers_alone(task: str, facts: Mapping[str, Any]) -> str:
    """Stock transformers."""
    return WRITERS[task].transformers_alone(facts)


def onnxruntime_alone(task: str, facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy."""
    return WRITERS[task].onnxruntime_alone(facts)


def predictor(task: str, facts: Mapping[str, Any]) -> str:
    """Distill's own Predictor, which may be asked from many threads."""
    given = WRITERS[task].given(facts)
    return "\n".join(["from distill import Predictor", "", given, 'print(Predictor(".").predict(texts))'])
