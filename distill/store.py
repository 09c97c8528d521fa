"""The store of finished work: what a step made lies under a key of all that it depends on, so it is made only once.

```
STORE/distill-1f6e…/      a finished piece of work: its files, read-only, and entry.json, written last
STORE/unfinished/…/       work under way: files that nobody sees yet, and training checkpoints to go on from
STORE/locks/…             who makes or takes a piece holds its lock; the system frees it when a process dies
```

A piece counts when every file has the size and the SHA-256 that its entry names. A damaged one is made again. Whoever
takes a piece gets hard links to its files (copies on another disk), so that pruning the store never breaks a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill.checkpoint import sha256
from distill.disk import expanded, machine_errors, write_text

log = logging.getLogger(__name__)
Facts = Mapping[str, Any]
Make = Callable[[Path, Path], dict[str, Any]]
_SCHEMA = 1
_ENTRY = "entry.json"
_KEY_DIGITS = 32
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_LARGEST_ENTRY = 1 << 30  # bytes of entry.json, which holds the predictions of a score


@dataclass
class Piece:
    """A finished piece of work: where its files are, and what its maker told of it.

    `reused` tells whether it lay in the store already; `seconds` is what it took when it was made.
    """

    name: str
    folder: Path
    facts: dict[str, Any]
    told: dict[str, Any]
    files: dict[str, dict[str, Any]]
    seconds: float
    finished: str
    reused: bool = True

    @property
    def kind(self) -> str:
        """What made it: finetune, distill, quantize, …"""
        return self.name.rpartition("-")[0]

    @property
    def key(self) -> str:
        """The key: a hash of all that the piece depends on."""
        return self.name.rpartition("-")[2]

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(file["bytes"] for file in self.files.values())


@dataclass
class Store:
    """A folder of finished pieces, shared by any number of runs at once."""

    folder: Path = field(default_factory=lambda: default_folder())

    def piece(self, kind: str, facts: Facts, make: Make, link: Path | None = None) -> Piece:
        """The piece that belongs to these facts: taken from the store, else made now; its files linked as `link`.

        `make(files, workshop)` makes the folder `files`, if the piece has files, and gives back what is kept in its
        entry, as JSON. What it leaves in the folder `workshop` is there again when it was cut off and is called a
        second time. Another process that makes the same piece is waited for. Raises what `make` raises; then nothing
        is kept but the workshop.
        """
        name = name_of(kind, facts)
        self.prepared()
        with self._locked(name):
            with machine_errors(f"reading the store {self.folder}"):
                piece = self.find(name, repair=True)
            if piece is None:
                piece = self._make(name, facts, make)
            with machine_errors(f"writing {link or self.folder}"):
                os.utime(self.folder / name / _ENTRY)  # when it was last used
                if link is not None:
                    _link(piece, link)
        return piece

    def prepared(self) -> Store:
        """This store, when it can be written. Raises MachineError."""
        with machine_errors(f"writing the store {self.folder} (DISTILL_STORE names another place)"):
            for name in ("locks", "unfinished"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        return self

    def find(self, name: str, *, repair: bool = False) -> Piece | None:
        """A finished piece whose files are what its entry says; with `repair` a damaged one is thrown away.

        Call it with `repair` only while holding the piece's lock. Raises OSError where the disk or the network that it
        is on can't be read: that is no damage.
        """
        folder = self.folder / name
        if not folder.is_dir():
            return None
        try:
            piece = _read(folder)
            damage = _damage(piece)
        except (*_GONE, ValueError, LookupError, TypeError, AttributeError):
            damage = _ENTRY
        if damage is None:
            return piece
        log.warning("store: %s is damaged (%s)%s", name, damage, "; it is made again" if repair else "")
        if repair:
            self._remove(folder)
        return None

    def workshop(self, name: str) -> Path:
        """Where a piece that is being made keeps what it can go on from."""
        return self.folder / "unfinished" / name / "workshop"

    def is_busy(self, name: str) -> bool:
        """Whether a process is making or taking a piece right now."""
        path = self._lock_of(name)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a store that can't be written is nobody's place of work
            return False

    def pieces(self) -> list[Piece]:
        """Every finished piece that can be read, the last used first; files are not hashed."""
        found = []
        for path in self.folder.glob(f"*/{_ENTRY}"):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
                found.append((path.stat().st_mtime, _read(path.parent)))
        return [piece for _, piece in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def last_used(self, piece: Piece) -> float:
        """When a piece was last taken, in seconds since the epoch."""
        return (piece.folder / _ENTRY).stat().st_mtime

    def unfinished(self) -> list[str]:
        """Names of the pieces that somebody began and nobody has finished."""
        return sorted(path.name for path in (self.folder / "unfinished").glob("*") if path.is_dir())

    def drop(self, name: str) -> bool:
        """Removes a piece, finished or not; False when a process is at work on it."""
        try:
            with machine_errors(f"pruning {self.folder}"), FileLock(self._lock_of(name), timeout=0):
                if (self.folder / name).is_dir():
                    self._remove(self.folder / name)
                shutil.rmtree(self.folder / "unfinished" / name, ignore_errors=True)
        except Timeout:
            return False
        return True

    def _lock_of(self, name: str) -> Path:
        return self.folder / "locks" / f"{name}.lock"

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = FileLock(self._lock_of(name))
        with machine_errors(f"writing the store {self.folder} (DISTILL_STORE names another place)"):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("another run is at work on %s; waiting for it", name)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _make(self, name: str, facts: Facts, make: Make) -> Piece:
        files, workshop = self.workshop(name).with_name("files"), self.workshop(name)
        start = time.perf_counter()
        with machine_errors(f"writing {files}"):
            workshop.mkdir(parents=True, exist_ok=True)
            for left in workshop.parent.iterdir():  # by a maker that was killed
                if left != workshop:
                    shutil.rmtree(left)
        try:
            told = make(files, workshop)
            with machine_errors(f"writing {files}"):
                return self._keep(name, facts, told, files, time.perf_counter() - start)
        except BaseException:
            shutil.rmtree(files, ignore_errors=True)
            with contextlib.suppress(OSError):  # nothing to go on from: no trace
                workshop.rmdir()
                workshop.parent.rmdir()
            raise

    def _keep(self, name: str, facts: Facts, told: dict[str, Any], files: Path, seconds: float) -> Piece:
        files.mkdir(exist_ok=True)
        held = {
            path.relative_to(files).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(files.rglob("*"))
            if path.is_file()
        }
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {
            "schema": _SCHEMA, "name": name, "facts": dict(facts), "told": told, "files": held,
            "seconds": seconds, "finished": finished,
        }  # fmt: skip
        write_text(files / _ENTRY, json.dumps({**entry, "check": _check(entry)}))  # predictions make it long enough
        for file in held:
            (files / file).chmod(0o444)
        files.rename(self.folder / name)
        shutil.rmtree(files.parent, ignore_errors=True)
        return Piece(name, self.folder / name, dict(facts), told, held, seconds, finished, reused=False)

    def _remove(self, folder: Path) -> None:
        """Out of sight in one step, then away: a half removed folder is never taken for a piece."""
        aside = self.folder / "unfinished" / f"{folder.name}.removed" / str(time.time_ns())
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)
        shutil.rmtree(aside.parent, ignore_errors=True)


def default_folder() -> Path:
    """Where the store is: `DISTILL_STORE`, else in the user's cache folder."""
    import platformdirs

    given = os.environ.get("DISTILL_STORE")
    return expanded(given) if given else Path(platformdirs.user_cache_dir("distill")) / "store"


def name_of(kind: str, facts: Facts) -> str:
    """The name of the piece that belongs to these facts."""
    told = json.dumps([_SCHEMA, kind, facts], sort_keys=True, ensure_ascii=False)
    return f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:_KEY_DIGITS]}"


def _read(folder: Path) -> Piece:
    path = folder / _ENTRY
    if path.stat().st_size > _LARGEST_ENTRY:
        raise ValueError(f"{path}: too large for an entry")
    entry = json.loads(path.read_text(encoding="utf-8"))
    kind = folder.name.rpartition("-")[0]
    if entry.pop("check") != _check(entry):
        raise ValueError(f"{path}: its check sum is another one")
    if entry["schema"] != _SCHEMA or not folder.name == entry["name"] == name_of(kind, entry["facts"]):
        raise ValueError(f"{path}: not the entry of this piece")
    return Piece(
        folder.name, folder, entry["facts"], entry["told"], entry["files"], entry["seconds"], entry["finished"]
    )


def _check(entry: Mapping[str, Any]) -> str:
    """What a flipped bit in an entry would change."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _damage(piece: Piece) -> str | None:
    """The first file that is not what the entry says; None when all are."""
    for file, known in piece.files.items():
        path = piece.folder / file
        if not path.is_file() or path.is_symlink() or path.stat().st_size != known["bytes"]:
            return file
        if sha256(path) != known["sha256"]:
            return file
    return None


def _link(piece: Piece, target: Path) -> None:
    """The piece's files as a folder of their own: hard links, copies where the file system has none."""
    unfinished = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for file in piece.files:
            (unfinished / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(piece.folder / file, unfinished / file)
            except OSError:
                shutil.copyfile(piece.folder / file, unfinished / file)
        unfinished.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():  # somebody moved what it was
            target.unlink()
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
