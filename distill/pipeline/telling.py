"""Everything that a run tells: to W&B while it goes on, and to those whom its result is shipped to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill import checkpoint as checkpoints
from distill import tracking
from distill.engines import graph_in
from distill.evaluation import Quality, Subject
from distill.pipeline.state import State
from distill.preflight import Plan
from distill.preflight.ensembles import short_name
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
    names = [short_name(teacher) for teacher in plan.teachers]
    tags = [recipe.task, *names, str(plan.teacher_config["model_type"]), *(step.kind for step in recipe.steps)]
    tags += ["smoke"] if state.smoke else []
    return list(dict.fromkeys(tags))
