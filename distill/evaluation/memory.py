"""How much memory: the peak of a fresh process that loads a checkpoint's files and answers one batch."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)


def peak_memory(served: Path) -> float | None:
    """Peak resident memory in MB (10^6 bytes) of a process that serves a checkpoint folder in torch, or a graph file.

    Interpreter and engine count, this process doesn't. None, with a warning, when the process fails.
    """
    script = Path(__file__).with_name("one_answer.py")
    done = subprocess.run([sys.executable, str(script), str(served)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log.warning("memory of %s could not be measured: %s", served, (done.stderr.splitlines() or ["no output"])[-1])
        return None
    return float(done.stdout.split()[-1])
