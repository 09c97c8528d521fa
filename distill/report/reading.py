"""How a ledger is to be read: what its columns mean, with the facts of the measurement."""

from __future__ import annotations

from distill.evaluation.ledger import Ledger


def reading_help(ledger: Ledger) -> list[str]:
    """What the columns mean, with the facts of this measurement."""
    teacher = ledger.teacher
    against = "the ensemble" if ledger.ensemble else "the teacher"
    lines = [
        f"{teacher.metric} on {teacher.n} test examples; the interval is a bootstrap over them; p is a paired "
        f"randomisation test against {against} (small: the difference is hardly chance)",
        "size: weights, config and tokenizer, what one engine needs to answer",
    ]
    if ledger.ensemble is not None:
        lines.insert(
            1,
            "ensemble: the weighted mean of the teachers' probabilities, with the parameters and bytes of all of them; "
            "what is kept is held against its score, size and speed against the first teacher alone, from which a "
            "student's layers are cut",
        )
    if teacher.latency:
        timed, first = teacher.latency[0], "the first teacher" if ledger.ensemble else "the teacher"
        eager = " in eager torch (as users run it) and" if teacher.format == "transformers" else ""
        lines.append(
            f"ms: median of {timed.rounds} interleaved answers, {timed.tokens} tokens, {timed.threads} thread(s), "
            f"tokenizer excluded; against {first}{eager} on the same engine in fp32"
        )
    if any(row.scored_at_batch for row in ledger.rows):
        lines.append("fewer bits are scored at batch 1 and at batch 32, and the worse score counts")
    lines.append("memory: peak of a fresh process that loads the files and answers one text, interpreter included")
    return lines
