"""How much memory a corpus takes: training data read, kept apart, encoded, and a few steps trained on it.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --json benchmarks/results/memory.json [--lines 10000 1000000]

Each size runs in a process of its own, whose resident memory is read from outside 50 times a second: what is its own
(anonymous pages), and what is pages of mapped files, which the system takes back when others need the room. Corpora are
made up from a small vocabulary by a seed; they, and all that is kept of them, lie in a temporary folder that is
removed. A plot is drawn beside the JSON; sizes that are not asked for keep what the JSON says of them. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora import UNLABELLED, write_corpus

from distill.disk import write_text
from distill.report import machine, versions

TASKS = ("causal-language-modelling", "text-classification", UNLABELLED)
LINES = (10**4, 10**5, 10**6, 10**7)
_STATUS = {"RssAnon": "own", "RssFile": "mapped", "RssShmem": "shared", "VmRSS": "resident"}
_EVERY = 0.02  # seconds


def main() -> int:
    """Measures every task at every size, and writes what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--lines", type=int, nargs="+", default=LINES)
    parser.add_argument("--task", action="append", choices=TASKS, help="only this one; may be said again")
    words = parser.parse_args()
    told = json.loads(words.json.read_text(encoding="utf-8")) if words.json.is_file() else {}
    told |= {"command": "OMP_NUM_THREADS=1 python benchmarks/memory.py --json PATH", "unit": "MB (10^6 bytes)"}
    told |= {"machine": machine(), "versions": versions()}
    for lines in words.lines:
        with tempfile.TemporaryDirectory(prefix="distill-corpus-") as place:
            corpus = write_corpus(Path(place), lines)
            for task in words.task or TASKS:
                found = measure(corpus, task, lines)
                rows = {(row["task"], row["lines"]): row for row in [*told.get("rows", []), found]}
                told["rows"] = [rows[key] for key in sorted(rows)]
                write_text(words.json, json.dumps(told, indent=2) + "\n")
                print(json.dumps(found), flush=True)
    draw(told["rows"], words.json.with_suffix(".png"), told.get("before", ()))
    return 0


def measure(corpus: dict[str, Path], task: str, lines: int) -> dict[str, Any]:
    """One process that reads, encodes and trains: the peak of each of its stages, and of all."""
    folder = next(iter(corpus.values())).parent
    kept = {name: str(folder / name) for name in ("HF_HOME", "DISTILL_STORE", "TMPDIR")}
    Path(kept["TMPDIR"]).mkdir(exist_ok=True)
    script = Path(__file__).with_name("corpora.py")
    child = subprocess.Popen(
        [sys.executable, str(script), task, str(corpus[task]), str(folder / "vocabulary.json")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **kept, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    stages: dict[str, dict[str, float]] = {}
    now: list[str] = ["begin"]
    facts: dict[str, Any] = {}
    listener = threading.Thread(target=_listen, args=(child, now, facts))
    listener.start()
    began = time.perf_counter()
    while child.poll() is None:
        stage = stages.setdefault(now[0], {"from": time.perf_counter() - began})
        for name, value in _memory(child.pid).items():
            stage[name] = max(stage.get(name, 0.0), value)
        stage["seconds"] = round(time.perf_counter() - began - stage["from"], 1)
        time.sleep(_EVERY)
    listener.join()
    if child.returncode != 0:
        raise SystemExit(f"{task}, {lines} lines: the process failed")
    peak = {name: max(stage.get(name, 0.0) for stage in stages.values()) for name in _STATUS.values()}
    told = {name: {k: v for k, v in stage.items() if k != "from"} for name, stage in stages.items()}
    size = sum(path.stat().st_size for name, path in corpus.items() if name == task)
    return {
        "task": task, "lines": lines, "corpus": round(size / 1e6, 1), "peak": peak,
        "grown": round(peak["own"] - stages["begin"]["own"], 1), "stages": told, **facts,
    }  # fmt: skip


def _listen(child: subprocess.Popen[str], now: list[str], facts: dict[str, Any]) -> None:
    """Which stage a process says that it is in, and what it tells in the end."""
    for line in child.stdout or ():
        if line.startswith("stage "):
            now[0] = line.split()[1]
        elif line.startswith("{"):
            facts |= json.loads(line)


def _memory(process: int) -> dict[str, float]:
    """Resident memory of a process now, in MB, by what it consists of; nothing of one that is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines)
    return {_STATUS[name]: round(1024 * int(rest[0].split()[0]) / 1e6, 1) for name, *rest in pairs if name in _STATUS}


def draw(rows: Sequence[dict[str, Any]], path: Path, before: Sequence[dict[str, Any]] = ()) -> None:
    """Writes a PNG: memory of its own, mapped pages and the corpus itself, by lines; `before` is an earlier own."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    drawn = Figure(figsize=(5.5 * len(tasks), 4.2), layout="constrained")
    for axes, task in zip(drawn.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        mine = [row for row in rows if row["task"] == task]
        lines = [row["lines"] for row in mine]
        for name, colour in (("own", "#1f6f8b"), ("mapped", "#b5651d")):
            axes.plot(lines, [row["peak"][name] for row in mine], "o-", color=colour, label=f"{name}, peak")
        once = [row for row in before if row["task"] == task]
        if once:
            own = [row["peak"]["own"] for row in once]
            axes.plot([row["lines"] for row in once], own, ":", color="#1f6f8b", label="own, before, peak")
        axes.plot(lines, [row["corpus"] for row in mine], "--", color="#999999", label="the corpus on disk")
        axes.set(xscale="log", xlabel="lines", ylabel="MB", title=task)
        axes.set_ylim(0, 1.3 * max(row["peak"]["own"] + row["peak"]["mapped"] for row in [*mine, *once]))
        axes.grid(color="#eeeeee")
        axes.legend(fontsize=8)
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
