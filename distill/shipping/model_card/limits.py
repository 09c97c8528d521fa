"""What to beware of: the section Limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.recipe.settings import Generation
from distill.shipping.model_card.formats import fewest_bits
from distill.tasks.question_answering import LONGEST_ANSWER


def limits(report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The section Limits."""
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
        if report["recipe"]["data"].get("packed") is not False:
            lines[2] = (
                f"* It was measured on texts end to end, in blocks; it reads {rule['max_length']} tokens at once."
            )
        lines[1] = (
            "* Perplexities compare models of the same tokenizer on the same text; bits_per_byte compares any. What it "
            "says is likely, not true."
        )
    if bits := fewest_bits(facts):
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
