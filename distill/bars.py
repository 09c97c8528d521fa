"""The progress bars of long work: of a terminal or a notebook at once, of a log file a line now and then.

Several processes draw one bar, the leader's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

_SECONDS = 30.0  # between two lines in a file; what is done sooner leaves none


def bar(
    rows: Iterable[Any] | None = None, *, title: str | None, shown: bool = True, leave: bool = False, **how: Any
) -> tqdm:
    """Tqdm's bar over `rows`, or to be moved by hand; `how` is tqdm's (`total`, `unit`).

    `leave` keeps its last state on the screen. It stands on standard error.
    """
    if not _is_watched():
        how = {"mininterval": _SECONDS, "maxinterval": _SECONDS, "delay": _SECONDS, **how}
    return tqdm(rows, desc=title, leave=leave, disable=not shown or not _is_first(), **how)


def _is_watched() -> bool:
    """Whether someone looks on: in a terminal, or in a notebook, whose bars are no text."""
    notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    return notebook or sys.stderr.isatty()


def _is_first() -> bool:
    """Whether this process leads; as launchers say it, since bars are drawn where there is no torch too."""
    return os.environ.get("RANK", "0") == "0"
