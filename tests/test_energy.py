"""Energy of training and of answering: told as measured or estimated, offline, and never in the way."""

from __future__ import annotations

import builtins
import csv
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from distill import energy
from distill.recipe.settings import Track


@pytest.fixture
def offline(monkeypatch):
    """Every way to the network is an error that is counted."""
    calls: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        calls.append(arguments)
        raise OSError("no network in here")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return calls


def work(seconds: float = 0.6) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "emissions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


# ------------------------------------------------------------------------------------- the meter, codecarbon real


def test_a_step_is_measured_offline_and_leaves_a_record_and_a_row(tmp_path, offline, caplog, capfd):
    meter = energy.Meter(Track(country="FRA"), tmp_path)
    with meter.measure("1-distill"):
        work()
    assert offline == [] and caplog.messages == []
    assert capfd.readouterr() == ("", "")
    (record,) = meter.records
    assert json.loads(json.dumps(record)) == record
    assert record["step"] == "1-distill" and record["kwh"] > 0 and 0.6 <= record["seconds"] < 60
    assert record["method"] in ("measured", "estimated") and record["how"].startswith(("read from", "estimated"))
    (row,) = rows_of(tmp_path)
    assert row["project_name"] == "1-distill" and float(row["energy_consumed"]) == record["kwh"]
    # France's grid, told by codecarbon's own table in grams a kWh; a plausible one is far below a coal grid's 1,000
    assert 10 < 1000 * record["co2_kg"] / record["kwh"] < 200
    assert float(row["emissions"]) == record["co2_kg"]
    assert timers() == []


def test_the_energy_is_at_least_what_the_busy_cpu_took(tmp_path):
    meter = energy.Meter(Track(), tmp_path)
    with meter.measure("teacher"):
        work(1.2)
    (record,) = meter.records
    if record["method"] == "estimated":
        assert record["kwh"] * 3.6e6 > 0.5 * record["watts_per_cpu"]


def test_what_could_identify_is_blank_and_without_a_country_so_is_co2(tmp_path):
    meter = energy.Meter(Track(), tmp_path)
    with meter.measure("teacher"):
        work(0.1)
    assert meter.records[0]["co2_kg"] is None and meter.records[0]["country"] is None
    (row,) = rows_of(tmp_path)
    for column in ("os", "region", "cloud_provider", "cloud_region", "longitude", "latitude", "experiment_id"):
        assert row[column] == "", column
    for column in ("emissions", "emissions_rate", "country_name", "country_iso_code"):
        assert row[column] == "", column
    text = (tmp_path / "emissions.csv").read_text()
    assert socket.gethostname() not in text and str(tmp_path) not in text


def test_a_country_that_no_table_has_is_one_warning_and_no_co2(tmp_path, caplog):
    meter = energy.Meter(Track(country="XXX"), tmp_path)
    with meter.measure("teacher"):
        work(0.1)
    assert meter.records[0]["co2_kg"] is None and meter.records[0]["kwh"] > 0
    assert caplog.messages == ["track.country: codecarbon knows no grid of XXX, so no CO2 is told"]


def test_a_continued_run_keeps_its_earlier_rows(tmp_path):
    for step in ("teacher", "1-distill"):
        with energy.Meter(Track(), tmp_path).measure(step):
            work(0.1)
    assert [row["project_name"] for row in rows_of(tmp_path)] == ["teacher", "1-distill"]
    assert [path.name for path in tmp_path.iterdir()] == ["emissions.csv"]


def test_rows_of_another_version_of_codecarbon_stay(tmp_path):
    (tmp_path / "emissions.csv").write_text("project_name,gone\nteacher,7\n")
    with energy.Meter(Track(), tmp_path).measure("1-distill"):
        work(0.1)
    earlier, new = rows_of(tmp_path)
    assert (earlier["project_name"], earlier["gone"], earlier["run_id"]) == ("teacher", "7", "")
    assert (new["project_name"], new["gone"]) == ("1-distill", "")


@pytest.mark.parametrize("failure", [ValueError("bad batch"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_what_the_block_raises_comes_through_and_the_tracker_is_stopped(tmp_path, failure):
    meter = energy.Meter(Track(), tmp_path)
    with pytest.raises(type(failure)), meter.measure("teacher"):
        work(0.1)
        raise failure
    assert len(meter.records) == 1 and len(rows_of(tmp_path)) == 1
    assert timers() == []


def test_settings_of_codecarbon_can_not_open_the_network(tmp_path, offline, monkeypatch):
    for name, value in {
        "EMISSIONS_ENDPOINT": "http://example.org", "OUTPUT_METHODS": "api,csv", "CO2_SIGNAL_API_TOKEN": "x",
        "ELECTRICITYMAPS_API_TOKEN": "x", "API_KEY": "x", "SAVE_TO_API": "true", "API_CALL_INTERVAL": "1",
        "CLOUD_PROVIDER": "gcp", "CLOUD_REGION": "europe-west1", "OUTPUT_DIR": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CODECARBON_{name}", value)
    folder = tmp_path / "run"
    folder.mkdir()
    meter = energy.Meter(Track(country="FRA"), folder)
    with meter.measure("teacher"):
        work(0.1)
    assert offline == [] and meter.records[0]["co2_kg"] > 0
    assert rows_of(folder)[0]["on_cloud"] == "N"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_power_named_in_codecarbons_settings_counts(tmp_path, monkeypatch):
    import psutil

    monkeypatch.setenv("CODECARBON_FORCE_CPU_POWER", "100")
    told = energy.read_power()
    assert told["watts_per_cpu"] == pytest.approx(100 / psutil.cpu_count())
    assert "the power that codecarbon's settings name (100 W over" in told["how"]
    assert told["method"] == "estimated"


# ----------------------------------------------------------------------------------------------- never in the way


def test_without_codecarbon_there_is_one_warning_and_no_record(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def missing(name: str, *arguments: object, **words: object):
        if name.startswith("codecarbon"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *arguments, **words)

    monkeypatch.setattr(builtins, "__import__", missing)
    meter, done = energy.Meter(Track(), tmp_path), []
    for step in ("teacher", "1-distill"):
        with meter.measure(step):
            done.append(step)
    assert done == ["teacher", "1-distill"] and meter.records == [] and meter.power() is None
    assert len(caplog.messages) == 1 and "pip install codecarbon" in caplog.messages[0]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_warning_and_the_records_stay(tmp_path, monkeypatch, caplog):
    import errno
    import tempfile

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    meter = energy.Meter(Track(), tmp_path)
    for step in ("teacher", "1-distill"):
        with meter.measure(step):
            work(0.1)
    assert [record["step"] for record in meter.records] == ["teacher", "1-distill"]
    assert len(caplog.messages) == 1 and "no space left on device" in caplog.messages[0]


def test_a_codecarbon_that_hangs_holds_nothing_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(energy, "_LONGEST_WAIT", 0.05)
    free = threading.Event()

    def hang(*_: object) -> None:
        free.wait(60)
        raise RuntimeError("too late")

    monkeypatch.setattr(energy, "_tracker", hang)
    meter = energy.Meter(Track(), tmp_path)
    with meter.measure("teacher"):
        pass
    assert not free.is_set() and meter.records == []  # it was not waited for: nobody had set it free
    assert "could not read this machine in time" in caplog.text
    assert meter.power() is None
    free.set()


def test_a_tracker_that_arrives_late_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "_LONGEST_WAIT", 0.05)
    free, stopped = threading.Event(), threading.Event()
    late = SimpleNamespace(start=lambda: None, stop=stopped.set)
    monkeypatch.setattr(energy, "_tracker", lambda *_: free.wait(60) and late)
    with energy.Meter(Track(), tmp_path).measure("teacher"):
        pass
    assert not stopped.is_set()
    free.set()
    assert stopped.wait(60)


def test_energy_false_loads_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path; from distill import energy; from distill.recipe.settings import Track\n"
        f"meter = energy.Meter(Track(energy=False), Path({str(tmp_path)!r}))\n"
        "with meter.measure('x'): pass\n"
        "print(meter.records, meter.power(), [m for m in ('codecarbon', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] None []"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ measured, or estimated and how


class CPU:
    """As much of codecarbon's processor as is read."""

    def __init__(self, mode: str, tdp: float | None = 280.0, count: int = 64, model: str = "A Processor") -> None:
        self._mode, self._tdp, self._cpu_count, self._model = mode, tdp, count, model


class GPU:
    """A GPU with a counter."""


def tracker(*parts: object, pue: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(_hardware=list(parts), _pue=pue, _force_cpu_power=None, _conf={})


def test_a_counter_is_measured_and_its_watts_are_what_it_counted(monkeypatch):
    told = energy._power_of(tracker(CPU("intel_rapl")), joules=300.0, cpu_seconds=40.0)
    assert told["method"] == "measured" and told["watts_per_cpu"] == 7.5
    assert told["how"].startswith("read from the processor's energy counter (RAPL)")


def test_a_counter_that_counted_nothing_is_no_measurement(monkeypatch):
    monkeypatch.setattr(energy, "_table_watts", lambda _: 280.0)
    assert energy._power_of(tracker(CPU("intel_rapl")), joules=0.0, cpu_seconds=40.0)["method"] == "estimated"


def test_rated_power_is_an_estimate_that_names_its_source(monkeypatch):
    monkeypatch.setattr(energy, "_table_watts", lambda _: 280.0)
    monkeypatch.setattr(energy, "_is_virtual", lambda: False)
    told = energy._power_of(tracker(CPU("cpu_load"), pue=1.5), joules=300.0, cpu_seconds=40.0)
    assert told["method"] == "estimated" and told["watts_per_cpu"] == 280 / 64 * 1.5
    assert told["how"] == (
        "estimated from the rated power of the processor (A Processor: TDP 280 W over 64 logical CPUs) and this "
        "process's share of them; memory is estimated from what was in use; no energy counter could be read"
    )
    monkeypatch.setattr(energy, "_is_virtual", lambda: True)
    told = energy._power_of(tracker(CPU("cpu_load"), GPU()), joules=300.0, cpu_seconds=40.0)
    assert told["method"] == "estimated"  # a part of it is
    assert "those of a virtual machine" in told["how"] and told["how"].endswith("(NVML) were read")


def test_a_processor_whose_counter_is_not_read_is_estimated_by_its_own_rated_power(monkeypatch):
    """Where there is a counter codecarbon keeps a placeholder of 85 W as the rated power; two sockets take twice."""
    monkeypatch.setattr(energy, "_table_watts", lambda _: 280.0)
    found = tracker(CPU("intel_rapl", 85.0))
    found._conf["cpu_physical_count"] = 2
    assert energy._power_of(found, joules=0.0, cpu_seconds=0.0)["watts_per_cpu"] == 560 / 64


def test_codecarbons_table_is_asked_by_the_name_that_linux_gives():
    # its own table: "AMD EPYC 7763,280.0"
    assert energy._table_watts("AMD EPYC 7763 64-Core Processor") == 280
    assert energy._table_watts("No Such Processor 1234") is None


def test_an_unknown_processor_is_said_to_be_unknown(monkeypatch):
    monkeypatch.setattr(energy, "_table_watts", lambda _: None)
    told = energy._power_of(tracker(CPU("cpu_load", 8.0, 2)), joules=1.0, cpu_seconds=1.0)
    assert told["watts_per_cpu"] == 4.0 and "no table has the processor (A Processor: 8 W over 2 logical" in told["how"]
    told = energy._power_of(tracker(), joules=1.0, cpu_seconds=1.0)
    assert told["watts_per_cpu"] is None and told["how"].startswith("estimated by codecarbon")


# -------------------------------------------------------------------------------------------------------- the sum


def record(step: str, kwh: float, **more: object) -> dict[str, object]:
    told = {"method": "estimated", "how": "estimated from X", "country": None, "watts_per_cpu": 2.0, "co2_kg": None}
    return {"step": step, "seconds": 10.0, "kwh": kwh, **told, **more}


def row(name: str, form: str, engine: str, cpu_ms: float, batch: int = 1) -> dict[str, object]:
    other = {"engine": engine, "batch": 32, "tokens": 57, "cpu_ms": 999.0}
    return {"name": name, "format": form, "latency": [other, {**other, "batch": batch, "cpu_ms": cpu_ms}]}


ROWS = [
    row("teacher", "transformers", "torch", 40.0),
    row("teacher", "onnx-fp32", "onnxruntime", 30.0),
    row("2-quantize", "onnx-int8", "onnxruntime", 10.0),
]


def test_the_sum_against_numbers_worked_out_by_hand():
    told = energy.summarise([record("teacher", 0.001), record("1-distill", 0.002)], ROWS)
    assert told["method"] == "estimated" and told["how"] == "estimated from X" and told["country"] is None
    assert [step["kwh"] for step in told["training"]] == [0.001, 0.002]
    assert set(told["training"][0]) == {"step", "seconds", "kwh", "co2_kg", "method"}
    # 40 ms an answer are 40 s a thousand; at 2 W that is 80 J
    assert told["per_1000_requests"][0] == {
        "name": "teacher", "format": "transformers", "batch": 1, "tokens": 57, "cpu_seconds": 40.0, "joules": 80.0,
        "method": "estimated",
    }  # fmt: skip
    assert [answer["joules"] for answer in told["per_1000_requests"]] == [80.0, 60.0, 20.0]
    # 0.003 kWh are 10,800 J; a request saves 0.06 J against eager torch, 0.04 J against the same engine
    assert told["break_even_requests"] == pytest.approx(180_000)
    assert told["break_even_same_engine"] == pytest.approx(270_000)
    assert json.loads(json.dumps(told)) == told


def test_what_breaks_even_is_the_result_and_no_padded_copy_of_it():
    rows = [
        ROWS[0],
        row("1-prune", "transformers", "torch", 10.0),
        row("1-prune-padded", "transformers", "torch", 19.0),
    ]
    told = energy.summarise([record("teacher", 0.001)], rows, result=rows[1])
    assert told["break_even_requests"] == pytest.approx(3600 / 0.06)


def test_what_was_not_all_watched_is_said_and_never_breaks_even():
    told = energy.summarise([record("1-distill", 0.002)], ROWS, unwatched=["teacher"])
    assert "Not all of teacher was watched" in told["how"]
    assert told["break_even_requests"] is None and told["break_even_same_engine"] is None
    assert [answer["joules"] for answer in told["per_1000_requests"]]


def test_the_machine_that_timed_the_rows_gives_the_watts():
    power = {"watts_per_cpu": 5.0, "method": "measured", "how": "read from a counter"}
    told = energy.summarise([record("teacher", 0.001, country="FRA", co2_kg=0.1)], ROWS, power=power)
    assert told["watts_per_cpu"] == 5.0 and told["per_1000_requests"][0]["joules"] == 200.0
    assert told["method"] == "estimated"  # the training is, and the whole is no better than its worst part
    assert told["how"] == "estimated from X. read from a counter" and told["country"] == "FRA"
    measured = energy.summarise([record("teacher", 0.001, method="measured", how="read from a counter")], ROWS)
    assert measured["method"] == "measured" and measured["how"] == "read from a counter"


def test_a_result_that_is_not_cheaper_never_breaks_even():
    rows = [*ROWS[:2], row("2-quantize", "onnx-int8", "onnxruntime", 35.0)]
    told = energy.summarise([record("teacher", 0.001)], rows)
    assert told["break_even_requests"] == pytest.approx(0.001 * 3.6e6 / 0.01)
    assert told["break_even_same_engine"] is None
    rows[-1]["latency"][1]["cpu_ms"] = 40.0
    assert energy.summarise([record("teacher", 0.001)], rows)["break_even_requests"] is None


def test_a_torch_result_has_the_eager_teacher_on_its_engine():
    rows = [ROWS[0], row("1-distill", "transformers", "torch", 20.0)]
    told = energy.summarise([record("teacher", 0.001)], rows)
    assert told["break_even_requests"] == told["break_even_same_engine"] == pytest.approx(3600 / 0.04)


def test_rows_on_an_accelerator_or_without_batch_1_have_no_joules():
    rows = [row("teacher", "transformers", "torch-cuda", 1.0), row("2-quantize", "onnx-int8", "onnxruntime", 9.0, 8)]
    told = energy.summarise([record("teacher", 0.001)], rows)
    assert told["per_1000_requests"] == [] and told["break_even_requests"] is None


def test_nothing_known_is_nothing_told():
    assert energy.summarise([], ROWS) is None
    only_answers = energy.summarise([], ROWS, power={"watts_per_cpu": 2.0, "method": "estimated", "how": "X"})
    assert only_answers["training"] == [] and only_answers["break_even_requests"] is None
    assert only_answers["per_1000_requests"][0]["joules"] == 80.0
    without_watts = energy.summarise([record("teacher", 0.001, watts_per_cpu=None)], ROWS)
    assert without_watts["per_1000_requests"] == [] and without_watts["watts_per_cpu"] is None


def test_codecarbon_is_silent(tmp_path, capfd):
    with energy.Meter(Track(), tmp_path).measure("teacher"):
        assert logging.getLogger("codecarbon").level == logging.CRITICAL
    assert capfd.readouterr() == ("", "")
