"""Which layers stay where a model has two sides, an encoder and a decoder, each with layers of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from distill.anatomy.choosing import choose_layers
from distill.anatomy.sizes import family_of, size
from distill.errors import CheckpointError

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, ...] = get_args(Side)
Least = Callable[[Mapping[int, int]], Sequence[int]]
Layers = int | list[int] | Mapping[Side, int | list[int]]


def kept_layers(config: Mapping[str, Any], layers: Layers, choose: str, least: Least | None = None) -> list[int]:
    """The layers of a model that stay, counted from 1 over all its stacks.

    `layers` is a number or a list (see choose_layers), or one for each side; a side that isn't named stays whole. Where
    `importance` chooses, `least` says which go, from how many go in each stack; without it, as long as only their
    number counts, they are spread evenly. Of a family whose first layer lacks what the others have (ModernBERT's norm)
    neither lets the first go. Raises CheckpointError.
    """
    try:
        asked, counts = by_side(config, layers), layer_counts(config)
    except CheckpointError as error:
        raise CheckpointError(f"student.layers: {error}") from None
    kept, before, going = [], 0, {}
    spread = "even" if choose == "importance" else choose
    for place, there in enumerate(counts):
        mine = choose_layers(asked.get(place, there), spread, there)
        if spread == "even" and isinstance(asked.get(place), int) and family_of(config).stacks[place].not_in_first:
            mine = [1, *mine[1:]]
        if isinstance(asked.get(place), int) and len(mine) < there:
            going[place] = there - len(mine)
        kept.append([before + layer for layer in mine])
        before += there
    if choose == "importance" and least is not None and going:
        gone, before = set(least(going)), 0
        for place, there in enumerate(counts):
            if place in going:
                kept[place] = [layer for layer in range(before + 1, before + there + 1) if layer not in gone]
            before += there
    return [layer for mine in kept for layer in mine]


def by_side(config: Mapping[str, Any], layers: Layers) -> dict[int, int | list[int]]:
    """What is asked of each of a model's stacks, by the stack's place. Raises CheckpointError."""
    family = family_of(config)
    if not isinstance(layers, Mapping):
        if len(family.stacks) == 1:
            return {0: layers}
        counts = dict(zip(SIDES, layer_counts(config), strict=True))
        told = ", ".join(f"{side}: {number}" for side, number in counts.items())
        raise CheckpointError(
            f"a {family.model_type} has layers on two sides ({told}); say which are kept on each, such "
            f"as {{encoder: {counts['encoder']}, decoder: {max(1, counts['decoder'] // 2)}}}; a side that isn't named "
            "stays whole"
        )
    if len(family.stacks) == 1:
        raise CheckpointError(
            f"a {family.model_type} is no encoder-decoder, its layers are on one side; say how many as a number"
        )
    return {SIDES.index(side): number for side, number in layers.items()}


def is_counted_by_encoder(config: Mapping[str, Any]) -> bool:
    """Whether transformers gives the decoder too short a cache when it writes: it takes the number of layers of T5's
    encoder, and fails where the decoder has more (5.23). A cache without a config grows as it is needed.
    """
    encoder, decoder = config.get("num_layers"), config.get("num_decoder_layers")
    return isinstance(encoder, int) and isinstance(decoder, int) and decoder > encoder


def layer_counts(config: Mapping[str, Any]) -> list[int]:
    """How many layers each of a model's stacks has. Raises CheckpointError where the config doesn't say it."""
    family = family_of(config)
    counts = [size(config, "layers", place) for place in range(len(family.stacks))]
    if None in counts:
        keys = " and ".join(sorted(family.config_keys("layers")))
        raise CheckpointError(f"the config of this {family.model_type} doesn't say {keys}")
    return counts
