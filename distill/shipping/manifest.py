"""`manifest.json`: what a shipped folder holds and claims. Whatever a stranger's manifest says is checked first."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from distill.checkpoint import sha256
from distill.errors import CheckpointError
from distill.recipe.settings import Problem
from distill.safety import read_json

NAME = "manifest.json"
SCHEMA = 1
Format = Literal["transformers", "onnx-fp32", "onnx-int8", "onnx-int4"]
FOLDERS: dict[Format, str] = {
    "transformers": "transformers",
    "onnx-fp32": "onnx",
    "onnx-int8": "onnx",
    "onnx-int4": "onnx",
}
_MOST_FILES = 1000
_ASIDE = (".git", ".gitattributes", ".cache")  # what the Hub and git put beside the files
Tokens = Annotated[int, Field(ge=1, le=1 << 20)]


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class File(_Words):
    """One file's SHA-256 and size."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Claim(_Words):
    """A figure that can be measured again: how far off it may be, and in which unit."""

    name: str
    value: float
    tolerance: Annotated[float, Field(ge=0)]
    unit: str
    about: str


class Input(_Words):
    """What the graph takes under a name: `shape` names the dimensions that are free."""

    dtype: str
    shape: list[str | int]


class Preprocessing(_Words):
    """How texts become the graph's inputs; `tokenizer.json` is set so already."""

    max_length: Tokens
    truncation: str
    stride: int | None = None
    truncation_side: Literal["left", "right"]
    padding_side: Literal["left", "right"]
    pad_token: str
    pad_id: Annotated[int, Field(ge=0, lt=1 << 24)]
    texts: Literal[1, 2]
    pair: str
    inputs: dict[str, Input]


class Probe(_Words):
    """Made-up token ids, and what each format answered on them: each row's logits, of all tokens end to end."""

    how: str
    seed: int
    vocabulary: Annotated[int, Field(ge=1, le=1 << 24)]
    start: Annotated[int, Field(ge=0, lt=1 << 24)] | None = None
    lengths: Annotated[list[Annotated[int, Field(ge=1, le=512)]], Field(min_length=1, max_length=64)]
    logits: dict[Format, list[list[float]]]
    tolerance: dict[Format, float]

    @field_validator("logits")
    @classmethod
    def _even(cls, value: dict[Format, list[list[float]]]) -> dict[Format, list[list[float]]]:
        if any(len({len(row) for row in rows}) != 1 or not rows[0] for rows in value.values()):
            raise ValueError("each format has rows of equal length, at least one")
        return value


class Manifest(_Words):
    """The whole of manifest.json."""

    # `schema` is a method of pydantic's
    version: Annotated[Literal[1], Field(alias="schema")]
    made_by: str
    created: str
    problem: Problem
    labels: list[str]
    threshold: float | None
    activation: Literal["softmax", "sigmoid", "none", "softmax over tokens", "softmax over the vocabulary"]
    formats: Annotated[list[Format], Field(min_length=1)]
    preprocessing: Preprocessing
    outputs: dict[str, Input]
    opset: int | None
    engine_versions: dict[str, str]
    probe: Probe
    claims: list[Claim]
    files: Annotated[dict[str, File], Field(min_length=1, max_length=_MOST_FILES)]


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file in a folder but the manifest itself, by its path from there."""
    return {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in files_in(folder)
        if name != NAME
    }


def files_in(folder: Path) -> list[str]:
    """The paths of all files in a folder, sorted; what git and the Hub put there aside.

    Raises CheckpointError for links, whatever they point to.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if inside.parts[0] in _ASIDE:
            continue
        if path.is_symlink():
            raise CheckpointError(
                f"{folder}: {inside.as_posix()} is a link; a shipped folder holds none (fetch it from the Hub with "
                "snapshot_download(…, local_dir=…), which writes files)"
            )
        if not path.is_dir():
            found.append(inside.as_posix())
    return found


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest of a folder that is otherwise whole."""
    told = {"schema": SCHEMA, **facts, "files": hash_files(folder)}
    Manifest.model_validate_json(json.dumps(told), strict=True)
    (folder / NAME).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """A shipped folder's manifest, its paths checked: none leaves the folder.

    Raises CheckpointError when this is no shipped folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    path = folder / NAME
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{folder}: no {NAME}, so this is not a shipped folder")
    told = read_json(path)
    if isinstance(told, dict) and told.get("schema") != SCHEMA:
        raise CheckpointError(f"{path}: schema {told.get('schema')!r} is not known here (known: {SCHEMA})")
    try:
        found = Manifest.model_validate_json(json.dumps(told), strict=True)
    except (ValidationError, ValueError) as error:
        raise CheckpointError(f"{path}: not a manifest: {_first(error)}") from None
    for name in found.files:
        if not _stays_inside(name):
            raise CheckpointError(f"{path}: it names {name!r}, which leaves the folder; nothing was read")
    return found


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and "\\" not in name and "\0" not in name and ".." not in parts
    return bool(parts) and plain and not name.startswith("/") and not PureWindowsPath(name).drive


def _first(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0][:200]
    problem = error.errors()[0]
    return f"{'.'.join(str(part) for part in problem['loc'])[:100]}: {problem['msg']}"
