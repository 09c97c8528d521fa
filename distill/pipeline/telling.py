"""Everything that a run tells: to W&B while it goes on, and to those whom its result is shipped to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill import checkpoint as checkpoints
from distill import tracking
from distill.engines import graph_in
from distill.evaluation import Quality, Subject
from distill.pipeline.state import State
from distill.preflight import Plan
from distill.recipe import settings
from distill.report import Report

log = logging.getLogger(__name__)
_KINDS = {"teacher": "teacher", "prune": "pruned", "pad": "pruned", "quantize": "quantized"}  # of W&B artifacts


@dataclass
class Telling:
    """Who is told of one run."""

    plan: Plan
    state: State
    tracker: tracking.Tracker

    @classmethod
    def begin(cls, plan: Plan, state: State) -> Telling:
        """Opens the W&B run, or goes on in it."""
        recipe = plan.recipe
        tracker = tracking.start(
            recipe,
            state.folder,
            name=state.name,
            run_id=state.wandb_id,
            config=recipe.model_dump(mode="json", exclude_none=True),
            tags=_tags(plan, state),
        )
        return cls(plan, state, tracker)

    def training(self, step: str, figures: Mapping[str, float]) -> None:
        """Figures of a training that is going on."""
        self.tracker.metrics(step, figures)
        if "steps" in figures:
            self.state.progress = {word: figures[word] for word in ("step", "steps", "epoch", "loss")}
            self.state.write()

    def checkpoint(
        self, kind: str, subject: Subject, quality: Quality | None, *, sha256: str, parents: Sequence[str],
        result: bool = False,
    ) -> None:  # fmt: skip
        """A checkpoint that was made, and scored if it has learned; `parents` are the hashes of what it comes from."""
        upload = self.plan.recipe.track.weights
        facts = {
            "sha256": sha256, "format": subject.format, "bytes": subject.bytes, "parameters": subject.parameters,
            **({"metric": quality.metric, "score": quality.score} if quality else {}),
        }  # fmt: skip
        self.tracker.artifact(
            subject.name if subject.format == "transformers" else f"{subject.name}-{subject.format}",
            _KINDS.get(kind, "student"),
            checkpoints.engine_files(subject.folder, subject.weights),
            facts=facts,
            parents=parents,
            weights=upload == "all" or (upload == "result" and result),
        )

    def ship(self, report: Report, subjects: Sequence[Subject]) -> None:
        """The folder for others, and its push to the Hub where the recipe says so."""
        from distill import shipping

        words, run = self.plan.recipe.ship, self.state.folder
        torch_folder = next(subject.folder for subject in reversed(subjects) if subject.format == "transformers")
        last = subjects[-1].folder
        folder = shipping.ship(
            self.plan.recipe, report.as_dict(), run,
            torch_folder=torch_folder, graph_folder=last if graph_in(last) else None, folder=run / "shipped",
        )  # fmt: skip
        log.info("shipped: %s", folder)
        if words.hub is not None and not report.judged:
            log.info("a smoke run is not pushed to the Hub")
        elif words.hub is not None:
            shipping.push(folder, words)

    def end(self, report: Report | None, exit_code: int) -> None:
        """Closes the W&B run."""
        self.tracker.finish(report.as_dict() if report else None, self.state.folder, exit_code)


def _tags(plan: Plan, state: State) -> list[str]:
    recipe = plan.recipe
    name = describe_teacher(plan)["name"]
    tags = [recipe.task, name, str(plan.teacher_config["model_type"]), *(step.kind for step in recipe.steps)]
    tags += ["smoke"] if state.smoke else []
    return list(dict.fromkeys(tags))


def save_predictions(
    folder: Path, subjects: Sequence[Subject], qualities: Sequence[Quality], labels: np.ndarray
) -> None:
    """Writes predictions.npz: the test split's labels, and each ledger row's predictions as NAME.FORMAT."""
    told = {f"{s.name}.{s.format}": q.predictions for s, q in zip(subjects, qualities, strict=True)}
    unfinished = folder / ".predictions.npz"
    with checkpoints.machine_errors(f"writing {folder / 'predictions.npz'}"):
        try:
            np.savez_compressed(unfinished, labels=labels, **told)
            unfinished.replace(folder / "predictions.npz")
        finally:
            unfinished.unlink(missing_ok=True)


def describe_data(plan: Plan) -> dict[str, Any]:
    """The data, for the report: its size, its form and its hashes; no place on this machine."""
    data, words = plan.data, plan.recipe.data
    return {
        "name": _name_of(words.source),
        "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        "labels": list(data.task.labels),
        "problem": data.task.problem,
        "truncated": data.truncated,
        "sha256": data.fingerprint,
        "test_sha256": data.test_fingerprint,
        "licence": words.licence,
        "note": words.note,
    }


def _name_of(source: settings.Source) -> str:
    if source.hub is not None:
        return f"{source.hub}/{source.config}" if source.config else source.hub
    if source.package is not None:
        return f"{source.package}: {source.path.removeprefix(f'{source.package}/')}"
    return Path(source.path).name


def describe_teacher(plan: Plan) -> dict[str, Any]:
    """The teacher, for the report: what it is called, its licence, where it was published."""
    words, card = plan.recipe.teacher, plan.card
    on_hub = words.checkpoint is not None and not checkpoints.looks_like_folder(words.checkpoint)
    name = Path(words.card).stem if words.card else words.checkpoint if on_hub else Path(words.checkpoint).name
    hub = card.hub if card else None
    return {
        "name": name,
        "licence": card.licence if card else checkpoints.licence_of(plan.teacher_folder),
        "source": card.source if card else f"https://huggingface.co/{words.checkpoint}" if on_hub else None,
        "hub_id": hub.id if hub else words.checkpoint if on_hub else None,
        "revision": hub.revision if hub else words.revision,
        "sha256": checkpoints.fingerprint(plan.teacher_folder),
        "finetuned": words.finetune is not None,
    }
