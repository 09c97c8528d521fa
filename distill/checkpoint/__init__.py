"""A checkpoint: a model with its tokenizer in memory, a folder (config, tokenizer, safetensors) on disk.

* `folder`: what a checkpoint folder says of itself: config, label names, which files count, hashes, licence
* `finding`: a folder here, or a Hub id's snapshot
* `loading`: the model with its tokenizer
* `heads`: what stands behind a body: which class a config's architecture is, and the weights that a new head starts
* `tokenizers`: the tokenizer alone, and one that cuts texts to write otherwise than those that are read
* `marian`: how Marian's two SentencePiece models become such a one

Finding and hashing need no torch, so that `distill check` can do without it.
"""

from distill.checkpoint.finding import locate, looks_like_folder
from distill.checkpoint.folder import (
    count_bytes,
    count_tokens,
    engine_files,
    fingerprint,
    inspect,
    label_names,
    lacks_token,
    licence_of,
    read_config,
    same_tokenizer,
    sha256,
)
from distill.checkpoint.loading import Checkpoint, load

__all__ = [
    "Checkpoint",
    "count_bytes",
    "count_tokens",
    "engine_files",
    "fingerprint",
    "inspect",
    "label_names",
    "lacks_token",
    "licence_of",
    "load",
    "locate",
    "looks_like_folder",
    "read_config",
    "same_tokenizer",
    "sha256",
]
