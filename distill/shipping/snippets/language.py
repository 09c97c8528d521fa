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


def _write_on(facts: Mapping[str, Any]) -> str:
    """The likeliest token each time; what was read stays in the graph's past."""
    return "\n".join(
        [
            *opened(facts, labels=False)[:-2],
            "tokenizer.no_padding()",
            "",
            "",
            "def write(text, most=40):",
            "    past = {",
            "        one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=np.float32)",
            "        for one in session.get_inputs()",
            '        if one.name.startswith("past_key_values.")',
            "    }",
            '    names = ["logits", *(name.replace("past_key_values", "present") for name in past)]',
            "    tokens, found, seen = tokenizer.encode(text).ids, [], 0",
            "    while len(found) < most:",
            "        seen += len(tokens)",
            "        mask = np.ones((1, seen), dtype=np.int64)",
            '        feed = {"input_ids": np.array([tokens]), "attention_mask": mask, **past}',
            "        logits, *made = session.run(names, feed)",
            "        past, tokens = dict(zip(past, made, strict=True)), [int(logits[0, -1].argmax())]",
            "        found += tokens",
            "    return text + tokenizer.decode(found)",
            "",
            "",
            given(facts),
            "print([write(text) for text in texts])",
        ]
    )


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy: the likeliest token at each mask, or the likeliest next ones."""
    if _causal(facts):
        return _write_on(facts)
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
