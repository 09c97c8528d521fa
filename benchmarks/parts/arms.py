"""The arms of the distillation benchmark: which there are, the Python each runs in, and a run of one of them, kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import say

import distill
from distill.disk import write_text

SCRIPTS = Path(__file__).parents[1] / "throughput_arms"
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


@dataclass(frozen=True)
class Arm:
    """A way to distil: its script, and what its Python needs when it isn't this one."""

    name: str
    title: str
    script: str
    needs: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.script == "ours.py"


_COMMON = ("torch", "transformers")  # the versions of constraints.txt, in every Python
ARMS = (
    Arm("trainer-padded", "plain Trainer, padded to 128", "plain.py"),
    Arm("trainer-dynamic", "plain Trainer, padded dynamically", "plain.py"),
    Arm("textbrewer", "TextBrewer", "with_textbrewer.py", (*_COMMON, "textbrewer==0.2.1.post1")),
    Arm("torchdistill", "torchdistill", "with_torchdistill.py", (*_COMMON, "torchdistill==1.1.5")),
    Arm("ours", "ours", "ours.py"),
    Arm("ours-logits", "ours, logits alone", "ours.py"),
    Arm("ours-frozen", "ours, frozen embeddings", "ours.py"),
)


class ArmError(Exception):
    """An arm that can't be had here, or that broke; the message says why."""


@dataclass(frozen=True)
class Ground:
    """What all runs of all arms share: their files and where their own are left."""

    runs: Path
    pythons: Path  # of the libraries that need one of their own
    train: Path
    validation: Path
    dev: Path
    teacher: Path
    student: Path
    epochs: int
    bytes: str  # of teacher, student and texts

    def run(
        self, arm: Arm, batch_size: int, learning_rate: float, seed: int = 0, *, steps: int | None = None,
        beside: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """One run in a process of its own: what the arm told, what the process took, its folder. Done runs are read.

        With `steps` it is no training: so many steps of ours are looked into. Where times are compared a run counts
        only `beside` the code that it ran in turns with. Raises ArmError.
        """
        words = {"arm": arm.name, "batch_size": batch_size, "learning_rate": learning_rate, "epochs": self.epochs}
        words |= {"seed": seed, "steps": steps}
        script = arm.script if steps is None else "step.py"
        title = f"{arm.name}, batch {batch_size}, rate {learning_rate:g}, seed {seed}"
        key = {**words, "bytes": self.bytes, "code": code(arm, script), "beside": beside}
        folder = self.runs / f"{arm.name}-{_digest(key)}"
        if (folder / "run.json").is_file():
            return {**json.loads((folder / "run.json").read_text(encoding="utf-8")), "folder": folder}
        say(title)
        python = interpreter(arm, self.pythons)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        places = {name: getattr(self, name) for name in ("train", "validation", "dev", "teacher", "student")}
        plan = {**words, **{name: str(path) for name, path in {**places, "output": folder}.items()}}
        write_text(folder / "plan.json", json.dumps(plan))
        took = _timed([str(python), str(SCRIPTS / script), str(folder / "plan.json")], folder, ours=arm.ours)
        told = json.loads((folder / "told.json").read_text(encoding="utf-8")) | {**words, "process": took}
        write_text(folder / "run.json", json.dumps(told))
        return {**told, "folder": folder}


def interpreter(arm: Arm, folder: Path) -> Path:
    """The Python that an arm runs in: this one, or one of its own, made once from PyPI. Raises ArmError."""
    if not arm.needs:
        return Path(sys.executable)
    place, why = folder / f"{arm.name}-{_digest(arm.needs)}", None
    python, broken, done = place / "bin" / "python", place / "broken.txt", place / "done.txt"
    if broken.is_file():
        raise ArmError(broken.read_text(encoding="utf-8"))
    if done.is_file():
        return python
    say(f"{arm.name}: a Python of its own")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), *arm.needs]
    for command in ([sys.executable, "-m", "venv", "--clear", str(place)], pip):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            why = f"{' '.join(arm.needs)} can't be installed: {_last(made.stderr)}"
            place.mkdir(parents=True, exist_ok=True)
            write_text(broken, why)
            raise ArmError(why)
    write_text(done, "\n".join(arm.needs))
    return python


def _timed(command: Sequence[str], folder: Path, *, ours: bool) -> dict[str, float]:
    """Wall and CPU seconds of a whole process on one thread, imports included. Raises ArmError with its last words."""
    home = {"PYTHONPATH": str(Path(distill.__file__).parents[1])} if ours else {}
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, env={**_environment(), **quiet, **home}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ArmError(_last((folder / "output.txt").read_text(encoding="utf-8")))
    return {"seconds": time.perf_counter() - start, "cpu_seconds": used.ru_utime + used.ru_stime}


def _environment() -> dict[str, str]:
    """This process's, without what would lead another Python to this one's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _last(output: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def code(arm: Arm, script: str) -> str:
    """What an arm's time hangs on beside its plan: its script and, of ours, every line of the product."""
    files = [SCRIPTS / "arm.py", SCRIPTS / arm.script, SCRIPTS / script]
    if arm.ours:
        files += sorted(Path(distill.__file__).parent.rglob("*.py"))
    return _digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in files] + list(arm.needs))


def digest_of(files: Mapping[str, Path]) -> str:
    """A hash of some files' bytes."""
    return _digest({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()})


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def described(arm: Arm) -> dict[str, Any]:
    """An arm as the JSON tells of it."""
    return {word: value for word, value in asdict(arm).items() if word != "needs"} | {"ours": arm.ours}
