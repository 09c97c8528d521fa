"""What the model is, in the card's first words, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.engines import ROUNDED
from distill.shipping.model_card.origin import listed, teacher_link

if TYPE_CHECKING:
    from distill.evaluation import Row

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


def first_words(report: Mapping[str, Any], facts: Mapping[str, Any], shipped: Mapping[str, Row]) -> str:
    """What the model is, what it makes of a text, and the formats that it comes in."""
    finetuned = " (fine-tuned on the same data)" if report.get("teacher", {}).get("finetuned") else ""
    forms = {"transformers": "safetensors for transformers", "onnx-fp32": "an fp32 graph"}
    forms |= {form: f"an {form.removeprefix('onnx-')} graph" for form in ROUNDED}
    rows_told = ", ".join(f"*{row.title}*" for row in shipped.values())
    how = "distilled" if any("distill" in step for step in report["recipe"]["steps"]) else "made"
    held = "The first row is the teacher it is held against"
    if report.get("ensemble"):
        held = "The first row is the ensemble, the second its first teacher"
    return (
        f"A compact {_KINDS[report['recipe']['task']]}, {how} from {teacher_link(report)}{finetuned}. "
        f"It {_gives(facts)}.\n\n"
        f"It comes as {listed([forms[form] for form in shipped])}; in the table below: {rows_told}. "
        f"{held}."
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


def measured(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    """The section Measured: the ledger, and how to read it."""
    from distill.evaluation import Ledger
    from distill.report import reading_help

    ledger = Ledger(list(rows), Ledger.told(report).ensemble)
    machine = report["machine"]
    where = (
        f"measured on {machine['processor']}, {machine['cores']} core(s), {machine['system']}, seed {report['seed']}"
    )
    whose = "ensemble" if ledger.ensemble else "teacher"
    kept = f"kept: the score over the {whose}'s; vs eager, vs same engine: how many times as fast as the teacher there"
    notes = "\n".join(f"* {line}" for line in [*reading_help(ledger), kept, where])
    return f"{ledger.markdown()}\n\n{notes}"
