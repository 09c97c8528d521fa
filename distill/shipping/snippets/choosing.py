"""What snippets that write follow of generation_config.json: a few lines a setting, and only of those that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.generation import rules_of

FILE = "onnx/generation_config.json"
READ = f'how = json.loads(Path("{FILE}").read_text(encoding="utf-8"))'
# What else changes a text that is written greedily, with what it is where it does nothing.
_LEFT_OUT = {
    "num_beams": 1, "do_sample": False, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None, "sequence_bias": None, "stop_strings": None, "guidance_scale": 1.0,
    "penalty_alpha": None, "dola_layers": None, "watermarking_config": None, "max_time": None,
}  # fmt: skip


def ends(facts: Mapping[str, Any]) -> list[str]:
    """The tokens that end a text, by the name `ends`; nothing where none does."""
    told = facts["generation"].get("eos_token_id")
    if told is None:
        return []
    return ['ends = how["eos_token_id"]' if isinstance(told, list) else 'ends = [how["eos_token_id"]]']


def chosen(facts: Mapping[str, Any], *, start: str, last: str) -> list[str]:
    """From `logits` and the `tokens` so far to the next `token`, in the order of transformers.

    `start` is how many tokens there were at first, `last` how many there are before the last one that may be written.
    """
    how, rules = facts["generation"], rules_of(facts["generation"])
    lines: list[str] = []
    if rules.repetition != 1:
        lines += [
            'there, penalty = list(set(tokens)), how["repetition_penalty"]',
            "scores[there] = np.where(scores[there] < 0, scores[there] * penalty, scores[there] / penalty)",
        ]
    if rules.once:
        lines += [
            'size = how["no_repeat_ngram_size"]',
            "for i in range(len(tokens) - size + 1):",
            "    if tokens[i : i + size - 1] == tokens[len(tokens) - size + 1 :]:",
            "        scores[tokens[i + size - 1]] = -np.inf",
        ]
    if rules.banned:
        also = " and [*before, word] not in [[end] for end in ends]" if _bans_an_end(how, rules.ends) else ""
        lines += [
            'for *before, word in how["bad_words_ids"]:',
            f"    if tokens[len(tokens) - len(before) :] == before{also}:",
            "        scores[word] = -np.inf",
        ]
    for word, least, written in (
        ("min_length", rules.least, "len(tokens)"), ("min_new_tokens", rules.least_new, f"len(tokens) - {start}"),
    ):  # fmt: skip
        if least and rules.ends:
            lines += [f'if {written} < how["{word}"]:', "    scores[ends] = -np.inf"]
    if rules.suppressed:
        lines.append('scores[how["suppress_tokens"]] = -np.inf')
    if rules.suppressed_first:
        first = start if rules.forced_first is None else f"{start} + ({start} == 1)" if start != "1" else "2"
        lines += [f"if len(tokens) == {first}:", '    scores[how["begin_suppress_tokens"]] = -np.inf']
    lines = [
        *(["scores = logits[0, -1]", *lines] if lines else []),
        f"token = int({'scores' if lines else 'logits[0, -1]'}.argmax())",
    ]
    if rules.forced_first is not None:
        lines += ["if len(tokens) == 1:", '    token = how["forced_bos_token_id"]']
    if rules.forced_last:
        forced = 'how["forced_eos_token_id"]'
        several = isinstance(how["forced_eos_token_id"], list)
        lines += [f"if len(tokens) == {last}:", f"    token = {f'min({forced})' if several else forced}"]
    return lines


def _bans_an_end(how: Mapping[str, Any], ends: tuple[int, ...]) -> bool:
    return any(list(row) == [end] for row in how["bad_words_ids"] for end in ends)


def over(facts: Mapping[str, Any]) -> list[str]:
    """What leaves the loop behind a `token` that ends the text."""
    return ["if token in ends:", "    break"] if ends(facts) else []


def indented(lines: list[str], by: int = 8) -> list[str]:
    """Lines as they stand inside a function's loop."""
    return [" " * by + line for line in lines]


def left_out(facts: Mapping[str, Any]) -> str | None:
    """What is told of settings that transformers follows and the snippet doesn't; None where there are none."""
    how = facts["generation"]
    names = [f"`{name}`" for name, idle in _LEFT_OUT.items() if how.get(name) not in (None, idle)]
    if not names:
        return None
    beams = "; distill's Predictor follows `num_beams`" if "`num_beams`" in names else ""
    return (
        f"The snippet takes the likeliest token each time and leaves out what `{FILE}` says of {', '.join(names)}: "
        f"transformers follows that, and may write another text{beams}."
    )
