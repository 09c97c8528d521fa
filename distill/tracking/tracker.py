"""The run's side: adds lines to a spool file that a worker process follows. It never waits, and never raises."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.redaction import holds_texts, own_words, page_without_paths, without_paths
from distill.tracking import mode

if TYPE_CHECKING:
    from distill.recipe import Recipe

PATIENCE = 15.0  # seconds that W&B is given when a run ends
_LONGEST_TAG = 64
log = logging.getLogger(__name__)


def start(
    recipe: Recipe, folder: Path, *, name: str, run_id: str, config: dict[str, Any], tags: Sequence[str]
) -> Tracker:
    """Opens the W&B run of a pipeline run, or goes on in it, without waiting for it.

    With `track: {wandb: off}` the Tracker does nothing. `run_id` stays the same over all sittings of a run; under a
    sweep agent the agent's own id, project and team win.
    """
    tracker = Tracker()
    try:
        chosen, warning = mode.choose(recipe.track.wandb)
        if warning is not None:
            log.warning("%s", warning)
        if chosen != "off":
            swept = bool(os.environ.get("WANDB_SWEEP_ID"))
            kinds = [step.kind for step in recipe.steps]
            first = {
                "kind": "start",
                "mode": chosen,
                "project": os.environ.get("WANDB_PROJECT", recipe.track.project) if swept else recipe.track.project,
                "entity": os.environ.get("WANDB_ENTITY", recipe.track.entity) if swept else recipe.track.entity,
                "run_id": os.environ.get("WANDB_RUN_ID") or run_id,
                "name": name,
                "group": name,
                "job_type": "+".join(kinds),
                "tags": _short_tags([*tags, *recipe.track.tags]),
                "config": config | {f"{place}-{kind}": _settings(config, place) for place, kind in enumerate(kinds, 1)},
            }
            tracker.keep = own_words(config["data"])
            tracker.open(folder, without_paths(first, tracker.keep))
    except Exception as error:  # whatever is wrong with W&B is not wrong with the run
        tracker.give_up(error)
    return tracker


def _short_tags(tags: Sequence[str]) -> list[str]:
    """W&B refuses tags that are empty or longer than 64 characters."""
    return [tag for tag in dict.fromkeys(str(tag).strip()[:_LONGEST_TAG] for tag in tags) if tag]


def _settings(config: dict[str, Any], place: int) -> Any:
    """A step's settings under its name, so that a workspace can show them as columns; lists it can't."""
    return next(iter(config["steps"][place - 1].values()))


class Tracker:
    """A W&B run that is told through a spool file. One that was not opened does nothing."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._spool: int | None = None  # file descriptors: what is told, and the word that nothing more is
        self._stop: int | None = None
        self._path: Path | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._names: dict[str, str] = {}  # SHA-256 → a checkpoint's name
        self._run_name = ""
        self.keep: set[str] = set()  # labels and columns, which may look like paths

    def open(self, folder: Path, first: dict[str, Any]) -> None:
        """Makes the spool and starts the process that follows it."""
        self._folder, self._run_name = folder.absolute(), first["name"]
        below = self._folder / "wandb" / "spool"
        below.mkdir(parents=True, exist_ok=True)
        sitting = 1 + max((int(path.stem) for path in below.glob("*.jsonl") if path.stem.isdecimal()), default=0)
        self._path = below / f"{sitting}.jsonl"
        self._spool = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._write(first)
        package = Path(__file__).resolve().parents[2]
        hears, self._stop = os.pipe()
        with self._path.with_suffix(".log").open("wb") as said, os.fdopen(hears) as stop:
            self._worker = subprocess.Popen(
                # -P: the run's folder holds a folder `wandb` of its own
                [sys.executable, "-P", "-m", "distill.tracking.worker", self._path, str(os.getpid()), str(PATIENCE)],
                cwd=self._folder,
                env=_environment(package),
                stdin=stop,
                stdout=said,
                stderr=said,
                start_new_session=True,  # the terminal's Ctrl-C is for the run; the worker goes when the run says so
            )  # fmt: skip

    def metrics(self, step: str, values: Mapping[str, float]) -> None:
        """Figures of a step that is going on: logged as `1-distill/loss`, over `1-distill/step`."""
        self._tell({"kind": "metrics", "step": step, "values": dict(values)})

    def artifact(
        self,
        name: str,
        kind: str,
        files: Sequence[Path],
        *,
        facts: Mapping[str, Any],
        parents: Sequence[str],
        weights: bool,
    ) -> None:
        """A checkpoint, as an artifact of a kind (teacher, student, pruned, quantized, …).

        `facts` (sha256, bytes, parameters, score, …) are its metadata, and `parents`, by name or SHA-256, say what it
        was made from. `files` go with it when `weights` says so.
        """
        try:
            by_name = {known: sha256 for sha256, known in self._names.items()}
            made_from = []
            for parent in parents:
                named = {"name": self._names.get(parent), "sha256": parent}
                made_from.append({"name": parent, "sha256": by_name[parent]} if parent in by_name else named)
            if "sha256" in facts:
                self._names[facts["sha256"]] = name
            told = {**facts, "checkpoint": name, "made_from": made_from}
            shelf = re.sub(r"[^\w.-]+", "-", f"{self._run_name}-{name}", flags=re.ASCII)[:120]
            sent = [str(path.absolute()) for path in files] if weights else []
        except Exception as error:  # as everywhere here: the run goes on
            self.give_up(error)
            return
        self._tell({"kind": "artifact", "name": shelf, "type": kind, "metadata": told}, files=sent)

    def finish(self, report: dict[str, Any] | None, folder: Path, exit_code: int) -> None:
        """Tells the report (if the run came so far), and gives W&B a few seconds to take everything in."""
        if self._worker is None:
            return
        told: dict[str, Any] = {}
        try:
            if report is not None:
                from distill.tracking.findings import read

                self.keep |= own_words(report["recipe"]["data"], report["data"]["labels"])
                told = read(report)
                self._set_out(report, folder)
        except Exception as error:  # the run is done; W&B does without its report
            log.warning("W&B: the report could not be told: %s", error)
        self._tell({"kind": "finish", "exit_code": exit_code, **told})
        self._close()

    def give_up(self, error: Exception) -> None:
        """Stops tracking, with one warning."""
        log.warning("W&B: tracking stops, the run goes on: %s", error)
        self._stop_telling()  # and the worker closes the W&B run with what it was told so far

    def _tell(self, event: dict[str, Any], files: Sequence[str] = ()) -> None:
        if self._spool is None:
            return
        try:
            self._write(without_paths(event, self.keep) | {"files": list(files)})
        except Exception as error:  # a full disk, most likely
            self.give_up(error)

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, default=_plain).encode() + b"\n"
        if os.write(self._spool, line) < len(line):
            raise OSError("no space left on device")

    def _stop_telling(self) -> None:
        """Closes the spool. The word on the pipe counts: a process that the run forked may hold the pipe open."""
        if self._stop is not None:
            with contextlib.suppress(OSError):  # a worker that is gone
                os.write(self._stop, b".")
            os.close(self._stop)
        if self._spool is not None:
            os.close(self._spool)
        self._spool = self._stop = None

    def _set_out(self, report: dict[str, Any], folder: Path) -> None:
        """Puts what is saved with the W&B run beside the spool, without local paths."""
        out = self._path.with_suffix("")
        out.mkdir(exist_ok=True)
        (out / "report.json").write_text(
            json.dumps(without_paths(report, self.keep), default=_plain, indent=1), encoding="utf-8"
        )
        if (folder / "report.html").is_file():
            page = (folder / "report.html").read_text(encoding="utf-8")
            (out / "report.html").write_text(page_without_paths(page, report), encoding="utf-8")
        if (folder / "predictions.npz").is_file() and not holds_texts(folder / "predictions.npz"):
            shutil.copyfile(folder / "predictions.npz", out / "predictions.npz")

    def _close(self) -> None:
        gave_up, worker = self._spool is None, self._worker
        self._stop_telling()
        try:
            worker.wait(PATIENCE)
            late = False
        except subprocess.TimeoutExpired:
            late = True
            end(worker.pid)
            worker.wait()
        if gave_up:
            return
        said = _said(self._path)
        if late:
            known = f"; what it has is uploaded by: {_sync(self._folder, online=True)}" if "place" in said else ""
            log.warning("W&B did not finish within %.0f s and was stopped%s", PATIENCE, known)
        elif "error" in said or worker.returncode != 0:
            log.warning(
                "W&B: not everything was logged: %s", said.get("error") or f"see {self._path.with_suffix('.log')}"
            )
        elif "note" in said:
            log.warning("W&B: %s; upload it with: %s", said["note"], _sync(self._folder))
        elif said.get("url"):
            log.info("W&B: %s", said["url"])
        else:
            log.info("W&B: logged offline; upload it with: %s", _sync(self._folder))


def _environment(package: Path) -> dict[str, str]:
    """This process's, for one that works in another folder: it finds this package, and a sweep agent's values."""
    environment = dict(os.environ)
    found = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment["PYTHONPATH"] = os.pathsep.join(
        [*(str(Path(place).absolute()) for place in found if place), str(package)]
    )
    if chosen := os.environ.get("WANDB_SWEEP_PARAM_PATH"):
        environment["WANDB_SWEEP_PARAM_PATH"] = str(Path(chosen).absolute())
    return environment


def _sync(folder: Path, *, online: bool = False) -> str:
    # without WANDB_PROGRAM `wandb sync` sends the path of its own program
    more = " --include-online" if online else ""
    return f"(cd {shlex.quote(str(folder))} && WANDB_PROGRAM=distill wandb sync --yes{more})"


def _said(spool: Path) -> dict[str, Any]:
    """What the worker said of itself: where the W&B run is, what went wrong."""
    said: dict[str, Any] = {}
    try:
        for line in spool.with_suffix(".said").read_text(encoding="utf-8").splitlines():
            said |= json.loads(line)
    except (OSError, ValueError):
        pass
    return said


def end(pid: int) -> None:
    """Kills a process and all that it started; wandb's own service lives in a session of its own."""
    import psutil

    try:
        family = psutil.Process(pid)
        family = [family, *family.children(recursive=True)]
    except psutil.Error:
        return
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue


def _plain(value: Any) -> Any:
    """NumPy's numbers, and whatever else a report may hold."""
    return value.item() if hasattr(value, "item") else str(value)
