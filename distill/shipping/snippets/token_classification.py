"""Tagging the words of a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.shipping.snippets.common import fed, opened, softmax, written
from distill.tasks.token_classification import name_entities

_TEXTS = ["A sentence of yours.", "Another one , whose words stand between blanks ."]


def given(facts: Mapping[str, Any]) -> str:
    """The texts that are asked about."""
    return written(_TEXTS)


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """A pipeline of stock transformers."""
    grouped = ', aggregation_strategy="first"' if name_entities(facts["labels"]) else ""
    return "\n".join(
        [
            "from transformers import pipeline",
            "",
            given(facts),
            f'tag = pipeline("token-classification", model="./transformers"{grouped})',
            "print(tag(texts))",
        ]
    )


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy: each word's tag is the one at its first token."""
    return "\n".join(
        [
            *opened(facts),
            "def tag(texts):",
            "    rows = tokenizer.encode_batch(texts)",
            *fed(facts),
            '    logits = session.run(["logits"], feed)[0].astype(np.float64)',
            *softmax(),
            "    return [words_of(*each) for each in zip(texts, rows, shares)]",
            "",
            "",
            "def words_of(text, row, shares):",
            "    found, end = [], 0",
            "    for word in text.split():",
            "        start = text.index(word, end)",
            "        end = start + len(word)",
            "        inside = [i for i, (a, b) in enumerate(row.offsets) if a < b and a < end and b > start]",
            "        if inside:  # else it is beyond what is read",
            "            best = shares[inside[0]].argmax()",
            "            score = float(shares[inside[0], best])",
            '            found.append({"word": word, "tag": labels[str(best)], "score": score})',
            "    return found",
            "",
            "",
            given(facts),
            "print(tag(texts))",
        ]
    )
