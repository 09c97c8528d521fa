"""Whether a student can follow its teacher in what a recipe names, and which layer follows which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distill import anatomy
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, arrays, collate, cut_alike
from distill.data.encoding import LACKING
from distill.errors import CheckpointError
from distill.recipe import settings
from distill.signals import Wanted, read, tensors
from distill.teacher import Ensemble
from distill.teacher.renumbering import numbers_between

Pairs = Mapping[str, list[tuple[int, int]]]  # by term: the student's layer and the teacher's that it follows


def wanted_of(asked: Mapping[str, Any], pairs: Pairs, *, teacher: bool) -> Wanted:
    """The signals that the terms of a loss need of one of the two."""
    layers = {name: tuple(sorted({pair[teacher] for pair in pairs[name]})) for name in asked if name in pairs}
    related = asked["relations"].of if "relations" in layers else ()
    return Wanted(
        layers.get("hidden_states", ()),
        layers.get("attentions", ()),
        tuple((what, layer) for layer in layers.get("relations", ()) for what in related),
    )


def require_fit(student: Checkpoint, teacher: Checkpoint, words: settings.Distill, data: Splits) -> Pairs:
    """The pairs of layers that a student follows, for each term that names some.

    Raises CheckpointError when the layers aren't there, when the two cut texts into different tokens, or when their
    widths can't be cut into the same number of relation heads.
    """
    if not data.task.head_labels and asks_teacher(words):
        _require_same_vocabulary(student, teacher, data)
    by_token = data.task.by_token and data.task.head_labels and words.imitate.logits is not None
    if by_token and not _same_tokens(student, teacher, data):
        raise CheckpointError(
            "imitate.logits: student and teacher cut texts into different tokens, or to different lengths, so their "
            "logits can't be compared token by token; take a student with the teacher's tokenizer, or keep the tokens "
            "that training texts use (`vocabulary: used`)"
        )
    pairs = layer_pairs(words.imitate, student.model.config.to_dict(), teacher.model.config.to_dict())
    for term in pairs:
        if not _same_tokens(student, teacher, data):
            raise CheckpointError(
                f"imitate.{term}: student and teacher cut texts into different tokens, or to different lengths, so "
                f"their {term.replace('_', ' ')} can't be compared token by token; imitate logits alone, or set "
                "data.max_length"
            )
    if "attentions" in pairs and not _reads_along(student, teacher, data):
        raise CheckpointError(
            "imitate.attentions: the two have other tokens, so the teacher would have to be asked before training, and "
            "attentions are too large to keep; imitate relations, which are not"
        )
    return pairs


def held_out(checkpoint: Checkpoint, data: Splits) -> Encoded:
    """The validation split as a checkpoint reads it.

    Raises CheckpointError where its tokenizer can't serve the task, or gives texts tokens that its model doesn't know.
    """
    for name in data.task.special:  # what another tokenizer has cut alike before is not cut again
        if getattr(checkpoint.tokenizer, f"{name}_token_id") is None:
            raise CheckpointError(LACKING[name])
    held = checkpoint.encode(data, "validation")
    rows = getattr(checkpoint.model.get_input_embeddings(), "num_embeddings", None)
    ids = [held.ids] if held.decoder_start is None else [held.ids, held.targets.values]
    largest = max(held.pad, *(int(some.max(initial=0)) for some in ids))
    if rows is not None and largest >= rows:
        raise CheckpointError(
            f"the tokenizer gives texts tokens up to number {largest}{' (padding)' * (largest == held.pad)}, but the "
            f"model embeds 0 to {rows - 1} alone; take the tokenizer that it was trained with, or a model with as many "
            "tokens"
        )
    return held


def _reads_along(student: Checkpoint, teacher: Checkpoint, data: Splits) -> bool:
    """Whether a teacher can be asked by the student's own rows, in its own numbers for their tokens if need be."""
    if same_ids(student.encode(data, "train"), teacher.encode(data, "train")):
        return True
    return numbers_between(student, teacher, data) is not None


def require_alike(guide: Ensemble, words: settings.Distill, data: Splits) -> None:
    """Teachers whose heads are the data's, and whose logits can be mixed where there are several.

    Raises CheckpointError where labels differ, or, of logits by token, the tokens; and where several are to write.
    """
    task = data.task
    for place, teacher in enumerate(guide.teachers):
        who = "the teacher" if len(guide) == 1 else f"teacher {place + 1} of the ensemble"
        if task.head_labels and teacher.model.config.num_labels != len(task.labels):
            raise CheckpointError(
                f"{who}: its head has {teacher.model.config.num_labels} labels, the data {len(task.labels)}; give it a "
                "`finetune`"
            )
        if misfit := task.misfit(teacher.model.config.to_dict()):
            raise CheckpointError(f"{who}: its head doesn't fit the data: {misfit}; give it a `finetune`")
    if len(guide) == 1 or words.imitate.logits is None:
        return
    if task.generates or words.targets is not None:
        raise CheckpointError("an ensemble of teachers writes no texts; name one teacher")
    if words.kept not in (None, "whole", "off"):
        raise CheckpointError("signals.logits: several teachers have different likeliest tokens; say whole, or off")
    for place, teacher in enumerate(guide.teachers[1:], start=2):
        if task.by_token and not _mix_by_token(guide.first, teacher, data):
            raise CheckpointError(
                f"teacher {place} of the ensemble cuts texts into other tokens than the first, or to other lengths, so "
                "their logits can't be mixed token by token; take teachers with one tokenizer, or set data.max_length"
            )


def _mix_by_token(one: Checkpoint, other: Checkpoint, data: Splits) -> bool:
    """Whether the logits of two are of the same tokens, and over the same ones where those are the classes."""
    if data.task.head_labels:
        return _same_tokens(one, other, data)
    return same_ids(one.encode(data, "train"), other.encode(data, "train"))


def asks_teacher(words: settings.Distill) -> bool:
    """Whether a step learns from its teacher's signals, and not from texts that it wrote alone."""
    return words.imitate.logits is not None or bool(words.imitate.by_layer)


def layer_pairs(imitate: settings.Imitate, student: dict[str, object], teacher: dict[str, object]) -> Pairs:
    """Which of a student's layers follows which of its teacher's, term by term, from the configs.

    Raises CheckpointError.
    """
    return {
        term: anatomy.imitated_pairs(term, asked.layers, asked.side, student, teacher)
        for term, asked in imitate.by_layer.items()
    }


def beginnings(imitate: settings.Imitate, student: dict[str, object], teacher: dict[str, object]) -> Pairs:
    """The pairs at which learned maps begin: those of `even`."""
    return {
        term: anatomy.state_pairs("even", asked.side, student, teacher, term)
        for term, asked in imitate.by_layer.items()
        if asked.layers == "learned"
    }


def relation_heads(
    asked: settings.RelationsTerm, student: Checkpoint, teacher: Checkpoint, pairs: Pairs, data: Splits
) -> int:
    """How many relation heads the vectors of both are cut into: as asked, or the teacher's own number of heads.

    Raises CheckpointError where a width can't be cut into so many.
    """
    widths = set()
    for one, is_teacher in ((student, False), (teacher, True)):
        rows = one.encode(data, "train")
        batch = tensors(collate(rows, [int(rows.lengths.argmin())]), one.model.device)
        with torch.no_grad():
            found = read(one.model.eval(), batch, wanted_of({"relations": asked}, pairs, teacher=is_teacher)).vectors
        widths |= {vectors.shape[-1] for vectors in found.values()}
    return anatomy.relation_heads(asked.heads, teacher.model.config.to_dict(), widths)


def _require_same_vocabulary(student: Checkpoint, teacher: Checkpoint, data: Splits) -> None:
    """Where the classes are the vocabulary a student can follow its teacher in the same one, or in a part of it."""
    mine, theirs = (checkpoint.encode(data, "train") for checkpoint in (student, teacher))
    if mine is not theirs and not same_ids(mine, theirs):
        if numbers_between(student, teacher, data) is not None:
            return
        raise CheckpointError(
            "imitate: student and teacher cut the same texts into different tokens, and their logits are over those "
            "tokens; take a student with the teacher's tokenizer and positions, or with a `vocabulary` trimmed to what "
            "its training texts use, learn the teacher's texts alone (`targets: teacher`, for tasks that write some), "
            "or `finetune` without a teacher"
        )
    least = min(checkpoint.model.config.vocab_size for checkpoint in (student, teacher))
    if least < len(student.tokenizer):
        raise CheckpointError(
            f"imitate: the tokenizer has {len(student.tokenizer)} tokens, but one of the two models knows {least}"
        )


def same_ids(one: Encoded, other: Encoded) -> bool:
    """Whether two splits hold the same ids, those to write included."""
    if one is other:
        return True
    same = [arrays.equal(one.ids, other.ids)]
    if one.decoder_start is not None and other.decoder_start is not None:
        mine, theirs = one.targets.values, other.targets.values
        same += [one.decoder_start == other.decoder_start, arrays.equal(mine, theirs)]
    return all(same)


def _same_tokens(one: Checkpoint, other: Checkpoint, data: Splits) -> bool:
    """Whether both cut every training text into the same tokens, whatever their numbers."""
    mine, theirs = one.encode(data, "train"), other.encode(data, "train")
    return same_ids(mine, theirs) or cut_alike(mine, theirs)
