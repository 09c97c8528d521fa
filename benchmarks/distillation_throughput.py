"""How fast a student is taught: three layers of a MiniLM, by ours and by other loops, each tuned alike, one thread.

    OMP_NUM_THREADS=1 python benchmarks/distillation_throughput.py --data DIR --json PATH

DIR holds `sst2_glue/{train,dev,test}.tsv` (label, tab, text). The teacher is the one of compression.py. Every arm gets
the same raw texts, a sample of train that shares no phrase with validation or dev; the same teacher; and the same three
of its layers to begin with. It is a process of its own, timed from raw text to final weights, the teacher's label pass
or its run in every step included, imports not (the whole process is told beside it). Batch size and learning rate come
from one grid, tried on a part of the texts: the fastest setting counts whose validation score is within half a point of
the best. Then come the rounds, one for each seed: every arm once, in an order drawn anew. Dev is scored once trained.

What is done lies under `--runs` and is not measured again, so the same command goes on where it was cut off. A run of
ours counts for the product's code as it was, and so does a round of all. Peers get Pythons of their own there, from
PyPI. `--quick` does everything on slivers, to see that it works; its figures mean nothing, and no goal is judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import compression
import goals
import numpy as np
import phrases
import torch
from measuring import say
from parts import arms, ratios
from parts.arms import ARMS, Arm, ArmError, Ground

import distill
from distill import checkpoint
from distill.checkpoint import fingerprint
from distill.disk import write_text
from distill.evaluation import Subject, score
from distill.report import machine, versions

LAYERS, EPOCHS = 3, 3
GRID = {"batch_size": (32, 64, 128), "learning_rate": (1e-4, 3e-4, 1e-3)}
QUICK = {"batch_size": (16, 32), "learning_rate": (3e-4,)}
LOOKED_INTO = 1.3  # epochs of ours: in one alone the teacher would not be asked beforehand
SPARE = 1.3  # texts that are drawn for each one that is taken, since near-duplicates go


def main() -> int:
    """Runs the benchmark; 1 when a goal is missed."""
    words = read_words()
    torch.set_num_threads(1)
    bench = open_bench(words)
    whole, part, told_data = prepare(bench, words)
    told: dict[str, Any] = {
        "command": " ".join(["python benchmarks/distillation_throughput.py", *compression.hide_paths(sys.argv[1:])]),
        "quick": words.quick,
        "seeds": list(range(words.seeds)),
        "machine": machine(),
        "versions": versions(),
        "data": told_data,
        "threads": 1,
        "epochs": EPOCHS,
        "layers": LAYERS,
    }
    chosen_arms = [arm for arm in ARMS if arm.name in words.arm]
    rows = {arm.name: arms.described(arm) for arm in chosen_arms}
    running = with_pythons(chosen_arms, whole.pythons, rows)
    told["grid"] = QUICK if words.quick else GRID
    running = tune(running, part, told["grid"], words.jobs, bench, rows)
    if not words.tune_only:
        measure(running, whole, words.seeds, bench, rows)
        tell(told, rows, words)  # the rounds took hours; whatever comes now, they are told
        ratios.draw(told["rows"], words.json.with_suffix(".png"))
        told["limit"] = look_into(running, whole, rows, words)
    tell(told, rows, words)
    for goal in told["goals"]:
        print(goals.spell(goal))
    return 1 if any(goal["met"] is False for goal in told["goals"]) else 0


def tell(told: dict[str, Any], rows: dict[str, dict[str, Any]], words: argparse.Namespace) -> None:
    """Writes the JSON, with the goals as far as they can be judged."""
    told["rows"] = list(rows.values())
    told["goals"] = ratios.judge(told)
    write_text(words.json, json.dumps(told, indent=1) + "\n")


def read_words() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2_glue")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go; the plot goes beside them")
    parser.add_argument("--runs", type=Path, default=Path("runs/throughput"), help="where all that is done is left")
    parser.add_argument("--seeds", type=int, default=3, help="how many rounds, each with a seed of its own")
    parser.add_argument("--texts", type=int, default=6000, help="how many training texts are learned from")
    parser.add_argument("--tuned-on", type=int, default=2000, help="how many of them the settings are tried on")
    parser.add_argument("--jobs", type=int, default=1, help="how many settings are tried at once; rounds never are")
    parser.add_argument("--arm", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS])
    parser.add_argument("--tune-only", action="store_true", help="choose the settings and stop")
    parser.add_argument("--quick", action="store_true", help="everything on slivers")
    words = parser.parse_args()
    words.runs, words.json = words.runs.resolve(), words.json.resolve()
    words.pythons = words.runs / "pythons"
    if words.quick:
        words.runs, words.texts, words.tuned_on, words.seeds = words.runs / "quick", 160, 96, min(words.seeds, 2)
    return words


def open_bench(words: argparse.Namespace) -> compression.Bench:
    """The splits that compression.py has, written."""
    few = {"validation": 80, "limit": 600} if words.quick else {}
    sst2 = phrases.load(words.data / "sst2_glue", **few)
    if words.quick:
        sst2.dev, sst2.test = sst2.dev[:100], sst2.test[:100]
    data = sst2.write(words.runs / "sst2")
    return compression.Bench(words.runs, data, words.seeds, words.quick)


def prepare(bench: compression.Bench, words: argparse.Namespace) -> tuple[Ground, Ground, dict[str, Any]]:
    """What all arms get: once with all texts of the sample, once with those that settings are tried on."""
    ends = [{"prune": {"vocabulary": "used"}}]  # a recipe has a step; this one takes least, and is not looked at
    teacher = bench.run(compression.RECIPES[0], "taught", student={"layers": 6}, steps=ends) / "teacher"
    student = bench.runs / "student"
    compression.once(student, lambda folder: distill.cut(checkpoint.load(teacher), layers=LAYERS).save(folder), teacher)
    sample = draw(bench, words.texts)
    grounds = []
    for name, texts in (("train", sample), ("part", sample[: words.tuned_on])):
        path = bench.runs / f"{name}-{len(texts)}.tsv"
        lines = "".join(f"{text}\t{phrases.LABELS[label]}\n" for text, label in texts)
        write_text(path, "text\tlabel\n" + lines)
        held = {split: bench.data / f"{split}.tsv" for split in ("validation", "dev")}
        bytes_ = [arms.digest_of({"train": path, **held}), fingerprint(teacher), fingerprint(student)]
        grounds.append(
            Ground(
                bench.runs, words.pythons, path, **held, teacher=teacher, student=student, epochs=EPOCHS,
                bytes="-".join(bytes_),
            )
        )  # fmt: skip
    tokens = bench.splits("dev")
    told = {
        "texts": len(sample), "tuned_on": words.tuned_on, "validation": len(tokens.validation), "dev": len(tokens.test),
        "words_a_text": float(np.mean([len(text.split()) for text, _ in sample])),
    }  # fmt: skip
    return *grounds, told


def draw(bench: compression.Bench, number: int) -> list[phrases.Row]:
    """So many training texts, of those that the product itself would not leave out as near-duplicates of what is held.

    Every arm then learns from the same ones.
    """
    lines = (bench.data / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    order = np.random.default_rng(0).permutation(len(lines))[: int(SPARE * number)]
    path = bench.runs / f"drawn-{number}.tsv"
    write_text(path, "\n".join(["text\tlabel", *(lines[place] for place in order)]) + "\n")
    held = {name: str(bench.data / f"{name}.tsv") for name in ("validation", "dev")}
    words = {"source": str(path), "validation": held["validation"], "test": held["dev"], "max_length": 128}
    train = distill.load_data(distill.Data.model_validate(words)).train
    names = bench.splits("dev").task.labels
    rows = [
        (text, phrases.LABELS.index(names[label])) for (text,), label in zip(train.texts, train.labels, strict=True)
    ]
    if len(rows) < number:
        sys.exit(f"only {len(rows)} texts are left of {len(order)} drawn; ask for fewer with --texts")
    return rows[:number]


def with_pythons(asked: Iterable[Arm], folder: Path, rows: dict[str, dict[str, Any]]) -> list[Arm]:
    """The arms whose Python is there; of the others the row says why not."""
    found = []
    for arm in asked:
        try:
            arms.interpreter(arm, folder)
            found.append(arm)
        except ArmError as error:
            give_up(arm, error, rows)
    return found


def give_up(arm: Arm, error: Exception, rows: dict[str, dict[str, Any]]) -> None:
    """A peer that can't run is told of, and left out; what needs nothing of its own must run."""
    if not arm.needs:
        raise error
    say(f"{arm.name}: left out: {error}")
    rows[arm.name]["not_run"] = str(error)


def tune(
    running: list[Arm], part: Ground, grid: dict[str, Any], jobs: int, bench: compression.Bench,
    rows: dict[str, dict[str, Any]],
) -> list[Arm]:  # fmt: skip
    """Every arm on every setting of the grid; the rows tell what was tried and chosen. Which arms could be tried."""
    settings = [(size, rate) for size in grid["batch_size"] for rate in grid["learning_rate"]]
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        begun = {arm: [pool.submit(part.run, arm, *setting) for setting in settings] for arm in running}
        for arm, futures in begun.items():
            try:
                runs = [future.result() for future in futures]
            except ArmError as error:
                give_up(arm, error, rows)
                continue
            told = ("batch_size", "learning_rate", "seconds", "cpu_seconds")
            tried = [
                {word: run[word] for word in told} | {"validation": scored(run, "validation", bench)} for run in runs
            ]
            for run in runs:  # a few dozen checkpoints; only their scores matter
                shutil.rmtree(run["folder"] / "student", ignore_errors=True)
            rows[arm.name] |= {"tried": tried, "chosen": dict(ratios.choose(tried))}
            found.append(arm)
    return found


def measure(
    running: list[Arm], whole: Ground, seeds: int, bench: compression.Bench, rows: dict[str, dict[str, Any]]
) -> None:
    """The rounds: each seed's runs of all arms, one after another, in an order drawn anew; then the ratios."""
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in running}
    ours = " ".join(arms.code(arm, arm.script) for arm in running if arm.ours)  # changed, all are timed again
    for seed in range(seeds):
        for place in np.random.default_rng(seed).permutation(len(running)):
            arm = running[place]
            chosen = rows[arm.name]["chosen"]
            run = whole.run(arm, chosen["batch_size"], chosen["learning_rate"], seed, beside=ours)
            runs[arm.name].append(run | {"dev": scored(run, "dev", bench)})
    for name, found in runs.items():
        rows[name] |= ratios.summarise(found) | {"texts": found[0]["texts"], "versions": found[0]["versions"]}
        rows[name] |= {"loads": [run["load"] for run in found]}
        rows[name] |= {word: found[0][word] for word in ("library", "dtype") if word in found[0]}
    for arm in running:
        if arm.ours:
            others = [other for other in running if not other.ours]
            rows[arm.name]["against"] = {
                other.name: ratios.compare(rows[arm.name], rows[other.name]) for other in others
            }


def scored(run: dict[str, Any], split: str, bench: compression.Bench) -> float:
    """A run's score on a split, kept beside it."""
    path = run["folder"] / f"score-{split}.json"
    if not path.is_file():
        shutil.rmtree(run["folder"] / "its-own", ignore_errors=True)  # a library's checkpoints of its own
        folder = run["folder"] / "student"
        made = checkpoint.load(folder, bench.splits(split).task)
        subject = Subject("student", "transformers", folder, made.tokenizer, made)
        write_text(path, json.dumps(score(subject, bench.splits(split)).score))
    return json.loads(path.read_text(encoding="utf-8"))


def look_into(
    running: list[Arm], whole: Ground, rows: dict[str, dict[str, Any]], words: argparse.Namespace
) -> dict[str, Any] | None:
    """Our step against the arithmetic, with the settings that were chosen."""
    mine = next((arm for arm in running if arm.name == ratios.MINE), None)
    if mine is None:
        return None
    chosen = rows[mine.name]["chosen"]
    steps = int(LOOKED_INTO * words.texts / chosen["batch_size"])
    told = whole.run(mine, chosen["batch_size"], chosen["learning_rate"], steps=steps)
    return {word: value for word, value in told.items() if word not in ("folder", "process", "seed", "arm")}


if __name__ == "__main__":
    sys.exit(main())
