"""The formats that a folder holds, and its files: the section What is in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.engines import GRAPHS, ROUNDED, pair
from distill.tasks import restored


def contents(facts: Mapping[str, Any]) -> str:
    """The section What is in this folder: a line a file."""
    lines = []
    if "transformers" in facts["formats"]:
        lines.append("transformers/      config, safetensors and tokenizer; stock from_pretrained loads it")
    if bits := fewest_bits(facts):
        graphs = [f"{name} (fp32)" for name in graph_files(facts, "onnx-fp32")] + graph_files(facts, f"onnx-{bits}")
        named = "config.json (label names)" if facts["labels"] else "config.json"
        more = ["tokenizer.json", named, *(["generation_config.json"] if facts["generation"] else [])]
        lines.append(f"onnx/              {', '.join([*graphs, *more])}")
    lines += [
        "recipe.yaml        how it was made",
        "report.json        every figure, for programs",
        "manifest.json      SHA-256 and size of every file, labels, preprocessing, what is claimed",
    ]
    if "predictions.npz" in facts["extras"]:
        lines.append("predictions.npz    what each row of the table predicted on the test split; no texts")
    if "report.html" in facts["extras"]:
        lines.append("report.html        the report as a page, with plots")
    return code("\n".join(lines), "")


def graph_files(facts: Mapping[str, Any], form: str) -> list[str]:
    """The names of the files that a graph consists of: one, or an encoder-decoder's two."""
    graph = Path(GRAPHS[form])
    return [file.name for file in (pair(graph) if restored(facts["problem"], facts["labels"]).generates else [graph])]


def fewest_bits(facts: Mapping[str, Any]) -> str | None:
    """`int8` or `int4`, where a graph in so few bits is shipped."""
    return next((form.removeprefix("onnx-") for form in ROUNDED if form in facts["formats"]), None)


def code(text: str, language: str = "python") -> str:
    """A fenced block."""
    return f"```{language}\n{text}\n```"
