"""What a model says about a batch: its logits, and what it computes on the way to them."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill import anatomy
from distill.data import Batch
from distill.errors import CheckpointError
from distill.tasks import NO_TARGET

PARTS = ("query", "key", "value")
Vector = tuple[str, int]  # query, key or value, and a layer


@dataclass(frozen=True)
class Wanted:
    """Which signals are asked for: hidden states by number, attentions by layer, and the queries, keys or values of a
    layer. Numbers are those of hidden states: layer k's is k, its input's k − 1. Whoever runs gives logits too; they
    are `logits` where someone needs them.
    """

    hidden_states: tuple[int, ...] = ()
    attentions: tuple[int, ...] = ()
    vectors: tuple[Vector, ...] = ()
    logits: bool = True


NOTHING = Wanted()


class Kept(NamedTuple):
    """Whose logits (batch, tokens, k + 1) are, the last but for all others together: (batch, tokens, k) ids, and how
    many tokens there are in all. See `losses.bucketed`.
    """

    tokens: Tensor
    classes: int


@dataclass
class Signals:
    """`logits` (batch, labels), (batch, tokens, classes), or (batch, tokens, 2) where a span's start and end are asked
    for; `hidden_states` by layer, counted from 1 with 0 the embeddings' output, an encoder-decoder's behind its
    encoder's, each (batch, tokens, width); `attentions` by layer, (batch, heads, queries, keys), each row a
    distribution; `vectors` by what they are and layer, (batch, tokens, width) with all heads side by side. Where
    `kept` says so the logits are those of some tokens and of all others together. There are no logits where none were
    wanted and they would have had to be kept.
    """

    logits: Tensor | None
    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    attentions: dict[int, Tensor] = field(default_factory=dict)
    vectors: dict[Vector, Tensor] = field(default_factory=dict)
    kept: Kept | None = None


def tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch's arrays as tensors on a device."""
    return {name: torch.as_tensor(array, device=device) for name, array in batch.items()}


def inputs_for(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch a model takes. Token types are left out for models that know only one or none at all."""
    names = ["input_ids", "attention_mask"]
    if accepts(model, "token_type_ids") and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    names += ["decoder_input_ids"] if model.config.is_encoder_decoder else []
    return {name: batch[name] for name in names if name in batch}


def read(model: Any, batch: dict[str, Tensor], wanted: Wanted = NOTHING) -> Signals:
    """Runs a model on a batch and keeps what was asked for. Attentions are there in eager attention alone."""
    body, given = model, inputs_for(model, batch)
    if answers_at_end(model):
        body, given = model.base_model, {"decoder_input_ids": shifted(model, given["input_ids"]), **given}
    with watched(model, wanted.vectors) as vectors:
        output = body(
            **given,
            output_hidden_states=bool(wanted.hidden_states),
            output_attentions=bool(wanted.attentions),
        )
    states = states_of(output) if wanted.hidden_states else ()
    config = model.config.to_dict() if wanted.attentions else {}
    return Signals(
        logits_of(output) if body is model else logits_at_end(model, given["input_ids"], output[0]),
        {layer: states[layer] for layer in wanted.hidden_states},
        {layer: _attentions_of(output, *anatomy.place_of(config, layer)) for layer in wanted.attentions},
        vectors,
    )


@contextlib.contextmanager
def watched(model: Any, wanted: Sequence[Vector]) -> Iterator[dict[Vector, Tensor]]:
    """The queries, keys or values of some layers' self-attention, filled in as the model runs.

    Raises CheckpointError for a family that isn't known.
    """
    found: dict[Vector, Tensor] = {}
    hooks = []
    try:
        for what, layer in wanted:
            module, part = _maker(model, what, layer)

            def keep(_: Any, __: Any, made: Tensor, key: Vector = (what, layer), part: int | None = part) -> None:
                found[key] = made if part is None else made.chunk(len(PARTS), dim=-1)[part]

            hooks.append(module.register_forward_hook(keep))
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _maker(model: Any, what: str, layer: int) -> tuple[Any, int | None]:
    """The module that makes a layer's queries, keys or values; where it makes all of them, which third they are."""
    config = model.config.to_dict()
    if reason := anatomy.refuse(config, "relations"):
        raise CheckpointError(f"imitate.relations: {reason}")
    stack, place = anatomy.place_of(config, layer)
    known = anatomy.family_of(config).stacks[stack]
    attention = known.layer.attentions[0]
    module = model.base_model.get_submodule(known.layers)[place]
    if attention.fused is not None:
        return module.get_submodule(attention.fused), PARTS.index(what)
    return module.get_submodule(getattr(attention, what)), None


def _attentions_of(output: Any, stack: int, place: int) -> Tensor:
    if "decoder_attentions" in output:
        return (output.encoder_attentions, output.decoder_attentions)[stack][place]
    return output.attentions[place]


def states_of(output: Any) -> tuple[Tensor, ...]:
    """All hidden states that a model gave: of an encoder-decoder its encoder's first, then its decoder's."""
    if "decoder_hidden_states" in output:
        return (*output.encoder_hidden_states, *output.decoder_hidden_states)
    return output.hidden_states


def real_tokens(batch: dict[str, Tensor], *, decoder: bool = False) -> Tensor:
    """Which tokens are no padding, (tokens of all texts,): of the texts, or of those that a batch's `decoder` is given,
    where it is given some of its own.
    """
    if decoder and "decoder_input_ids" in batch:
        return (batch["labels"] != NO_TARGET).flatten()
    return batch["attention_mask"].bool().flatten()


def logits_of(output: Any) -> Tensor:
    """A model's logits; of a span's start and end, both side by side."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


def answers_at_end(model: Any) -> bool:
    """Whether a model classifies a text by what its decoder has at the last end-of-text token. transformers refuses a
    batch whose texts have different numbers of them, as one in the midst of a text makes; so its head is asked here.
    """
    return model.config.is_encoder_decoder and type(model).__name__.endswith("ForSequenceClassification")


def logits_at_end(model: Any, ids: Tensor, states: Tensor) -> Tensor:
    """The logits of such a model, (batch, labels), from its decoder's last hidden states, (batch, tokens, width)."""
    place = torch.arange(ids.shape[1], device=ids.device)
    last = torch.where(ids == model.config.eos_token_id, place, -1).argmax(1)
    return model.classification_head(states[torch.arange(ids.shape[0], device=ids.device), last])


def shifted(model: Any, ids: Tensor) -> Tensor:
    """What such a model's decoder is given: the text that is read, behind the token that it starts from."""
    family = anatomy.FAMILIES.get(model.config.model_type)
    if family is not None and family.starts_from_last:
        start = ids.gather(1, (ids != model.config.pad_token_id).sum(1, keepdim=True) - 1)
    else:
        start = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
    return torch.cat([start, ids[:, :-1]], 1)


def accepts(model: Any, argument: str) -> bool:
    """Whether a model takes an argument."""
    return argument in _accepted(type(model))


@functools.cache
def _accepted(model: type) -> frozenset[str]:
    """The arguments of a model class; looking them up anew would cost more than a tiny model's layer."""
    return frozenset(inspect.signature(model.forward).parameters)
