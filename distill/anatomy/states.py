"""Which hidden state of a student follows which of its teacher.

A model's hidden states are counted from 0, the embeddings' output. An encoder-decoder has its encoder's first and then
its decoder's, each from the embeddings' output on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from math import gcd
from typing import Any, Literal

from distill.anatomy.choosing import layer_map
from distill.anatomy.families import FAMILIES
from distill.anatomy.sizes import family_of, head_width, refuse, size
from distill.errors import CheckpointError

_SIDES: dict[str, tuple[int, ...]] = {"encoder": (0,), "decoder": (1,), "both": (0, 1)}


def state_pairs(
    layers: str | list[int] | Mapping[int, int],
    side: Literal["encoder", "decoder", "both"] | None,
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    term: str = "hidden_states",
) -> list[tuple[int, int]]:
    """Pairs (student's state, teacher's state), from `layers` as `layer_map` reads it, on one side or on both.

    Of an encoder-decoder layers are counted from 1 on each side, and the decoder is meant where no side is said. Raises
    CheckpointError where the two don't fit, or a config doesn't say how many layers there are.
    """
    sides = [_is_two_sided(config) for config in (student, teacher)]
    if sides[0] != sides[1]:
        raise CheckpointError(f"imitate.{term}: of student and teacher only one is an encoder-decoder")
    if not sides[0] and side is not None:
        raise CheckpointError(f"imitate.{term}.side: a {student.get('model_type')} has one side only; leave it out")
    if side == "both" and not isinstance(layers, str):
        raise CheckpointError(
            f"imitate.{term}.layers: for both sides it is a word (even, skip, last, top, learned), not a list"
        )
    pairs = []
    for stack in _SIDES[side or "decoder"] if sides[0] else (None,):
        counts = [_layers(config, stack) for config in (student, teacher)]
        before = [_layers(config, 0) + 1 if stack == 1 else 0 for config in (student, teacher)]
        pairs += [(before[0] + mine, before[1] + theirs) for mine, theirs in layer_map(layers, *counts, term)]
    return pairs


def imitated_pairs(
    term: str,
    layers: str | list[int] | Mapping[int, int],
    side: Literal["encoder", "decoder", "both"] | None,
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
) -> list[tuple[int, int]]:
    """The pairs of `state_pairs` for a term of the loss. Raises CheckpointError also where one of the two can't be
    asked for it, or it is attention and the embeddings, which have none, are named.
    """
    for config in (student, teacher):
        require_states(config, term)
    pairs = state_pairs(layers, side, student, teacher, term)
    places = [place_of(config, state) for pair in pairs for config, state in zip((student, teacher), pair, strict=True)]
    if term != "hidden_states" and any(place < 0 for _, place in places):
        raise CheckpointError(f"imitate.{term}.layers: 0 is the embeddings, which have no attention")
    return pairs


def require_states(config: Mapping[str, Any], term: str) -> None:
    """Raises CheckpointError for a model that can't be asked for a term: one that has no such thing, or one of which
    it isn't known which state or module is which layer's.
    """
    if reason := refuse(config, term):
        raise CheckpointError(f"imitate.{term}: {reason}")
    if term == "hidden_states" and not config.get("is_encoder_decoder"):
        return
    try:
        family_of(config)
    except CheckpointError as error:
        raise CheckpointError(f"imitate.{term}: {error}") from None


def vector_widths(
    config: Mapping[str, Any], states: Iterable[int], vectors: Iterable[str] = ("query", "key", "value")
) -> set[int]:
    """How wide the queries, keys and values of some layers are, as a config says it of a model that isn't pruned."""
    stacks, found = {place_of(config, state)[0] for state in states}, set()
    for stack in stacks:
        width, heads = head_width(config, stack), size(config, "heads", stack)
        keys = size(config, "key_value_heads", stack) or heads
        found |= {width * (heads if what == "query" else keys) for what in vectors}
    return found


def relation_heads(asked: int | None, teacher: Mapping[str, Any], widths: Set[int]) -> int:
    """How many relation heads vectors of some widths are cut into: as asked, or the teacher's own number of heads.

    Raises CheckpointError where a width can't be cut into so many.
    """
    heads = asked or size(teacher, "heads")
    if heads is None or any(width % heads for width in widths):
        raise CheckpointError(
            f"imitate.relations.heads: vectors {', '.join(map(str, sorted(widths)))} wide can't be cut into {heads} "
            f"heads each; a divisor of {gcd(*widths)} can"
        )
    return heads


def place_of(config: Mapping[str, Any], state: int) -> tuple[int, int]:
    """Which stack the layer behind a hidden state is in, and its place there, counted from 0."""
    if is_written(config, state):
        return 1, state - _layers(config, 0) - 2
    return 0, state - 1


def layer_name(config: Mapping[str, Any], state: int) -> str:
    """What people call the layer behind a hidden state: its number, and its side where there are two."""
    stack, place = place_of(config, state)
    return f"{('encoder', 'decoder')[stack]} {place + 1}" if _is_two_sided(config) else str(place + 1)


def is_written(config: Mapping[str, Any], state: int) -> bool:
    """Whether a hidden state is of the text that a decoder writes, and not of the one that is read."""
    return _is_two_sided(config) and state > _layers(config, 0)


def _is_two_sided(config: Mapping[str, Any]) -> bool:
    family = FAMILIES.get(str(config.get("model_type")))
    return family is not None and len(family.stacks) == 2


def _layers(config: Mapping[str, Any], stack: int | None) -> int:
    found = size(config, "layers", stack)
    if found is None:
        raise CheckpointError(f"imitate: the config of a {config.get('model_type')} names no number of layers")
    return found
