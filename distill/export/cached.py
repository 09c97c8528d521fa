"""Models that write text, as graphs see them: what was worked out for earlier tokens comes in and goes out.

A decoder is one graph, for the prompt (nothing in the past yet) and for every token after it. An encoder-decoder is
two: the encoder's also makes the keys and values that the decoder's cross-attention asks for, once a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from distill import anatomy
from distill.export.attention import mask, masks, positions
from distill.export.traced import Traced

PAST, PRESENT = "past_key_values", "present"
_PARTS = ("key", "value")


def names(kind: str, layers: int, side: str = "") -> list[str]:
    """What the keys and values of layers are called: past_key_values.0.key, present.0.decoder.value."""
    return [f"{kind}.{layer}{side}.{part}" for layer in range(layers) for part in _PARTS]


class Decoding(Traced):
    """A decoder with a language-model head: `input_ids` (batch, tokens), `attention_mask` (batch, past and tokens)
    and the past go in; logits and the past with these tokens come out. Positions are counted off the mask.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits (batch, tokens, vocabulary), then key and value of each layer."""
        ids, seen, *past = inputs
        cache, plain = _cache(past), self.model.config.model_type in anatomy.PLAIN_MASK
        output = self.model(
            input_ids=ids, attention_mask=seen if plain else masks(self.model, seen, ids.shape[1], causal=True),
            position_ids=positions(seen, ids.shape[1]), past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return (output.logits, *held(cache))


class Encoding(Traced):
    """An encoder, and what the decoder's cross-attention makes of its last states: key and value of each layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Keys and values; the decoder is run for one token to ask for them, which no output hangs on."""
        ids, seen = inputs
        start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
        encoder = self.model.get_encoder()
        states = encoder(input_ids=ids, attention_mask=mask(seen, ids.shape[1])).last_hidden_state
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask(seen, 1),
            decoder_input_ids=start, decoder_attention_mask=mask(torch.ones_like(start), 1, causal=True),
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return tuple(held(cache.cross_attention_cache))


class DecodingBehind(Traced):
    """An encoder-decoder's decoder: `input_ids` (batch, tokens), `encoder_attention_mask` (batch, source), its own past
    and the encoder's keys and values go in; logits and its own past come out.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits (batch, tokens, vocabulary), then key and value of each layer of its own."""
        ids, seen, *past = inputs
        own = _cache(past[: len(past) // 2])
        cache = EncoderDecoderCache(own, _cache(past[len(past) // 2 :]))
        cache.is_updated = dict.fromkeys(cache.is_updated, True)
        tokens, before = ids.shape[1], own.layers[0].keys.shape[2]
        there = torch.ones((ids.shape[0], before + tokens), dtype=torch.int64, device=ids.device)
        nothing = torch.zeros((1, 1, self.model.config.hidden_size), device=ids.device)  # its keys are there already
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=nothing), attention_mask=mask(seen, tokens),
            decoder_input_ids=ids, decoder_attention_mask=mask(there, tokens, causal=True),
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return (output.logits, *held(own))


class _Held(DynamicLayer):
    """A layer's past, of which every token is kept, whatever window the layer looks through."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def get_seq_length(self) -> int:
        return self.keys.shape[-2]


def _cache(past: Sequence[Tensor]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = [_Held(key, value) for key, value in zip(past[::2], past[1::2], strict=True)]
    return cache


def held(cache: DynamicCache) -> Iterator[Tensor]:
    """Key and value of each layer of a cache, (batch, heads, tokens, width) each."""
    return (state for layer in cache.layers for state in (layer.keys, layer.values))
