"""What a model says about a batch: its logits and hidden states."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill.data import NO_TARGET, Batch


@dataclass
class Signals:
    """`logits` (batch, labels), (batch, tokens, classes), or (batch, tokens, 2) where a span's start and end are asked
    for; `hidden_states` by layer, counted from 1 with 0 the embeddings' output, an encoder-decoder's behind its
    encoder's, each (batch, tokens, width).
    """

    logits: Tensor
    hidden_states: dict[int, Tensor] = field(default_factory=dict)


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


def read(model: Any, batch: dict[str, Tensor], layers: Sequence[int] = ()) -> Signals:
    """Runs a model on a batch and keeps what was asked for."""
    output = model(**inputs_for(model, batch), output_hidden_states=bool(layers))
    states = states_of(output) if layers else ()
    return Signals(logits_of(output), {layer: states[layer] for layer in layers})


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


def accepts(model: Any, argument: str) -> bool:
    """Whether a model takes an argument."""
    return argument in _accepted(type(model))


@functools.cache
def _accepted(model: type) -> frozenset[str]:
    """The arguments of a model class; looking them up anew would cost more than a tiny model's layer."""
    return frozenset(inspect.signature(model.forward).parameters)
