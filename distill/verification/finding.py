"""What came of one claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["holds", "FAILS", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One claim: what was claimed, what was measured, how far apart they may be, and what came of it."""

    name: str
    outcome: Outcome
    claimed: str = ""
    measured: str = ""
    tolerance: str = ""
    why: str = ""

    def __str__(self) -> str:
        told = [f"claimed {self.claimed}"] * bool(self.claimed) + [f"measured {self.measured}"] * bool(self.measured)
        tolerance = f" ({self.tolerance})" if self.tolerance else ""
        told = [f"{', '.join(told)}{tolerance}"] * bool(told) + [self.why] * bool(self.why)
        return f"{self.outcome:<11}  {self.name}: {'; '.join(told)}"


def judge(name: str, holds: bool, claimed: str, measured: str, tolerance: str, why: str = "") -> Finding:
    """A finding of a claim that was measured."""
    return Finding(name, "holds" if holds else "FAILS", claimed, measured, tolerance, "" if holds else why)


def unchecked(name: str, why: str, claimed: str = "") -> Finding:
    """A finding of a claim that could not be measured here."""
    return Finding(name, "not checked", claimed, why=why)


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
