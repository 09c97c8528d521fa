"""The process that talks to W&B: `python -m distill.tracking.worker SPOOL PARENT PATIENCE`, in the run's folder.

It follows the spool file until the run has told its end, or until the parent process is gone: then the W&B run ends as
crashed. W&B's folder, its staged files and this process's working directory are the run's folder, so that every path
that W&B writes down is a relative one (it uploads those of artifacts).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KILLED = 137  # the exit code of a run whose process is gone
_LOOK = 0.2  # seconds between two looks at the spool
Event = dict[str, Any]


def main(spool: Path, parent: int, patience: float) -> None:
    """Follows a spool to its end; what goes wrong is written beside it for the parent, and the rest goes on."""
    for what in (signal.SIGINT, signal.SIGTERM):  # whoever stops the run stops the parent, and that decides
        signal.signal(what, signal.SIG_IGN)
    stopped = threading.Event()
    threading.Thread(target=_hear, args=(stopped,), daemon=True).start()
    threading.Thread(target=_leave_with, args=(parent, patience), daemon=True).start()
    say = functools.partial(_say, spool.with_suffix(".said"))
    try:
        from distill.tracking.wandb_run import WandbRun

        events = follow(spool, parent, stopped)
        run = WandbRun(next(events), parent, _before(spool), say)
    except BaseException as error:
        _say_error(say, error)
        raise
    for event in events:
        try:
            run.take(event, spool.with_suffix(""))
        except Exception as error:  # one event that W&B refuses; the next may be taken
            _say_error(say, error)


def follow(spool: Path, parent: int, stopped: threading.Event) -> Iterator[Event]:
    """The events of a spool as they come, up to the run's end; an end of its own when the run's process is gone."""
    with spool.open("rb") as file:
        rest = b""
        while True:
            gone = os.getppid() != parent or stopped.is_set()  # asked first: what was written before is still read
            *lines, rest = (rest + file.read()).split(b"\n")
            for event in map(_event, lines):
                yield event
                if event["kind"] == "finish":
                    return
            if gone:
                yield {"kind": "finish", "exit_code": KILLED}
                return
            time.sleep(_LOOK)


def _event(line: bytes) -> Event:
    try:
        return json.loads(line)
    except ValueError:  # half a line, on a disk that was full
        return {"kind": "nothing"}


def _before(spool: Path) -> tuple[int, dict[str, float]]:
    """What earlier sittings of the run told: how many rows, at most, and each metric's last value."""
    rows, last = 0, {}
    earlier = [path for path in spool.parent.glob("*.jsonl") if int(path.stem) < int(spool.stem)]
    for path in sorted(earlier, key=lambda path: int(path.stem)):
        for line in path.read_bytes().splitlines():
            event, rows = _event(line), rows + 1
            if event["kind"] == "metrics":
                last |= {f"{event['step']}/{word}": value for word, value in event["values"].items()}
    return rows, last


def _hear(stopped: threading.Event) -> None:
    """Waits for a word on standard input, or its end: the parent can't tell any more."""
    os.read(0, 1)
    stopped.set()


def _leave_with(parent: int, patience: float) -> None:
    """Ends this process when its parent is gone and W&B has had its time; wandb's service ends with this process."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    time.sleep(patience)
    os._exit(1)


def _say(path: Path, **said: Any) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(said) + "\n")


def _say_error(say: functools.partial[None], error: BaseException) -> None:
    first = (str(error).strip().splitlines() or [""])[0][:300]
    say(error=f"{type(error).__name__}: {first}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
