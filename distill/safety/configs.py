"""A config's sizes: sane in themselves, and those of the weights beside it, before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from distill import anatomy
from distill.errors import CheckpointError

MOST_MODULES = 10_000  # heads, experts, groups, …: each is an object in memory
MOST_LABELS = 100_000
LARGEST_SIZE = 10_000_000  # any width, or a vocabulary
PARAMETERS_A_BYTE = 4  # weights packed in two bits; beyond it a config describes another model than its weights
SPARE_PARAMETERS = 10_000_000  # a new head, buffers, and what the estimate gets wrong in a small model

_COUNTED = re.compile(r"(^|_)(layers?|heads?|experts|groups|blocks|stages|num)$")
_MEASURED = re.compile(
    r"^(?!.*(data|train|batch|file)).*(_size|_dim|_rank|_channels|_width|positions?|position_embeddings)$"
    r"|^(dim|d_\w+|n_embd|n_inner)$"
)
_MUST = ("vocab_size", "num_labels", "num_attention_heads", "n_heads", "intermediate_size", "hidden_dim")
_CORE = {*_MUST, *(key for family in anatomy.FAMILIES.values() for key in family.config_keys())}


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuses sizes that no model has, and words that make transformers fetch code. Raises CheckpointError.

    `where` names the file or the setting. Sub-configs are looked at too.
    """
    for key, value in _words(config):
        if "implementation" in key and isinstance(value, str) and "/" in value:
            raise CheckpointError(
                f"{where}: {key} names code on the Hub ({value[:60]}), which is never run; leave it out"
            )
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        most = _most(key)
        if (most is not None and not -1 <= value <= most) or (key in _CORE and value < 0):
            raise CheckpointError(f"{where}: {key} is {_spell(value)}; it can be 0 to {most}")
    labels = config.get("id2label")
    if isinstance(labels, dict | list) and len(labels) > MOST_LABELS:
        raise CheckpointError(f"{where}: id2label has {len(labels)} labels; at most {MOST_LABELS} are read")
    for word in anatomy.LARGEST:
        anatomy.size(config, word)


def check_against(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], stored: int, where: str) -> None:
    """Holds a config against the shapes and the bytes of the weights beside it. Raises CheckpointError.

    Its width and its vocabulary must be a dimension of some tensor, and the model that it describes can't be far larger
    than its weights. The head is left out: a new one may take its place.
    """
    dimensions = {size for shape in shapes.values() for size in shape}
    for key, value in (("hidden size", anatomy.size(config, "hidden_size")), ("vocabulary", config.get("vocab_size"))):
        if isinstance(value, int) and dimensions and value not in dimensions:
            raise CheckpointError(
                f"{where}: its config says a {key} of {value}, but no tensor of its weights has that size; "
                "config and weights are not of one model"
            )
    described = estimate_parameters(config)
    if described > PARAMETERS_A_BYTE * stored + SPARE_PARAMETERS:
        raise CheckpointError(
            f"{where}: its config describes about {described / 1e6:.0f} M parameters, but its weights are {stored} "
            "bytes; config and weights are not of one model"
        )


def check_buildable(config: Mapping[str, Any], where: str) -> None:
    """Refuses a config whose random weights in float32 would not fit this machine's memory. Raises CheckpointError."""
    import psutil

    check_config(config, where)
    needed, there = 4 * estimate_parameters(config), psutil.virtual_memory().total
    if needed > there:
        raise CheckpointError(
            f"{where}: describes about {needed / 4e6:.0f} M parameters, {needed / 1e9:.0f} GB in float32, but this "
            f"machine has {there / 1e9:.0f} GB; make it smaller"
        )


def estimate_parameters(config: Mapping[str, Any]) -> int:
    """About how many parameters a config describes: embeddings, and attention and feed-forward of every layer."""
    width, layers = anatomy.size(config, "hidden_size") or 0, anatomy.size(config, "layers") or 0
    inner = next((_whole(config.get(key)) for key in ("intermediate_size", "hidden_dim", "d_ff") if config.get(key)), 0)
    family = anatomy.FAMILIES.get(str(config.get("model_type")))
    if family is not None:
        inner = anatomy.size(config, "neurons") or 0
    if family is not None and family.shared is not None:
        layers = min(layers, max(1, _whole(config.get(family.shared))))
    learned = family is not None and family.learned_positions  # others may compute theirs
    positions = _whole(config.get(family.config["positions"])) if learned else 0
    rows = _whole(config.get("vocab_size")) + _whole(config.get("type_vocab_size")) + positions
    narrow = _whole(config.get("embedding_size")) or width
    return rows * narrow + layers * (4 * width * width + 2 * width * (inner or 4 * width))


def _words(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value with the key that it stands under; the labels' own numbers are no sizes."""
    if isinstance(value, Mapping):
        for inner, held in value.items():
            if inner not in ("id2label", "label2id"):
                yield from _words(held, key if "implementation" in key else str(inner))
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _words(held, key)
    else:
        yield key, value


def _most(key: str) -> int | None:
    """The largest value of a key that says a size; None for one that doesn't."""
    if key == "num_labels":
        return MOST_LABELS
    word = next(
        (word for word in anatomy.LARGEST if any(key in f.config_keys(word) for f in anatomy.FAMILIES.values())), None
    )
    if word is not None:
        return anatomy.LARGEST[word]
    if _COUNTED.search(key):
        return MOST_MODULES
    if _MEASURED.search(key):
        return anatomy.LARGEST["positions"] if "position" in key else LARGEST_SIZE
    return None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _spell(value: float) -> str:
    """A number for one line; an int of thousands of digits can't even be printed."""
    return str(value) if isinstance(value, float) or abs(value) < 10**18 else "a huge number"
