"""Tiny encoder-decoders of random weights, with a tokenizer and texts that fit them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from conftest import PIECES, TOPICS, make_tokenizer, write_csv
from tiny_models import no_two_alike

_ENDS = {"vocab_size": len(PIECES), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
    "forced_eos_token_id": None, "dropout": 0.0,
}  # fmt: skip
_T5 = {
    "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8, "dropout_rate": 0.0,
}  # fmt: skip
CONFIGS = {
    "bart": ("bart", _ENDS | _BART | {"decoder_start_token_id": 3}),
    "marian": ("marian", _ENDS | _BART | {"decoder_start_token_id": 0}),
    "t5": ("t5", _ENDS | _T5 | {"decoder_start_token_id": 0}),
    "t5-gated": (
        "t5", _ENDS | _T5 | {
            "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip
WRITERS = tuple(CONFIGS)


def build_writer(name: str, seed: int = 0, **more: object):
    """A tiny encoder-decoder; no two of its weights are alike."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    model_type, words = CONFIGS[name]
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(model_type, **{**words, **more})).eval()
    return no_two_alike(model, seed + 1)


def save_writer(folder: Path, name: str, **more: object) -> Path:
    """The same in a folder, with the tests' tokenizer."""
    build_writer(name, **more).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def lines(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, text to write): a few words, and the same in capitals of the alphabet's other end: the words' reverse."""
    rng, words = random.Random(seed), [word for topic in TOPICS.values() for word in topic]
    texts = [[rng.choice(words) for _ in range(rng.randint(2, 6))] for _ in range(number)]
    return [(" ".join(text), " ".join(reversed(text))) for text in texts]


def write_lines(path: Path, number: int = 80, seed: int = 0) -> Path:
    """The same in a csv file."""
    return write_csv(path, ["text", "label"], [list(line) for line in lines(number, seed)])


def make_pairs(number: int = 40, task: str = "translation", **words: object):
    """Splits of such lines."""
    from distill import Data
    from distill.data import Rows, Splits
    from distill.recipe.settings import Generation
    from distill.tasks import METRICS_OF, TASKS

    found = {}
    for seed, name in enumerate(("train", "validation", "test")):
        made = lines(number if name == "train" else number // 2, seed)
        found[name] = Rows([(text,) for text, _ in made], [target for _, target in made])
    problem = task.replace("-", "_")
    resolved = TASKS[task](problem, (), METRICS_OF[problem][0], prefix=str(words.get("prefix") or ""))
    resolved = resolved.writing(Generation(max_new_tokens=8))
    return Splits(**found, task=resolved, words=Data(source="made", max_length=16, **words), seed=5)
