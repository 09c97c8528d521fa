"""Arrays with an entry a row or a token of a corpus: in memory while they are small, else in files that are mapped.

The files lie in the system's temporary folder without a name, so that they go with the arrays, and with a process that
is killed. What is done to them here is done a portion at a time, so that a corpus of any size takes the same memory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from distill.disk import machine_errors

IN_MEMORY = 1 << 22  # bytes of one array; a larger one goes to a file
_LOOSE = 1 << 14  # numbers that come one by one
PORTION = 1 << 18  # entries that are worked on at once


def zeros(shape: int | tuple[int, ...], dtype: type | np.dtype) -> np.ndarray:
    """An array of zeros to be filled in. Raises MachineError where the disk has no room for it."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, kind)
    with _room(), tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # to find a full disk while writing would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.asarray(np.memmap(file, dtype=kind, mode="r+", shape=shape))


def portions(number: int) -> Iterator[slice]:
    """Slices that cover so many entries."""
    for start in range(0, number, PORTION):
        yield slice(start, min(start + PORTION, number))


def filled(number: int, dtype: type, some: Callable[[slice], np.ndarray]) -> np.ndarray:
    """An array from its portions."""
    found = zeros(number, dtype)
    for part in portions(number):
        found[part] = some(part)
    return found


def places(number: int, holds: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Where something holds, rising, as np.flatnonzero has it; `holds` says so for a slice of the entries."""
    found = Growing(np.int64)
    for part in portions(number):
        found.add(np.flatnonzero(holds(part)) + part.start)
    return found.whole()


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are the same."""
    return one.shape == other.shape and all(bool((one[part] == other[part]).all()) for part in portions(len(one)))


def differences(values: np.ndarray) -> np.ndarray:
    """Each value's distance from the one before, as np.diff has it."""
    return filled(len(values) - 1, values.dtype.type, lambda part: np.diff(values[part.start : part.stop + 1]))


def ends(lengths: np.ndarray) -> np.ndarray:
    """Where rows of these lengths begin, when they lie end to end, and where the last one ends."""
    found = zeros(len(lengths) + 1, np.int64)
    for part in portions(len(lengths)):
        found[part.start + 1 : part.stop + 1] = found[part.start] + np.cumsum(lengths[part])
    return found


class Growing:
    """Numbers that are added at the end: kept in memory, and beyond `IN_MEMORY` in a file."""

    def __init__(self, dtype: type) -> None:
        self.dtype = np.dtype(dtype)
        self.parts: list[np.ndarray] = []
        self.loose: list[int] = []
        self.waiting = 0
        self.file = None

    def add(self, some: np.ndarray) -> None:
        """More of them. Raises MachineError."""
        self.parts.append(some.ravel().astype(self.dtype))
        self.waiting += some.size
        if self.waiting * self.dtype.itemsize > IN_MEMORY:
            self._spill()

    def extend(self, few: Sequence[int]) -> None:
        """A few more of them."""
        self.loose.extend(few)
        if len(self.loose) > _LOOSE:
            self._gather()

    def _gather(self) -> None:
        loose, self.loose = self.loose, []
        self.add(np.array(loose, self.dtype))

    def _spill(self) -> None:
        with _room():
            if self.file is None:
                self.file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the array that is mapped on it
            for part in self.parts:
                part.tofile(self.file)
            self.file.flush()
        self.parts, self.waiting = [], 0

    def whole(self) -> np.ndarray:
        """All of them."""
        if self.loose:
            self._gather()
        if self.file is None:
            return np.concatenate(self.parts) if self.parts else np.zeros(0, self.dtype)
        if self.waiting:
            self._spill()
        found = np.memmap(self.file, dtype=self.dtype, mode="r+")
        self.file.close()  # the map holds what is in it
        return np.asarray(found)


def _room() -> contextlib.AbstractContextManager[None]:
    return machine_errors(f"keeping a corpus's numbers in {tempfile.gettempdir()} (TMPDIR chooses another folder)")
