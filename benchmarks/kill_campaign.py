"""Kills real runs with -9 at random moments, gives the same command again, and compares with a run left alone.

    python benchmarks/kill_campaign.py --kills 12 --json benchmarks/results/kill_campaign.json

Each trial has a store and a folder of its own, is killed once or twice, and must then end with exit code 0, without
making a finished piece again and without leaving anything half written. Outside a training the weights must be equal
bit for bit; inside one the scores must be the same within half a point.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distill.report import machine, versions

HALF_A_POINT = 0.005


def start(arguments: list[str], folder: Path, store: Path) -> subprocess.Popen:
    """The command in a process group of its own."""
    command = [sys.executable, "-m", "distill", "run", *arguments, "--output", str(folder)]
    return subprocess.Popen(
        command, env={**os.environ, "DISTILL_STORE": str(store)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished_pieces(store: Path) -> dict[str, bytes]:
    """Every finished piece's entry, to see whether it is ever made again."""
    return {path.parent.name: path.read_bytes() for path in store.glob("*-*/entry.json")}


def result(folder: Path) -> dict:
    """The scores of every row and the hash of every step's weights."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "scores": {f"{row['name']} {row['format']}": row["score"] for row in report["rows"]},
        "weights": {step["name"]: step["sha256"] for step in report["steps"]},
    }


def trial(arguments: list[str], place: Path, moments: list[float], alone: dict) -> dict:
    """One run, killed after so many seconds each time, then left to end."""
    folder, store = place / "run", place / "store"
    told: dict = {"killed_after_seconds": [round(moment, 2) for moment in moments], "killed": 0, "problems": []}
    within_training = False
    for moment in moments:
        process = start(arguments, folder, store)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            told["killed"] += 1
        process.communicate()
        within_training |= any(store.glob("unfinished/*/workshop/checkpoint-*"))
    before = finished_pieces(store)
    process = start(arguments, folder, store)
    _, errors = process.communicate()
    told |= {"finished_before": len(before), "exit_code": process.returncode, "killed_inside_training": within_training}
    if process.returncode != 0:
        told["problems"].append(errors.splitlines()[-1] if errors else "no output")
        return told
    if not before.items() <= finished_pieces(store).items():
        told["problems"].append("a finished piece was made again")
    if any((store / "unfinished").iterdir()):
        told["problems"].append("something unfinished is left in the store")
    if left := [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]:
        told["problems"].append(f"half written: {left}")
    found = result(folder)
    told["weights_equal"] = found["weights"] == alone["weights"]
    told["largest_score_difference"] = max(abs(found["scores"][row] - alone["scores"][row]) for row in alone["scores"])
    if not within_training and not told["weights_equal"]:
        told["problems"].append("killed outside a training, and the weights differ")
    if told["largest_score_difference"] > HALF_A_POINT:
        told["problems"].append("a score differs by more than half a point")
    return told


def main() -> int:
    """Runs the campaign; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--recipe", default="quickstart", help="what is run, on a sliver of its data")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="settings of the recipe")
    parser.add_argument("--kills", type=int, default=12, help="number of trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    words = parser.parse_args()
    arguments = [words.recipe, "--smoke", *words.settings]
    chance = random.Random(words.seed)
    with tempfile.TemporaryDirectory(prefix="distill-kills-") as scratch:
        alone = Path(scratch) / "alone"
        alone.mkdir()
        began = time.perf_counter()
        process = start(arguments, alone / "run", alone / "store")
        _, errors = process.communicate()
        if process.returncode != 0:
            sys.exit(f"the run left alone failed: {errors}")
        length = time.perf_counter() - began
        undisturbed = result(alone / "run")
        trials = []
        for number in range(words.kills):
            place = Path(scratch) / str(number)
            place.mkdir()
            moments = [chance.uniform(0.05, 1.0) * length for _ in range(1 + number % 2)]
            trials.append(trial(arguments, place, moments, undisturbed))
            print(json.dumps(trials[-1]), flush=True)
            shutil.rmtree(place)
    lost = sum(bool(told["problems"]) for told in trials)
    figures = {
        "command": " ".join(["python benchmarks/kill_campaign.py", *sys.argv[1:]]),
        "seeds": [words.seed],
        "machine": machine(),
        "versions": versions(),
        "seconds_of_a_run_left_alone": round(length, 1),
        "trials": trials,
        "trials_with_a_problem": lost,
    }
    words.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{len(trials)} trials, {sum(told['killed'] for told in trials)} kills, {lost} with a problem")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
