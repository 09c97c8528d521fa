"""samples.md: some test texts beside what each checkpoint writes. It stays in the run, as the texts are the data's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.disk import write_text

if TYPE_CHECKING:
    from distill.evaluation.writing import Sample

FILE = "samples.md"
_LONGEST = 2000  # characters of a text that are shown


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Writes the file into a run's folder; where there is nothing to show, one of before goes."""
    if samples:
        write_text(folder / FILE, markdown(samples))
    else:
        (folder / FILE).unlink(missing_ok=True)


def markdown(samples: Sequence[Sample]) -> str:
    """The content of samples.md. Checkpoints that write the same stand over one text, the teacher's first."""
    parts = [
        "# What each checkpoint writes",
        f"{len(samples)} examples of the test split, drawn by the recipe's seed.",
    ]
    for sample in samples:
        parts += [f"## Example {sample.row + 1}", "reads", _fenced(sample.read), "expected", _fenced(sample.expected)]
        titles: dict[str, list[str]] = {}
        for title, text in sample.written.items():
            titles.setdefault(text, []).append(title)
        for text, same in titles.items():
            parts += [", ".join(f"**{title}**" for title in same), _fenced(text)]
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    """A text as it is, whatever it holds."""
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
