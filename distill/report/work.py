"""What was done for a report: training, energy, the steps and where they ran, parity of the graphs, the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.report import headline, markup, plots
from distill.report.figures import duration, three_digits
from distill.report.markup import Html, chip, join, section, tag

_ESTIMATED, _MEASURED = chip("estimated", "warn"), chip("measured", "good")
_KEY = 12  # characters of a hash that are shown


def training(logs: Sequence[dict[str, Any]], metric: str) -> Html:
    """Each training's loss by term, and its validation scores by epoch."""
    figures = []
    for log in logs:
        drawn = plots.curves(log, metric)
        pace = f"{three_digits(log['samples_per_second'])} texts/s in {log['dtype']}, {duration(log['seconds'])}"
        pace += _teacher(log) + _kept(log)
        shown = join([_epochs(log, metric), _last_record(log), _layer_maps(log)])
        if drawn:
            figures.append(markup.figure(log["step"], pace, drawn, shown, plots.curves_key(log)))
        elif shown:
            figures.append(tag("div", tag("h3", log["step"]), tag("p", pace, class_="say"), shown))
    caption = "Terms as they count in the loss: value times weight. Validation chooses the epoch; test only scores."
    return section("Training", tag("p", caption, class_="say"), markup.grid(*figures)) if figures else Html("")


def _teacher(log: dict[str, Any]) -> str:
    """How the teacher did on the validation texts, where a training had one."""
    found = log.get("teacher") or {}
    words = {
        "score": "the teacher scores {:.4f} on validation",
        "loss": "the teacher's loss on validation is {:.4f} nats a token",
        "agreement": "the student answers as it does on {:.1%}",
    }
    words["entropy"] = "entropy of its answers {:.3f} nats"
    told = [text.format(found[name]) for name, text in words.items() if name in found]
    return f"; {', '.join(told)}" if told else ""


def _kept(log: dict[str, Any]) -> str:
    """What was left out of the teacher's logits, and which engine gave them, where it wasn't plain torch."""
    found = log.get("signals") or {}
    several = enumerate(found.get("teachers", []), start=1)
    return _kept_of(found, "the teacher") + "".join(_kept_of(one, f"teacher {place}") for place, one in several)


def _kept_of(found: dict[str, Any], who: str) -> str:
    told = ""
    if "likeliest" in found:
        form = found["likeliest"]
        told += (
            f"; of {who}'s logits the {form['number']} likeliest of {form['classes']:,} tokens were kept, with "
            f"the mass of the others ({found['bytes_a_token']:.0f} bytes a token; {found['nats']:.2g} nats from whole "
            "logits)"
        )
    if "label_pass" in found:
        tried = {trial["engine"]: trial for trial in found["label_pass"]["tried"]}
        told += f"; {who}'s answers are of {(name := found['label_pass']['engine'])}"
        if name in tried:
            told += f", {tried[name]['divergence']:.2g} nats from float32, {tried[name]['agreement']:.1%} the same"
    return told


def _epochs(log: dict[str, Any], metric: str) -> Html:
    body = [
        [f"{epoch['epoch']:g}", f"{epoch['score']:.4f}", chip("kept") if epoch["epoch"] == log["best_epoch"] else ""]
        for epoch in log["epochs"]
    ]
    return markup.table(["epoch", f"validation {metric}", ""], body, name="validation") if body else Html("")


def _last_record(log: dict[str, Any]) -> Html:
    """The terms at the first record, midway and at the last: the curve in three columns."""
    records = log["records"]
    if not records:
        return Html("")
    chosen = [records[place] for place in sorted({0, len(records) // 2, len(records) - 1})]
    head = [
        "at epoch",
        *(f"{record['epoch']:.2f}" for record in chosen),
        "weight",
        "share at the end",
        "of the gradient",
    ]
    body = [["loss", *(f"{record['loss']:.4g}" for record in chosen), "", "", ""]]
    terms = next((r["terms"] for r in reversed(records) if all("gradient" in t for t in r["terms"].values())), {})
    for name in plots.terms_of(log):
        parts = [record["terms"].get(name) for record in chosen]
        last = parts[-1]
        values = ["–" if part is None else f"{part['value']:.4g}" for part in parts]
        told = ["–", "–"] if last is None else [f"{last['weight']:g}", _share(last["share"])]
        body.append([name, *values, *told, _share(terms[name]["gradient"]) if name in terms else "–"])
    return markup.table(head, body, name="terms of the loss")


def _layer_maps(log: dict[str, Any]) -> Html:
    """How much of each of the teacher's layers was in what each of the student's followed, where that was learned."""
    tables = []
    for term, rows in (log.get("layer_maps") or {}).items():
        theirs = list(dict.fromkeys(layer for row in rows.values() for layer in row))
        body = [
            [mine, *(_share(row[layer]) if layer in row else "–" for layer in theirs)] for mine, row in rows.items()
        ]
        head = [f"{term.replace('_', ' ')}: student layer", *(f"teacher's {layer}" for layer in theirs)]
        tables.append(markup.table(head, body, name=f"learned layer map of {term}"))
    return join(tables)


def _share(share: float) -> str:
    return headline.percent(share)


def energy(told: dict[str, Any] | None) -> Html:
    """Energy of training and of answering; every figure says whether it was measured or estimated."""
    if not told:
        return Html("")
    return section("Energy", tag("p", told["how"], class_="say"), _of_training(told), _of_answers(told), _earned(told))


def _of_training(told: dict[str, Any]) -> Html:
    rows, country = told["training"], told.get("country")
    if not rows:
        return Html("")
    with_co2 = any(row.get("co2_kg") is not None for row in rows)
    kinds, chips = _kinds(rows, told["method"])
    head = ["training", join(["time", _MEASURED], " "), join(["Wh", *chips], " ")]
    head += [join([f"g CO₂ ({country})" if country else "g CO₂", _ESTIMATED], " ")] if with_co2 else []
    lines = [
        (row["step"], row["seconds"], row["kwh"], row.get("co2_kg"), kind)
        for row, kind in zip(rows, kinds, strict=True)
    ]
    if len(rows) > 1:
        co2 = [row["co2_kg"] for row in rows if row.get("co2_kg") is not None]
        sums = sum(row["seconds"] for row in rows), sum(row["kwh"] for row in rows), sum(co2) if co2 else None
        lines.append(("together", *sums, _ESTIMATED if any(kinds) else ""))  # a sum with an estimate in it is one
    body = [
        [name, duration(seconds), join([three_digits(1000 * kwh), kind], " "),
         *([three_digits(None if co2 is None else 1000 * co2)] if with_co2 else [])]
        for name, seconds, kwh, co2, kind in lines
    ]  # fmt: skip
    return markup.table(head, body, name="energy of training")


def _of_answers(told: dict[str, Any]) -> Html:
    rows = told["per_1000_requests"]
    if not rows:
        return Html("")
    kinds, chips = _kinds(rows, "estimated")
    head = ["1,000 requests", "tokens", join(["CPU-seconds", _MEASURED], " "), join(["joules", *chips], " ")]
    body = [
        [
            _title(row),
            f"{row['tokens']}",
            three_digits(row["cpu_seconds"]),
            join([three_digits(row["joules"]), kind], " "),
        ]
        for row, kind in zip(rows, kinds, strict=True)
    ]
    return markup.table(head, body, name="energy of answering")


def _kinds(rows: Sequence[dict[str, Any]], otherwise: str) -> tuple[list[Html | str], list[Html]]:
    """Measured or estimated: beside each figure where the rows differ, else once in the head."""
    kinds: list[Html | str] = [_MEASURED if row.get("method", otherwise) == "measured" else _ESTIMATED for row in rows]
    if len(set(kinds)) == 1:
        return [""] * len(rows), [Html(kinds[0])]
    return kinds, []


def _title(line: dict[str, Any]) -> str:
    return line["name"] if line["format"] == "transformers" else f"{line['name']} · {line['format']}"


def _earned(told: dict[str, Any]) -> Html:
    """After how many requests the energy of making it is saved, and how joules were come by."""
    lines = []
    for key, against in (
        ("break_even_requests", "the teacher in eager torch"),
        ("break_even_same_engine", "the teacher on the same engine"),
    ):
        if told.get(key) is not None:
            count = f"The processor energy of all trainings is saved after {told[key]:,.0f} requests, against {against}"
            lines.append(join([count, _ESTIMATED], " "))
    if told.get("watts_per_cpu") is not None:
        lines.append(f"Joules are CPU-seconds times {told['watts_per_cpu']:.3g} W for a busy CPU.")
    return markup.bullets(lines)


def steps(report: dict[str, Any]) -> Html:
    """What was run where: each step with its time, whether it was taken from the store, and its key."""
    here, machines = report["machine"], {}
    body = []
    for step in report["steps"]:
        other = step.get("machine") and step["machine"] != here
        place = machines.setdefault(_machine(step["machine"]), len(machines) + 1) if other else None
        body.append([
            step["name"], step["kind"], duration(step["seconds"]),
            chip("reused") if step["reused"] else "computed",
            str(step.get("finished") or "–").replace("T", " ")[:16],
            "here" if place is None else f"machine {place}",
            _code(step.get("key")), _code(step.get("sha256")),
        ])  # fmt: skip
    head = ["step", "kind", "time", "", "finished", "where", "key", "checkpoint"]
    other = [_other_versions(step, report["versions"]) for step in report["steps"]]
    took = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report["seconds"].items())
    facts = markup.pairs([
        ("here", _machine(here)),
        *((f"machine {place}", name) for name, place in machines.items()),
        ("versions", ", ".join(f"{name} {number}" for name, number in report["versions"].items())),
        ("other versions", "; ".join(filter(None, other))),
        ("seed", str(report["seed"])),
        ("recipe", _code(report.get("recipe_sha256"))),
        ("this run took", took),
    ])  # fmt: skip
    shown = markup.table(head, body, words=[1, 3, 4, 5, 6, 7], name="steps") if body else ""
    return section("What was run where", shown, facts)


def _other_versions(step: dict[str, Any], here: dict[str, str]) -> str:
    """The versions that a step was computed with, where they are not this run's."""
    told = step.get("versions") or {}
    return ", ".join(f"{step['name']}: {name} {number}" for name, number in told.items() if here.get(name) != number)


def _code(told: str | None) -> Html | str:
    return tag("code", told[:_KEY], title=told) if told else "–"


def _machine(told: dict[str, Any]) -> str:
    cores, memory = told.get("cores"), told.get("memory_gb")
    return ", ".join(
        part
        for part in (
            str(told.get("processor", "unknown processor")), f"{cores} cores" if cores else "",
            f"{memory:g} GB" if memory else "", str(told.get("accelerator") or ""), str(told.get("system", "")),
            f"Python {told['python']}" if told.get("python") else "",
        )
        if part
    )  # fmt: skip


def parity(told: dict[str, Any] | None) -> Html:
    """How far the exported graphs are from torch."""
    if not told:
        return Html("")
    body = []
    for name, found in told.items():
        if isinstance(found, dict) and "agreement" in found:
            scores = [f"{found['score'][size]:.4f}" if size in found["score"] else "–" for size in _sizes(told)]
            body.append([name, f"{found['largest_difference']:.2g}", headline.percent(found["agreement"]), *scores])
    head = ["graph", "largest logit difference", "same answers", *(f"{told['metric']}, {s}" for s in _sizes(told))]
    caption = f"On {told['rows']} validation rows; torch has {told['metric']} {told['torch']['score']:.4f}."
    return section("The graphs against torch", tag("p", caption, class_="say"), markup.table(head, body, name="parity"))


def _sizes(told: dict[str, Any]) -> list[str]:
    graphs = [found["score"] for found in told.values() if isinstance(found, dict) and "agreement" in found]
    return list(dict.fromkeys(size for scores in graphs for size in scores))


def data(report: dict[str, Any]) -> Html:
    """What it was trained and measured on, whom it learned from, and what was noted."""
    told, teacher = report["data"], report.get("teacher") or {}
    rows = ", ".join(f"{count:,} {split}" for split, count in told["rows"].items())
    cut = ", ".join(f"{count:,} {split}" for split, count in told.get("truncated", {}).items())
    licence = {"data": told.get("licence"), "teacher": teacher.get("licence")}
    facts = markup.pairs([
        ("data", told.get("name")),
        ("rows", rows),
        ("rows without labels", ", ".join(f"{one['rows']:,} of {one['origin']}" for one in told.get("extra", []))),
        ("labels", ", ".join(map(str, told["labels"]))),
        ("cut texts", f"{cut}: cut to the longest length" if cut else "none is cut"),
        ("data licence", licence["data"] or "not said"),
        ("test split", _code(told.get("test_sha256"))),
        ("teacher", join([teacher.get("name"), teacher.get("revision"), "fine-tuned here" if teacher.get("finetuned")
                          else ""], ", ")),
        *_members(teacher, report["rows"][0]["metric"]),
        ("teacher licence", licence["teacher"] or ("not said" if teacher else "")),
        ("teacher source", teacher.get("source")),
        ("teacher weights", _code(teacher.get("sha256")) if teacher else ""),
    ])  # fmt: skip
    notes = [*report["notes"], *([told["note"]] if told.get("note") and told["note"] not in report["notes"] else [])]
    return section("Data, teacher and notes", facts, markup.bullets(notes))


def _members(teacher: dict[str, Any], metric: str) -> list[tuple[str, str]]:
    """The teachers of an ensemble, each with its weight, its own score and its licence."""
    found = []
    for place, one in enumerate(teacher.get("ensemble", []), start=1):
        parts = [
            one["name"], one.get("revision"), "fine-tuned here" if one["finetuned"] else "",
            f"weight {one['weight']:.2f}", f"{metric} {one['score']:.4f} alone" if "score" in one else "",
            one["licence"] or "licence not said",
        ]  # fmt: skip
        found.append((f"teacher {place}", ", ".join(part for part in parts if part)))
    return found
