"""Tiny random models of every family, and what tests ask of them. No two of a model's weights are alike."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from conftest import PIECES, make_tokenizer
from safetensors.torch import load_file
from tiny_models import no_two_alike
from torch import nn
from transformers import AutoConfig

from distill import anatomy, surgery

VOCABULARY = 40
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = _COMMON | {
    "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 32,
}  # fmt: skip
BART = _COMMON | {
    "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 8,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 16, "max_position_embeddings": 32, "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}  # fmt: skip
T5 = _COMMON | {
    "d_model": 32, "d_kv": 6, "num_heads": 4, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2,
    "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "eos_token_id": 1,
}  # fmt: skip
CONFIGS = {
    "bert": ("bert", BERT),
    "roberta": ("roberta", BERT),
    "xlm-roberta": ("xlm-roberta", BERT),
    "camembert": ("camembert", BERT),
    "mpnet": ("mpnet", BERT),
    "electra": ("electra", BERT | {"embedding_size": 12}),
    "electra-wide": ("electra", BERT | {"embedding_size": 32}),
    "distilbert": (
        "distilbert",
        _COMMON | {"n_layers": 3, "dim": 32, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 32},
    ),
    "modernbert": (
        "modernbert",
        BERT | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "local_attention": 4},
    ),
    "gpt2": ("gpt2", _COMMON | {"n_layer": 3, "n_embd": 32, "n_head": 4, "n_inner": 24, "n_positions": 32}),
    "gpt2-plain": ("gpt2", _COMMON | {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 32}),
    "opt": ("opt", BERT | {"ffn_dim": 24, "word_embed_proj_dim": 32}),
    "opt-narrow": ("opt", BERT | {"ffn_dim": 24, "word_embed_proj_dim": 12, "do_layer_norm_before": False}),
    "biogpt": ("biogpt", BERT),
    "llama": ("llama", BERT | {"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", BERT | {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "qwen3": ("qwen3", BERT | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 6}),
    "mistral": ("mistral", BERT | {"num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 4}),
    "bart": ("bart", BART),
    "mbart": ("mbart", BART),
    "marian": ("marian", BART),
    "pegasus": ("pegasus", BART),
    "t5": ("t5", T5),
    "t5-gated": ("t5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", T5),
}
CHANGEABLE = [name for name in CONFIGS if name not in ("marian", "pegasus", "biogpt")]  # in its hidden size


HEADS = {
    "encoder": ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM"),
    "decoder": ("SequenceClassification", "CausalLM"),
    "encoder-decoder": ("SequenceClassification", "Seq2SeqLM"),
}


def build(name: str, head: str | None = None, **more: object):
    """A tiny model with a head, its family's language-model head when not said; biases and norms are no two alike."""
    model_type, words = CONFIGS[name]
    auto = getattr(transformers, f"AutoModelFor{head or HEADS[anatomy.FAMILIES[model_type].kind][-1]}")
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(model_type, **words | more)).eval()
    return no_two_alike(model)


def save(folder: Path, name: str, head: str | None = None, **more: object) -> Path:
    """The same in a folder, with the tests' tokenizer, whose [SEP] ends a text."""
    build(name, head, **{"vocab_size": len(PIECES), "eos_token_id": 3} | more).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def batch_for(model, largest: int = VOCABULARY) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, largest, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    ids[1, 6:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    return given | ({"decoder_input_ids": ids[:, :5].clone()} if model.config.is_encoder_decoder else {})


@torch.no_grad()
def logits(model, given=None) -> torch.Tensor:
    return model.eval()(**(given or batch_for(model))).logits


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def reloaded(model, folder):
    """Saved, and loaded as a step's folder is."""
    model.save_pretrained(folder)
    surgery.write_record(model, folder)
    shape = surgery.read_record(folder, json.loads((folder / "config.json").read_text()))
    if shape is None:
        return type(model).from_pretrained(folder).eval()
    again = surgery.reshape(type(model)(AutoConfig.from_pretrained(folder)), shape)
    weights = load_file(folder / "model.safetensors")
    surgery.untie(again, weights)
    missing, unexpected = again.load_state_dict(weights, strict=False)
    assert not unexpected
    untold = [
        name for name in missing if "Sinusoidal" not in type(again.get_submodule(name.rpartition(".")[0])).__name__
    ]
    assert set(untold) <= set(again.all_tied_weights_keys)
    return again.eval()


def untied(name: str, **more):
    """A T5 as 1.1 and Flan-T5 are: its head is its own, though transformers ties those of all that it makes."""
    model = build(name, **more)
    with torch.no_grad():
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.flip(0))
    del model.all_tied_weights_keys["lm_head.weight"]
    return model


def generates(model) -> None:
    """A cache gives what running the whole anew gives."""
    if anatomy.family_of(model.config.to_dict()).kind == "encoder":
        return
    given = {"input_ids": torch.tensor([[7, 9, 11, 13]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    words = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with torch.no_grad():
        found = [model.generate(**given, **words, use_cache=cached).tolist() for cached in (True, False)]
    assert found[0] == found[1]


def learns(model) -> None:
    """Gradients reach every layer that is left."""
    model.train().zero_grad()
    model(**batch_for(model)).logits.float().square().mean().backward()
    for layer in surgery.layers_of(model):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        assert any(p.grad.abs().max() > 0 for p in layer.parameters())
    model.eval()
