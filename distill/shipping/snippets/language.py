"""Filling in what is masked, and writing texts on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.shipping.snippets.common import fed, opened, softmax, written


def given(facts: Mapping[str, Any]) -> str:
    """The texts that are asked about."""
    return written(_texts(facts))


def _texts(facts: Mapping[str, Any]) -> list[str]:
    if _causal(facts):
        return ["Once upon a time", "In the beginning"]
    return [f"A text of yours with one {facts['mask']} left out.", f"Another {facts['mask']}."]


def _causal(facts: Mapping[str, Any]) -> bool:
    return facts["problem"] == "causal_language_modelling"


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """A pipeline of stock transformers."""
    asked = (
        ['write = pipeline("text-generation", model="./transformers")', "print(write(texts, max_new_tokens=40))"]
        if _causal(facts)
        else ['fill = pipeline("fill-mask", model="./transformers")', "print(fill(texts))"]
    )
    return "\n".join(["from transformers import pipeline", "", given(facts), *asked])


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy: the likeliest token at each mask."""
    return "\n".join(
        [
            *opened(facts, labels=False),
            "def fill(texts):",
            "    rows = tokenizer.encode_batch(texts)",
            *fed(facts),
            '    logits = session.run(["logits"], feed)[0].astype(np.float64)',
            *softmax(),
            f'    mask = tokenizer.token_to_id("{facts["mask"]}")',
            "    found = []",
            "    for row, mine in zip(rows, shares):",
            "        blanks = [place for place, token in enumerate(row.ids) if token == mask]",
            "        best = [int(mine[place].argmax()) for place in blanks]",
            "        found.append([(tokenizer.decode([token]), float(mine[place, token]))"
            " for place, token in zip(blanks, best)])",
            "    return found",
            "",
            "",
            given(facts),
            "print(fill(texts))",
        ]
    )
