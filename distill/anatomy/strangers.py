"""What has to be known of model types that have no page: which see what they foretell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def sees_ahead(config: Mapping[str, Any]) -> str | None:
    """Why a model of a config (as a dict) can't foretell tokens by earlier ones alone; None where nothing is known."""
    model_type = str(config.get("model_type"))
    key, value = _CAUSAL.get(model_type, ("model_type", model_type))
    if config.get(key) == value:
        return None
    return (
        f"a {model_type} whose config doesn't say {key}: {str(value).lower()} sees the tokens that it is to foretell; "
        "take a decoder, or set it where the checkpoint was trained so"
    )
