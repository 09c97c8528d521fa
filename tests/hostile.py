"""A tiny checkpoint to be made hostile, and how it is refused; shared by the tests of what strangers bring."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from distill import checkpoint
from distill.errors import CheckpointError


@pytest.fixture
def folder(headed, tmp_path) -> Path:
    """A copy of a tiny checkpoint, to be made hostile."""
    return Path(shutil.copytree(headed, tmp_path / "checkpoint"))


@pytest.fixture
def nothing_loaded(monkeypatch) -> None:
    """Loading is an error: what is refused is refused before transformers sees it."""
    import transformers

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("transformers was asked")

    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", loaded)


def change(path: Path, **words: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **words}))


def refused(folder: Path, *, new_head: bool = True) -> str:
    """The one line by which a checkpoint folder is refused, by `check` and by a run alike, and quickly."""
    start = time.process_time()
    told = []
    for look in (lambda: checkpoint.locate(str(folder)), lambda: checkpoint.load(folder, new_head=new_head)):
        with pytest.raises(CheckpointError) as caught:
            look()
        told.append(str(caught.value))
    assert time.process_time() - start < 20  # far from a limit of speed: what it stands against takes hours or memory
    assert "\n" not in told[0] and len(told[0]) < 600
    assert told[0] == told[1]
    return told[0]
