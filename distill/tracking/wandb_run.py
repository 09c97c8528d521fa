"""What is said to wandb, and the settings that keep it from saying more. Lives in the worker process alone.

Settings and file formats were looked up in, and tried with, wandb 0.31.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_REACH = 3.0  # seconds to reach the server in
_INIT = 10.0  # seconds that wandb may take to open an online run
_SAMPLE = 5.0  # seconds between two looks at CPU, memory, GPU
# All of it relative to the run's folder, where this process works.
_ENVIRONMENT = {
    "WANDB_DATA_DIR": "wandb",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_ARTIFACT_DIR": "wandb/artifacts",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
_CONFUSION = "wandb/confusion_matrix/v1"  # W&B's own chart, fed with counts
_CELLS = ["Actual", "Predicted", "nPredictions"]


class WandbRun:
    """A W&B run that takes a spool's events. Opens online where it may and can, else offline."""

    def __init__(
        self, start: dict[str, Any], parent: int, before: tuple[int, dict[str, float]], say: Callable[..., None]
    ) -> None:
        os.environ.update(_ENVIRONMENT)
        os.environ.pop("WANDB_SERVICE", None)  # a sweep agent's own, which works in another folder
        import wandb

        self._wandb = wandb
        self._steps: set[str] = set()
        _name_files_relatively(wandb)
        self._run = self._open(start, parent, say)
        self._place = Path(os.path.relpath(self._run.dir)).parent
        say(place=str(self._place), url=self._run.url)
        # online, W&B itself knows where a resumed run stands
        self._row = before[0] if self._run.offline else None
        if self._run.offline and before[1]:
            self._run.summary.update(before[1])

    def take(self, event: dict[str, Any], out: Path) -> None:
        """Carries out an event; `out` holds the files that are saved in the end."""
        if event["kind"] == "metrics":
            self._metrics(event["step"], event["values"])
        elif event["kind"] == "artifact":
            self._artifact(event)
        elif event["kind"] == "finish":
            try:
                self._tell_findings(event)
                self._save(out)
            finally:
                self._run.finish(exit_code=event["exit_code"])
                self._wandb.teardown()  # `finish` comes back before the last block of an offline run is on the disk

    def _open(self, start: dict[str, Any], parent: int, say: Callable[..., None]) -> Any:
        if start["mode"] != "offline":
            try:
                _reach(self._wandb.setup().settings.base_url)
                return self._init(start, parent, "online" if start["mode"] == "online" else None)
            except Exception as error:  # of several libraries, and each means that W&B is out of reach
                say(note=f"the server was not reached ({type(error).__name__}), so the run was logged offline")
                self._wandb.teardown()
        return self._init(start, parent, "offline")

    def _init(self, start: dict[str, Any], parent: int, mode: str | None) -> Any:
        settings = {
            # nothing of this machine and its user but processor, memory and disk in use
            "x_disable_meta": True,
            "host": "",
            "program": "distill",
            "disable_git": True,
            "disable_code": True,
            "save_code": False,
            "disable_job_creation": True,
            "x_save_requirements": False,
            "console": "off",
            # a folder that can be copied
            "root_dir": ".",
            "use_dot_wandb": False,
            "symlink": False,
            "allow_media_symlink": False,
            # of the process that trains, and on the disk soon
            "x_stats_pid": parent,
            "x_stats_sampling_interval": _SAMPLE,
            "x_transaction_log_flush_interval": 1.0,
            "init_timeout": _INIT,
            "silent": True,
        }
        if mode is not None:
            settings["mode"] = mode
        return self._wandb.init(
            project=start["project"],
            entity=start["entity"],
            id=start["run_id"],
            name=start["name"],
            group=start["group"],
            job_type=start["job_type"],
            tags=start["tags"],
            config=start["config"],
            resume=None if mode == "offline" else "allow",
            settings=self._wandb.Settings(**settings),
        )

    def _log(self, told: dict[str, Any]) -> None:
        self._run.log(told, step=self._row)
        if self._row is not None:
            self._row += 1

    def _metrics(self, step: str, values: dict[str, float]) -> None:
        if step not in self._steps:
            self._steps.add(step)
            for word in ("step", "steps"):
                self._run.define_metric(f"{step}/{word}", hidden=True)
            self._run.define_metric(f"{step}/*", step_metric=f"{step}/step")
        self._log({f"{step}/{word}": value for word, value in values.items() if value is not None})

    def _artifact(self, event: dict[str, Any]) -> None:
        """The facts as a file, and the checkpoint's own files as links, below W&B's folder of this run."""
        shelf = self._place / "checkpoints" / event["name"]
        shelf.mkdir(parents=True, exist_ok=True)
        (shelf / "checkpoint.json").write_text(json.dumps(event["metadata"], indent=1), encoding="utf-8")
        for file in map(Path, event["files"]):
            _link(file, shelf / file.name)
        made = self._wandb.Artifact(event["name"], event["type"], metadata=event["metadata"])
        for name in ("checkpoint.json", *(Path(file).name for file in event["files"])):
            made.add_file(str(shelf / name), name=name, policy="immutable", skip_cache=True)
        if event["type"] == "teacher":
            # `use_artifact` says the same, but refuses offline runs and waits for the upload of online ones
            self._run._log_artifact(made, aliases=["latest"], is_user_created=True, use_after_commit=True)
        else:
            self._run.log_artifact(made)

    def _tell_findings(self, event: dict[str, Any]) -> None:
        if event.get("notes"):
            self._run.notes = event["notes"]  # first: it tells the config again, without what plots add to it
        tables, summary = event.get("tables", {}), event.get("summary", {})
        told: dict[str, Any] = {name: self._table(**table) for name, table in tables.items()}
        told |= {plot["key"]: self._plot(plot, tables) for plot in event.get("plots", [])}
        told |= {word: value for word, value in summary.items() if not isinstance(value, str)}
        if told:
            self._log(told)
        if summary:
            self._run.summary.update(summary)

    def _table(self, columns: list[str], data: list[list[Any]]) -> Any:
        return self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)

    def _plot(self, plot: dict[str, Any], tables: dict[str, Any]) -> Any:
        title = plot["key"].replace("_", " ")
        if plot["form"] == "confusion":
            names, counts = plot["labels"], plot["counts"]
            cells = [[names[i], names[j], n] for i, row in enumerate(counts) for j, n in enumerate(row)]
            return self._wandb.plot_table(
                _CONFUSION, self._table(_CELLS, cells), {name: name for name in _CELLS}, {"title": title}
            )
        table = tables[plot["table"]]
        columns = list(dict.fromkeys([plot["x"], plot["y"], plot.get("stroke", "checkpoint")]))
        places = [table["columns"].index(column) for column in columns]
        drawn = self._table(columns, [[row[place] for place in places] for row in table["data"]])
        if plot["form"] == "line":
            return self._wandb.plot.line(drawn, plot["x"], plot["y"], stroke=plot["stroke"], title=title)
        draw = self._wandb.plot.bar if plot["form"] == "bar" else self._wandb.plot.scatter
        return draw(drawn, plot["x"], plot["y"], title=title)

    def _save(self, out: Path) -> None:
        for file in sorted(out.glob("*")):
            saved = file.replace(Path(self._run.dir) / file.name)
            self._run.save(str(saved), base_path=self._run.dir, policy="now")


def _name_files_relatively(wandb: Any) -> None:
    """W&B uploads where an artifact's files were staged, in its manifest; so let that be a relative name.

    The Artifact that wandb makes of every table is reached in no other way.
    """
    add_file = wandb.Artifact.add_file

    @functools.wraps(add_file)
    def add(*given: Any, **words: Any) -> Any:
        entry = add_file(*given, **words)
        entry.local_path = os.path.relpath(entry.local_path)
        return entry

    wandb.Artifact.add_file = add


def _link(file: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, target)


def _reach(url: str) -> None:
    """Raises OSError when the server's port can't be reached; wandb itself would try for minutes.

    Behind a proxy there is nothing to try.
    """
    parts = urlsplit(url)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or ""):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=_REACH).close()
