"""What a config says of its model, by our words and never by a model's own names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill.anatomy.families import FAMILIES, POSITIONS_AS
from distill.anatomy.family import Family, Word
from distill.anatomy.strangers import key_of_stranger
from distill.errors import CheckpointError

LARGEST: Mapping[Word, int] = {
    "layers": 1000, "hidden_size": 1_000_000, "positions": 100_000_000, "heads": 10_000, "key_value_heads": 10_000,
    "head_width": 1_000_000, "neurons": 10_000_000,
}  # fmt: skip  # beyond: hostile


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config (as a dict). Raises CheckpointError for a model type that is not on the page."""
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"nothing is known about the layers of model type '{model_type}' "
            f"(known: {', '.join(FAMILIES)}); a family is added in distill/anatomy/families.py: where its layers, "
            "their attention (query, key, value, output) and neurons (up, down) are, and its config's keys for sizes"
        )
    return FAMILIES[model_type]


def size(config: Mapping[str, Any], word: Word, stack: int | None = None) -> int | None:
    """A config's number of layers, its hidden size, its positions, …; None when the family or the key is unknown.

    Where a family has two stacks, `stack` says which one is meant; without it layers are all layers together, and other
    words are the first stack's. Raises CheckpointError for what is no number, below 0 or beyond LARGEST.
    """
    model_type = str(config.get("model_type"))
    family = FAMILIES.get(model_type)
    if family is None and word != "positions":
        return _number(config, word, key_of_stranger(config, word, FAMILIES["bert"].config.get(word)), {})
    family = family or FAMILIES[POSITIONS_AS.get(model_type, "bert")]
    if word == "layers" and stack is None:
        counts = [size(config, word, place) for place in range(len(family.stacks))]
        return None if None in counts else sum(counts)
    value = _number(config, word, family.key(word, stack or 0), family.absent)
    if value is None or word != "positions":
        return value
    if family.reserved_positions != "padding":
        return value - family.reserved_positions
    padding = config.get("pad_token_id")
    if padding is not None and (not isinstance(padding, int) or not 0 <= padding < value):
        raise CheckpointError(
            f"the config of this {config.get('model_type')} says {padding!r:.60} for its pad_token_id"
        )
    return value - (1 if padding is None else padding) - 1


def _number(
    config: Mapping[str, Any], word: Word, key: str | None, absent: Mapping[str, tuple[str, int]]
) -> int | None:
    value, factor = config.get(key), 1
    if value is None and key in absent:
        other, factor = absent[key]
        value = config.get(other)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"the config of this {config.get('model_type')} says {value!r:.60} for its {word}")
    if not 0 <= value * factor <= LARGEST[word]:
        shown = value if abs(value) < 10**18 else "a huge number"
        raise CheckpointError(
            f"the config of this {config.get('model_type')} says {shown} for its {word}; it can be 0 to {LARGEST[word]}"
        )
    return value * factor


def head_width(config: Mapping[str, Any], stack: int = 0) -> int:
    """Dimensions of one head, which no pruning changes. Raises CheckpointError when the config doesn't say it."""
    told = size(config, "head_width", stack)
    if told:
        return told
    hidden, heads = size(config, "hidden_size"), size(config, "heads", stack)
    if not hidden or not heads or hidden % heads:
        raise CheckpointError(
            f"the config of this {config.get('model_type')} says a hidden size of {hidden} and {heads} heads, which "
            "leaves no whole number of dimensions a head"
        )
    return hidden // heads


def table_width(config: Mapping[str, Any]) -> int | None:
    """The width of a config's token table; None when the config doesn't say it."""
    family = FAMILIES.get(str(config.get("model_type")))
    own = config.get(family.table_width) if family is not None and family.table_width else None
    return own if isinstance(own, int) and not isinstance(own, bool) else size(config, "hidden_size")


def largest_rank(tokens: int, width: int, now: int | None = None) -> int:
    """The largest rank E for which a table V × E and a projection E × H have fewer weights than one table V × H, or
    than the factors of a rank that it has `now`.
    """
    most = max(0, tokens * width - 1) // max(1, tokens + width)
    return most if now is None else min(most, now - 1)


def heads_a_group(config: Mapping[str, Any], stack: int = 0) -> int:
    """How many query heads share a key head; 1 where each has its own. Raises CheckpointError where they don't fit."""
    heads, keys = size(config, "heads", stack), size(config, "key_value_heads", stack)
    if keys is None:
        return 1
    if not heads or not keys or heads % keys:
        raise CheckpointError(
            f"the config of this {config.get('model_type')} says {heads} heads and {keys} key-value heads; its heads "
            "don't divide into groups"
        )
    return heads // keys


def hidden_multiple(config: Mapping[str, Any]) -> int:
    """What a smaller hidden size has to be a multiple of, for a config (as a dict) to say it."""
    family = family_of(config)
    if family.key("head_width") is None:
        return math.lcm(*(head_width(config, stack) for stack in range(len(family.stacks))))
    return size(config, "heads") if family.heads_divide else 1


def with_layers(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """A config with some of its layers alone, counted from 1 over all stacks; lists with an entry a layer follow.

    Raises CheckpointError when a stack would keep none.
    """
    family, told, before = family_of(config), dict(config), 0
    for place, stack in enumerate(family.stacks):
        number = size(config, "layers", place) or 0
        mine = [layer - before - 1 for layer in kept if before < layer <= before + number]
        if not mine:
            raise CheckpointError(
                f"layers {before + 1} to {before + number} are all of this {family.model_type}'s "
                f"{stack.layers.partition('.')[0]}; keep at least one of them"
                if len(family.stacks) > 1
                else "no layer would be left; keep at least one"
            )
        told[family.key("layers", place)] = len(mine)
        for name in stack.lists:
            if isinstance(held := config.get(name), list) and len(held) == number:
                told[name] = [held[layer] for layer in mine]
        before += number
    return told


def refuse(config: Mapping[str, Any], what: str) -> str | None:
    """Why a family can't do something (lose `layers`, `heads`, `neurons`, `hidden` dimensions or `vocabulary`,
    factorise `embeddings`, teach by `hidden_states`, become a `graph`), or None.
    """
    if what == "vocabulary" and config.get("share_encoder_decoder_embeddings") is False:
        return "encoder and decoder have vocabularies of their own, which can't be trimmed as one"
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None and what in family.refuses:
        return family.refuses[what]
    if what == "hidden" and config.get("scale_embedding"):
        return "its embeddings are scaled by the root of the hidden size (scale_embedding); another size, another scale"
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if what == "graph" and isinstance(rotary, Mapping) and "dynamic" in (rotary.get("rope_type"), rotary.get("type")):
        return "its rotary positions hang on how long a batch is (rope_type: dynamic), which a graph can't be asked"
    return None


def freezable(config: Mapping[str, Any], part: str) -> Family:
    """The family of a model that has a part which a training can freeze, the `embeddings` or the `encoder`.

    Raises CheckpointError for a model that lacks it, and for a family that isn't known.
    """
    try:
        family = family_of(config)
    except CheckpointError as error:
        raise CheckpointError(f"freeze: {error}") from None
    if part == "encoder" and family.kind == "decoder":
        raise CheckpointError(f"freeze: a {family.model_type} has no encoder; its embeddings can be frozen")
    return family
