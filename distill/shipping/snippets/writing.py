"""Snippets of text to text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.engines import GRAPHS
from distill.shipping.snippets.choosing import READ, chosen, ends, indented, over
from distill.shipping.snippets.common import OPTIONS, written

_TEXTS = ["A text of yours.", "Another one, as long as you like: what is too long is cut."]


def given(facts: Mapping[str, Any]) -> str:
    """The texts that are read."""
    return written(_TEXTS)


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """Tokenizer and model of stock transformers: their folder says how a text is written."""
    classes, more = "AutoModelForSeq2SeqLM, AutoTokenizer", ""
    if facts["short_cache"]:
        classes += ", DynamicCache, EncoderDecoderCache"
        more = ", past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache())"
    return "\n".join(
        [
            "import json",
            "from pathlib import Path",
            "",
            f"from transformers import {classes}",
            "",
            given(facts),
            'tokenizer = AutoTokenizer.from_pretrained("./transformers")',
            'model = AutoModelForSeq2SeqLM.from_pretrained("./transformers").eval()',
            'prefix = json.loads(Path("transformers/config.json").read_text(encoding="utf-8")).get("prefix") or ""',
            "rows = tokenizer(",
            '    [prefix + text for text in texts], padding=True, truncation=True, return_tensors="pt",',
            "    return_token_type_ids=False,",
            ")",
            f"print(tokenizer.batch_decode(model.generate(**rows{more}), skip_special_tokens=True))",
        ]
    )


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy: the likeliest token each time that generation_config.json allows."""
    small = next(file for form, file in GRAPHS.items() if form in facts["formats"]).removeprefix("model")
    rule = facts["preprocessing"]
    start = "decoder_start_token_id" if "decoder_start_token_id" in facts["generation"] else "bos_token_id"
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
            READ,
            *ends(facts),
            'prefix = json.loads(Path("onnx/config.json").read_text(encoding="utf-8")).get("prefix") or ""',
            *OPTIONS,
            "encoder, decoder = (",
            f'    onnxruntime.InferenceSession(f"onnx/{{name}}{small}", options, providers=["CPUExecutionProvider"])',
            '    for name in ("encoder_model", "decoder_model_merged")',
            ")",
            "",
            "",
            "def write(text):",
            "    row = tokenizer.encode(prefix + text)",
            "    ids, mask = np.array([row.ids]), np.array([row.attention_mask])",
            '    made = encoder.run(None, {"input_ids": ids, "attention_mask": mask})',
            '    names = [one.name.replace("present.", "past_key_values.") for one in encoder.get_outputs()]',
            "    source = dict(zip(names, made, strict=True))",
            "    past = {",
            "        one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=np.float32)",
            "        for one in decoder.get_inputs()",
            '        if one.name.startswith("past_key_values.") and one.name not in source',
            "    }",
            '    names = ["logits", *(name.replace("past_key_values", "present") for name in past)]',
            f'    tokens = [how["{start}"]]',
            '    while len(tokens) <= how["max_new_tokens"]:',
            '        feed = {"input_ids": np.array([tokens[-1:]]), "encoder_attention_mask": mask, **past, **source}',
            "        logits, *made = decoder.run(names, feed)",
            "        past = dict(zip(past, made, strict=True))",
            *indented(chosen(facts, start="1", last='how["max_new_tokens"]')),
            "        tokens.append(token)",
            *indented(over(facts)),
            "    return tokenizer.decode(tokens[1:], skip_special_tokens=True)",
            "",
            "",
            given(facts),
            "print([write(text) for text in texts])",
        ]
    )
