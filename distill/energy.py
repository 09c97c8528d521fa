"""The energy of training and of answering: measured where a counter can be read, estimated where none can.

codecarbon reads the counters (RAPL of the processor, NVML of a GPU) or estimates: the rated power of the processor
times this process's share of it, and the memory that it holds. It runs offline, in the background, and can neither
stop nor delay a training. The energy of a sitting that was killed is lost.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.disk import write_text
from distill.recipe import settings

log = logging.getLogger(__name__)
Record = dict[str, Any]

_LONGEST_WAIT = 2.0  # seconds that codecarbon may hold up a training, at its start and at its end
_JOULES = 3.6e6  # in a kWh
_COUNTERS = ("intel_rapl", "windows_emi")
_IDENTIFYING = ("region", "cloud_provider", "cloud_region", "os", "longitude", "latitude", "experiment_id")
_OF_A_COUNTRY = ("emissions", "emissions_rate", "country_name", "country_iso_code")


class Meter:
    """Measures training steps, one after another; a step that is measured leaves a record and a row of emissions.csv.

    A record is {"step", "seconds", "kwh", "co2_kg" (None without a known country), "method" ("measured" when the
    processor's counter was read, else "estimated"), "how" (one sentence), "country", "watts_per_cpu"}, and is JSON.
    """

    def __init__(self, words: settings.Track, folder: Path) -> None:
        """`folder` is the run's: emissions.csv goes there, rows of earlier sittings stay."""
        self.words, self.folder = words, folder
        self.records: list[Record] = []
        self._warned = False

    @contextlib.contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Measures what the block spends. Raises only what the block raises; what fails here is one warning a meter."""
        if not self.words.energy:
            yield
            return
        watch = _Watch(step, self.words.country)
        cpu, start = _cpu_seconds(), time.perf_counter()
        try:
            yield
        finally:
            seconds, spent = time.perf_counter() - start, _cpu_seconds() - cpu
            try:
                self._keep(watch.stop(), step, seconds, spent)
            except Exception as error:  # whatever it is, the training counts
                self._warn(error)

    def power(self) -> Record | None:
        """What one busy logical CPU of this machine takes, for `summarise`; None when nobody can tell."""
        if not self.words.energy:
            return None
        mine = [record for record in self.records if record["watts_per_cpu"] is not None]
        return {key: mine[-1][key] for key in ("watts_per_cpu", "method", "how")} if mine else read_power()

    def _keep(self, tracker: Any, step: str, seconds: float, cpu_seconds: float) -> None:
        found = tracker.final_emissions_data
        known = bool(self.words.country and found.country_name)
        if self.words.country and not known:
            log.warning("track.country: codecarbon knows no grid of %s, so no CO2 is told", self.words.country)
        told = _power_of(tracker, found.cpu_energy * _JOULES, cpu_seconds)
        if found.duration < 0.9 * seconds:
            told["how"] += f"; {found.duration:.0f} of the step's {seconds:.0f} seconds were watched"
        self.records.append({
            "step": step, "seconds": round(seconds, 3), "kwh": found.energy_consumed, "memory_kwh": found.ram_energy,
            "co2_kg": found.emissions if known else None, "country": self.words.country if known else None, **told,
        })  # fmt: skip
        _append(self.folder / "emissions.csv", dict(found.values), known)

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        missing = isinstance(error, ModuleNotFoundError)
        why = "codecarbon is not installed (pip install codecarbon)" if missing else str(error) or type(error).__name__
        log.warning("the energy of training is not all told: %s", why)


class _Watch:
    """A codecarbon tracker that is made, started and stopped beside the work, so that it can't hold that up."""

    def __init__(self, step: str, country: str | None) -> None:
        self.step, self.country = step, country
        self.tracker: Any = None
        self.error: Exception | None = None
        self.over = threading.Event()
        self.thread = _beside(self._start)

    def _start(self) -> None:
        try:
            tracker = _tracker(self.step, self.country)
            tracker.start()
            self.tracker = tracker
        except Exception as error:  # told later, by whoever waits for it
            self.error = error
        if self.over.is_set():
            _stop(self.tracker)

    def stop(self) -> Any:
        """The stopped tracker. Raises what went wrong, RuntimeError when codecarbon is too slow."""
        self.over.set()
        self.thread.join(_LONGEST_WAIT)
        if not self.thread.is_alive():
            _beside(lambda: _stop(self.tracker))
        if self.error is not None:
            raise self.error
        if getattr(self.tracker, "final_emissions_data", None) is None:
            raise RuntimeError("codecarbon could not read this machine in time")
        return self.tracker


def _beside(work: Callable[[], None]) -> threading.Thread:
    """Runs something in a thread that ends with the program, and waits for it, but not long."""
    thread = threading.Thread(target=work, name="energy", daemon=True)
    thread.start()
    thread.join(_LONGEST_WAIT)
    return thread


def _tracker(step: str, country: str | None) -> Any:
    """A silent tracker that writes nothing and calls nobody, whatever codecarbon's own settings say.

    What stands in its settings about this machine (its power, the PUE) counts. Raises ImportError.
    """
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    grid = {} if country else {"force_carbon_intensity_g_co2e_kwh": 0.0}
    return OfflineEmissionsTracker(
        project_name=step, country_iso_code=country, region=None, cloud_provider=None, cloud_region=None,
        country_2letter_iso_code=None, output_methods=[], output_handlers=[], output_dir=tempfile.gettempdir(),
        emissions_endpoint=None, electricitymaps_api_token="",  # empty, not None: None falls back on an older word
        api_call_interval=-1, tracking_mode="process", log_level="critical", allow_multiple_runs=True,
        experiment_name=step, measure_power_secs=15, **grid,
    )  # fmt: skip


def _stop(tracker: Any) -> None:
    """Ends a tracker and its timers; a timer that was just about to fire starts itself again, so it is told twice."""
    timers = [getattr(tracker, name, None) for name in ("_scheduler", "_scheduler_monitor_power")]
    if tracker is not None:
        with contextlib.suppress(Exception):
            tracker.stop()
    for timer in timers:
        if timer is not None:
            timer.stop()


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


# ------------------------------------------------------------------------------------------------ watts


def read_power() -> Record | None:
    """What one busy logical CPU takes by its rated power: {"watts_per_cpu", "method", "how"}; None when unknown."""
    found: list[Record] = []

    def read() -> None:
        with contextlib.suppress(Exception):
            tracker = _tracker("power", None)
            tracker.get_detected_hardware()
            found.append(_power_of(tracker, 0.0, 0.0))

    _beside(read)
    return found[0] if found and found[0]["watts_per_cpu"] is not None else None


def _power_of(tracker: Any, joules: float, cpu_seconds: float) -> Record:
    """Watts of one busy logical CPU, whether they were measured, and one sentence that names the source.

    Where the processor's counter was read: what it counted over the CPU-seconds spent; else the rated power over the
    logical CPUs.
    """
    parts = {type(part).__name__: part for part in tracker._hardware}
    cpu, gpus = parts.get("CPU"), "; the counters of the GPUs (NVML) were read" if "GPU" in parts else ""
    memory = "memory is estimated from what was in use"
    if cpu is not None and cpu._mode in _COUNTERS and joules > 0:
        watts = joules / cpu_seconds if cpu_seconds > 0 else None
        how = (
            f"read from the processor's energy counter (RAPL), which counts all that ran on the machine{gpus}; {memory}"
        )
        return {"watts_per_cpu": watts, "method": "measured", "how": how}
    total, source = (None, "estimated by codecarbon") if cpu is None else _rated(tracker, cpu)
    watts = total * tracker._pue / cpu._cpu_count if total else None
    how = f"{source}; {memory}; {'no energy counter of the processor' if gpus else 'no energy counter'} could be read"
    return {"watts_per_cpu": watts, "method": "estimated", "how": f"{how}{gpus}"}


def _rated(tracker: Any, cpu: Any) -> tuple[float, str]:
    """Watts of all logical CPUs when busy, and where that figure comes from, in words."""
    over = f"over {cpu._cpu_count} logical CPUs) and this process's share of them"
    if getattr(tracker, "_force_cpu_power", None) is not None:
        return cpu._tdp, f"estimated from the power that codecarbon's settings name ({cpu._tdp:g} W {over}"
    model, table = f"the processor ({cpu._model}: ", _table_watts(cpu._model)
    if table is None:
        return cpu._tdp, f"estimated from a typical power, because no table has {model}{cpu._tdp:g} W {over}"
    total = table * (tracker._conf.get("cpu_physical_count") or 1)
    inside = ", those of a virtual machine" if _is_virtual() else ""
    return total, f"estimated from the rated power of {model}TDP {total:g} W {over}{inside}"


def _table_watts(model: str) -> float | None:
    """The rated power of one processor in codecarbon's table; None for a model that it doesn't have."""
    from codecarbon.core import cpu
    from codecarbon.core.hardware_cache import get_cached_tdp

    return get_cached_tdp(cpu)._get_cpu_power_from_registry(model)


def _is_virtual() -> bool:
    """Whether Linux says that it runs under a hypervisor, where the CPUs may be a part of the processor."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and " hypervisor" in info.read_text(encoding="utf-8", errors="replace")


# -------------------------------------------------------------------------------------------- emissions.csv


def _append(path: Path, row: Record, with_country: bool) -> None:
    """One row more, in codecarbon's columns; what could tell who or where stays blank, and so does CO2 of nowhere."""
    blank = _IDENTIFYING if with_country else (*_IDENTIFYING, *_OF_A_COUNTRY)
    row |= dict.fromkeys(blank, "")
    rows: list[Record] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{key: value for key, value in old.items() if key} for old in csv.DictReader(file)]
    columns = dict.fromkeys(key for one in (*rows, row) for key in one)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    write_text(path, out.getvalue())


# --------------------------------------------------------------------------------------------------- the sum


def summarise(
    records: Sequence[Record], rows: Sequence[Record], *, power: Record | None = None, unwatched: Sequence[str] = (),
    result: Record | None = None,
) -> Record | None:  # fmt: skip
    """The `energy` of report.json from training records and the ledger's rows (as dicts); None when there is nothing.

    `power` is `Meter.power()`: watts of a busy CPU where the rows were timed; without it that of the last record.
    Joules of answers are CPU-seconds times those watts: the processor's alone, at batch 1, tokenizer excluded. Rows
    that were not timed at batch 1, or ran on an accelerator, have none. `break_even_requests` is how many requests pay
    for every training (the teacher's fine-tuning included) by what the `result` (the last row when not said) saves
    against the first, None when it saves nothing; `break_even_same_engine` is the same against the teacher on the
    result's engine.
    """
    told = [record for record in records if record.get("watts_per_cpu") is not None]
    power = power or (told[-1] if told else None)
    if not records and power is None:
        return None
    watts = power["watts_per_cpu"] if power else None
    answers = [answer for row in rows if (answer := _answering(row, power)) is not None]
    spent = sum(record["kwh"] - record.get("memory_kwh", 0.0) for record in records) * _JOULES  # as answers: no memory
    sources = [*records, *([power] if power else [])]
    gap = f"Not all of {', '.join(unwatched)} was watched, so what training took in all is not known"
    told_how = [source["how"] for source in sources if source.get("how")] + ([gap] if unwatched else [])
    countries = dict.fromkeys(record["country"] for record in records if record.get("country"))
    return {
        "method": "measured" if all(source["method"] == "measured" for source in sources) else "estimated",
        "how": ". ".join(dict.fromkeys(told_how)),
        "training": [
            {key: record[key] for key in ("step", "seconds", "kwh", "co2_kg", "method")} for record in records
        ],
        "watts_per_cpu": watts,
        "per_1000_requests": [{key: answer[key] for key in answer if key != "engine"} for answer in answers],
        **_break_even(0.0 if unwatched else spent, rows, result, answers),
        "country": ", ".join(countries) or None,
    }


def _answering(row: Record, power: Record | None) -> Record | None:
    """CPU-seconds and joules of 1,000 answers at batch 1; a millisecond an answer is a second a thousand."""
    timed = next((spent for spent in row["latency"] if spent["batch"] == 1), None)
    if timed is None or power is None or timed["engine"] not in ("torch", "onnxruntime"):
        return None
    return {
        "name": row["name"], "format": row["format"], "batch": 1, "tokens": timed["tokens"],
        "cpu_seconds": timed["cpu_ms"], "joules": timed["cpu_ms"] * power["watts_per_cpu"],
        "method": power["method"], "engine": timed["engine"],
    }  # fmt: skip


def _break_even(spent: float, rows: Sequence[Record], result: Record | None, answers: Sequence[Record]) -> Record:
    """Requests until what was spent is saved, against the teacher as it is and on the result's engine."""
    told: Record = {"break_even_requests": None, "break_even_same_engine": None}
    place = {(answer["name"], answer["format"]): answer for answer in answers}
    last = result or (rows[-1] if rows else None)
    result = place.get((last["name"], last["format"])) if last else None
    if result is None or not spent:
        return told
    teacher = rows[0]["name"]
    eager = place.get((teacher, rows[0]["format"]))
    same = next((one for one in answers if one["name"] == teacher and one["engine"] == result["engine"]), None)
    for key, against in (("break_even_requests", eager), ("break_even_same_engine", same)):
        saved = (against["joules"] - result["joules"]) / 1000 if against else 0.0
        if saved > 0:
            told[key] = spent / saved
    return told
