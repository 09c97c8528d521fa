"""Translation: English captions to German (Multi30k), by a small T5 and by students with a third of its decoder.

The teacher is trained here from random weights, with a vocabulary of its own training split. Its students keep the
encoder and two of the six layers of the decoder. Two see the captions equally often: one learns the captions and the
teacher's logits on them (word-level distillation), one the captions alone. The third, which is judged, goes on from the
first: it learns what its teacher writes for the same captions, with the teacher's logits on that. A fourth goes on from
the second for as long.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

from parts.bench import Bench
from parts.decoders import ALONE, STUDENT, TRAINING, WORDS, compare, steps_of

SEED, VOCABULARY = 7, 4000
SPLITS = {"source": "train", "validation": "val", "test": "test_2016_flickr"}
SHAPE = {
    "d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 384, "num_layers": 2, "num_decoder_layers": 6,
    "relative_attention_num_buckets": 16, "relative_attention_max_distance": 64, "dropout_rate": 0.1,
}  # fmt: skip
TEACHER = {**TRAINING, "epochs": 30, "patience": 30}  # with 12 its students pass it, with and without it
BOTH, LONG = "word-level, then what the teacher writes", "without its teacher, as long"
SHORT, LAST = {**STUDENT, "patience": 6}, {"epochs": 4, "learning_rate": 5e-4}
WRITTEN = {"targets": "teacher", "imitate": {"logits": 1.0, "labels": 0.5}, **SHORT, **LAST}
STEPS = {name: steps for name, steps in steps_of(SHORT).items() if name in (WORDS, ALONE)}
STEPS[BOTH] = [STEPS[WORDS][0], {"distill": WRITTEN}, "quantize"]
STEPS[LONG] = [STEPS[ALONE][0], {"finetune": {**SHORT, **LAST}}]


def make(bench: Bench) -> dict[str, Any]:
    """Students beside their teacher: chrF and BLEU, what is kept, and how long a text takes from end to end."""
    folder = bench.runs / "captions"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {word: read_pairs(bench.data / "multi30k", name) for word, name in SPLITS.items()}
    for word, lines in pairs.items():
        with (folder / f"{word}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *lines])
    save_teacher(folder / "fresh", pairs["source"])
    students = compare(bench, "captions", lambda steps: recipe(folder, steps), STEPS, judged=BOTH)
    return {"pairs": {word: len(lines) for word, lines in pairs.items()}, **students}


def recipe(folder: Path, steps: list[Any]) -> dict[str, Any]:
    """One student's recipe; the teacher, which is the same for all, comes out of the store from the second on."""
    return {
        "task": "translation",
        "metric": "chrf",
        "teacher": {"checkpoint": str(folder / "fresh"), "finetune": TEACHER},
        "student": {"layers": {"decoder": 2}},
        "data": {**{word: str(folder / f"{word}.csv") for word in SPLITS}, "max_length": 48, "target_length": 48},
        "generation": {"max_new_tokens": 48},
        "steps": steps,
        "timing": {"batch": [1, 32], "rounds": 45},
        "seed": SEED,
    }


def read_pairs(folder: Path, name: str) -> list[tuple[str, str]]:
    """(English, German) of one split."""
    sides = []
    for language in ("en", "de"):
        with gzip.open(folder / f"{name}.{language}.gz", "rt", encoding="utf-8") as file:
            sides.append([line.strip() for line in file])
    return [pair for pair in zip(*sides, strict=True) if all(pair)]


def save_teacher(folder: Path, pairs: list[tuple[str, str]]) -> None:
    """A T5 of random weights, and a Unigram tokenizer of both languages."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    if folder.is_dir():
        return
    special = ["<pad>", "</s>", "<unk>"]
    cutter = Tokenizer(models.Unigram())
    cutter.normalizer = normalizers.NFKC()
    cutter.pre_tokenizer, cutter.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>")
    cutter.train_from_iterator((side for pair in pairs for side in pair), trainer)
    cutter.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 64}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    torch.manual_seed(SEED)
    config = T5Config(vocab_size=cutter.get_vocab_size(), **ends, **SHAPE)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=cutter, **words).save_pretrained(folder)
