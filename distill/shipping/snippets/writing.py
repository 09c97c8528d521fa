"""Snippets of text to text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.engines import GRAPHS
from distill.shipping.snippets.common import written

_TEXTS = ["A text of yours.", "Another one, as long as you like: what is too long is cut."]


def given(facts: Mapping[str, Any]) -> str:
    """The texts that are read."""
    return written(_TEXTS)


def transformers_alone(facts: Mapping[str, Any]) -> str:
    """Tokenizer and model of stock transformers: their folder says how a text is written."""
    return "\n".join(
        [
            "import json",
            "from pathlib import Path",
            "",
            "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
            "",
            given(facts),
            'tokenizer = AutoTokenizer.from_pretrained("./transformers")',
            'model = AutoModelForSeq2SeqLM.from_pretrained("./transformers").eval()',
            'prefix = json.loads(Path("transformers/config.json").read_text(encoding="utf-8")).get("prefix") or ""',
            "rows = tokenizer(",
            '    [prefix + text for text in texts], padding=True, truncation=True, return_tensors="pt",',
            "    return_token_type_ids=False,",
            ")",
            "print(tokenizer.batch_decode(model.generate(**rows), skip_special_tokens=True))",
        ]
    )


def onnxruntime_alone(facts: Mapping[str, Any]) -> str:
    """ONNX Runtime, tokenizers and NumPy: the likeliest token each time, without beams."""
    small = next(file for form, file in GRAPHS.items() if form in facts["formats"]).removeprefix("model")
    rule = facts["preprocessing"]
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
            'how = json.loads(Path("onnx/generation_config.json").read_text(encoding="utf-8"))',
            'prefix = json.loads(Path("onnx/config.json").read_text(encoding="utf-8")).get("prefix") or ""',
            "encoder, decoder = (",
            '    onnxruntime.InferenceSession(f"onnx/{name}' + small + '", providers=["CPUExecutionProvider"])',
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
            '    token, text = how["decoder_start_token_id"], []',
            '    while token != how["eos_token_id"] and len(text) < how["max_new_tokens"]:',
            '        feed = {"input_ids": np.array([[token]]), "encoder_attention_mask": mask, **past, **source}',
            '        names = ["logits", *(name.replace("past_key_values", "present") for name in past)]',
            "        logits, *made = decoder.run(names, feed)",
            "        past = dict(zip(past, made, strict=True))",
            "        token = int(logits[0, -1].argmax())",
            "        text.append(token)",
            "    return tokenizer.decode(text, skip_special_tokens=True)",
            "",
            "",
            given(facts),
            "print([write(text) for text in texts])",
        ]
    )
