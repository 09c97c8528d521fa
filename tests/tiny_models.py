"""Tiny models of every kind that becomes a graph, two layers each; no two of their weights are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

_COMMON: dict[str, Any] = {"vocab_size": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
_BERT |= {"max_position_embeddings": 64}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
}  # fmt: skip
_T5 = {
    "d_model": 32, "d_kv": 6, "num_heads": 4, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2,
    "decoder_start_token_id": 1, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip
_ROTARY = {"num_key_value_heads": 2}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "data2vec": ("data2vec-text", _BERT),  # a family that the anatomy doesn't know
    "modernbert": ("modernbert", _BERT | {
        "layer_types": ["full_attention", "sliding_attention"], "local_attention": 4, "cls_token_id": 3,
        "sep_token_id": 2,
    }),
    "gpt2": ("gpt2", {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_inner": 24, "n_positions": 64}),
    "opt": ("opt", _BERT | {"ffn_dim": 24, "word_embed_proj_dim": 32}),
    "llama": ("llama", _BERT | _ROTARY | {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", _BERT | _ROTARY | {
        "use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"],
    }),
    "qwen3": ("qwen3", _BERT | _ROTARY | {"head_dim": 6}),
    "mistral": ("mistral", _BERT | _ROTARY | {"sliding_window": 4}),
    "bart": ("bart", _BART | {"decoder_start_token_id": 2, "forced_eos_token_id": 2}),
    "mbart": ("mbart", _BART | {"decoder_start_token_id": 2, "forced_eos_token_id": 2}),
    "marian": ("marian", _BART | {"decoder_start_token_id": 1, "forced_eos_token_id": None}),
    "t5": ("t5", _T5),
    "t5-gated": ("t5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}  # fmt: skip


def tiny(name: str, head: str, **more: Any) -> transformers.PreTrainedModel:
    """A tiny model with a head, `head` being the end of its auto class's name, such as MaskedLM."""
    model_type, words = CONFIGS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **_COMMON | words | more)
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config).eval()
    return no_two_alike(model)


def no_two_alike(model: transformers.PreTrainedModel, seed: int = 1) -> transformers.PreTrainedModel:
    """A model whose weights are no two alike, biases and norms included; positions that are computed stay."""
    generator = torch.Generator().manual_seed(seed)
    fixed = {id(module.weight) for module in model.modules() if "Sinusoidal" in type(module).__name__}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in fixed:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def texts(rows: int, tokens: int, seed: int = 0, *, left: bool = False) -> dict[str, np.ndarray]:
    """Random texts of random lengths that end with the end-of-text token; the first one is never padded."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, tokens + 1, size=rows)
    lengths[0] = tokens
    real = np.arange(tokens) < lengths[:, None]
    ids = np.where(real, rng.integers(5, 64, size=(rows, tokens)), 1)
    ids[np.arange(rows), lengths - 1] = 2
    if left:
        ids, real = ids[:, ::-1], real[:, ::-1]
    return {"input_ids": np.ascontiguousarray(ids, np.int64), "attention_mask": np.ascontiguousarray(real, np.int64)}


def weights(checkpoint) -> dict[str, torch.Tensor]:
    """A copy of a checkpoint's weights."""
    return {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two dicts of weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
