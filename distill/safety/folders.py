"""A checkpoint folder as a whole: what it may hold, and whether its parts are of one model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import CheckpointError
from distill.safety.configs import check_against
from distill.safety.files import check_size, read_json
from distill.safety.tokenizers import check_tokenizer
from distill.safety.weights import read_shapes

log = logging.getLogger(__name__)


def check_folder(folder: Path, config: Mapping[str, Any], weights: Sequence[Path]) -> None:
    """Looks through a checkpoint folder, its config and its files of weights. Raises CheckpointError.

    Code that the folder brings is told and not run. Links are followed, as the Hub's cache is made of them.
    """
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt", ".model", ".spm", ".jinja"):
            check_size(path)
    if (folder / "adapter_config.json").exists():  # transformers would load the model that it names
        raise CheckpointError(f"{folder}: an adapter, not a whole checkpoint; merge it into its model and save that")
    told = folder / "tokenizer_config.json"
    words = read_json(told) if told.is_file() else {}
    if not isinstance(words, dict):
        raise CheckpointError(f"{told}: not the settings of a tokenizer")
    if "auto_map" in config or "auto_map" in words:
        log.warning("%s brings code of its own (auto_map); it is not run", folder)
    shapes = {name: shape for path in weights for name, shape in read_shapes(path).items()}
    if shapes:
        check_against(config, shapes, sum(path.stat().st_size for path in weights), str(folder))
    embedded = config.get("vocab_size")
    for path in folder.glob("*tokenizer.json"):  # one more where texts to write are cut otherwise
        check_tokenizer(path, embedded if isinstance(embedded, int) else None)
