"""Filling in what is masked, and writing texts on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.data.readers import WRITTEN
from distill.shipping.snippets.choosing import READ, chosen, ends, indented, over
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
    asked = ['fill = pipeline("fill-mask", model="./transformers")', "print(fill(texts))"]
    if _causal(facts):
        how = facts["generation"]
        more = [] if how.get("max_new_tokens") else [f"max_new_tokens={WRITTEN}"]
        opening, closing = facts["frame"]
        more += ["add_special_tokens=False"] if closing and not opening else []  # a text's end is open
        more += [] if how.get("do_sample") else ["do_sample=False"]  # a pipeline's own default draws at random
        asked = [
            'write = pipeline("text-generation", model="./transformers")',
            f"print(write({', '.join(['texts', *more])}))",
        ]
    return "\n".join(["from transformers import pipeline", "", given(facts), *asked])


def _write_on(facts: Mapping[str, Any]) -> str:
    """The likeliest token each time that generation_config.json allows; what was read stays in the graph's past."""
    _, closing = facts["frame"]
    most = 'how["max_new_tokens"]' if facts["generation"].get("max_new_tokens") else str(WRITTEN)
    token = indented(chosen(facts, start="start", last="start + most - 1"))
    reads = [READ] if any("how[" in line for line in (most, *ends(facts), *token)) else []
    return "\n".join(
        [
            *opened(facts, labels=False, more=[*reads, *ends(facts), "tokenizer.no_padding()"]),
            f"def write(text, most={most}):",
            "    past = {",
            "        one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=np.float32)",
            "        for one in session.get_inputs()",
            '        if one.name.startswith("past_key_values.")',
            "    }",
            '    names = ["logits", *(name.replace("past_key_values", "present") for name in past)]',
            f"    tokens = unread = tokenizer.encode(text).ids{f'[:-{closing}]  # its end is open' if closing else ''}",
            "    start = len(tokens)",
            "    while len(tokens) < start + most:",
            "        mask = np.ones((1, len(tokens)), dtype=np.int64)",
            '        feed = {"input_ids": np.array([unread]), "attention_mask": mask, **past}',
            "        logits, *made = session.run(names, feed)",
            "        past = dict(zip(past, made, strict=True))",
            *token,
            "        unread = [token]",
            "        tokens = tokens + unread",
            *indented(over(facts)),
            "    return text + tokenizer.decode(tokens)[len(tokenizer.decode(tokens[:start])) :]",
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
