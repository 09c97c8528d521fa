"""A teacher's signals for a whole split, computed once: files on disk, mapped into memory, looked up by row.

Logits of rows are (rows, labels) in float32; logits of tokens, hidden states, queries, keys and values have a line for
each real token, all rows end to end, the logits in float32 and all else in bfloat16. Logits over a vocabulary may be
kept as those of the likeliest tokens, one for all others, and in a second file the tokens' ids.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distill import anatomy
from distill.bars import bar
from distill.compiling import is_compiled
from distill.data import Encoded, Ragged, TokenBatches, arrays, collate
from distill.data.overlap import first_equal
from distill.disk import machine_errors
from distill.errors import CheckpointError
from distill.signals import Kept, Signals, Wanted, tensors
from distill.tasks import NO_TARGET
from distill.teacher.likeliest import Likeliest
from distill.teacher.renumbering import Numbers

_PASS_TOKENS = 8192
_ROWS, _CPU_ROWS = 256, 64  # at once; on a CPU more at a time gain nothing, and pad more
_HIDDEN = "hidden_states"
_LOGITS, _TOKENS = "logits.npy", "tokens.npy"
_NUMBERS = 1 << 26  # logits over a vocabulary at once: 256 MB
_BFLOAT16 = np.dtype(np.int16)  # its bits; NumPy has no such type
# Who keeps what a teacher says: takes what it depends on, what writes it into a folder that isn't there yet, and where
# it is wanted. What was kept before is not made again.
Keep = Callable[[Mapping[str, Any], Callable[[Path], None], Path], None]


class Source(Protocol):
    """A live teacher."""

    model: Any
    wanted: Wanted
    dtype: torch.dtype
    numbers: Numbers | None

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The teacher's signals for a batch."""
        ...


@dataclass(frozen=True)
class Sheet:
    """One file of signals: its name, what its numbers are, and its shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return self.dtype.itemsize * int(np.prod(self.shape))

    def create(self, folder: Path) -> np.ndarray:
        """The file, mapped to be written. Raises MachineError where the disk has no room for it: to find that out while
        writing would end the process.
        """
        path = folder / self.name
        with machine_errors(f"writing {path}"):
            found = np.lib.format.open_memmap(path, "w+", dtype=self.dtype, shape=self.shape)
            if hasattr(os, "posix_fallocate") and self.bytes:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return found


class Layout:
    """Which signals of a split there are, and where each row's are; those of equal inputs are there once."""

    def __init__(self, source: Source, encoded: Encoded, likeliest: Likeliest | None = None) -> None:
        """Of a live teacher and a split in its tokens; of logits over a vocabulary the `likeliest` alone, or all."""
        self.likeliest = likeliest
        self.encoded, self.places = distinct(encoded)
        encoded = self.encoded
        self.config = source.model.config.to_dict()
        self.tokens = encoded.tokens
        self.written = encoded.targets if encoded.decoder_start is not None else encoded.tokens
        sample = source.signals(tensors(collate(encoded, [int(encoded.lengths.argmin())]), source.model.device))
        self.by_token = sample.logits.ndim == 3
        wide = sample.logits.shape[1:]
        shape = (_total(self.written), *wide[1:]) if self.by_token else (len(encoded), *wide)
        self.kept: Sheet | None = None
        if likeliest is not None:
            shape = (shape[0], likeliest.number + 1)
            self.kept = Sheet(_TOKENS, likeliest.id_dtype, (shape[0], likeliest.number))
        self.logits = Sheet(_LOGITS, np.dtype(np.float32), shape) if source.wanted.logits else None
        self.states = {
            (kind, layer): Sheet(f"{kind}-{layer}.npy", _BFLOAT16, (_total(self._text(layer)), found.shape[-1]))
            for (kind, layer), found in by_token(sample).items()
        }

    @property
    def sheets(self) -> list[Sheet]:
        """Every file."""
        return [sheet for sheet in (self.logits, self.kept, *self.states.values()) if sheet is not None]

    @property
    def bytes(self) -> int:
        """What has a vector a token would take on disk, logits of rows left out: they are small."""
        return sum(sheet.bytes for sheet in self.sheets if self.by_token or sheet is not self.logits)

    @property
    def over_vocabulary(self) -> bool:
        """Whether there is a logit a token of the vocabulary at each place."""
        return self.by_token and self.logits is not None and self.logits.shape[-1] == self.config.get("vocab_size")

    @property
    def bytes_a_token(self) -> float:
        """What they would take for each token of the split."""
        return self.bytes / max(1, _total(self.tokens))

    @property
    def told(self) -> str:
        """What has a vector a token, in words."""
        kinds = {kind for kind, _ in self.states}
        few = f"{self.likeliest.number} likeliest tokens' logits" if self.likeliest else "logits"
        names = [few] if self.by_token and self.logits is not None else []
        names += ["hidden states"] if _HIDDEN in kinds else []
        return " and ".join(names + (["queries, keys and values"] if kinds - {_HIDDEN} else []))

    def _text(self, layer: int) -> Ragged:
        """The tokens that a layer has a vector for: of the text that is read, or of the one to write."""
        return self.written if anatomy.is_written(self.config, layer) else self.tokens

    def write(self, source: Source, folder: Path) -> None:
        """One pass of the teacher over the split, each input once, into files in a folder. Raises CheckpointError where
        it says what is no number.
        """
        encoded = self.encoded
        logits = self.logits.create(folder) if self.logits else None
        ids = self.kept.create(folder) if self.kept else None
        states = {key: sheet.create(folder) for key, sheet in self.states.items()}
        classes = self.likeliest.classes if self.likeliest else self.logits.shape[-1] if self.logits else 1
        most = min(_PASS_TOKENS, max(1, _NUMBERS // classes))
        at_once = _CPU_ROWS if source.model.device.type == "cpu" else _ROWS
        batches = TokenBatches(encoded.work, batch_size=at_once, batch_tokens=most)
        with bar(title="teacher's signals", leave=True, total=len(encoded), unit="text") as done:
            for rows in batches:
                batch = tensors(collate(encoded, rows), source.model.device)
                found = source.signals(batch)
                said = None if self.logits is None else found.logits[written(batch)] if self.by_token else found.logits
                if said is not None and bool(said.isnan().any()):
                    raise CheckpointError(
                        f"the teacher's logits of training rows {rows[:8]}… are no numbers in {source.dtype}: its "
                        "weights are damaged, or too large for that precision"
                    )
                if self.likeliest is not None:
                    lines, (kept, tokens) = self.written.places(rows), self.likeliest.of(said)
                    logits[lines], ids[lines] = kept.numpy(force=True), tokens.numpy(force=True)
                elif said is not None:
                    logits[self.written.places(rows) if self.by_token else rows] = said.float().numpy(force=True)
                for (kind, layer), vectors in by_token(found).items():
                    real, places = self.real(layer, batch), self._text(layer).places(rows)
                    states[kind, layer][places] = vectors[real].bfloat16().view(torch.int16).numpy(force=True)
                done.update(len(rows))
        for array in (logits, ids, *states.values()):
            if array is not None:
                array.flush()

    def read(self, folder: Path) -> Saved:
        """The signals in a folder, mapped."""
        files = {sheet.name: np.load(folder / sheet.name, mmap_mode="r") for sheet in self.sheets}
        return Saved(self, files)

    def real(self, layer: int, batch: dict[str, Tensor]) -> Tensor:
        """Where a batch has real tokens of what a layer works on, (batch, tokens)."""
        return written(batch) if anatomy.is_written(self.config, layer) else batch["attention_mask"].bool()

    def lines(self, batch: dict[str, Tensor], sheet: Sheet, layer: int | None) -> np.ndarray | list[int]:
        """The lines of a file that are a batch's."""
        rows = batch["rows"].tolist()
        rows = rows if self.places is None else self.places[rows]
        if sheet in (self.logits, self.kept):
            return self.written.places(rows) if self.by_token else rows
        return self._text(layer).places(rows)


class Saved:
    """Signals that were written down, looked up by row."""

    def __init__(self, layout: Layout, files: Mapping[str, np.ndarray]) -> None:
        self.layout, self.files = layout, files
        self.told: dict[str, Any] = {}

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The saved signals of a batch's rows; padding is zero."""
        layout, device = self.layout, batch["input_ids"].device
        found = Signals(None)
        if layout.logits is not None:
            lines = layout.lines(batch, layout.logits, None)
            logits = torch.from_numpy(np.array(self.files[_LOGITS][lines])).to(device)
            found.logits = _laid_out(logits, written(batch)) if layout.by_token else logits
        if layout.kept is not None:
            ids = torch.from_numpy(self.files[_TOKENS][lines].astype(np.int64)).to(device)
            found.kept = Kept(_laid_out(ids, written(batch)), layout.likeliest.classes)
        for (kind, layer), sheet in layout.states.items():
            lines = layout.lines(batch, sheet, layer)
            kept = torch.from_numpy(np.array(self.files[sheet.name][lines])).view(torch.bfloat16)
            laid = _laid_out(kept.to(device), layout.real(layer, batch))
            if kind == _HIDDEN:
                found.hidden_states[layer] = laid
            else:
                found.vectors[kind, layer] = laid
        return found


def distinct(encoded: Encoded) -> tuple[Encoded, np.ndarray | None]:
    """A split with each input once, and each row's place there; no places where no two rows are alike.

    Inputs are told apart by hashes.
    """
    digests = arrays.Growing(np.uint64)
    more = [ragged for ragged in (encoded.windows, encoded.decoder_start is not None and encoded.targets) if ragged]
    for row, start, end in _ends(encoded.offsets):
        found = hashlib.blake2b(encoded.ids[start:end].tobytes(), digest_size=16)
        if encoded.types is not None:
            found.update(encoded.types[start:end].tobytes())
        for ragged in more:
            found.update(b"\0" + ragged[row].tobytes())
        digests.extend(np.frombuffer(found.digest(), dtype=np.uint64).tolist())
    first = first_equal(digests.whole().reshape(-1, 2))
    kept = arrays.places(len(first), lambda part: first[part] == np.arange(part.start, part.stop))
    if len(kept) == len(encoded):
        return encoded, None
    places = arrays.zeros(len(encoded), np.int64)
    places[kept] = np.arange(len(kept))
    return encoded.take(kept), arrays.filled(len(first), np.int64, lambda part: places[first[part]])


def _ends(offsets: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Each row's number, and where it starts and ends."""
    for part in arrays.portions(len(offsets) - 1):
        bounds = offsets[part.start : part.stop + 1].tolist()
        yield from zip(range(part.start, part.stop), bounds, bounds[1:], strict=False)


def by_token(signals: Signals) -> dict[tuple[str, int], Tensor]:
    """What has a vector a token beside the logits, by what it is and layer."""
    return {(_HIDDEN, layer): states for layer, states in signals.hidden_states.items()} | signals.vectors


def facts_of(source: Source, encoded: Encoded, likeliest: Likeliest | None = None) -> dict[str, Any]:
    """What a teacher's signals for a split hang on, beside its bytes."""
    wanted = {name: asked for name, asked in asdict(source.wanted).items() if asked and name != "logits"}
    wanted |= {} if source.wanted.logits else {"without": "logits"}
    wanted |= {"likeliest": likeliest.facts} if likeliest else {}
    wanted |= {"numbers": source.numbers.sha256} if source.numbers else {}
    wanted |= {"compiled": True} if is_compiled(source.model) else {}
    return {"texts": fingerprint(encoded), "dtype": str(source.dtype), **json.loads(json.dumps(wanted))}


def fingerprint(encoded: Encoded, *, written: bool = True) -> str:
    """SHA-256 of every token of a split that is read, of what it was cut into, and of the texts to be `written`."""
    found = hashlib.sha256()
    read = [encoded.ids, encoded.offsets, encoded.types]
    if encoded.windows is not None:
        read += [encoded.windows.values]
    if written and encoded.decoder_start is not None:
        read += [encoded.targets.values, encoded.targets.offsets, np.array(encoded.decoder_start)]
    for array in read:
        if array is None or array.ndim == 0:
            found.update(b"none" if array is None else array.tobytes())
            continue
        for part in arrays.portions(len(array)):
            found.update(np.ascontiguousarray(array[part]).tobytes())
    return found.hexdigest()


def _total(text: Ragged) -> int:
    return int(text.offsets[-1])


def written(batch: dict[str, Tensor]) -> Tensor:
    """Where a batch has logits of real tokens, (batch, tokens): those of the text that is read, or written."""
    return batch["labels"] != NO_TARGET if "decoder_input_ids" in batch else batch["attention_mask"].bool()


def _laid_out(values: Tensor, real: Tensor) -> Tensor:
    """Rows of real tokens back in their places of (batch, tokens)."""
    found = torch.zeros((*real.shape, values.shape[-1]), dtype=values.dtype, device=values.device)
    found[real] = values
    return found
