"""What strangers' files may not do: run code, leave their folder, or fill memory and time. docs/safety.md tells it all.

Everything here looks before anything is loaded, without torch, and raises a CheckpointError of one line.
"""

from distill.safety.configs import check_buildable, check_config, estimate_parameters
from distill.safety.files import check_size, read_json
from distill.safety.folders import check_folder
from distill.safety.tokenizers import check_tokenizer
from distill.safety.weights import read_shapes, shards

__all__ = [
    "check_buildable",
    "check_config",
    "check_folder",
    "check_size",
    "check_tokenizer",
    "estimate_parameters",
    "read_json",
    "read_shapes",
    "shards",
]
