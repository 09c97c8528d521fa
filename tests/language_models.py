"""Tiny language models, and texts that they read."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import SIZES, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from distill import Data, load_data

MASKED, CAUSAL = "masked-language-modelling", "causal-language-modelling"


def tokenizer_of(kind: str):
    """BERT's frame; or none, an end of text, and no padding, as GPT-2's."""
    if kind == "bert":
        return make_tokenizer()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<end>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", model_max_length=64)


def save_language(folder: Path, family: str, **more: object) -> Path:
    """A tiny checkpoint with a language-model head; its biases and norms are no two alike."""
    tokenizer = tokenizer_of("bert" if family == "bert" else "gpt2")
    words = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 64} | more
    if family == "gpt2":
        words = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": len(tokenizer)} | more
    if family == "llama":
        words |= {"num_key_value_heads": 2, "num_hidden_layers": 2, "tie_word_embeddings": True}
    torch.manual_seed(0)
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    model = kind.from_config(AutoConfig.for_model(family, **words))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(corpus: Path, task: str, **words: object):
    given = {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24, **words}
    return load_data(Data(**given), task=task, seed=3)
