"""What a loss over a vocabulary costs, gradient included: worked out whole, and in portions as trainings do, in turns.

    OMP_NUM_THREADS=1 python benchmarks/vocabulary_losses.py --json benchmarks/results/vocabulary_losses.json

Logits are random, in bfloat16, as a training under autocast has them. CPU seconds, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distill.disk import write_text
from distill.losses import LOSSES, in_portions
from distill.report import machine, versions

PLACES, VOCABULARIES, ROUNDS = 512, {"BERT": 30_522, "SmolLM2": 49_152, "Qwen3": 151_936}, 7
NAMES = ("kl", "reverse_kl", "js", "skew_kl", "cross_entropy")


def main() -> int:
    """Times every loss over every vocabulary, and writes the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    words = parser.parse_args()
    torch.set_num_threads(1)
    told = {"command": "OMP_NUM_THREADS=1 python benchmarks/vocabulary_losses.py --json PATH", "places": PLACES}
    told |= {"machine": machine(), "versions": versions(), "rows": []}
    for model, classes in VOCABULARIES.items():
        for name in NAMES:
            told["rows"].append({"vocabulary": model, "classes": classes, "loss": name, **compare(name, classes)})
            print(json.dumps(told["rows"][-1]), flush=True)
    write_text(words.json, json.dumps(told, indent=1) + "\n")
    return 0


def compare(name: str, classes: int) -> dict[str, float]:
    """CPU seconds of both ways, how many times as fast the second is, and how far their gradients are apart."""
    torch.manual_seed(0)
    student = torch.randn(PLACES, classes, dtype=torch.bfloat16).requires_grad_()
    teacher = torch.randn(PLACES, classes, dtype=torch.bfloat16)
    other = torch.randint(classes, (PLACES,)) if name == "cross_entropy" else teacher
    ways: dict[str, Callable[..., Tensor]] = {"whole": LOSSES[name], "portions": partial(in_portions, LOSSES[name])}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Tensor] = {}
    for _ in range(1 + ROUNDS):  # the first warms up
        for way, loss in ways.items():
            start = time.process_time()
            (found[way],) = torch.autograd.grad(loss(student, other), student)
            spent[way].append(time.process_time() - start)
    seconds = {way: statistics.median(times[1:]) for way, times in spent.items()}
    apart = (found["whole"].float() - found["portions"].float()).abs().max() / found["whole"].float().abs().max()
    return {**seconds, "times_as_fast": seconds["whole"] / seconds["portions"], "gradients_apart": float(apart)}


if __name__ == "__main__":
    sys.exit(main())
