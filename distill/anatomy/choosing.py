"""Which layers of a teacher a student keeps, and which layer learns from which."""

from __future__ import annotations

from collections.abc import Mapping

from distill.errors import CheckpointError


def choose_layers(layers: int | list[int], choose: str, of: int) -> list[int]:
    """Which of a teacher's layers to keep, counted from 1 and rising.

    `even` spreads them and always keeps the last one (3 of 6: 2, 4, 6); `first` and `last` keep a run of layers.
    Raises CheckpointError when there are not so many layers, or none is asked for.
    """
    listed = layers if isinstance(layers, list) else [layers]
    if not listed or listed != sorted(set(listed)) or listed[0] < 1:
        raise CheckpointError(f"student.layers: {layers}: keep at least one; a list rises, counted from 1")
    highest = max(layers) if isinstance(layers, list) else layers
    if highest > of:
        asked = f"layer {highest}" if isinstance(layers, list) else f"{layers} layers"
        raise CheckpointError(f"student.layers asks for {asked}, but the teacher has {of} layers")
    if isinstance(layers, list):
        return layers
    match choose:
        case "first":
            return list(range(1, layers + 1))
        case "last":
            return list(range(of - layers + 1, of + 1))
        case _:
            return [round((position + 1) * of / layers) for position in range(layers)]


def layer_map(
    layers: str | list[int] | Mapping[int, int], student_layers: int, teacher_layers: int, term: str = "hidden_states"
) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), counted from 1; 0 is the embeddings' output.

    `even` pairs layer k of S with layer round(k·T/S) of T, DistilBERT's spacing; `skip` all layers but the student's
    last with every ⌊T/S⌋-th of the teacher's (PKD-Skip, Sun et al. 2019: 2, 4, 6, 8 and 10 for 6 of 12); `last` pairs
    the last S of T; `top` the last layer of each, and no other; `learned` each with every layer of the teacher.
    Raises CheckpointError when a list has another length than the student has layers, or a layer isn't there.
    """
    if isinstance(layers, Mapping):
        pairs = sorted((int(mine), int(theirs)) for mine, theirs in layers.items())
    elif isinstance(layers, list):
        if len(layers) != student_layers:
            raise CheckpointError(
                f"imitate.{term}.layers lists {len(layers)} teacher layers for a student of {student_layers}"
            )
        pairs = list(enumerate(layers, start=1))
    elif layers == "top":
        pairs = [(student_layers, teacher_layers)]
    elif layers == "last":
        shift = teacher_layers - student_layers
        pairs = [(mine, mine + shift) for mine in range(1, student_layers + 1) if mine + shift >= 1]
    elif layers == "skip":
        pairs = _every(student_layers, teacher_layers, term)
    elif layers == "learned":
        pairs = _all(student_layers, teacher_layers, term)
    else:
        pairs = [(mine, round(mine * teacher_layers / student_layers)) for mine in range(1, student_layers + 1)]
    for mine, theirs in pairs:
        if not (0 <= mine <= student_layers and 0 <= theirs <= teacher_layers):
            raise CheckpointError(
                f"imitate.{term}.layers pairs student layer {mine} with teacher layer {theirs}, "
                f"but they have {student_layers} and {teacher_layers} layers"
            )
    if not pairs:
        raise CheckpointError(f"imitate.{term}.layers pairs no layers")
    return pairs


def _every(student_layers: int, teacher_layers: int, term: str) -> list[tuple[int, int]]:
    stride = teacher_layers // student_layers
    if student_layers < 2 or stride < 1:
        reason = f"they have {student_layers} and {teacher_layers}" if stride < 1 else "the student has no other"
        raise CheckpointError(
            f"imitate.{term}.layers: skip leaves the last layer to the logits, and pairs those before it with every "
            f"k-th of the teacher's; {reason}: take even"
        )
    return [(mine, mine * stride) for mine in range(1, student_layers)]


def _all(student_layers: int, teacher_layers: int, term: str) -> list[tuple[int, int]]:
    if teacher_layers < 2:
        raise CheckpointError(
            f"imitate.{term}.layers: learned mixes the teacher's layers, and it has {teacher_layers}: there is nothing "
            "to mix; take even"
        )
    return [(mine, theirs) for mine in range(1, student_layers + 1) for theirs in range(1, teacher_layers + 1)]
