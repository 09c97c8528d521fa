"""Everything that can be wrong, in one message that says what, where and the fix."""

from __future__ import annotations

from collections.abc import Sequence


class DistillError(Exception):
    """A mistake the user can mend. The command line prints it and exits with `exit_code`."""

    exit_code = 2


class RecipeError(DistillError):
    """One or more things in a recipe, or between a recipe and what it names, that can't work."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class BusyError(RecipeError):
    """A run folder in which another process is at work."""


class DataError(DistillError):
    """Data that can't be read, or doesn't hold what the recipe says it holds."""


class CheckpointError(DistillError):
    """A checkpoint that can't be found, isn't what its card says, or can't serve the task."""


class TrainingError(DistillError):
    """Training that can't go on, such as a loss that is no longer a number."""


class MachineError(DistillError):
    """Not the user's mistake: the disk, the network or an engine failed."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """What another library's error says in its first line, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
