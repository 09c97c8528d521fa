"""What a report says beside the ledger: data, teacher, steps, energy, and the predictions behind every score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill import checkpoint as checkpoints
from distill import disk
from distill.energy import Meter, summarise
from distill.evaluation import Ledger, Quality, Subject
from distill.preflight import FoundTeacher, Plan
from distill.preflight.ensembles import short_name
from distill.recipe import settings
from distill.store import Piece


def save_predictions(
    folder: Path, subjects: Sequence[Subject], qualities: Sequence[Quality], labels: np.ndarray,
    aside: Mapping[str, np.ndarray],
) -> None:  # fmt: skip
    """Writes predictions.npz: the test split's labels, each ledger row's predictions as NAME.FORMAT, those aside."""
    told = dict(aside) | {f"{s.name}.{s.format}": q.predictions for s, q in zip(subjects, qualities, strict=True)}
    unfinished = folder / ".predictions.npz"
    with disk.machine_errors(f"writing {folder / 'predictions.npz'}"):
        try:
            np.savez_compressed(unfinished, labels=_storable(labels), **told)
            unfinished.replace(folder / "predictions.npz")
        finally:
            unfinished.unlink(missing_ok=True)


def _storable(labels: np.ndarray) -> np.ndarray:
    """Texts of one width, which files hold without pickles."""
    return np.array(labels.tolist(), dtype=np.str_) if isinstance(labels.dtype, np.dtypes.StringDType) else labels


def describe_data(plan: Plan) -> dict[str, Any]:
    """The data, for the report: its size, its form and its hashes; no place on this machine."""
    data, words = plan.data, plan.recipe.data
    return {
        "name": " + ".join(_name_of(source) for source in words.sources),
        "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        "labels": list(data.task.labels),
        "problem": data.task.problem,
        "truncated": data.truncated,
        "sha256": data.fingerprint,
        "test_sha256": data.test_fingerprint,
        "licence": words.licence,
        "note": words.note,
        **({"extra": [extra.told for extra in data.extra]} if data.extra else {}),
    }


def _name_of(source: settings.Source) -> str:
    if source.hub is not None:
        return f"{source.hub}/{source.config}" if source.config else source.hub
    if source.package is not None:
        return f"{source.package}: {source.path.removeprefix(f'{source.package}/')}"
    return Path(source.path).name


def describe_teacher(plan: Plan, solo: Sequence[Quality] = ()) -> dict[str, Any]:
    """The teacher, for the report: what it is called, its licence, where it was published; or several as one, with each
    of them and its weight, and what each alone scores on the test split (`solo`).
    """
    told = [_describe_teacher(one) for one in plan.teachers]
    if len(told) == 1:
        return told[0]
    whole = sum(one.words.weight for one in plan.teachers)
    for one, description in zip(plan.teachers, told, strict=True):
        description["weight"] = one.words.weight / whole
    for description, quality in zip(told, solo, strict=False):
        description["score"] = quality.score
    licences = {one["licence"] for one in told}
    mixed = json.dumps([[one["sha256"], one["weight"], one["finetuned"]] for one in told])
    return {
        **{word: value for word, value in told[0].items() if word not in ("weight", "score")},
        "name": " + ".join(one["name"] for one in told),
        "licence": licences.pop() if len(licences) == 1 else None,
        "sha256": hashlib.sha256(mixed.encode()).hexdigest(),
        "finetuned": all(one["finetuned"] for one in told),
        "ensemble": told,
    }


def describe_student(plan: Plan) -> dict[str, Any] | None:
    """What a student with a checkpoint of its own started from, for the report."""
    words, folder = plan.recipe.student, plan.student_folder
    if folder is None:
        return None
    return {
        "name": plan.student_hub_id or Path(words.checkpoint).name,
        "licence": checkpoints.licence_of(folder),
        "source": f"https://huggingface.co/{plan.student_hub_id}" if plan.student_hub_id else None,
        "hub_id": plan.student_hub_id,
        "revision": words.revision,
        "sha256": checkpoints.fingerprint(folder),
    }


def _describe_teacher(teacher: FoundTeacher) -> dict[str, Any]:
    words, card = teacher.words, teacher.card
    hub, hub_id = card.hub if card else None, teacher.hub_id
    return {
        "name": short_name(teacher),
        "licence": card.licence if card else checkpoints.licence_of(teacher.folder),
        "source": card.source if card else f"https://huggingface.co/{hub_id}" if hub_id else None,
        "hub_id": hub.id if hub else hub_id,
        "revision": hub.revision if hub else words.revision,
        "sha256": checkpoints.fingerprint(teacher.folder),
        "finetuned": words.finetune is not None,
    }


def describe_step(name: str, piece: Piece) -> dict[str, Any]:
    """One step, for the report: what it made, when and where it was made, and whether it was made before."""
    weights = piece.files.get("model.safetensors") or next(iter(piece.files.values()), {})
    return {
        "name": name,
        "kind": piece.kind,
        "key": piece.key,
        "seconds": round(piece.seconds, 1),
        "reused": piece.reused,
        "finished": piece.finished,
        "sha256": weights.get("sha256"),
        "machine": piece.told.get("machine"),
        "versions": piece.told.get("versions"),
    }


def describe_energy(
    recipe: settings.Recipe, trained: dict[str, Piece], ledger: Ledger, meter: Meter
) -> dict[str, Any] | None:
    """What the trainings cost when they were done, and what a thousand requests do."""
    if not recipe.track.energy:
        return None
    records = [{**record, "step": title} for title, piece in trained.items() for record in piece.told["energy"]]
    unwatched = [title for title, piece in trained.items() if _is_unwatched(piece)]
    rows = [row.as_dict() for row in ledger.rows]
    return summarise(records, rows, power=meter.power(), unwatched=unwatched, result=ledger.last.as_dict())


def _is_unwatched(piece: Piece) -> bool:
    """Whether a training was made without an eye on its energy, or was killed and lost that of a sitting."""
    return not piece.told["energy"] or piece.told["training"]["sittings"] > 1
