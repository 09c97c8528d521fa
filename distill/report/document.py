"""What a run tells: report.json for programs, report.md for people, and the judgement of what was expected."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.disk import write_text
from distill.evaluation.ledger import Ledger
from distill.recipe.reading import to_yaml
from distill.recipe.settings import Bound, Expect, Recipe
from distill.report import controls as arms
from distill.report.figures import duration, three_digits
from distill.report.machine import machine, versions
from distill.report.reading import reading_help

SCHEMA = 2


@dataclass
class Expectation:
    """One line of `expect`: what was asked, what was measured, whether it held."""

    word: str
    bound: Bound
    measured: float | None

    @property
    def met(self) -> bool:
        """Whether the point estimate keeps the bound; what could not be measured doesn't."""
        return self.measured is not None and self.bound.holds(self.measured)

    def __str__(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.measured:.4g}"
        return f"{self.word}: {self.bound}, measured {measured}: {'met' if self.met else 'MISSED'}"


@dataclass
class Report:
    """A run's result. `judged` is false for a smoke run, whose figures mean nothing."""

    run: str
    recipe: Recipe
    ledger: Ledger
    training: list[dict[str, Any]]
    data: dict[str, Any]
    seconds: dict[str, float]
    judged: bool = True
    parity: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    teacher: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    energy: dict[str, Any] | None = None
    controls: dict[str, Any] | None = None
    student: dict[str, Any] | None = None

    @property
    def expectations(self) -> list[Expectation]:
        """Every line of `expect`, judged on the last row."""
        return judge(self.recipe.expect, self.ledger) if self.judged else []

    @property
    def missed(self) -> list[Expectation]:
        """What was expected and not reached."""
        return [expectation for expectation in self.expectations if not expectation.met]

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "recipe": json.loads(self.recipe.model_dump_json(exclude_none=True)),
            "recipe_sha256": hashlib.sha256(to_yaml(self.recipe).encode()).hexdigest(),
            "versions": versions(),
            "machine": machine(),
            "seed": self.recipe.seed,
            "smoke": not self.judged,
            "data": self.data,
            "teacher": self.teacher,
            **({"student": self.student} if self.student else {}),
            "rows": [row.as_dict() for row in self.ledger.rows],
            **({"ensemble": self.ledger.ensemble.as_dict()} if self.ledger.ensemble else {}),
            "training": self.training,
            "steps": self.steps,
            "parity": self.parity,
            "expect": [
                {"word": e.word, "bound": str(e.bound), "measured": e.measured, "met": e.met} for e in self.expectations
            ],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "energy": self.energy,
            **({"controls": self.controls} if self.controls else {}),
            "notes": self.notes,
        }

    def markdown(self) -> str:
        """The content of report.md."""
        return "\n\n".join([f"# {self.run}", *self._sections()]) + "\n"

    def _sections(self) -> list[str]:
        sections = (
            [] if self.judged else ["**A smoke run: everything on a sliver of the data. Its figures mean nothing.**"]
        )
        sections += [
            "## Ledger",
            self.ledger.markdown(),
            "\n".join(f"* {line}" for line in reading_help(self.ledger)),
        ]
        if self.expectations:
            sections += ["## Expected", "\n".join(f"* {line}" for line in self.expectations)]
        sections += arms.markdown(self.controls) if self.controls else []
        sections += ["## Training", _training_table(self.training)] if self.training else []
        if self.parity:
            sections += ["## Parity of the graphs with torch", _parity_table(self.parity)]
        cut = ", ".join(f"{count} {split}" for split, count in self.data.get("truncated", {}).items())
        facts = [*self.notes, f"texts cut to the longest length: {cut or 'none'}"]
        sections += ["## Data", "\n".join(f"* {fact}" for fact in facts)]
        here = machine()
        sections += [
            "## Where and with what",
            f"* {here['processor']}, {here['cores']} cores, {here['system']}, Python {here['python']}\n* "
            + ", ".join(f"{name} {number}" for name, number in versions().items())
            + f"\n* seed {self.recipe.seed}; the resolved recipe is in recipe.yaml, every figure in report.json\n"
            + "\n".join(f"* {line}" for line in self._took()),
        ]
        return sections

    def _took(self) -> list[str]:
        """How long the run took, and what it took from the store, with the time that had once been spent on it."""
        lines = ["this run took: " + ", ".join(f"{name} {duration(value)}" for name, value in self.seconds.items())]
        reused = [f"{step['name']} {duration(step['seconds'])}" for step in self.steps if step["reused"]]
        return lines + ([f"from the store, made before: {', '.join(reused)}"] if reused else [])

    def write(self, folder: Path) -> None:
        """Writes report.json, report.md and report.html into a run folder."""
        from distill.report.page import page

        told = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        write_text(folder / "report.json", told)
        write_text(folder / "report.md", self.markdown())
        write_text(folder / "report.html", page(json.loads(told)))


def judge(expect: Expect, ledger: Ledger) -> list[Expectation]:
    """Each line of `expect` against the ledger's last row. The point estimate decides."""
    row = ledger.last
    measured = {
        "retained": row.retained,
        "score": row.score,
        "size": ledger.ratio_of_size(row),
        "parameters": row.params / ledger.teacher.params,
        "latency_vs_eager": ledger.against_eager(row),
        "latency_same_engine": ledger.against_same_engine(row),
    }
    asked = {word: getattr(expect, word) for word in type(expect).model_fields}
    return [Expectation(word, bound, measured[word]) for word, bound in asked.items() if bound is not None]


def _training_table(logs: list[dict[str, Any]]) -> str:
    lines = ["| step | best epoch | validation score by epoch | last loss | terms (share) | texts/s | dtype |"]
    lines.append("|" + " --- |" * 7)
    for log in logs:
        scores = ", ".join(f"{epoch['score']:.4f}" for epoch in log["epochs"])
        last = log["records"][-1]
        terms = ", ".join(
            f"{name} {term['value']:.3g} ({100 * term['share']:.0f} %)" for name, term in last["terms"].items()
        )
        lines.append(
            f"| {log['step']} | {log['best_epoch']:g} | {scores} | {last['loss']:.3g} | {terms} "
            f"| {three_digits(log['samples_per_second'])} | {log['dtype']} |"
        )
    return "\n".join([*lines, *(line for log in logs for line in _layer_maps(log))])


def _layer_maps(log: dict[str, Any]) -> list[str]:
    """A table a learned map: how much of each of the teacher's layers was in what each of the student's followed."""
    lines = []
    for term, rows in (log.get("layer_maps") or {}).items():
        theirs = list(dict.fromkeys(layer for row in rows.values() for layer in row))
        title = (
            f"{log['step']}, {term.replace('_', ' ')}: how much of each of the teacher's layers a student's followed"
        )
        head = ["student layer", *(f"teacher's {layer}" for layer in theirs)]
        lines += ["", title, "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        lines += [
            f"| {mine} | {' | '.join(f'{row[layer]:.2f}' if layer in row else '–' for layer in theirs)} |"
            for mine, row in rows.items()
        ]
    return lines


def _parity_table(parity: dict[str, Any]) -> str:
    lines = [
        f"On {parity['rows']} validation rows; {parity['metric']} of torch {parity['torch']['score']:.4f}.",
        "",
        "| graph | largest logit difference | same answers | batch 1 | batch 32 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in (name for name in parity if name.startswith("onnx-")):
        found = parity[name]
        scores = " | ".join(f"{found['score'][f'batch {size}']:.4f}" for size in (1, 32))
        lines.append(f"| {name} | {found['largest_difference']:.2g} | {100 * found['agreement']:.1f} % | {scores} |")
    return "\n".join(lines)
