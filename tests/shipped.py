"""A run's folder built in code, with real scores and made-up timings, for the tests of what ships."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

MACHINE = {
    "processor": "Some Processor", "cores": 2, "memory_gb": 8.0, "system": "Linux x86_64", "python": "3.12.0",
    "accelerator": None,
}  # fmt: skip
MS = {"teacher.transformers": 4.0, "teacher.onnx-fp32": 3.0, "1-distill.transformers": 2.0}
MS |= {"2-quantize.onnx-fp32": 1.5, "2-quantize.onnx-int8": 0.5}

FILES = {
    "README.md", "recipe.yaml", "report.json", "predictions.npz", "manifest.json",
    "transformers/config.json", "transformers/model.safetensors", "transformers/tokenizer.json",
    "transformers/tokenizer_config.json", "onnx/model.onnx", "onnx/model_int8.onnx", "onnx/config.json",
    "onnx/tokenizer.json", "onnx/tokenizer_config.json",
}  # fmt: skip


def make_recipe(source: Path, teacher: str = "/home/somebody/models/bert", **sections: object):
    """A resolved recipe whose local paths are another machine's, but for its data."""
    from distill.recipe import Recipe

    return Recipe.model_validate(
        {
            "task": "text-classification",
            "teacher": {"checkpoint": teacher},
            "student": {"layers": 2},
            "data": {"source": str(source), "validation": 0.2, "test": 0.2, "max_length": 16, "licence": "CC0-1.0"},
            "steps": [{"distill": {}}, "quantize"],
            "timing": {"batch": [1], "tokens": 12, "rounds": 3},
            "ship": {"hub": "acme/topics"},
            "seed": 1,
            **sections,
        }
    )


def make_run(run: Path, teacher, student, quantized: Path, data, recipe) -> dict[str, object]:
    """Writes 1-distill, 2-quantize and predictions.npz into `run`, and gives back report.json's content (schema 2)."""
    from distill.evaluation import Subject, score, subjects_in
    from distill.evaluation.ledger import Row
    from distill.evaluation.timing import Latency

    student.save(run / "1-distill")
    if quantized is not None:
        shutil.copytree(quantized, run / "2-quantize")
    first = Subject("teacher", "transformers", teacher.save(run / "teacher"), teacher.tokenizer, teacher)
    subjects = [first, *subjects_in("1-distill", run / "1-distill")]
    if quantized is not None:
        subjects += subjects_in("2-quantize", run / "2-quantize")
        subjects.insert(1, Subject("teacher", "onnx-fp32", run / "2-quantize", teacher.tokenizer))
    rows, kept = [], {"labels": np.asarray(data.test.labels)}
    for subject in subjects:
        found, name = score(subject, data), f"{subject.name}.{subject.format}"
        worst = found.worst_class
        engine = "torch" if subject.format == "transformers" else "onnxruntime"
        latency = [Latency(engine, 1, 12, 1, 3, MS[name], 2 * MS[name], MS[name])]
        rows.append(
            Row(
                subject.name, subject.format, found.metric, found.score, found.interval, found.n, found.scores,
                {"name": worst[0], "score": worst[1]} if worst else None, subject.parameters, subject.bytes,
                scored_at_batch=found.batch, by_class=found.by_class, confusion=found.confusion,
                calibration=found.calibration, latency=latency, memory_mb=100.0,
            )
        )  # fmt: skip
        if len(rows) > 1:
            rows[-1].retained, rows[-1].p_value = (found.score / rows[0].score if rows[0].score > 0 else None), 0.5
        kept[name] = found.predictions
    np.savez(run / "predictions.npz", **kept)
    return {
        "schema": 2, "run": "topics", "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "recipe_sha256": "0" * 64, "versions": {"distill-toolkit": "0.1.0", "torch": "2.13.0"}, "machine": MACHINE,
        "seed": recipe.seed, "smoke": False,
        "data": {
            "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "labels": list(data.task.labels), "problem": data.task.problem, "truncated": {}, "name": "topics.csv",
            "sha256": data.fingerprint, "test_sha256": data.test_fingerprint, "licence": recipe.data.licence,
            "note": None,
        },
        "teacher": {
            "name": "bert", "licence": "MIT", "source": "https://huggingface.co/acme/bert", "revision": None,
            "sha256": "0" * 64, "finetuned": True,
        },
        "rows": [row.as_dict() for row in rows], "training": [], "steps": [], "parity": None, "expect": [],
        "seconds": {}, "notes": [f"read from {run}/somewhere/topics.csv, see https://example.org/a/b"], "energy": None,
    }  # fmt: skip


def ship_topics(place: Path, teacher, quantized: Path, data, source: Path) -> Path:
    """The folder that a run on the topics ships, in both formats."""
    recipe = make_recipe(source)
    report = make_run(place / "run", teacher, teacher, quantized, data, recipe)
    return ship_it((place / "run", recipe, report), place / "topics")


def ship_it(run, target: Path, recipe=None) -> Path:
    """What a run (its folder, its recipe, its report) ships, with its recipe or another."""
    from distill.shipping import ship

    folder, ours, report = run
    return ship(
        recipe or ours, report, folder, torch_folder=folder / "1-distill", graph_folder=folder / "2-quantize",
        folder=target,
    )  # fmt: skip


def files_of(folder: Path) -> set[str]:
    """Every file of a folder, by its path in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
