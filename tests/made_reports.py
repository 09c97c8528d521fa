"""Reports and run folders built in code: plausible figures, every score worked out from its predictions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ["business", "entertainment", "politics", "sports", "tech"]
MACHINE = {
    "processor": "AMD EPYC", "cores": 2, "memory_gb": 25.3, "system": "Linux x86_64", "python": "3.11.7",
    "accelerator": None,
}  # fmt: skip
# name, format, share of right answers, parameters, bytes, ms at batch 1 and 32, memory
ROWS = [
    ("teacher", "transformers", 0.975, 22_715_141, 91_585_711, (38.2, 1051.0), 454.7),
    ("teacher", "onnx-fp32", 0.975, 22_715_659, 91_612_241, (32.8, 1099.3), 196.3),
    ("1-distill", "transformers", 0.966, 17_391_749, 70_286_591, (20.1, 532.2), 435.0),
    ("2-quantize", "onnx-fp32", 0.966, 17_391_749, 70_301_217, (16.4, 551.9), 175.2),
    ("2-quantize", "onnx-int8", 0.960, 17_391_749, 18_240_106, (7.27, 301.6), 88.4),
]


def sha(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def predict(truth: np.ndarray, right: float, labels: int, seed: int) -> np.ndarray:
    """Predictions of which a share is right; the wrong ones go to the next label."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(truth)) >= right
    return np.where(wrong, (truth + 1 + rng.integers(0, 2, len(truth))) % labels, truth)


def make_row(told: tuple, truth: np.ndarray, found: np.ndarray, labels: list[str], teacher: float | None) -> dict:
    name, form, _, params, size, times, memory = told
    score = float((found == truth).mean())
    margin = 1.96 * (score * (1 - score) / len(truth)) ** 0.5
    by_class = {label: float((found[truth == i] == i).mean()) for i, label in enumerate(labels) if (truth == i).any()}
    worst = min(by_class, key=by_class.get)
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (truth, found), 1)
    bins = [
        {"low": low / 10, "high": low / 10 + 0.1, "n": 20 + 10 * low, "confidence": low / 10 + 0.06,
         "accuracy": min(1.0, low / 10 + 0.1 - 0.02 * (low % 3))} for low in range(4, 10)
    ]  # fmt: skip
    engine = "torch" if form == "transformers" else "onnxruntime"
    latency = [
        {"engine": engine, "batch": batch, "tokens": 128, "threads": 1, "rounds": 10, "p50_ms": ms,
         "p95_ms": round(1.08 * ms, 3), "cpu_ms": ms} for batch, ms in zip((1, 32), times, strict=True)
    ]  # fmt: skip
    return {
        "name": name, "format": form, "metric": "accuracy", "score": score, "n": len(truth),
        "interval": [score - margin, min(1.0, score + margin)],
        "scores": {"accuracy": score, "macro_f1": score - 0.001, "matthews": 1.2 * score - 0.2},
        "worst_class": {"name": worst, "score": by_class[worst]}, "params": params, "bytes": size,
        "retained": None if teacher is None else score / teacher, "p_value": None if teacher is None else 0.21,
        "scored_at_batch": 32 if form == "onnx-int8" else None, "by_class": by_class, "confusion": counts.tolist(),
        "calibration": {"expected_error": 0.031, "bins": bins}, "latency": latency, "memory_mb": memory,
    }  # fmt: skip


def make_training(step: str, terms: dict[str, tuple[float, float]], epochs: int = 3) -> dict:
    records = []
    for at in range(60):
        fall = np.exp(-at / 18) + 0.05 * np.sin(at) ** 2
        values = {name: start * (0.1 + 0.9 * fall) for name, (start, _) in terms.items()}
        loss = sum(values[name] * weight for name, (_, weight) in terms.items())
        told = {n: {"value": values[n], "weight": w, "share": values[n] * w / loss} for n, (_, w) in terms.items()}
        records.append({"step": at * 5 + 1, "epoch": at * epochs / 60, "learning_rate": 1e-4, "loss": loss,
                        "terms": told})  # fmt: skip
    scores = [
        {"epoch": 1.0 + e, "score": 0.94 + 0.02 * (1 - 0.5**e) - 0.004 * (e == epochs - 1)} for e in range(epochs)
    ]
    best = max(scores, key=lambda epoch: epoch["score"])["epoch"]
    return {"step": step, "dtype": "bfloat16", "best_epoch": best, "seconds": 171.4, "samples_per_second": 27.2,
            "records": records, "epochs": scores}  # fmt: skip


def make_report(
    run: str = "quickstart", labels: list[str] = LABELS, rows: list[tuple] = ROWS, n: int = 447, seed: int = 0,
    **changed: Any,
) -> tuple[dict, dict[str, np.ndarray]]:  # fmt: skip
    """A report of schema 2 and the predictions behind it. `changed` replaces whole parts."""
    truth = np.random.default_rng(7).integers(0, len(labels), n)
    predictions, told = {"labels": truth}, []
    for place, row in enumerate(rows):
        salt = 100 if place < 2 and row[0] == "teacher" else seed * 10 + (2 if place in (2, 3) else place)
        found = predict(truth, row[2], len(labels), salt)
        predictions[f"{row[0]}.{row[1]}"] = found
        told.append(make_row(row, truth, found, labels, told[0]["score"] if told else None))
    recipe = {
        "task": "text-classification", "teacher": {"card": "minilm-l6"}, "student": {"layers": 3, "choose": "even"},
        "steps": [{"distill": {"epochs": 3.0, "temperature": 2.0, "imitate": {"logits": {"weight": 1.0}}}},
                  {"quantize": {"weights": "int8"}}], "seed": 7,
    }  # fmt: skip
    ones = [
        ("teacher", "finetune", 171.4, True), ("1-distill", "distill", 234.0, False),
        ("2-quantize", "quantize", 12.2, False),
    ]  # fmt: skip
    report = {
        "schema": 2, "run": run, "recipe": recipe, "recipe_sha256": sha(run),
        "versions": {"distill-toolkit": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0",
                     "onnxruntime": "1.32.0"},
        "machine": MACHINE, "seed": 7, "smoke": False,
        "data": {"rows": {"train": 1556, "validation": 222, "test": n}, "labels": labels,
                 "problem": "single_label_classification", "truncated": {"validation": 222, "train": 1555, "test": n},
                 "sha256": sha("all"), "test_sha256": sha(f"test {n} {labels}"),
                 "name": "bbcnews/data", "licence": None,
                 "note": "the articles are the BBC's, collected for research; don't publish them"},
        "teacher": {"name": "minilm-l6", "licence": "apache-2.0",
                    "source": "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
                    "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41", "sha256": sha("teacher"),
                    "finetuned": True},
        "rows": told,
        "training": [make_training("teacher", {"labels": (1.6, 1.0)}),
                     make_training("1-distill", {"logits": (1.1, 1.0),
                                                 "hidden_states": (0.33, 2.0), "labels": (1.6, 0.2)})],
        "steps": [{"name": name, "kind": kind, "key": sha(name), "seconds": seconds, "reused": reused,
                   "finished": "2026-11-24T21:48:38+00:00", "sha256": sha(name + "c"), "machine": MACHINE}
                  for name, kind, seconds, reused in ones],
        "parity": {"rows": 222, "split": "validation", "metric": "accuracy", "torch": {"score": 0.9595},
                   "onnx-fp32": {"largest_difference": 6.7e-8, "agreement": 1.0,
                                 "score": {"batch 1": 0.9595, "batch 32": 0.9595}},
                   "onnx-int8": {"largest_difference": 0.21, "agreement": 0.991,
                                 "score": {"batch 1": 0.9595, "batch 32": 0.9550}}},
        "expect": [{"word": "retained", "bound": "at least 0.97", "measured": told[-1]["retained"], "met": True},
                   {"word": "size", "bound": "at most 0.19", "measured": 0.1992, "met": False}],
        "seconds": {"teacher": 0.2, "1-distill": 234.0, "2-quantize": 12.2, "evaluation": 96.0},
        "notes": ["4 of 2225 rows have near-duplicates; they are kept in one split"],
        "energy": {
            "method": "estimated", "how": "codecarbon, offline: the processor's rated power times its load.",
            "training": [{"step": "teacher", "seconds": 171.4, "kwh": 0.0021, "co2_kg": 0.00012},
                         {"step": "1-distill", "seconds": 234.0, "kwh": 0.0029, "co2_kg": 0.00016}],
            "watts_per_cpu": 7.5,
            "per_1000_requests": [{"name": r["name"], "format": r["format"], "batch": 1, "tokens": 128,
                                   "cpu_seconds": r["latency"][0]["cpu_ms"], "joules": 7.5 * r["latency"][0]["cpu_ms"]}
                                  for r in told],
            "break_even_requests": 77_600.0, "break_even_same_engine": 94_000.0, "country": "FRA"},
    }  # fmt: skip
    return {**report, **changed}, predictions


def write_run(folder: Path, report: dict, predictions: dict[str, np.ndarray] | None) -> Path:
    """A run's folder, as far as `compare` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    if predictions is not None:
        np.savez(folder / "predictions.npz", **predictions)
    return folder
