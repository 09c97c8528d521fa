"""What a report tells W&B: the last row as summary, the ledger and what stands behind it as tables, plots, notes."""

from __future__ import annotations

from typing import Any

Table = dict[str, Any]  # {"columns": [...], "data": [[...], ...]}


def read(report: dict[str, Any]) -> dict[str, Any]:
    """From a report (schema 2): {"summary", "tables", "plots", "notes"}, plain JSON."""
    from distill.evaluation.ledger import Ledger

    ledger = Ledger.told(report)
    tables = {
        "ledger": _ledger(ledger),
        "latency": _latency(ledger),
        "by_class": _by_class(ledger),
        "calibration": _calibration(ledger),
        "validation": _table(
            ["step", "epoch", "score"],
            [[run["step"], e["epoch"], e["score"]] for run in report["training"] for e in run["epochs"]],
        ),
        "layer_maps": _layer_maps(report["training"]),
        "expectations": _table(
            ["expected", "bound", "measured", "met"],
            [[told["word"], str(told["bound"]), told["measured"], told["met"]] for told in report["expect"]],
        ),
        "controls": _controls(report.get("controls")),
        "energy": _energy(report.get("energy")),
        "steps": _table(
            ["step", "kind", "seconds", "reused", "sha256"],
            [[step.get(word) for word in ("name", "kind", "seconds", "reused", "sha256")] for step in report["steps"]],
        ),
    }
    tables = {name: table for name, table in tables.items() if table["data"]}
    return {
        "summary": _summary(report, ledger),
        "tables": tables,
        "plots": _plots(ledger, tables, report["data"]["labels"]),
        "notes": _notes(report),
    }


def _table(columns: list[str], data: list[list[Any]]) -> Table:
    return {"columns": columns, "data": data}


def _summary(report: dict[str, Any], ledger: Any) -> dict[str, Any]:
    """The run's result, under the words of `expect`: what a workspace sorts by and a sweep optimises."""
    row, energy = ledger.last, report.get("energy") or {}
    told = {
        "score": row.score,
        "retained": row.retained,
        "size": ledger.ratio_of_size(row),
        "parameters": row.params / ledger.teacher.params,
        "latency_vs_eager": ledger.against_eager(row),
        "latency_same_engine": ledger.against_same_engine(row),
        "checkpoint": row.name,
        "format": row.format,
        "metric": row.metric,
        "score_low": row.interval[0],
        "score_high": row.interval[1],
        "p_value": row.p_value,
        "worst_class": row.worst_class and row.worst_class["score"],
        "bytes": row.bytes,
        "params": row.params,
        "memory_mb": row.memory_mb,
        "p50_ms": row.latency[0].p50_ms if row.latency else None,
        "expectations_missed": sum(not told["met"] for told in report["expect"]),
        "training_kwh": sum(spent["kwh"] for spent in energy.get("training", [])) if energy else None,
        "break_even_requests": energy.get("break_even_requests"),
        **_bought(report.get("controls")),
        "data_sha256": report["data"]["sha256"],
        "test_sha256": report["data"].get("test_sha256"),
        "recipe_sha256": report.get("recipe_sha256"),
        "smoke": report.get("smoke"),
        **{f"scores/{metric}": score for metric, score in row.scores.items()},
    }
    return {word: value for word, value in told.items() if value is not None}


def _bought(controls: dict[str, Any] | None) -> dict[str, Any]:
    """Mean and spread over seeds, and what the recipe has over each control."""
    if not controls:
        return {}
    told = {"score_mean": controls["arms"][0]["mean"], "score_spread": controls["arms"][0]["spread"]}
    for gain in controls["gains"]:
        name = f"gain_over_{gain['over'].replace('-', '_')}"
        told |= {name: gain["gain"], f"{name}_low": gain["interval"][0], f"{name}_high": gain["interval"][1]}
    return told


def _controls(controls: dict[str, Any] | None) -> Table:
    data = [
        [arm["arm"], seed, score]
        for arm in (controls or {}).get("arms", ())
        for seed, score in zip(controls["seeds"], arm["scores"], strict=True)
    ]
    return _table(["arm", "seed", "score"], data)


def _layer_maps(training: list[dict[str, Any]]) -> Table:
    """The weights of learned maps, one a line."""
    data = [
        [run["step"], term, mine, theirs, share]
        for run in training
        for term, rows in (run.get("layer_maps") or {}).items()
        for mine, row in rows.items()
        for theirs, share in row.items()
    ]
    return _table(["step", "term", "student_layer", "teacher_layer", "weight"], data)


def _ledger(ledger: Any) -> Table:
    columns = [
        "checkpoint", "format", "metric", "score", "low", "high", "n", "retained", "p_value", "params", "bytes", "size",
        "memory_mb", "worst_class", "worst_class_score",
    ]  # fmt: skip
    timed = ledger.teacher.latency
    for place in timed:
        columns += [f"{word}, batch {place.batch}" for word in ("p50_ms", "p95_ms", "vs_eager", "vs_same_engine")]
    data = []
    for row in ledger.shown:
        worst = row.worst_class or {"name": None, "score": None}
        cells = [
            row.name, row.format, row.metric, row.score, *row.interval, row.n, row.retained, row.p_value, row.params,
            row.bytes, ledger.ratio_of_size(row), row.memory_mb, worst["name"], worst["score"],
        ]  # fmt: skip
        for place in range(len(timed)):
            spent = row.latency[place] if place < len(row.latency) else None
            cells += [spent and spent.p50_ms, spent and spent.p95_ms]
            cells += [ledger.against_eager(row, place), ledger.against_same_engine(row, place)]
        data.append(cells)
    return _table(columns, data)


def _latency(ledger: Any) -> Table:
    words = ["engine", "batch", "tokens", "threads", "rounds", "p50_ms", "p95_ms", "cpu_ms"]
    data = [[row.title, *(getattr(spent, word) for word in words)] for row in ledger.rows for spent in row.latency]
    return _table(["checkpoint", *words], data)


def _by_class(ledger: Any) -> Table:
    data = [[row.title, name, score] for row in ledger.rows for name, score in row.by_class.items()]
    return _table(["checkpoint", "class", "score"], data)


def _calibration(ledger: Any) -> Table:
    words = ["low", "high", "n", "confidence", "accuracy"]
    told = [(row.title, row.calibration["bins"]) for row in ledger.rows if row.calibration]
    return _table(["checkpoint", *words], [[title, *(b[word] for word in words)] for title, bins in told for b in bins])


def _energy(energy: dict[str, Any] | None) -> Table:
    spent = (energy or {}).get("training", [])
    words = ["step", "seconds", "kwh", "co2_kg"]
    return _table([*words, "method"], [[*(told.get(word) for word in words), energy["method"]] for told in spent])


def _plots(ledger: Any, tables: dict[str, Table], labels: list[str]) -> list[dict[str, Any]]:
    """Each names its table and columns; confusion matrices carry their counts."""
    plots = [
        {"form": "scatter", "key": "score_by_size", "table": "ledger", "x": "size", "y": "score"},
        {"form": "bar", "key": "score_by_checkpoint", "table": "ledger", "x": "checkpoint", "y": "score"},
    ]
    if ledger.teacher.latency:
        column = f"p50_ms, batch {ledger.teacher.latency[0].batch}"
        plots.append({"form": "scatter", "key": "score_by_latency", "table": "ledger", "x": column, "y": "score"})
    if "calibration" in tables:
        plots.append(
            {"form": "line", "key": "reliability", "table": "calibration", "x": "confidence", "y": "accuracy"}
            | {"stroke": "checkpoint"}
        )
    for key, row in (("confusion_teacher", ledger.teacher), ("confusion_result", ledger.last)):
        if row.confusion:
            plots.append({"form": "confusion", "key": key, "counts": row.confusion, "labels": labels})
    return plots


def _notes(report: dict[str, Any]) -> str:
    """The expectations, met and missed, and what the run had to say."""
    lines = [
        f"{'met' if told['met'] else 'MISSED'}: {told['word']} {told['bound']}, measured {_number(told['measured'])}"
        for told in report["expect"]
    ]
    if report.get("smoke"):
        lines.append("a smoke run: its figures mean nothing")
    lines += (report.get("controls") or {}).get("in_words", [])
    return "\n".join([*lines, *map(str, report.get("notes", []))])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "nothing"
