"""What has to be known of model types that have no page: which see what they foretell, which can be a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WITHOUT_PAST = "it keeps no keys and values of earlier tokens (past_key_values), which a graph that writes hands on"
PLAIN_MASK = ("bloom",)  # which count positions off a mask (batch, tokens)

# What a config must say, and doesn't unasked, for a model with a causal head to see earlier tokens alone.
_CAUSAL: Mapping[str, tuple[str, Any]] = {
    **dict.fromkeys(
        (
            "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
            "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta",
            "xlm-roberta-xl", "xmod",
        ),
        ("is_decoder", True),
    ),
    "xlm": ("causal", True),
    "xlnet": ("attn_type", "uni"),
}  # fmt: skip
_OTHER_KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("n_layer", "n_layers", "num_layers"), "hidden_size": ("n_embd", "d_model", "emb_dim"),
}  # fmt: skip
_DECODERS = ("decoder_layers", "num_decoder_layers")  # how a config tells that there are two stacks
_UNTRACEABLE = ("funnel", "xlnet")  # whose shapes hang on values
_WITHOUT_PAST = ("falcon_mamba", "mamba", "mamba2", "openai-gpt", "reformer", "rwkv", "xlm", "xlnet", "xlstm")


def key_of_stranger(config: Mapping[str, Any], word: str, usual: str | None) -> str | None:
    """The key by which a config (as a dict) says a size: the usual one, or another that is common where it has one
    stack.
    """
    two_sided = config.get("is_encoder_decoder") or any(key in config for key in _DECODERS)
    others = () if two_sided else _OTHER_KEYS.get(word, ())
    return next((key for key in (usual, *others) if config.get(key) is not None), usual)


def sees_ahead(config: Mapping[str, Any]) -> str | None:
    """Why a model of a config (as a dict) can't foretell tokens by earlier ones alone; None where nothing is known."""
    model_type = str(config.get("model_type"))
    if model_type not in _CAUSAL:
        return None
    key, value = _CAUSAL[model_type]
    if config.get(key) == value:
        return None
    return (
        f"a {model_type} whose config doesn't say {key}: {str(value).lower()} sees the tokens that it is to foretell; "
        "take a decoder, or set it where the checkpoint was trained so"
    )


def cannot_trace(config: Mapping[str, Any]) -> str | None:
    """Why no graph can be made of a model of a config (as a dict); None where nothing is known."""
    if config.get("model_type") in _UNTRACEABLE:
        return "torch can't export its code to ONNX; it can still ship as a checkpoint of transformers, without a graph"
    return None


def cannot_write(config: Mapping[str, Any]) -> str | None:
    """Why no graph that writes can be made of a model of a config (as a dict); None where nothing is known."""
    if config.get("model_type") in _WITHOUT_PAST:
        return WITHOUT_PAST
    if config.get("model_type") == "falcon" and config.get("alibi"):
        return "it adds its alibi to the mask itself, and a graph has its masks made before the layers"
    return None
