"""Asking a compact checkpoint: texts in, labels with their probabilities out. Graphs are served without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distill import anatomy, tasks
from distill import checkpoint as checkpoints
from distill.engines import Engine, OnnxRuntime, graph_in
from distill.errors import CheckpointError

_AT_ONCE = 32
_NO_LIMIT = 1e9  # transformers writes 1e30 for a tokenizer that knows no limit


class Predictor:
    """A checkpoint folder (or a run's folder, whose result it takes) that answers texts.

    The int8 graph is served when there is one, then the fp32 graph, then safetensors in torch.
    """

    def __init__(self, folder: Path | str) -> None:
        """Opens a folder. Raises CheckpointError when it holds nothing that answers."""
        self.folder = result_of(Path(folder).expanduser())
        self.config = checkpoints.read_config(self.folder)
        self.task = tasks.from_config(self.config)
        self.tokenizer = _tokenizer(self.folder, self.config)
        self.typed = _typed(self.folder)
        self.engine = _engine(self.folder)

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, float]]:
        """For each text (or pair of texts) its predicted labels with their probabilities, best first.

        One label has one entry, many labels have any number, a regression has its number.
        """
        answers = []
        for start in range(0, len(texts), _AT_ONCE):
            found = self.tokenizer.encode_batch(list(texts[start : start + _AT_ONCE]))
            batch = {
                "input_ids": np.array([row.ids for row in found], dtype=np.int64),
                "attention_mask": np.array([row.attention_mask for row in found], dtype=np.int64),
                "token_type_ids": np.array([row.type_ids for row in found], dtype=np.int64),
            }
            if not self.typed:
                del batch["token_type_ids"]
            answers += self.task.answer(self.engine.answer(batch), self.config.get("threshold", 0.5))
        return answers


def result_of(folder: Path) -> Path:
    """A run folder's result: the checkpoint of its last step. Any other folder is itself."""
    report = folder / "report.json"
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    if not report.is_file():
        if (folder / "recipe.yaml").is_file() and not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: a run that did not finish; name one of the folders in it")
        return folder
    try:
        return folder / json.loads(report.read_text(encoding="utf-8"))["rows"][-1]["name"]
    except (ValueError, LookupError, TypeError):
        raise CheckpointError(f"{report}: not a report of a run; name one of the folders beside it") from None


def _engine(folder: Path) -> Engine:
    if (graph := graph_in(folder)) is not None:
        return OnnxRuntime(graph)
    from distill.engines import Torch

    return Torch(checkpoints.load(folder).model)


def _typed(folder: Path) -> bool:
    """Whether the checkpoint's tokenizer tells the two texts of a pair apart by token types."""
    return "token_type_ids" in _tokenizer_words(folder).get("model_input_names", ["token_type_ids"])


def _tokenizer_words(folder: Path) -> dict[str, Any]:
    told = folder / "tokenizer_config.json"
    try:
        return json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{told}: not valid JSON ({error})") from None


def _tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no tokenizer.json; save its tokenizer again with transformers")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path}: not a tokenizer ({error})") from None
    words = _tokenizer_words(folder)
    limits = [anatomy.size(config, "positions"), words.get("model_max_length")]
    known = [int(limit) for limit in limits if limit is not None and limit < _NO_LIMIT]
    tokenizer.enable_truncation(min(known, default=512))
    pad = words.get("pad_token") or "[PAD]"
    name = pad["content"] if isinstance(pad, dict) else pad
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(name) or 0, pad_token=name)
    return tokenizer
