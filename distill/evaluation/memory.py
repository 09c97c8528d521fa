"""How much memory: the peak of a fresh process that loads a checkpoint's files and answers one batch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)
# What a launcher of several processes tells each of them; the fresh process is none of them.
_LAUNCHED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


def peak_memory(served: Path) -> float | None:
    """Peak resident memory in MB (10^6 bytes) of a process that serves a checkpoint folder in torch, or a graph file.

    Interpreter and engine count, this process doesn't. None, with a warning, when the process fails.
    """
    script = Path(__file__).with_name("one_answer.py")
    environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHED}
    command = [sys.executable, str(script), str(served)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        log.warning("memory of %s could not be measured: %s", served, (done.stderr.splitlines() or ["no output"])[-1])
        return None
    return float(done.stdout.split()[-1])
