"""README.md: the Hub's model card. Every measured figure in it stands in the table or the model-index, and comes from
report.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.engines import GRAPHS, ROUNDED
from distill.recipe.settings import Generation, Recipe
from distill.shipping import claims, snippets
from distill.tasks.question_answering import LONGEST_ANSWER

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from distill.evaluation import Row

NOT_STATED = "not stated: ask before you publish"
_DIGITS = 6
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What the Hub calls the licences that it knows; any other is `other` with its name.
_LICENCES = {
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-2.0", "gpl-3.0", "gpl", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0",
    "mpl-2.0", "isc", "unlicense", "wtfpl", "zlib", "artistic-2.0", "openrail", "bigscience-openrail-m",
    "creativeml-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "etalab-2.0",
    "odbl", "unknown",
}  # fmt: skip


_KINDS = {
    "text-classification": "text classifier",
    "token-classification": "tagger of words",
    "question-answering": "reader that finds answers",
    "masked-language-modelling": "masked language model",
    "causal-language-modelling": "causal language model",
    "text-to-text": "writer of one text from another",
    "translation": "translator",
    "summarization": "writer of summaries",
}


_HUB_TASKS = {"masked-language-modelling": "fill-mask", "causal-language-modelling": "text-generation"}  # else the same


def write_card(recipe: Recipe, report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The card of a shipped folder. `report` and `recipe` name no local path; `facts` are the manifest's."""
    rows = claims.rows_of(report)
    shipped = claims.shipped_rows(rows, facts["formats"])
    title = recipe.ship.hub.split("/")[1] if recipe.ship and recipe.ship.hub else report["run"]
    sections = [
        f"# {title}",
        _what(report, facts, rows, shipped),
        *(["**This is a smoke run: made on a sliver of the data. Its figures mean nothing.**"] * bool(report["smoke"])),
        "## Measured\n\n" + _measured(rows, report),
        "## Use\n\n" + _use(recipe, facts),
        "## Data\n\n" + _data(report),
        "## Licence\n\n" + _licence(recipe, report),
        "## Limits\n\n" + _limits(report, facts),
        "## How to reproduce\n\n" + _reproduce(report),
        "## What is in this folder\n\n" + _contents(facts),
    ]
    return f"---\n{_front_matter(title, recipe, report, facts)}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(title: str, recipe: Recipe, report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    named = licence_of(recipe, report)
    known = named.lower() if named and named.lower() in _LICENCES else None
    data = ModelCardData(
        license=known or ("other" if named else None),
        license_name=None if known or not named else re.sub(r"[^a-z0-9.-]+", "-", named.lower()).strip("-"),
        base_model=base_model(report),
        datasets=[source.hub for source in recipe.data.sources if source.hub] or None,
        library_name="transformers" if "transformers" in facts["formats"] else "onnx",
        pipeline_tag=_HUB_TASKS.get(recipe.task, recipe.task),
        tags=["distill-toolkit", "knowledge-distillation", *_graph_tags(facts)],
        model_name=title,
        eval_results=model_index(report, facts["formats"]),
    )
    return data.to_yaml() + "\n"


def model_index(report: Mapping[str, Any], formats: Sequence[str]) -> list[EvalResult]:
    """Every metric, what was kept of the teacher's score, size and parameters of each shipped format."""
    from huggingface_hub import EvalResult

    data = report["data"]
    name = data.get("name") or "the recipe's data"
    source = report["recipe"]["data"]
    hub = None if source.get("further") else source["source"].get("hub")
    found = []
    for form, row in claims.shipped_rows(claims.rows_of(report), formats).items():
        figures = {**row.scores, row.metric: row.score, "retained": row.retained, "bytes": row.bytes}
        figures |= {"parameters": row.params, "interval_low": row.interval[0], "interval_high": row.interval[1]}
        found += [
            EvalResult(
                task_type=_HUB_TASKS.get(report["recipe"]["task"], report["recipe"]["task"]),
                dataset_type=hub or re.sub(r"[^\w.-]+", "-", name).strip("-"),
                dataset_name=name, dataset_split="test",
                metric_type=metric, metric_name=f"{metric} ({form})", metric_value=round(value, _DIGITS),
            )
            for metric, value in figures.items()
            if value is not None
        ]  # fmt: skip
    return found


def licence_of(recipe: Recipe, report: Mapping[str, Any]) -> str | None:
    """What is shipped has the recipe's licence, or the teacher's own; None when neither is known."""
    return (recipe.ship.licence if recipe.ship else None) or report.get("teacher", {}).get("licence")


def base_model(report: Mapping[str, Any]) -> str | None:
    """The teacher's Hub id, where it has one."""
    teacher = report.get("teacher", {})
    if teacher.get("hub_id"):
        return teacher["hub_id"]
    source, name = teacher.get("source") or "", teacher.get("name") or ""
    if (found := re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+?)/?", source)) is not None:
        return found[1]
    return name if _HUB_ID.fullmatch(name) else None


def _teacher(report: Mapping[str, Any]) -> str:
    teacher = report.get("teacher", {})
    name, source = teacher.get("name") or "the teacher", teacher.get("source")
    if source is None and base_model(report):
        source = f"https://huggingface.co/{base_model(report)}"
    return f"[{name}]({source})" if source else name


def _what(report: Mapping[str, Any], facts: Mapping[str, Any], rows: Sequence[Row], shipped: Mapping[str, Row]) -> str:
    finetuned = " (fine-tuned on the same data)" if report.get("teacher", {}).get("finetuned") else ""
    forms = {"transformers": "safetensors for transformers", "onnx-fp32": "an fp32 graph"}
    forms |= {form: f"an {form.removeprefix('onnx-')} graph" for form in ROUNDED}
    rows_told = ", ".join(f"*{row.title}*" for row in shipped.values())
    return (
        f"A compact {_KINDS[report['recipe']['task']]}, distilled from {_teacher(report)}{finetuned}. "
        f"It {_gives(facts)}.\n\n"
        f"It comes as {_listed([forms[form] for form in shipped])}; in the table below: {rows_told}. "
        f"The first row is the teacher it is held against."
    )


def _gives(facts: Mapping[str, Any]) -> str:
    """What it makes of a text, in a clause."""
    given = "a pair of texts" if facts["preprocessing"]["texts"] == 2 else "a text"
    labels = ", ".join(facts["labels"])
    match facts["problem"]:
        case "single_label_classification":
            return f"gives one of these labels to {given}: {labels}"
        case "multi_label_classification":
            return f"gives any number of these labels to {given}: {labels}"
        case "token_classification":
            return f"gives each word of a sentence one of these tags: {labels}"
        case "text_to_text" | "translation" | "summarization":
            return "reads a text and writes another"
        case "question_answering":
            return "answers a question by a piece of the text that it is given with it" + (
                ", or not at all where the text doesn't say" if facts["threshold"] < 1 else ""
            )
        case "masked_language_modelling":
            return "fills in what is masked in a text, and is a start for tasks to be trained on"
        case "causal_language_modelling":
            return "writes a text on"
        case _:
            return f"gives a number to {given}: {labels}"


def _measured(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    from distill.evaluation import Ledger
    from distill.report import reading_help

    ledger = Ledger(list(rows))
    machine = report["machine"]
    where = (
        f"measured on {machine['processor']}, {machine['cores']} core(s), {machine['system']}, seed {report['seed']}"
    )
    kept = "kept: the score over the teacher's; vs eager, vs same engine: how many times as fast as the teacher there"
    notes = "\n".join(f"* {line}" for line in [*reading_help(ledger), kept, where])
    return f"{ledger.markdown()}\n\n{notes}"


def _use(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    parts = []
    if recipe.ship and recipe.ship.hub:
        fetch = _code(snippets.from_hub(recipe.ship.hub))
        parts.append(f"Get the folder (`pip install huggingface-hub`), then work in it:\n\n{fetch}")
    parts.append("The snippets run in this folder, and each needs only what its title says.")
    if "transformers" in facts["formats"]:
        asked = f'### transformers alone\n\n`pip install torch "transformers>={_version(facts, "transformers")}"`'
        parts.append(f"{asked}\n\n{_code(snippets.transformers_alone(recipe.task, facts))}")
    if _bits(facts):
        asked = "### onnxruntime and tokenizers alone\n\n`pip install onnxruntime tokenizers numpy`"
        note = f"The graphs use opset {facts['opset']}. `onnx/model.onnx` is the same in fp32."
        parts.append(f"{asked}\n\n{_code(snippets.onnxruntime_alone(recipe.task, facts))}\n\n{note}")
    parts.append(
        "### distill's Predictor\n\n`pip install distill-toolkit`. It serves the smallest graph where there is one, "
        f"without torch, and may be asked from many threads.\n\n{_code(snippets.predictor(recipe.task, facts))}"
    )
    return "\n\n".join(parts)


def _data(report: Mapping[str, Any]) -> str:
    data = report["data"]
    rows = data["rows"]
    lines = [
        f"* {data.get('name') or 'not named'}: {rows['train']} training, {rows['validation']} validation and "
        f"{rows['test']} test rows; near-duplicates never straddle two of them",
        f"* licence: {data.get('licence') or NOT_STATED}",
    ]
    lines += [f"* {one['rows']} more rows ({one['origin']}), labelled by the teacher" for one in data.get("extra", [])]
    return "\n".join(lines + ([f"* {data['note']}"] if data.get("note") else []))


def _licence(recipe: Recipe, report: Mapping[str, Any]) -> str:
    theirs, named = report.get("teacher", {}).get("licence"), licence_of(recipe, report)
    return (
        f"* what is shipped here: {named or NOT_STATED}\n"
        f"* the teacher, {_teacher(report)}: {theirs or NOT_STATED}\n"
        "* weights are derived from the teacher's and were trained on the data above; both licences concern you"
    )


def _limits(report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    rule = facts["preprocessing"]
    lines = [
        "* It was measured on the test split of the data above and on nothing else: expect less on other texts, other "
        "times and other languages, and measure on your own before you rely on it.",
        "* Look at the worst class and at the interval, not only at the score.",
        f"* Texts are cut to {rule['max_length']} tokens, as they were when it was measured.",
    ]
    if facts["problem"] == "single_label_classification":
        lines.append("* Every text gets one of the labels, also a text that none of them fits.")
    if facts["problem"] == "multi_label_classification":
        lines.append(f"* A label counts as given from a probability of {facts['threshold']:g}, chosen on validation.")
    if facts["problem"] in ("text_to_text", "translation", "summarization"):
        most = (report["recipe"].get("generation") or {}).get("max_new_tokens", Generation().max_new_tokens)
        lines.append(f"* What it writes has {most} tokens at most, and nothing checks that it is true.")
    if facts["problem"] == "token_classification":
        lines.append(
            "* A word's tag is read at its first token. Words beyond that length get none; where it was measured they "
            "count as wrong, and as no part of an entity."
        )
    if facts["problem"] == "question_answering":
        lines[2] = (
            f"* A text that is longer than {rule['max_length']} tokens with its question is read in windows that share "
            f"{rule['stride']} tokens, as it was when it was measured; an answer has {LONGEST_ANSWER} tokens at most."
        )
        lines.append(_unanswered(facts["threshold"]))
    if facts["problem"].endswith("language_modelling"):
        lines[1] = (
            "* Perplexities compare models of the same tokenizer on the same text; bits_per_byte compares any. What it "
            "says is likely, not true."
        )
    if bits := _bits(facts):
        lines.append(
            f"* In {bits} activations are rounded: an answer that is close to call may be another than in fp32. "
            "It hangs on its own text alone, never on what else is in the batch."
        )
    lines += [
        "* Latency is one machine's; ratios travel better than milliseconds, and neither travels far.",
        *_seeds(report),
    ]
    return "\n".join(lines)


def _seeds(report: Mapping[str, Any]) -> list[str]:
    """What luck does, and what distillation bought where that was measured."""
    controls = report.get("controls")
    lines = [f"* {sentence}" for sentence in controls["in_words"]] if controls else []
    if not controls or len(controls["seeds"]) < 2:
        lines.append(f"* One seed ({report['seed']}): another one gives another model of much the same score.")
    return lines


def _unanswered(threshold: float) -> str:
    if threshold < 1:
        return f"* No answer is given where its probability is above {threshold:g}, chosen on validation."
    return "* Every question gets an answer, also one that the text doesn't answer."


def _reproduce(report: Mapping[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    own = versions.get("distill-toolkit", "not installed")
    pinned = "distill-toolkit" if own == "not installed" else f"distill-toolkit=={own}"
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{_code(f'pip install {pinned}' + chr(10) + 'distill run ./recipe.yaml', 'sh')}\n\n"
        "`recipe.yaml` is the recipe with every default written out. A path in it is only a name: put the file "
        "beside it, or say where it is with `--set data.source=…`.\n\n"
        f"* versions: {told}\n"
        f"* machine: {machine['processor']}, {machine['cores']} core(s), {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, accelerator: {machine['accelerator'] or 'none'}\n"
        f"* seed: {report['seed']}\n\n"
        f"Hold this folder's claims against your own machine:\n\n{_code('distill verify .', 'sh')}"
    )


def _contents(facts: Mapping[str, Any]) -> str:
    lines = []
    if "transformers" in facts["formats"]:
        lines.append("transformers/      config, safetensors and tokenizer; stock from_pretrained loads it")
    if bits := _bits(facts):
        graph = GRAPHS[f"onnx-{bits}"]
        lines.append(f"onnx/              model.onnx (fp32), {graph}, tokenizer.json, config.json (label names)")
    lines += [
        "recipe.yaml        how it was made",
        "report.json        every figure, for programs",
        "manifest.json      SHA-256 and size of every file, labels, preprocessing, what is claimed",
    ]
    if "predictions.npz" in facts["extras"]:
        lines.append("predictions.npz    what each row of the table predicted on the test split; no texts")
    if "report.html" in facts["extras"]:
        lines.append("report.html        the report as a page, with plots")
    return _code("\n".join(lines), "")


def _bits(facts: Mapping[str, Any]) -> str | None:
    """`int8` or `int4`, where a graph in so few bits is shipped."""
    return next((form.removeprefix("onnx-") for form in ROUNDED if form in facts["formats"]), None)


def _graph_tags(facts: Mapping[str, Any]) -> list[str]:
    return ["onnx", bits] if (bits := _bits(facts)) else []


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _version(facts: Mapping[str, Any], name: str) -> str:
    found = facts["engine_versions"].get(name, "5")
    return found.split(".")[0]


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"
