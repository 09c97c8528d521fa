"""The families that are known, a page of data each. A new one is an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from distill.anatomy.family import Attention, Family, Layer, Stack, Word

# ------------------------------------------------------------------------------------------------------- encoders

_BERT_KEYS: Mapping[Word, str] = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "positions": "max_position_embeddings",
    "heads": "num_attention_heads",
    "neurons": "intermediate_size",
}
_BERT_ATTENTION = Attention(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    counts={"attention.self.num_attention_heads": "heads", "attention.self.all_head_size": "width"},
)
_BERT = Family(
    "bert",
    "encoder",
    (Stack("encoder.layer", Layer((_BERT_ATTENTION,), up=("intermediate.dense",), down="output.dense")),),
    _BERT_KEYS,
)
_ROBERTA = replace(_BERT, model_type="roberta", reserved_positions="padding")
_ELECTRA = replace(_BERT, model_type="electra", follows=("embedding_size",), table_width="embedding_size")
_MPNET_ATTENTION = Attention(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    counts={"attention.attn.num_attention_heads": "heads", "attention.attn.all_head_size": "width"},
    biased=True,
)
_MPNET = Family(
    "mpnet",
    "encoder",
    (
        Stack(
            "encoder.layer",
            Layer((_MPNET_ATTENTION,), up=("intermediate.dense",), down="output.dense"),
            biases="encoder.relative_attention_bias",
        ),
    ),
    _BERT_KEYS,
    reserved_positions=2,
)
_DISTILBERT_ATTENTION = Attention(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    counts={"attention.n_heads": "heads"},
)
_DISTILBERT = Family(
    "distilbert",
    "encoder",
    (Stack("transformer.layer", Layer((_DISTILBERT_ATTENTION,), up=("ffn.lin1",), down="ffn.lin2")),),
    {
        "layers": "n_layers",
        "hidden_size": "dim",
        "positions": "max_position_embeddings",
        "heads": "n_heads",
        "neurons": "hidden_dim",
    },
)
_MODERNBERT = Family(
    "modernbert",
    "encoder",
    (
        Stack(
            "layers",
            Layer((Attention(fused="attn.Wqkv", output="attn.Wo"),), up=("mlp.Wi",), down="mlp.Wo", fused_up=True),
            lists=("layer_types",),
            not_in_first=("attn_norm",),
        ),
    ),
    _BERT_KEYS,
    learned_positions=False,
)
_SHARED = "ALBERT's layers share one set of weights, so leaving some of it out is not theirs to choose"
_ALBERT = replace(
    _BERT,
    model_type="albert",
    stacks=(replace(_BERT.stacks[0], layers="encoder.albert_layer_groups"),),
    shared="num_hidden_groups",
    table_width="embedding_size",
    refuses={
        "layers": "ALBERT's layers share one set of weights, so leaving some out makes nothing smaller",
        "heads": _SHARED,
        "neurons": _SHARED,
        "hidden": _SHARED,
        "relations": "ALBERT's layers share one set of weights, so none has queries, keys or values of its own",
        "embeddings": "ALBERT's are factorised from the start; its config says their size",
    },
)

# ------------------------------------------------------------------------------------------------------- decoders

_GPT2_ATTENTION = Attention(
    fused="attn.c_attn",
    output="attn.c_proj",
    counts={"attn.num_heads": "heads", "attn.split_size": "width", "attn.embed_dim": "width"},
)
_GPT2 = Family(
    "gpt2",
    "decoder",
    (
        Stack(
            "h",
            Layer((_GPT2_ATTENTION,), up=("mlp.c_fc",), down="mlp.c_proj"),
            by_place="scale_attn_by_inverse_layer_idx",
        ),
    ),
    {"layers": "n_layer", "hidden_size": "n_embd", "positions": "n_positions", "heads": "n_head", "neurons": "n_inner"},
    absent={"n_inner": ("n_embd", 4)},
)
_OPT_ATTENTION = Attention(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.out_proj",
    counts={"self_attn.num_heads": "heads", "self_attn.embed_dim": "width"},
)
_OPT = Family(
    "opt",
    "decoder",
    (Stack("decoder.layers", Layer((_OPT_ATTENTION,), up=("fc1",), down="fc2")),),
    {**_BERT_KEYS, "neurons": "ffn_dim"},
    follows=("word_embed_proj_dim",),
    table_width="word_embed_proj_dim",
)
_BIOGPT = Family(
    "biogpt",
    "decoder",
    (Stack("layers", Layer((_OPT_ATTENTION,), up=("fc1",), down="fc2")),),
    _BERT_KEYS,
    refuses={
        "hidden": "BioGPT scales its embeddings by the root of the hidden size, so another size is another scale",
        "embeddings": "BioGPT scales what it looks up in its table, which a factorised one would not",
    },
)
_LLAMA_ATTENTION = Attention(
    query="self_attn.q_proj", key="self_attn.k_proj", value="self_attn.v_proj", output="self_attn.o_proj"
)
_LLAMA = Family(
    "llama",
    "decoder",
    (
        Stack(
            "layers",
            Layer((_LLAMA_ATTENTION,), up=("mlp.up_proj", "mlp.gate_proj"), down="mlp.down_proj"),
            lists=("layer_types",),
        ),
    ),
    {**_BERT_KEYS, "key_value_heads": "num_key_value_heads", "head_width": "head_dim"},
    absent={"num_key_value_heads": ("num_attention_heads", 1)},
    heads_divide=True,
    learned_positions=False,
)
_QWEN2 = replace(_LLAMA, model_type="qwen2", heads_divide=False)
_MISTRAL = replace(_QWEN2, model_type="mistral")

# ----------------------------------------------------------------------------------------------- encoder-decoders

_TWO_SIDES = "encoder, decoder and head of an encoder-decoder share one table"
_CROSS_ATTENTION = Attention(
    query="encoder_attn.q_proj",
    key="encoder_attn.k_proj",
    value="encoder_attn.v_proj",
    output="encoder_attn.out_proj",
    counts={"encoder_attn.num_heads": "heads", "encoder_attn.embed_dim": "width"},
)
_BART = Family(
    "bart",
    "encoder-decoder",
    (
        Stack(
            "encoder.layers",
            Layer((_OPT_ATTENTION,), up=("fc1",), down="fc2"),
            {"layers": "encoder_layers", "heads": "encoder_attention_heads", "neurons": "encoder_ffn_dim"},
        ),
        Stack(
            "decoder.layers",
            Layer((_OPT_ATTENTION, _CROSS_ATTENTION), up=("fc1",), down="fc2"),
            {"layers": "decoder_layers", "heads": "decoder_attention_heads", "neurons": "decoder_ffn_dim"},
        ),
    ),
    {"hidden_size": "d_model", "positions": "max_position_embeddings"},
    refuses={"embeddings": _TWO_SIDES},
)
_MARIAN = replace(
    _BART,
    model_type="marian",
    learned_positions=False,
    refuses={
        "embeddings": _TWO_SIDES,
        "hidden": "its position embeddings are computed from the hidden size, so which of its dimensions stay can't be "
        "chosen",
    },
)


def _t5_attention(path: str, *, biased: bool) -> Attention:
    """T5's first cross-attention makes a bias of zeros for all of them: one head wide it suits any number of heads."""
    return Attention(
        query=f"{path}.q",
        key=f"{path}.k",
        value=f"{path}.v",
        output=f"{path}.o",
        counts={f"{path}.n_heads": "heads" if biased else "one", f"{path}.inner_dim": "width"},
        biased=biased,
    )


def _t5_layer(*attentions: Attention) -> Layer:
    path = f"layer.{len(attentions)}.DenseReluDense"
    return Layer(attentions, up=(f"{path}.wi", f"{path}.wi_0", f"{path}.wi_1"), down=f"{path}.wo")


_T5_SELF = _t5_attention("layer.0.SelfAttention", biased=True)
_T5 = Family(
    "t5",
    "encoder-decoder",
    (
        Stack(
            "encoder.block",
            _t5_layer(_T5_SELF),
            {"layers": "num_layers"},
            biases="encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        ),
        Stack(
            "decoder.block",
            _t5_layer(_T5_SELF, _t5_attention("layer.1.EncDecAttention", biased=False)),
            {"layers": "num_decoder_layers"},
            biases="decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        ),
    ),
    {"hidden_size": "d_model", "heads": "num_heads", "head_width": "d_kv", "neurons": "d_ff"},
    absent={"num_decoder_layers": ("num_layers", 1)},
    learned_positions=False,
    scaled={"scale_decoder_outputs": "decoder.final_layer_norm"},
    refuses={"embeddings": _TWO_SIDES},
)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        _BERT,
        _ROBERTA,
        replace(_ROBERTA, model_type="xlm-roberta"),
        replace(_ROBERTA, model_type="camembert"),
        _MPNET,
        _ELECTRA,
        _DISTILBERT,
        _MODERNBERT,
        _ALBERT,
        _GPT2,
        _OPT,
        _BIOGPT,
        _LLAMA,
        _QWEN2,
        replace(_QWEN2, model_type="qwen3"),
        _MISTRAL,
        _BART,
        replace(_BART, model_type="mbart", starts_from_last=True),
        _MARIAN,
        replace(_MARIAN, model_type="pegasus"),
        _T5,
        replace(_T5, model_type="mt5", scaled={}),
    )
}

# Types whose layers nobody knows here, and the family that counts positions as they do; all others count as BERT.
POSITIONS_AS: Mapping[str, str] = {
    **dict.fromkeys(
        ("data2vec-text", "ibert", "lilt", "longformer", "luke", "roberta-prelayernorm", "xlm-roberta-xl", "xmod"),
        "roberta",
    ),
    **dict.fromkeys(("codegen", "ctrl", "gpt_bigcode", "gptj", "openai-gpt"), "gpt2"),
}
