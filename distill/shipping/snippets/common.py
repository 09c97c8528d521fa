"""What the snippets of several tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.engines import EXACT, GRAPHS

OPTIONS = (  # of a session
    "options = onnxruntime.SessionOptions()",
    f'options.add_session_config_entry("{EXACT[0]}", "{EXACT[1]}")  # 8 bits stay exact without VNNI too',
)


def opened(
    facts: Mapping[str, Any], *, labels: bool = True, more: Sequence[str] = (), cuts: str = "cuts at {} tokens and pads"
) -> list[str]:
    """The imports, the tokenizer, the session of the smallest graph, the names of the labels, and `more` lines."""
    graph = next(file for form, file in GRAPHS.items() if form in facts["formats"])
    told = cuts.format(facts["preprocessing"]["max_length"])
    if labels:
        more = ['labels = json.loads(Path("onnx/config.json").read_text(encoding="utf-8"))["id2label"]', *more]
    return [
        *(["import json", "from pathlib import Path", ""] if any("json.loads" in line for line in more) else []),
        "import numpy as np",
        "import onnxruntime",
        "from tokenizers import Tokenizer",
        "",
        f'tokenizer = Tokenizer.from_file("onnx/tokenizer.json")  # {told}',
        *OPTIONS,
        f'session = onnxruntime.InferenceSession("onnx/{graph}", options, providers=["CPUExecutionProvider"])',
        *more,
        "",
        "",
    ]


def fed(facts: Mapping[str, Any]) -> list[str]:
    """What a function gives the graph of its tokenizer's `rows`."""
    inputs = facts["preprocessing"]["inputs"]
    kinds = {
        "input_ids": "[row.ids for row in rows]",
        "attention_mask": "[row.attention_mask for row in rows]",
        "token_type_ids": "[row.type_ids for row in rows]"
        if facts["typed"]
        else "[[0] * len(row.ids) for row in rows]",
    }
    feed = [f'        "{name}": np.array({kinds[name]}, dtype=np.{inputs[name]["dtype"]}),' for name in inputs]
    return ["    feed = {", *feed, "    }"]


def softmax() -> list[str]:
    """Logits to shares of one, over the last axis."""
    return [
        "    shares = np.exp(logits - logits.max(-1, keepdims=True))",
        "    shares /= shares.sum(-1, keepdims=True)",
    ]


def written(texts: Sequence[Any]) -> str:
    """Texts, or pairs of them, as code."""
    import json

    told = [f"({', '.join(map(json.dumps, one))})" if isinstance(one, tuple) else json.dumps(one) for one in texts]
    return f"texts = [{', '.join(told)}]"


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
