"""The pieces of work that a run keeps in the store: what each depends on, and how it is made.

A key never holds a place, nor what is only told or shipped: the same bytes, data and settings give the same piece.
Bump a version here when a step's code changes what it makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from distill import checkpoint as checkpoints
from distill import distillation, processes, pruning, quantization, student, surgery
from distill.augmentation import augment, load_masked_lm, write_copies
from distill.checkpoint import Checkpoint
from distill.energy import Meter
from distill.evaluation import Quality, Subject, score, score_together
from distill.export import as_graph
from distill.pipeline import helping
from distill.preflight import Plan
from distill.recipe import settings
from distill.report import machine, versions
from distill.store import Piece, Store
from distill.teacher import Ensemble, Keep
from distill.training import Watch, choose_dtype

_VERSIONS = {
    "finetune": 2,
    "distill": 2,
    "prune": 6,
    "pad": 3,
    "quantize": 10,
    "student": 4,
    "graph": 4,
    "score": 4,
    "signals": 1,
    "augment": 2,
}
log = logging.getLogger(__name__)
Tell = Callable[[str, Mapping[str, float]], None]


@dataclass(frozen=True)
class Guide:
    """Whom a student learns from: one teacher or several, ready, with a hash of each one's bytes."""

    ensemble: Ensemble
    bytes: tuple[str, ...]

    @property
    def facts(self) -> Any:
        """What a key holds of it: of a single teacher its bytes alone."""
        if len(self.bytes) == 1:
            return self.bytes[0]
        return {"ensemble": [list(told) for told in zip(self.bytes, self.ensemble.weights, strict=True)]}


@dataclass
class Bench:
    """What the pieces of one run are made with."""

    plan: Plan
    store: Store
    meter: Meter
    tell: Tell

    def facts(self, kind: str, **more: Any) -> dict[str, Any]:
        """What every piece of a kind depends on, and what this one depends on besides."""
        return {"version": _VERSIONS[kind], "data": self.plan.data.facts, "seed": self.plan.recipe.seed, **more}

    def seeded(self, seed: int) -> Bench:
        """The same for a student of a seed; splits and teacher stay what they are."""
        if seed == self.plan.recipe.seed:
            return self
        recipe, data = self.plan.recipe.model_copy(update={"seed": seed}), replace(self.plan.data, seed=seed)
        return replace(self, plan=replace(self.plan, recipe=recipe, data=data))

    def carried_out(
        self, name: str, step: settings.Step, pupil: tuple[Checkpoint, str], teacher: Guide, link: Path
    ) -> Piece:
        """What a step makes of a student, which comes with a hash of its bytes."""
        if step.quantize is not None:
            return self.quantized(step.quantize, *pupil, link=link)
        if step.prune is not None:
            return self.pruned(step.prune, *pupil, link=link)
        start = {"start": pupil[0], "start_bytes": {"bytes": pupil[1]}}
        return self.trained(name, step.settings, link=link, teacher=teacher if step.distill else None, **start)

    def trained(
        self, name: str, words: settings.Finetune | settings.Distill, start: Checkpoint, *, link: Path,
        start_bytes: Mapping[str, Any], teacher: Guide | None = None,
    ) -> Piece:  # fmt: skip
        """A checkpoint trained from `start`; imitating a teacher where there is one."""
        kind, turn = "distill" if teacher else "finetune", self._turn(name)
        facts = self.facts(
            kind,
            start=start_bytes,
            teacher=teacher and teacher.facts,
            settings=said(words),
            dtype=str(choose_dtype(words.dtype)),
            processes=processes.number(),
            **self._more(kind),
            **({"turn": turn} if turn else {}),
        )

        def make(files: Path, workshop: Path) -> dict[str, Any]:
            watch = Watch(name, workshop, lambda told: self.tell(name, told))
            before = len(self.meter.records)
            given = {"data": self.plan.data, "teacher": teacher and teacher.ensemble, "watch": watch, "turn": turn}
            with self.meter.measure(name), helping.all_hands(start, words, **given):
                keep = self._kept(teacher) if teacher else []
                made = helping.train(start, words, **given, keep=keep)
            made.save(files)
            return {"training": watch.log.as_dict(), "energy": self.meter.records[before:], **_where()}

        return self.store.piece(kind, facts, make, link)

    def _turn(self, title: str) -> int:
        """How many trainings of the chain went before the one of a title; none before a teacher's."""
        place = title.rpartition("/")[2].partition("-")[0]
        before = self.plan.recipe.steps[: int(place) - 1] if place.isdecimal() else []
        return sum(step.kind in ("distill", "finetune") for step in before)

    def _more(self, kind: str) -> dict[str, Any]:
        """The rows beside the training split, which distillation alone is shown."""
        extra = self.plan.data.extra_facts if kind == "distill" else []
        return {"extra": extra} if extra else {}

    def augmented(self, link: Path) -> Piece:
        """Changed copies of training rows, which depend on the data, on how they are made, and on what makes them."""
        plan, words = self.plan, self.plan.recipe.data.augment
        asked = words.masked_lm and {
            **said(words.masked_lm, but={"checkpoint", "revision"}),
            "bytes": checkpoints.fingerprint(plan.masked_lm_folder),
            "dtype": str(choose_dtype("auto")),
        }
        facts = self.facts("augment", **self._more("distill"), words=words.words and said(words.words), masked_lm=asked)

        def make(files: Path, _: Path) -> dict[str, Any]:
            made = augment(plan.data, load_masked_lm(plan.masked_lm_folder) if asked else None)
            files.mkdir()
            return {"copies": write_copies(made, files), **_where()}

        return self.store.piece("augment", facts, make, link)

    def _kept(self, teacher: Guide) -> list[Keep]:
        """Keeps what each teacher says in the store: it hangs on its bytes and on the texts, not on who learns."""
        names = [distillation.name_of(place, len(teacher.bytes)) for place in range(len(teacher.bytes))]
        return [partial(self._keep, *told) for told in zip(names, teacher.bytes, strict=True)]

    def _keep(
        self, name: str, teacher_bytes: str, facts: Mapping[str, Any], write: Callable[[Path], None], link: Path
    ) -> None:
        def make(files: Path, _: Path) -> dict[str, Any]:
            files.mkdir()
            write(files)
            return _where()

        whole = {"version": _VERSIONS["signals"], "teacher": teacher_bytes, **facts}
        piece = self.store.piece("signals", whole, make, link)
        if piece.reused:
            log.info("%s's signals: in the store already (%.0f s when they were made)", name, piece.seconds)

    def student(self, teacher: Guide, link: Path, *, own: Checkpoint | None = None, from_random: bool = False) -> Piece:
        """The student before it is trained: its own checkpoint (`own`, where it is loaded already), or cut out of the
        (first) teacher; of the same shape with random weights where those are asked for.
        """
        plan = self.plan
        folder, seed = plan.student_folder, plan.recipe.seed
        facts = self.facts(
            "student",
            teacher=teacher.bytes[0],
            settings=said(plan.recipe.student, but={"checkpoint", "revision"}),
            checkpoint=checkpoints.fingerprint(folder) if folder else None,
            **({"weights": "random"} if from_random else {}),
        )

        def make(files: Path, _: Path) -> dict[str, Any]:
            words, task = plan.recipe.student, plan.data.task
            made = own or student.make(words, teacher.ensemble.first, task, seed=seed, folder=folder, data=plan.data)
            made = student.from_random(made, seed=seed) if from_random else made
            if words.layers is None and made is not own:
                distillation.settle(made, plan.data)
            task.settle(made.model)
            made.save(files)
            return _where()

        return self.store.piece("student", facts, make, link)

    def pruned(self, words: settings.Prune, start: Checkpoint, start_bytes: str, link: Path) -> Piece:
        """A checkpoint with less in it."""
        facts = self.facts("prune", start=start_bytes, settings=said(words))

        def make(files: Path, _: Path) -> dict[str, Any]:
            lines: list[str] = []

            def tell(line: str) -> None:
                log.info("%s", line)
                lines.append(line)

            pruning.prune(start, words, data=self.plan.data, tell=tell).save(files)
            return {"notes": lines, **_where()}

        return self.store.piece("prune", facts, make, link)

    def padded(self, pruned: Checkpoint, pruned_bytes: str, link: Path) -> Piece:
        """A pruned checkpoint in a shape that stock transformers loads."""

        def make(files: Path, _: Path) -> dict[str, Any]:
            Checkpoint(surgery.pad(pruned.model), pruned.tokenizer).save(files)
            return _where()

        return self.store.piece("pad", self.facts("pad", start=pruned_bytes), make, link)

    def quantized(self, words: settings.Quantize, start: Checkpoint, start_bytes: str, link: Path) -> Piece:
        """The graphs of a checkpoint."""
        facts = self.facts("quantize", start=start_bytes, settings=said(words))

        def make(files: Path, _: Path) -> dict[str, Any]:
            quantization.quantize(start, words, data=self.plan.data, folder=files)
            return _where()

        return self.store.piece("quantize", facts, make, link)

    def graph(self, teacher: Checkpoint, teacher_bytes: str, link: Path) -> Piece:
        """The teacher as an fp32 graph: the baseline on the same engine."""

        def make(files: Path, _: Path) -> dict[str, Any]:
            as_graph(teacher, data=self.plan.data, folder=files)
            return _where()

        return self.store.piece("graph", self.facts("graph", start=teacher_bytes), make, link)

    def quality(self, subject: Subject) -> Quality:
        """A subject's score on the test split, with the predictions behind it."""
        served = checkpoints.fingerprint(subject.folder, subject.weights)
        facts = self.facts("score", served=served, format=subject.format, threshold=subject.threshold)
        piece = self.store.piece("score", facts, lambda *_: {"quality": score(subject, self.plan.data).as_dict()})
        return Quality.from_dict(piece.told["quality"])

    def quality_together(self, guide: Guide) -> Quality:
        """What several teachers score as one on the test split, with the predictions behind it."""
        facts = self.facts("score", served=guide.facts, format="ensemble")
        together, data = guide.ensemble, self.plan.data
        piece = self.store.piece("score", facts, lambda *_: {"quality": score_together(together, data).as_dict()})
        return Quality.from_dict(piece.told["quality"])


def said(words: settings.Settings, but: set[str] | None = None) -> dict[str, Any]:
    """Settings as a key holds them: without those that say nothing, so that a word which is new in a later version, and
    not said, leaves the keys of finished work as they are.
    """
    return words.model_dump(mode="json", exclude_none=True, exclude=but)


def _where() -> dict[str, Any]:
    return {"machine": machine(), "versions": versions()}
