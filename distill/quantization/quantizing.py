"""From torch to ONNX to int8: the last step, with its parity check."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill import disk
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits
from distill.engines import GRAPHS, OnnxRuntime, Torch, answer_all
from distill.export import write_graph
from distill.recipe import settings
from distill.tasks import TextClassification

log = logging.getLogger(__name__)
_PARITY = "parity.json"
_PARITY_ROWS = 256
_INT8_OPERATORS = ["MatMul", "Gemm", "Gather"]


def quantize(checkpoint: Checkpoint, words: settings.Quantize, *, data: Splits, folder: Path) -> Path:
    """Writes a folder with the fp32 graph, the int8 graph, config, tokenizer and `parity.json`.

    Weights become int8 with a scale a channel, embedding tables 8 bits with one scale each; activations are scaled as
    they come.
    What torch, the fp32 graph and the int8 graph answer is compared on validation rows. Raises MachineError when the
    fp32 graph doesn't say what torch says.
    """
    held = checkpoint.encode(data, "validation")
    with disk.atomic_folder(Path(folder)) as unfinished:
        fp32 = write_graph(checkpoint, unfinished, held)
        int8 = unfinished / GRAPHS[f"onnx-{words.weights}"]
        _to_int8(fp32, int8)
        parity = measure_parity(checkpoint, {"onnx-fp32": fp32, "onnx-int8": int8}, held, data.task)
        (unfinished / _PARITY).write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")
    log.info(
        "parity on %d validation rows: fp32 within %.1e of torch's logits; int8 within %.2g, %.1f %% same answers",
        parity["rows"], parity["onnx-fp32"]["largest_difference"], parity["onnx-int8"]["largest_difference"],
        100 * parity["onnx-int8"]["agreement"],
    )  # fmt: skip
    return Path(folder)


def read_parity(folder: Path) -> dict[str, Any]:
    """What `quantize` measured between torch and its graphs."""
    return json.loads((folder / _PARITY).read_text(encoding="utf-8"))


def measure_parity(
    checkpoint: Checkpoint, graphs: dict[str, Path], held: Encoded, task: TextClassification
) -> dict[str, Any]:
    """For each graph the largest logit difference to torch, the share of equal answers, the score at batch 1 and 32."""
    rows = np.arange(len(held))[:_PARITY_ROWS]
    some = held.take(rows)
    threshold = getattr(checkpoint.model.config, "threshold", 0.5)
    expected = answer_all(Torch(checkpoint.model), some)
    told: dict[str, Any] = {"rows": len(rows), "split": "validation", "metric": task.metric}
    told["torch"] = {"score": task.score(task.predictions(expected, threshold), some.labels)}
    for name, path in graphs.items():
        engine = OnnxRuntime(path)
        by_batch = {size: answer_all(engine, some, batch_size=size, batch_tokens=1 << 30) for size in (1, 32)}
        told[name] = {
            "largest_difference": max(float(np.abs(found - expected).max()) for found in by_batch.values()),
            "agreement": min(_agreement(found, expected, task, threshold) for found in by_batch.values()),
            "score": {
                f"batch {size}": task.score(task.predictions(logits, threshold), some.labels)
                for size, logits in by_batch.items()
            },
        }
    return told


def _agreement(found: np.ndarray, expected: np.ndarray, task: TextClassification, threshold: float) -> float:
    """The share of equal predictions; of numbers those within one hundredth."""
    if task.problem == "regression":
        return float(np.isclose(found, expected, rtol=0.01, atol=0.01).mean())
    return float((task.predictions(found, threshold) == task.predictions(expected, threshold)).mean())


def _to_int8(fp32: Path, int8: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            fp32, int8, op_types_to_quantize=_INT8_OPERATORS, per_channel=True, weight_type=QuantType.QInt8
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime advises on the root logger to preprocess; the exported graph has its shapes already."""
    root = logging.getLogger()
    root.addFilter(_not_preprocessing)
    try:
        yield
    finally:
        root.removeFilter(_not_preprocessing)


def _not_preprocessing(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()
