"""A safetensors file's header, held against the file itself, before anything maps or allocates what it claims."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import CheckpointError
from distill.safety.files import read_json

LARGEST_HEADER = 32 << 20  # bytes: room for 300,000 tensors
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a safetensors file. Raises CheckpointError for a header that can't be true.

    Refused: a header longer than the file or than 32 MiB, tensors that overlap, leave gaps or pass the file's end, and
    shapes that need other bytes than they have.
    """
    header, body = _header(path)
    shapes: dict[str, tuple[int, ...]] = {}
    places: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, begin, end = _tensor(entry)
        if shape is None:
            raise _wrong(path, f"the entry of {name[:60]} is none of a tensor")
        bits = _BITS.get(str(entry.get("dtype")))
        if bits is not None and math.prod(shape) * bits != 8 * (end - begin):
            raise _wrong(path, f"{name[:60]} has {end - begin} bytes, but its shape {list(shape)} needs others")
        shapes[name] = shape
        places.append((begin, end))
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise _wrong(path, "its tensors overlap or leave gaps")
        reached = end
    if reached != body:
        raise _wrong(path, f"its tensors end at byte {reached}, its data at {body}: cut off, or longer than it says")
    return shapes


def shards(index: Path) -> list[str]:
    """The file names of an index of shards, sorted; each is a file beside it. Raises CheckpointError."""
    told = read_json(index)
    places = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: names no weights (weight_map)")
    for name in (names := sorted({str(name) for name in places.values()})):
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {name[:100]}; shards are .safetensors files in the same folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: names {name}, which is not there; fetch the checkpoint again")
    return names


def _header(path: Path) -> tuple[Mapping[str, Any], int]:
    """A file's header and the number of bytes behind it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _wrong(
                path, f"its header claims {length} bytes, the file has {size} (at most {LARGEST_HEADER} are read)"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise _wrong(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _wrong(path, "its header is not a list of tensors")
    return header, size - 8 - length


def _tensor(entry: Any) -> tuple[tuple[int, ...] | None, int, int]:
    """Shape and bytes of a header's entry; no shape when it isn't one."""
    shape, place = (entry.get("shape"), entry.get("data_offsets")) if isinstance(entry, dict) else (None, None)
    if not (isinstance(shape, list) and isinstance(place, list) and len(place) == 2):
        return None, 0, 0
    if not all(type(number) is int and number >= 0 for number in (*shape, *place)) or place[0] > place[1]:
        return None, 0, 0
    return tuple(shape), place[0], place[1]


def _wrong(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a sound safetensors file: {why}; get it again")
