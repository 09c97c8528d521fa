"""`quantize`: from torch to ONNX, and from there to few bits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from distill import disk
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits
from distill.engines import GRAPHS, Torch, answer_all, open_graph
from distill.export import write_graph
from distill.quantization.calibration import calibrate
from distill.quantization.choosing import Choice, choose
from distill.quantization.judging import apart, asked, by_loss, changed, says, written
from distill.quantization.lowering import Precision, evenly, lower
from distill.recipe import settings
from distill.tasks import Task

log = logging.getLogger(__name__)
_PARITY = "parity.json"
_PARITY_ROWS = 256
_NAMED = 8  # products that the log names
_PARITY_TOKENS, _PARITY_LEAST = 8192, 8  # at most, and rows all the same, where each token is an answer by itself
_WRITTEN_ROWS = 16  # texts that are written, which takes a step a token


def quantize(checkpoint: Checkpoint, words: settings.Quantize, *, data: Splits, folder: Path) -> Path:
    """Writes a folder with the fp32 graph, the graph in fewer bits, config, tokenizer and `parity.json`.

    Ranges are measured on training texts. Which products stay in more bits is chosen on validation texts, 256 at most
    (where tokens are foretold, about 8,192 tokens at most), and on the same ones what torch and both graphs answer is
    compared. Raises MachineError when the fp32 graph doesn't say what torch says.
    """
    held = checkpoint.encode(data, "validation")
    drawn = np.random.default_rng(data.seed).permutation(len(held))[:_PARITY_ROWS]  # rows may stand class by class
    held = held.take(drawn)
    if by_loss(data.task):
        held = held.first(_PARITY_ROWS, _PARITY_TOKENS, _PARITY_LEAST)
    form = f"onnx-{words.weights}"
    with disk.atomic_folder(Path(folder)) as unfinished:
        fp32 = write_graph(checkpoint, unfinished, held)
        choice = _choose(checkpoint, words, data, fp32, held)
        small = unfinished / GRAPHS[form]
        lower(fp32, small, choice.plan)
        parity = measure_parity(checkpoint, {"onnx-fp32": fp32, form: small}, held, data.task)
        parity[form] |= _told(choice)
        (unfinished / _PARITY).write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")
    log.info(
        "parity on %d validation rows: fp32 within %.1e of torch's logits; %s within %.2g, %.1f %% same answers",
        parity["rows"], parity["onnx-fp32"]["largest_difference"], words.weights, parity[form]["largest_difference"],
        100 * parity[form]["agreement"],
    )  # fmt: skip
    return Path(folder)


def _choose(checkpoint: Checkpoint, words: settings.Quantize, data: Splits, fp32: Path, held: Encoded) -> Choice:
    """The plan for a graph; says what stays in more bits than asked for, and what is lost all the same."""
    texts = checkpoint.encode(data, words.calibration.split)
    drawn = np.random.default_rng(data.seed).permutation(len(texts))[: words.calibration.examples]
    start: Precision = "token4" if words.weights == "int4" else "static" if words.activations == "static" else "token"
    ranges = calibrate(fp32, texts.take(np.sort(drawn)), data.seed) if start == "static" else {}
    plan = evenly(fp32, start, ranges, 4 if (words.embeddings or words.weights) == "int4" else 8, words.group)
    choice = choose(
        fp32,
        plan,
        held,
        data.task,
        lambda found, expected: changed(data.task, found, expected, _threshold(checkpoint, data.task)),
        words.changed,
    )
    if choice.kept:
        up = [f"{name} ({choice.plan.products[name]})" for name in choice.kept]
        more = f", and {len(up) - _NAMED} more (parity.json names them)" if len(up) > _NAMED else ""
        log.info("%d of %d products stay in more bits: %s%s", len(up), len(plan.products), ", ".join(up[:_NAMED]), more)
    if choice.changed > words.changed:
        log.warning(
            "on validation texts %s %s, more than the %g %% of quantize.changed; training with `simulate: int8` helps",
            words.weights, says(data.task, choice.changed), 100 * words.changed,
        )  # fmt: skip
    return choice


def _threshold(checkpoint: Checkpoint, task: Task) -> float:
    return getattr(checkpoint.model.config, "threshold", task.threshold)


def _told(choice: Choice) -> dict[str, Any]:
    """What the plan changes by the measure of its choice, and how many products became what, for the parity file."""
    became = list(choice.plan.products.values())
    return {
        "changed": choice.changed,
        "products": {name: became.count(name) for name in sorted(set(became))},
        "in_more_bits": list(choice.kept),
    }


def read_parity(folder: Path) -> dict[str, Any]:
    """What `quantize` measured between torch and its graphs."""
    return json.loads((folder / _PARITY).read_text(encoding="utf-8"))


def measure_parity(checkpoint: Checkpoint, graphs: dict[str, Path], held: Encoded, task: Task) -> dict[str, Any]:
    """For each graph the largest difference to torch's answers, the share of equal answers, the score at batch 1 and
    32; where tokens are foretold, differences of the loss a token, and what is written after a few prompts.
    """
    some = held.take(np.arange(min(_WRITTEN_ROWS if task.generates else _PARITY_ROWS, len(held))))
    threshold, torch = _threshold(checkpoint, task), Torch(checkpoint.model)
    expected = answer_all(torch, some, task)
    foretold = asked(torch, some, task) if task.generates else expected
    told: dict[str, Any] = {"rows": len(some), "split": "validation", "metric": task.metric}
    told["torch"] = {"score": task.score(task.predictions(expected, threshold), some.labels)}
    for name, path in graphs.items():
        engine = open_graph(path)
        by_batch = {size: answer_all(engine, some, task, batch_size=size, batch_tokens=1 << 30) for size in (1, 32)}
        compared = [asked(engine, some, task)] if task.generates else by_batch.values()
        told[name] = {
            "largest_difference": max(apart(task, found, foretold) for found in compared),
            "agreement": min(task.agreement(found, expected, threshold) for found in by_batch.values()),
            "score": {
                f"batch {size}": task.score(task.predictions(answers, threshold), some.labels)
                for size, answers in by_batch.items()
            },
        }
        if checkpoint.model.can_generate():
            told[name]["written"] = written(torch, engine, some)
    return told
