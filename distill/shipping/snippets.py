"""The card's snippets: each way of use, ready to run in the shipped folder, none with more than it says it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.engines import GRAPHS

_SINGLE = ["A text of yours.", "Another one, as long as you like: what is too long is cut."]
_PAIRS = [("The first text.", "The second one."), ("A question?", "An answer, as long as you like.")]


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """A pipeline of stock transformers."""
    more = {"softmax": "", "sigmoid": ", top_k=None", "none": ', function_to_apply="none"'}[facts["activation"]]
    pairs = facts["preprocessing"]["texts"] == 2
    given = '[{"text": one, "text_pair": other} for one, other in texts]' if pairs else "texts"
    lines = [
        "from transformers import pipeline",
        "",
        _texts(facts),
        f'classify = pipeline("text-classification", model="./transformers", truncation=True{more})',
        f"answers = classify({given})",
    ]
    if facts["activation"] == "sigmoid":
        lines.append(f"answers = [[one for one in found if one['score'] >= {facts['threshold']}] for found in answers]")
    return "\n".join([*lines, "print(answers)"])


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy."""
    rule = facts["preprocessing"]
    graph = next(file for form, file in GRAPHS.items() if form in facts["formats"])
    inputs = rule["inputs"]
    kinds = {
        "input_ids": "[row.ids for row in rows]",
        "attention_mask": "[row.attention_mask for row in rows]",
        "token_type_ids": "[row.type_ids for row in rows]"
        if facts["typed"]
        else "[[0] * len(row.ids) for row in rows]",
    }
    feed = [f'        "{name}": np.array({kinds[name]}, dtype=np.{inputs[name]["dtype"]}),' for name in inputs]
    return "\n".join(
        [
            "import json",
            "from pathlib import Path",
            "",
            "import numpy as np",
            "import onnxruntime",
            "from tokenizers import Tokenizer",
            "",
            f'tokenizer = Tokenizer.from_file("onnx/tokenizer.json")  # cuts at {rule["max_length"]} tokens and pads',
            f'session = onnxruntime.InferenceSession("onnx/{graph}", providers=["CPUExecutionProvider"])',
            'labels = json.loads(Path("onnx/config.json").read_text(encoding="utf-8"))["id2label"]',
            "",
            "",
            "def classify(texts):",
            "    rows = tokenizer.encode_batch(texts)",
            "    feed = {",
            *feed,
            "    }",
            '    logits = session.run(["logits"], feed)[0].astype(np.float64)',
            *_answers(facts),
            "",
            "",
            _texts(facts),
            "print(classify(texts))",
        ]
    )


def _answers(facts: Mapping[str, Any]) -> list[str]:
    if facts["activation"] == "softmax":
        return [
            "    shares = np.exp(logits - logits.max(-1, keepdims=True))",
            "    shares /= shares.sum(-1, keepdims=True)",
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


def predictor(facts: Mapping[str, Any]) -> str:
    """Distill's own Predictor, which may be asked from many threads."""
    return "\n".join(["from distill import Predictor", "", _texts(facts), 'print(Predictor(".").predict(texts))'])


def from_hub(repository: str) -> str:
    """How to get the folder."""
    folder = repository.split("/")[1]
    return "\n".join(
        [
            "from huggingface_hub import snapshot_download",
            "",
            f'snapshot_download("{repository}", local_dir="{folder}")',
        ]
    )


def _texts(facts: Mapping[str, Any]) -> str:
    texts: Sequence[Any] = _PAIRS if facts["preprocessing"]["texts"] == 2 else _SINGLE
    written = [f"({', '.join(map(json.dumps, one))})" if isinstance(one, tuple) else json.dumps(one) for one in texts]
    return f"texts = [{', '.join(written)}]"
