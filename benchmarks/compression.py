"""How small, how fast, at what loss: the shipped SST-2 recipes, three seeds each, beside what others offer.

    OMP_NUM_THREADS=1 python benchmarks/compression.py --data DIR --json benchmarks/results/compression.json

DIR holds `sst2_glue/{train,dev,test}.tsv` (label, tab, text) and `banking77/{train,test}.csv` (text, category). A
teacher is fine-tuned once and shared by all seeds. Whatever chooses (validation, training) comes from a part of train
without any phrase that contains a held-out one or lies in one; dev and test are only ever scored. All rows
are timed in one interleaved session, on one thread, against the teacher in eager torch and on ONNX Runtime in fp32.

Trainings lie in the store: the same command goes on where it was cut off, and takes what is done. `--part` does some of
it (sst2: the recipes and their peers; prune: without retraining; int8: what int8 costs); `--quick` does everything on
slivers, to see that it works; its figures mean nothing, and no goal is judged.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import goals
import pareto
import peers
import phrases
import torch
from measuring import EAGER, GRAPH, Row, measure, pick, say

import distill
from distill import library
from distill.checkpoint import fingerprint
from distill.checkpoint import load as load_checkpoint
from distill.data import Splits
from distill.disk import write_text
from distill.evaluation import Subject, score
from distill.export import as_graph
from distill.pipeline import run
from distill.pipeline.state import read_state
from distill.pruning.latency import MachineClock
from distill.recipe import Data, Prune, to_yaml
from distill.recipe import load as load_recipe
from distill.report import machine, versions

PARTS = ("sst2", "prune", "int8")
RECIPES = ("sst2-compact", "sst2-fast")
CARD = "minilm-l6"
SCORED = ("dev", "test")  # never chosen on
TEACHER_INT8 = "teacher, ours in int8"
# Tried from the fastest on; the first that loses less than one hundredth on validation counts.
PRUNES: tuple[dict[str, Any], ...] = tuple(
    {"to": {"latency": share, "batch": 8, "tokens": 64}, "examples": 1024} for share in (0.5, 0.6, 0.7)
)
BANKING = {"epochs": 6, "learning_rate": 3e-4, "batch_size": 64, "dropout": 0.1, "patience": 6}
SAME_BUDGET = {"learning_rate": 1e-4, "batch_size": 64, "dropout": 0.1, "patience": 9}  # of what is fine-tuned plainly


@dataclass
class Bench:
    """Where everything lies, and how much of it is done."""

    runs: Path
    data: Path
    seeds: int
    quick: bool
    rows: list[Row] = field(default_factory=list)
    loaded: dict[str, Splits] = field(default_factory=dict)

    @property
    def sst2(self) -> dict[str, Any]:
        """A recipe's `data`, replaced by the benchmark's own splits."""
        names = {"source": "train", "validation": "validation", "test": "dev"}
        return {word: str(self.data / f"{name}.tsv") for word, name in names.items()} | {"max_length": 128}

    def run(self, recipe: str, title: str, *, seed: int = 0, **settings: Any) -> Path:
        """A shipped recipe, with these settings in place of its own; the folder of the run."""
        settings = {
            "data": self.sst2, "seed": seed, "ship": None, "expect": {}, **settings,
            "track": {"wandb": "off", "energy": False}, "timing": {"batch": [1], "tokens": 16, "rounds": 3},
        }  # fmt: skip
        overrides = [f"{word}={json.dumps(given)}" for word, given in settings.items()]
        whole = load_recipe(library.find("recipes", recipe), overrides)
        folder = self.runs / f"{title}-{hashlib.sha256(to_yaml(whole).encode()).hexdigest()[:8]}"
        say(title)
        if is_done(folder):  # its own measurements don't count here; the joint session makes its own
            return folder
        run(whole, folder, name=title, smoke=self.quick)
        return folder

    def splits(self, scored: str) -> Splits:
        """Rows to score, as the test split: dev or test of SST-2; or validation, to choose on."""
        if scored not in self.loaded:
            aside = "dev" if scored == "validation" else "validation"
            names = {"source": "train", "validation": aside, "test": scored}
            given = {word: str(self.data / f"{name}.tsv") for word, name in names.items()}
            self.loaded[scored] = distill.load_data(Data(**given, max_length=128))
        return self.loaded[scored]


def main() -> int:
    """Runs the benchmark; 1 when a goal is missed."""
    words = read_words()
    torch.set_num_threads(1)
    data = words.runs / ("sst2-sliver" if words.quick else "sst2")
    few = {"validation": 80, "limit": 600} if words.quick else {}
    sst2 = phrases.load(words.data / "sst2_glue", **few)
    if words.quick:
        sst2.dev, sst2.test = sst2.dev[:100], sst2.test[:100]
    bench = Bench(words.runs, sst2.write(data), words.seeds, words.quick)
    told: dict[str, Any] = {
        "command": " ".join(["python benchmarks/compression.py", *hide_paths(sys.argv[1:])]),
        "quick": words.quick,
        "seeds": list(range(words.seeds)),
        "machine": machine(),
        "versions": versions(),
        "data": {"sst2": sst2.told},
    }
    teacher = add_teacher(bench)
    if "sst2" in words.part:
        add_recipes(bench, teacher)
        add_peers(bench, teacher)
    if "prune" in words.part:
        told["without_retraining"] = add_pruned(bench, teacher)
    told |= measure(bench.rows, {split: bench.splits(split) for split in SCORED}, quick=words.quick)
    if "int8" in words.part:
        told["int8"] = [*cost_of_int8(told["rows"]), measure_banking(bench, words.data / "banking77")]
    told["goals"] = goals.judge(told)
    write_text(words.json, json.dumps(told, indent=1) + "\n")
    pareto.draw(told["rows"], words.json.with_suffix(".png"))
    for goal in told["goals"]:
        print(goals.spell(goal))
    return 1 if any(goal["met"] is False for goal in told["goals"]) and not words.quick else 0


def is_done(folder: Path) -> bool:
    """Whether a run ended there."""
    state = read_state(folder)
    return state is not None and state.standing == "done" and (folder / "report.json").is_file()


def read_words() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2_glue and banking77")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go; the plot goes beside them")
    parser.add_argument("--runs", type=Path, default=Path("runs/compression"), help="where run folders are left")
    parser.add_argument("--seeds", type=int, default=3, help="how many times each recipe's student is trained")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="what is done")
    parser.add_argument("--quick", action="store_true", help="everything on slivers")
    words = parser.parse_args()
    words.runs, words.json = words.runs.resolve(), words.json.resolve()
    if words.quick:
        words.runs = words.runs / "quick"
    return words


def hide_paths(words: list[str]) -> list[str]:
    """The command as anybody would give it: what stands behind `--data`, `--runs` and `--json` is this machine's."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        shown.append({"--data": "DIR", "--runs": "RUNS", "--json": "PATH"}.get(before, word))
    return shown


def add_teacher(bench: Bench) -> Path:
    """The teacher, fine-tuned as the recipes say, in eager torch and as a graph."""
    folder = bench.run(RECIPES[0], "teacher", student={"layers": 6}, steps=["quantize"])
    teacher = folder / "teacher"
    minutes = [minutes_of(folder, "finetune")]
    bench.rows += [
        Row(EAGER, True, [pick(teacher, "transformers", "teacher")], minutes),
        Row(GRAPH, True, [pick(folder / "teacher-onnx", "onnx-fp32", "teacher")], minutes),
        Row(TEACHER_INT8, True, [pick(folder / "1-quantize", "onnx-int8", "teacher int8")]),
    ]
    return teacher


def minutes_of(folder: Path, *kinds: str) -> float:
    """How long a run's pieces of some kinds took when they were made, one thread each."""
    steps = json.loads((folder / "report.json").read_text(encoding="utf-8"))["steps"]
    return sum(step["seconds"] for step in steps if step["kind"] in kinds) / 60


def add_recipes(bench: Bench, teacher: Path) -> None:
    """Both recipes as they are shipped, a student for each seed, with the one teacher."""
    for recipe in RECIPES:
        graphs: dict[str, list[Subject]] = {"onnx-int8": [], "onnx-fp32": []}
        minutes = []
        for seed in range(bench.seeds):
            given = {"teacher": {"checkpoint": str(teacher)}}
            folder = bench.run(recipe, f"{recipe}-{seed}", seed=seed, **given)
            (last,) = folder.glob("*-quantize")
            for form, found in graphs.items():
                found.append(pick(last, form, f"{recipe}-{seed}"))
            minutes.append(minutes_of(folder, "distill", "prune", "quantize"))
        bench.rows += [
            Row(f"{recipe}, int8", True, graphs["onnx-int8"], minutes),
            Row(f"{recipe}, fp32", True, graphs["onnx-fp32"], minutes),
        ]


def epochs_of(recipe: str) -> float:
    """How many times a recipe's student sees the training split."""
    steps = load_recipe(library.find("recipes", recipe)).steps
    return sum(step.distill.epochs for step in steps if step.distill is not None)


def add_peers(bench: Bench, teacher: Path) -> None:
    """Beside ours: dynamic quantization, plain fine-tuning of a cut student, torch-pruning."""
    loaded = load_checkpoint(teacher)
    say("peer: onnxruntime")
    dynamic = bench.runs / "peers" / "onnxruntime"
    once(dynamic, lambda folder: peers.quantized_by_onnxruntime(loaded, folder), teacher)
    bench.rows.append(Row("teacher, quantize_dynamic", False, [pick(dynamic, "onnx-int8")]))

    steps = [{"finetune": {"epochs": epochs_of(RECIPES[0]), **SAME_BUDGET}}, "quantize"]
    cut = bench.runs / "peers" / "cut"
    task = bench.splits("dev").task
    once(cut, lambda folder: peers.cut_and_not_taught(CARD, task, 3, folder), teacher)
    halved = bench.runs / "peers" / "torch-pruning"
    say("peer: torch-pruning")
    once(halved, lambda folder: peers.pruned_by_torch_pruning(loaded, folder), teacher)
    for name, start in (("3 layers, plain fine-tuning", cut), ("torch-pruning, fine-tuned", halved)):
        given = {"teacher": {"checkpoint": str(teacher)}, "student": {"checkpoint": str(start)}, "steps": steps}
        folder = bench.run(RECIPES[0], f"peer-{start.name}", **given)
        minutes = [minutes_of(folder, "finetune")]
        bench.rows.append(Row(f"{name}, fp32", False, [pick(folder / "2-quantize", "onnx-fp32")], minutes))
    as_left = bench.runs / "peers" / "torch-pruning-onnx"
    once(as_left, lambda folder: as_graph(load_checkpoint(halved), data=bench.splits("dev"), folder=folder), teacher)
    bench.rows.append(Row("torch-pruning, as its example ends", False, [pick(as_left, "onnx-fp32")]))


def once(folder: Path, make: Callable[[Path], object], source: Path) -> None:
    """Makes a folder unless it is there, whole, and was made of the same bytes."""
    mark, bytes_ = folder.with_name(f"{folder.name}.made-of"), fingerprint(source)
    if folder.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == bytes_:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    make(folder)
    write_text(mark, bytes_)


def add_pruned(bench: Bench, teacher: Path) -> dict[str, Any]:
    """The teacher with less in it, not trained again: the fastest of some settings that validation allows.

    CPU-minutes are the process's: of the setting that was chosen, and of all that were tried until then. What a layer
    takes on this machine is measured once for all of them, in the first one's minutes.
    """
    data = distill.load_data(Data(**{**bench.sst2, "limit": 400 if bench.quick else None}))
    whole, tries = load_checkpoint(teacher), []
    validation = bench.splits("validation")
    base = score(Subject("teacher", "transformers", teacher, whole.tokenizer, whole), validation).score
    began = time.process_time()
    scratch = bench.runs / "pruned" / "clock"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    clock = MachineClock(Prune(**PRUNES[0]).to, data, scratch)
    for number, words in enumerate(PRUNES):
        say(f"prune: {words}")
        before = time.process_time()
        pruned = distill.prune(whole, Prune(**words), data=data, clock=clock)
        spent = (time.process_time() - before) / 60
        folder = bench.runs / "pruned" / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        pruned.save(folder)
        found = score(Subject("pruned", "transformers", folder, pruned.tokenizer, pruned), validation).score
        tries.append({"prune": words, "lost_on_validation": 1 - found / base, "cpu_minutes": spent})
        if 1 - found / base < 0.01:
            break
    spent = (time.process_time() - began) / 60
    chosen = len(tries) - 1  # the gentlest one where none is allowed: a miss that stands as a miss
    graph = bench.runs / "pruned" / f"{chosen}-onnx"
    shutil.rmtree(graph, ignore_errors=True)
    as_graph(load_checkpoint(bench.runs / "pruned" / str(chosen)), data=validation, folder=graph)
    minutes = [tries[chosen]["cpu_minutes"]]
    bench.rows.append(Row("teacher, pruned, not trained again", True, [pick(graph, "onnx-fp32")], minutes))
    return {"tried": tries, "chosen": chosen, "cpu_minutes": tries[chosen]["cpu_minutes"], "cpu_minutes_in_all": spent}


def cost_of_int8(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What int8 costs each checkpoint that is there in both: points between its graphs, dev and test pooled."""
    by_name, told = {row["name"]: row for row in rows}, []
    pairs = [(TEACHER_INT8, GRAPH), *((f"{name}, int8", f"{name}, fp32") for name in RECIPES)]
    for small, large in (pair for pair in pairs if by_name.keys() >= set(pair)):
        pooled = {form: pool(by_name[name]) for form, name in (("int8", small), ("fp32", large))}
        told.append({"data": "SST-2, dev and test", "checkpoint": large.partition(",")[0], **lost(pooled)})
    return told


def pool(row: dict[str, Any]) -> float:
    """The mean score over dev and test as one."""
    return sum(row[split]["mean"] * row[split]["n"] for split in SCORED) / sum(row[split]["n"] for split in SCORED)


def lost(scores: dict[str, float]) -> dict[str, Any]:
    """Two scores and the points between them, in hundredths."""
    return {**scores, "points_lost": 100 * (scores["fp32"] - scores["int8"])}


def measure_banking(bench: Bench, source: Path) -> dict[str, Any]:
    """What int8 costs a teacher of 77 classes, quantized by the same step and scored on its own test split."""
    folder = write_banking(source, bench.runs / "banking77")
    data = {"source": str(folder / "train.tsv"), "test": str(folder / "test.tsv"), "validation": 0.1, "max_length": 128}
    made = bench.run(
        RECIPES[0], "banking77", data=data, student={"layers": 6}, steps=["quantize"],
        teacher={"card": CARD, "finetune": BANKING},
    )  # fmt: skip
    rows = json.loads((made / "report.json").read_text(encoding="utf-8"))["rows"]
    scores = {row["format"].removeprefix("onnx-"): row["score"] for row in rows if row["name"] == "1-quantize"}
    return {"data": "banking77, test", "checkpoint": "teacher", **lost(scores)}


def write_banking(source: Path, folder: Path) -> Path:
    """banking77 as tsv: line ends within a text become spaces."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        with (source / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = [(" ".join(row["text"].split()), row["category"]) for row in csv.DictReader(file)]
        lines = "".join(f"{text}\t{label}\n" for text, label in rows)
        write_text(folder / f"{name}.tsv", "text\tlabel\n" + lines)
    return folder


if __name__ == "__main__":
    sys.exit(main())
