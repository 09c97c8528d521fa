"""The tokenizer of a checkpoint folder, as transformers wraps it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer

from distill.checkpoint import marian

TARGET = "target_tokenizer.json"  # beside tokenizer.json, where texts to write are cut by a model of their own


class TwoSided(transformers.PreTrainedTokenizerFast):
    """A tokenizer that cuts texts to write (`text_target`) by another model than those that are read, into the same
    vocabulary. In a folder it is a tokenizer.json, which any program reads texts with, and a target_tokenizer.json.
    """

    reading: Tokenizer
    writing: Tokenizer

    @classmethod
    def open(cls, folder: Path) -> TwoSided:
        """From both files."""
        found = cls.from_pretrained(folder)
        found.reading, found.writing = found._tokenizer, Tokenizer.from_file(str(folder / TARGET))
        return found

    def save_pretrained(self, save_directory: str | Path, *words: Any, **named: Any) -> tuple[str, ...]:
        """Both files, and settings that need no class but transformers' own."""
        self._switch_to_input_mode()
        written = super().save_pretrained(save_directory, *words, **named)
        path = Path(save_directory) / "tokenizer_config.json"
        told = json.loads(path.read_text(encoding="utf-8"))
        told["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self.writing.save(str(Path(save_directory) / TARGET))
        return (*written, str(Path(save_directory) / TARGET))

    def _switch_to_input_mode(self) -> None:  # both are called by transformers
        self._tokenizer = self.reading

    def _switch_to_target_mode(self) -> None:
        self._tokenizer = self.writing


def save_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a tokenizer's files, and among its settings what it gives a model: transformers leaves that to the class,
    which not every program has that reads the folder.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text(encoding="utf-8")) | {"model_input_names": list(tokenizer.model_input_names)}
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """A folder's tokenizer, whichever files it comes in. Raises CheckpointError, and transformers' own errors."""
    if marian.is_marian(folder):
        reading, writing = marian.tokenizers_of(folder)
        with tempfile.TemporaryDirectory(prefix="distill-tokenizer-") as scratch:
            made = Path(scratch)
            reading.save(str(made / "tokenizer.json"))
            writing.save(str(made / TARGET))
            (made / "tokenizer_config.json").write_text(json.dumps(marian.settings_of(folder)), encoding="utf-8")
            return TwoSided.open(made)
    if (folder / TARGET).is_file():
        return TwoSided.open(folder)
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
