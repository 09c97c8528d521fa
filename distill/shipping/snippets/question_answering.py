"""Finding the piece of a text that answers a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.shipping.snippets.common import fed, opened, written
from distill.tasks.question_answering import LONGEST_ANSWER

_PAIRS = [
    ("Who has written it?", "A text of yours, as long as you like. Somebody has written it."),
    ("What is read?", "Long texts are read in windows."),
]


def given(facts: Mapping[str, Any]) -> str:
    """The questions that are asked, each with its text."""
    return written(_PAIRS)


def _best(facts: Mapping[str, Any]) -> list[str]:
    """The best span over the windows of a context, from logits (windows, tokens, 2) and the places of its tokens."""
    none = facts["threshold"]
    return [
        "def best_of(context, logits, offsets, inside):",
        "    starts, ends = (np.where(inside, logits[..., side], -np.inf) for side in (0, 1))",
        '    best, answer = -np.inf, ""',
        f"    for more in range(min({LONGEST_ANSWER}, starts.shape[1])):  # an answer has no more tokens",
        "        sums = starts[:, : starts.shape[1] - more] + ends[:, more:]",
        "        window, token = np.unravel_index(sums.argmax(), sums.shape)",
        "        if sums[window, token] > best:",
        "            best = sums[window, token]",
        "            answer = context[offsets[window][token][0] : offsets[window][token + more][1]].strip()",
        *(
            [
                "    none = logits[:, 0].sum(-1).min()  # the lowest score of no answer, at each window's first token",
                f'    return "" if 1 / (1 + np.exp(best - none)) > {none} else answer',
            ]
            if none < 1
            else ["    return answer"]
        ),
        "",
        "",
    ]


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """Stock transformers, in windows: a pipeline for it is no longer part of them."""
    rule = facts["preprocessing"]
    cuts = f'truncation="only_second", max_length={rule["max_length"]}, stride={rule["stride"]}'
    return "\n".join(
        [
            "import numpy as np",
            "import torch",
            "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("./transformers")',
            'model = AutoModelForQuestionAnswering.from_pretrained("./transformers").eval()',
            "",
            "",
            "def answer(question, context):",
            "    windows = tokenizer(",
            f"        question, context, {cuts},",
            '        return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",',
            "    )",
            '    offsets, _ = windows.pop("offset_mapping"), windows.pop("overflow_to_sample_mapping")',
            "    inside = np.array([[side == 1 for side in windows.sequence_ids(i)] for i in range(len(offsets))])",
            "    with torch.inference_mode():",
            "        said = model(**windows)",
            "    logits = torch.stack([said.start_logits, said.end_logits], -1).double().numpy()",
            "    return best_of(context, logits, offsets.tolist(), inside)",
            "",
            "",
            *_best(facts),
            given(facts),
            "print([answer(*pair) for pair in texts])",
        ]
    )


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy."""
    return "\n".join(
        [
            *opened(facts, labels=False, cuts="cuts long texts into windows of {} tokens, and pads"),
            "def answer(question, context):",
            "    first = tokenizer.encode(question, context)",
            "    rows = [first, *first.overflowing]",
            *fed(facts),
            '    logits = session.run(["logits"], feed)[0].astype(np.float64)',
            "    inside = np.array([[side == 1 for side in row.sequence_ids] for row in rows])",
            "    return best_of(context, logits, [row.offsets for row in rows], inside)",
            "",
            "",
            *_best(facts),
            given(facts),
            "print([answer(*pair) for pair in texts])",
        ]
    )
