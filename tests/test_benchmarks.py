"""What a benchmark decides by itself: which phrases are kept apart, which goals are met. It is never run here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks, found as a script there finds it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found: list[str] = []

    def read(name: str):
        found.append(name)
        return importlib.import_module(name)

    yield read
    for name in found:
        sys.modules.pop(name, None)


def test_no_row_that_holds_a_held_out_phrase_or_lies_in_one_is_kept(module):
    rows = [
        ("a fine film", 1),  # lies in the first
        ("Fine  Film ,", 1),  # in other case and spacing
        ("fine", 1),
        ("not a film at all , he said", 0),  # contains the second
        ("a fine filmmaker", 1),  # words are whole
        ("a film , fine", 1),  # and in order
        ("at once", 0),
    ]
    kept = module("phrases").keep_apart(rows, ["it is A fine film , really", "a film at all"])
    assert kept == [("a fine filmmaker", 1), ("a film , fine", 1), ("at once", 0)]


def test_every_row_against_every_held_out_text_gives_the_same(module):
    """The fast way through sets of runs, against looking at each pair."""
    phrases = module("phrases")
    texts = [" ".join("abcd"[(n // 4**place) % 4] for place in range(1 + n % 5)) for n in range(300)]
    held, rows = [text for text in texts[::17] if len(text) > 4], [(text, 0) for text in texts]

    def within(one: str, other: str) -> bool:
        return f" {one} " in f" {other} "

    slow = [row for row in rows if not any(within(row[0], text) or within(text, row[0]) for text in held)]
    assert phrases.keep_apart(rows, held) == slow
    assert 0 < len(slow) < len(rows)


def test_sst2_is_read_with_any_line_ends_and_validation_shares_nothing_with_training(module, tmp_path):
    phrases = module("phrases")
    sentences = [f"film {n} is number {n * n} of all" for n in range(40)]
    train = [f"{n % 2}\t{text}" for n, text in enumerate(sentences)] + [f'0\t"number {n * n}' for n in range(40)]
    (tmp_path / "train.tsv").write_bytes("\r\n".join(["label\tsentence", *train, ""]).encode())
    for name, text in (("dev", "of all films"), ("test", "film 3 is number 9 of all")):
        (tmp_path / f"{name}.tsv").write_text(f"label\tcontent\n1\t{text}\n")
    found = phrases.load(tmp_path, validation=10)
    assert found.told["train_rows"] == 80
    assert found.told["dropped_for_dev_and_test"] == 1  # the sentence that test holds
    assert len(found.validation) == 10
    assert {text for text, _ in found.validation}.isdisjoint(text for text, _ in found.train)
    assert ('"number 4', 0) in [*found.train, *found.validation]
    folder = found.write(tmp_path / "splits")
    assert (folder / "dev.tsv").read_text() == "text\tlabel\nof all films\tpositive\n"


def row(name: str, kept: float, millions: float, speed: float) -> dict:
    ratios = {"faster_than_eager": 2 * speed, "faster_than_onnxruntime": speed}
    return {
        "name": name, "dev": {"mean": 0.9 * kept, "kept": kept}, "parameters": {"mean": 1e6 * millions},
        "bytes": {"mean": 1e6 * millions}, "ms": {"1 x 16": ratios, "8 x 64": ratios},
    }  # fmt: skip


def test_a_missed_goal_is_told_as_missed(module):
    goals = module("goals")
    rows = [row("teacher, eager torch", 1.0, 22, 0.5), row("sst2-compact, int8", 0.991, 5, 9)]
    rows += [row("sst2-fast, int8", 0.979, 5, 9)]
    told = {"rows": rows, "int8": [{"checkpoint": "teacher", "data": "d", "points_lost": 0.2}], "quick": False}
    found = {goal["goal"]: (goal["met"], goal["aim_met"]) for goal in goals.judge(told)}
    assert found == {
        "teacher on dev": (True, True),
        "sst2-compact: kept on dev": (True, True),
        "sst2-compact: parameters, millions": (True, False),
        "sst2-compact: megabytes": (True, False),
        "sst2-fast: kept on dev": (False, False),
        "sst2-fast: times the eager teacher's speed": (True, False),
        "sst2-fast: times ONNX Runtime's speed": (True, False),
        "int8: points lost, teacher (d)": (True, False),
    }
    lines = [goals.spell(goal) for goal in goals.judge(told)]
    assert lines[2] == "sst2-compact: parameters, millions: at most 6, measured 5: met, the aim of 3 missed"
    assert lines[4] == "sst2-fast: kept on dev: at least 0.98, measured 0.979: MISSED"
    assert all(goal["met"] is None for goal in goals.judge({**told, "quick": True}))


def test_the_front_holds_what_nothing_beats_in_both(module):
    assert module("pareto").front([(3, 99), (1, 90), (2, 89), (4, 98), (3, 97)]) == [(1, 90), (3, 99)]


def test_a_word_belongs_to_the_slot_that_has_a_letter_of_it(module):
    chunks = [{"text": "play "}, {"text": "blue jazz", "entity": "genre"}, {"text": "'s best "}]
    chunks += [{"text": "in", "entity": "place"}, {"text": " "}, {"text": "bar", "entity": "place"}]
    words, tags = module("parts.slots").tag(chunks)
    assert words == ["play", "blue", "jazz's", "best", "in", "bar"]
    assert tags == ["O", "B-genre", "I-genre", "O", "B-place", "B-place"]
