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
_WITHOUT_PAST = ("falcon_mamba", "mamba", "mamba2", "openai-gpt", "reformer", "rwkv", "xlm", "xlnet", "xlstm")


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


def cannot_write(config: Mapping[str, Any]) -> str | None:
    """Why no graph that writes can be made of a model of a config (as a dict); None where nothing is known."""
    if config.get("model_type") in _WITHOUT_PAST:
        return WITHOUT_PAST
    if config.get("model_type") == "falcon" and config.get("alibi"):
        return "it adds its alibi to the mask itself, and a graph has its masks made before the layers"
    return None
