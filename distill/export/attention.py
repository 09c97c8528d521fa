"""Attention as a graph likes it while a model is exported: one node a layer, the mask made once before the layers.

A mask is additive, (batch, 1, queries, keys): 0 where a query sees a key and float32's least number where it doesn't.
It has a row a query also where all rows are alike, so that rows can be taken of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "distill_graph"


@contextlib.contextmanager
def one_node(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, each attention of a model becomes one node: key heads that several query heads share are not
    copied, and position biases are part of the mask. A model whose attention isn't sdpa's is left as it is.
    """
    if _NAME not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, eager_mask)  # for families whose masks aren't made here
    before = [(module.config, module.config._attn_implementation) for module in _with_config(model)]
    configs = {id(config): (config, kind) for config, kind in before if kind == "sdpa"}.values()
    for config, _ in configs:
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        for config, kind in configs:
            config._attn_implementation = kind


def _with_config(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    return (module for module in model.modules() if isinstance(module, PreTrainedModel))


def _attend(
    _: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, position_bias: Tensor | None = None, **__: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """What transformers' own `sdpa` does; every argument but these is of other kinds of attention, or of training."""
    if position_bias is not None:
        attention_mask = position_bias if attention_mask is None else position_bias + attention_mask
    shared = query.shape[1] != key.shape[1]
    made = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=shared)
    # laid out anew, because how sdpa lays its answer out differs between tracing and decomposing
    return made.transpose(1, 2).clone(memory_format=torch.contiguous_format), None


def mask(seen: Tensor, queries: int, *, causal: bool = False, window: int | None = None) -> Tensor:
    """The additive mask, (batch, 1, queries, keys), of which keys are there, (batch, keys), 1 or 0.

    `causal` queries are the last ones of the keys and see none behind themselves; with a `window` none further away
    either: as many keys as it says, the query's own among them, or without `causal` so many on either side.
    """
    keys = seen.shape[1]
    there = seen[:, None, None, :].bool().expand(-1, 1, queries, -1)
    if causal or window is not None:
        back = torch.arange(keys - queries, keys, device=seen.device)[:, None] - torch.arange(keys, device=seen.device)
        if causal:
            there = there & (back >= 0)
        if window is not None:
            there = there & (back < window if causal else back.abs() <= window)
    least = torch.finfo(torch.float32).min
    return torch.where(there, torch.zeros((), device=seen.device), torch.full((), least, device=seen.device))


def masks(model: PreTrainedModel, seen: Tensor, queries: int, *, causal: bool) -> Tensor | dict[str, Tensor]:
    """The mask of a model's layers; where they are of several kinds, one for each. Where its config names no kinds but
    a window, as Mistral's, that is all layers'.
    """
    config = model.config
    told = getattr(config, "layer_types", None)
    if not told and causal and _has_window(model):
        return mask(seen, queries, causal=True, window=config.sliding_window)
    every = mask(seen, queries, causal=causal)
    if set(told or ["full_attention"]) == {"full_attention"}:
        return every
    return {"full_attention": every, "sliding_attention": mask(
        seen, queries, causal=causal, window=config.sliding_window
    )}  # fmt: skip


def _has_window(model: PreTrainedModel) -> bool:
    """Whether all of a model's layers look through a window: many a config names one that its class never reads."""
    told = getattr(model.config, "sliding_window", None) is not None
    return told and hasattr(sys.modules[type(model).__module__], "create_sliding_window_causal_mask")


def positions(seen: Tensor, queries: int) -> Tensor:
    """The place of each of the last `queries` tokens among those that are there, (batch, queries)."""
    return (seen.cumsum(1) - 1).clamp(min=0)[:, seen.shape[1] - queries :]
