"""What a run folder says of its run: run.json, written at every change, and the lock of the process at work in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from distill.disk import machine_errors, write_text
from distill.errors import BusyError, RecipeError
from distill.recipe import Recipe, to_yaml

ARMS = "controls"  # where the checkpoints of arms lie, ARM/STEP
_SCHEMA = 1
_STATE, _RECIPE, _LOCK = "run.json", "recipe.yaml", ".lock"
_UNFINISHED = re.compile(
    r"\.(run\.json|recipe\.yaml|report\.\w+|predictions\.npz|samples\.md|emissions\.csv|augment|teacher|student|\d+-\w+)"
    r"(-\w+)*"
)
Standing = Literal["waiting", "at work", "done", "left out", "stopped", "failed"]


@dataclass(frozen=True)
class Asked:
    """What a run is of: its recipe as YAML, and the folder where paths in it start, where there is one.

    Recipes that read alike are not the same where their paths lead to other files.
    """

    recipe: str
    home: Path | None = None

    @classmethod
    def of(cls, recipe: Recipe, beside: Path | None) -> Asked:
        """What a recipe that lies in a folder asks for."""
        named = beside is not None and any(_lies_in(beside, word) for word in _words(recipe.model_dump(mode="json")))
        return cls(to_yaml(recipe), beside if named else None)

    def home_from(self, folder: Path) -> str:
        """The way from a run folder to where the recipe's paths start: it stays the same when both are moved."""
        if self.home is None:
            return ""
        try:
            return Path(os.path.relpath(self.home.resolve(), folder.resolve())).as_posix()
        except ValueError:  # another drive
            return self.home.resolve().as_posix()


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _words(inner)


def _lies_in(folder: Path, word: str) -> bool:
    try:
        return word not in ("", ".") and not Path(word).is_absolute() and (folder / word).exists()
    except (OSError, ValueError):  # no name of a file
        return False


@dataclass
class Stage:
    """One line of a run: a checkpoint to be made, or the evaluation; `piece` is its name in the store."""

    name: str
    kind: str
    standing: Standing = "waiting"
    piece: str | None = None
    seconds: float | None = None
    reused: bool | None = None
    finished: str | None = None


@dataclass
class State:
    """A run folder's run.json."""

    folder: Path
    name: str
    smoke: bool
    store: str
    stages: list[Stage]
    standing: Standing = "at work"
    wandb_id: str = field(default_factory=lambda: secrets.token_hex(4))
    sittings: int = 1
    progress: dict[str, float] = field(default_factory=dict)
    updated: str = ""
    home: str | None = None

    def write(self) -> None:
        """Writes run.json whole."""
        self.updated = datetime.now(UTC).isoformat(timespec="seconds")
        told = {"schema": _SCHEMA, **asdict(self), "folder": None}
        write_text(self.folder / _STATE, json.dumps(told, indent=1) + "\n")

    def stage(self, name: str) -> Stage:
        """The line of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    def add(self, stage: Stage) -> None:
        """Another line, which was not known beforehand, behind the steps."""
        behind = ("graph", "evaluation")
        place = next(i for i, other in enumerate(self.stages) if other.kind in behind or "/" in other.name)
        self.stages.insert(place, stage)

    def mark(self, name: str, standing: Standing, **facts: Any) -> None:
        """Says where a stage stands, and writes it down."""
        stage, self.progress = self.stage(name), {}
        stage.standing = standing
        for word, fact in facts.items():
            setattr(stage, word, fact)
        self.write()

    def end(self, standing: Standing) -> None:
        """Says how the sitting ended; what was at work ended with it."""
        self.standing = standing
        for stage in self.stages:
            if stage.standing == "at work":
                stage.standing = standing
        self.write()


def read_state(folder: Path) -> State | None:
    """A run folder's run.json; None when it has none. Raises RecipeError for one that can't be read."""
    path = folder / _STATE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.pop("schema") != _SCHEMA:
            raise ValueError("another schema")
        stages = [Stage(**stage) for stage in told.pop("stages")]
        return State(**{**told, "folder": folder, "stages": stages})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: not the state of a run ({error}); name another folder") from None


def choose_folder(name: str, asked: Asked, below: Path) -> Path:
    """Where a run of a recipe goes: its own unfinished or finished folder, else the first that is free.

    `name`, `name-2`, `name-3`, … are looked at in turn; one in which a process is at work is passed over.
    """
    taken = 1
    while True:
        folder = below / (name if taken == 1 else f"{name}-{taken}")
        if not folder.exists() or ((_holds(folder, asked) or _is_begun(folder, asked)) and not is_busy(folder)):
            return folder
        taken += 1


def require_own(folder: Path, asked: Asked) -> None:
    """Raises RecipeError unless a folder is new, empty, or that of a run of the same recipe."""
    if not folder.exists() or _is_begun(folder, asked):
        return
    if not folder.is_dir() or read_state(folder) is None:
        raise RecipeError(f"--output {folder}: already there and not empty; name another folder or remove it")
    if not _holds(folder, asked):
        raise RecipeError(
            f"--output {folder}: holds a run of another recipe (its recipe.yaml, or other files that it names); "
            "name another folder, where steps that stay the same are taken from the store"
        )


@contextlib.contextmanager
def claim(folder: Path, asked: Asked) -> Iterator[None]:
    """A run folder for this process alone, its recipe.yaml written.

    Raises RecipeError when another process is at work in it, or it holds something else.
    """
    new = not folder.exists()
    with machine_errors(f"writing {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(f"--output {folder}: another process is at work in it; wait, or name another") from None
    try:
        require_own(folder, asked)
        _sweep(folder)
        write_text(folder / _RECIPE, asked.recipe)
        yield
    except BaseException:
        if new and set(_content(folder)) <= {folder / _RECIPE}:  # nothing came of it
            (folder / _RECIPE).unlink(missing_ok=True)
        raise
    finally:
        lock.release()
        if new and not _content(folder):
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink(missing_ok=True)
                folder.rmdir()


def _sweep(folder: Path) -> None:
    """Removes what a killed process had not finished writing: hidden names that ours get while they are written.

    What a killed `ship` left is its own to judge: between its two renames the whole folder has a hidden name.
    """
    for path in [*folder.iterdir(), *folder.glob(f"{ARMS}/*/.*")]:
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_busy(folder: Path) -> bool:
    """Whether a process is at work in a run folder."""
    if not (folder / _LOCK).exists():
        return False
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that can't be written is nobody's place of work
        return False


def _is_begun(folder: Path, asked: Asked) -> bool:
    """Whether a folder holds no more than a run of this recipe leaves that is killed before its run.json is there."""
    try:
        left = {path.name for path in _content(folder) if not _UNFINISHED.fullmatch(path.name)}
        return not left or (left == {_RECIPE} and (folder / _RECIPE).read_text(encoding="utf-8") == asked.recipe)
    except (OSError, ValueError):
        return False


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != _LOCK]


def _holds(folder: Path, asked: Asked) -> bool:
    try:
        if (folder / _RECIPE).read_text(encoding="utf-8") != asked.recipe:
            return False
        state = read_state(folder)
        return state is not None and state.home in (None, asked.home_from(folder))  # older ones don't say
    except RecipeError:  # which is told where the folder is claimed
        return True
    except (OSError, ValueError):
        return False
