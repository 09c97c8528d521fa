"""Classifying a text, or a pair of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.shipping.snippets.common import fed, opened, softmax, written

_SINGLE = ["A text of yours.", "Another one, as long as you like: what is too long is cut."]
_PAIRS = [("The first text.", "The second one."), ("A question?", "An answer, as long as you like.")]


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """A pipeline of stock transformers."""
    more = {"softmax": "", "sigmoid": ", top_k=None", "none": ', function_to_apply="none"'}[facts["activation"]]
    pairs = facts["preprocessing"]["texts"] == 2
    asked = '[{"text": one, "text_pair": other} for one, other in texts]' if pairs else "texts"
    lines = [
        "from transformers import pipeline",
        "",
        given(facts),
        f'classify = pipeline("text-classification", model="./transformers", truncation=True{more})',
        f"answers = classify({asked})",
    ]
    if facts["activation"] == "sigmoid":
        lines.append(f"answers = [[one for one in found if one['score'] >= {facts['threshold']}] for found in answers]")
    return "\n".join([*lines, "print(answers)"])


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy."""
    return "\n".join(
        [
            *opened(facts),
            "def classify(texts):",
            "    rows = tokenizer.encode_batch(texts)",
            *fed(facts),
            '    logits = session.run(["logits"], feed)[0].astype(np.float64)',
            *_answers(facts),
            "",
            "",
            given(facts),
            "print(classify(texts))",
        ]
    )


def _answers(facts: Mapping[str, Any]) -> list[str]:
    if facts["activation"] == "softmax":
        return [
            *softmax(),
            '    return [{"label": labels[str(row.argmax())], "score": float(row.max())} for row in shares]',
        ]
    if facts["activation"] == "sigmoid":
        return [
            "    shares = 1 / (1 + np.exp(-logits))",
            "    return [",
            "        [",
            '            {"label": labels[str(i)], "score": float(row[i])}',
            f"            for i in (-row).argsort() if row[i] >= {facts['threshold']}",
            "        ]",
            "        for row in shares",
            "    ]",
        ]
    return ['    return [{"label": labels["0"], "score": float(row[0])} for row in logits]']


def given(facts: Mapping[str, Any]) -> str:
    """The texts that are asked about."""
    return written(_PAIRS if facts["preprocessing"]["texts"] == 2 else _SINGLE)
