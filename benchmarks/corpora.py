"""Corpora of any size from a small vocabulary, and the process that `memory.py` measures."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

_WORDS, _LENGTHS, _AT_ONCE = 2000, (6, 20), 10_000
_CLASSES = ("one", "two", "three")
UNLABELLED = "distillation without labels"
_LABELLED = 3000  # rows beside those without labels
_STEPS = 8
_LONGEST = 64  # tokens


def write_corpus(folder: Path, lines: int, seed: int = 0) -> dict[str, Path]:
    """A text file for language modelling and for a teacher to label, and a table for classification, the same texts in
    both; one in a hundred is there twice. The vocabulary lies beside them.
    """
    words = vocabulary()
    (folder / "vocabulary.json").write_text(json.dumps(words), encoding="utf-8")
    text, table = folder / "corpus.txt", folder / "corpus.csv"
    frequency = 1 / np.arange(3, _WORDS + 3)  # as in a language: the nth word is about 1/n as frequent
    steps = np.cumsum(frequency / frequency.sum())
    rng = np.random.default_rng(seed)
    with text.open("w", encoding="utf-8") as plain, table.open("w", encoding="utf-8", newline="") as rows:
        writer = csv.writer(rows)
        writer.writerow(("text", "label"))
        for start in range(0, lines, _AT_ONCE):
            made = _some(min(_AT_ONCE, lines - start), words, steps, rng)
            plain.writelines(f"{line}\n" for line in made)
            writer.writerows(zip(made, np.take(_CLASSES, rng.integers(len(_CLASSES), size=len(made))), strict=True))
    return {"causal-language-modelling": text, "text-classification": table, UNLABELLED: text}


def vocabulary() -> list[str]:
    """Words of three to five letters; some are there twice, so that about 1,200 are different."""
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return [f"{syllables[n % 60]}{syllables[n // 60 % 60]}"[: 3 + n % 2] + "aeiou"[n % 5] for n in range(_WORDS)]


def _some(number: int, words: list[str], steps: np.ndarray, rng: np.random.Generator) -> list[str]:
    lengths = rng.integers(*_LENGTHS, size=number)
    drawn = np.minimum(np.searchsorted(steps, rng.random(lengths.sum())), _WORDS - 1)
    ends = np.cumsum(lengths)
    lines = [
        " ".join(words[place] for place in drawn[end - long : end]) for end, long in zip(ends, lengths, strict=True)
    ]
    for place in rng.integers(number, size=number // 100):
        lines[place] = lines[0]
    return lines


def read_and_train(task: str, corpus: str, words: str) -> None:
    """Reads a corpus, encodes it and trains a few steps of a tiny model on it, saying which of it begins."""
    import torch

    from distill.data import load  # what is imported is no part of what a corpus takes
    from distill.distillation import distill, finetune
    from distill.recipe import settings

    known = json.loads(Path(words).read_text())
    parts: dict[str, Any] = {"source": {"path": corpus}, "validation": 0.002, "test": 0.002}
    if task == UNLABELLED:
        few = Path(words).with_name("few")
        few.mkdir(exist_ok=True)
        parts = {"source": str(write_corpus(few, _LABELLED, seed=1)["text-classification"]), "unlabelled": corpus}
    problem = task if task != UNLABELLED else "text-classification"
    pupil = tiny(problem, known)
    torch.set_num_threads(1)
    say("stage read")
    rows = load(settings.Data(**parts, max_length=_LONGEST), task=problem, seed=1)
    if rows.task.labels:
        pupil.model.config.id2label = dict(enumerate(rows.task.labels))
        pupil.model.config.label2id = {name: number for number, name in enumerate(rows.task.labels)}
    say("stage fingerprint")
    digest = [rows.fingerprint, *rows.extra_facts]
    say("stage encode")
    encoded = pupil.encode(rows.extended, "train")
    say("stage train")
    how = {"epochs": 1, "max_steps": _STEPS, "dtype": "float32"}
    if task == UNLABELLED:
        distill(pupil, settings.Distill(imitate={"logits": 1.0}, **how), data=rows, teacher=tiny(problem, known))
    else:
        finetune(pupil, settings.Finetune(**how), data=rows)
    say(json.dumps({"rows": len(encoded), "tokens": int(encoded.offsets[-1]), "sha256": digest}))


def tiny(task: str, words: list[str]) -> Any:
    """A checkpoint of one layer and random weights, which cuts texts into words."""
    import tokenizers
    import transformers

    from distill.checkpoint import Checkpoint

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    known = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=cutter, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", model_max_length=_LONGEST
    )
    of_all = {"vocab_size": len(known), "pad_token_id": 0}
    if task == "causal-language-modelling":
        shape = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": _LONGEST}
        ends = {"eos_token_id": 3, "bos_token_id": 3}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **of_all, **ends))
    else:
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.BertConfig(**shape, **of_all, num_labels=len(_CLASSES), max_position_embeddings=_LONGEST)
        model = transformers.BertForSequenceClassification(config)
    return Checkpoint(model, tokenizer)


def say(what: str) -> None:
    """To the process that listens."""
    print(what, flush=True)


if __name__ == "__main__":
    read_and_train(*sys.argv[1:])
