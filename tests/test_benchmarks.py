"""What a benchmark decides by itself: which phrases are kept apart, which goals are met. It is never run here."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
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


def tried(validation: float, cpu: float, size: int = 32) -> dict:
    return {"validation": validation, "cpu_seconds": cpu, "batch_size": size, "learning_rate": 1e-4}


def test_the_fastest_setting_within_half_a_point_of_the_best_is_chosen(module):
    choose = module("parts.ratios").choose
    assert choose([tried(0.880, 9), tried(0.875, 3), tried(0.874, 1)])["cpu_seconds"] == 3
    assert choose([tried(0.880, 9), tried(0.860, 1)])["cpu_seconds"] == 9


def run(seconds: float, cpu: float, dev: float, texts: int = 100) -> dict:
    process = {"seconds": seconds + 5, "cpu_seconds": cpu + 5}
    return {"seconds": seconds, "cpu_seconds": cpu, "dev": dev, "texts": texts, "epochs": 3, "process": process}


def test_of_wall_and_cpu_time_the_smaller_ratio_counts_and_the_score_must_be_equal(module):
    ratios = module("parts.ratios")
    fast = ratios.summarise([run(10, 10, 0.876), run(10, 10, 0.874)])
    slow = ratios.summarise([run(300, 100, 0.88), run(300, 140, 0.88)])
    assert fast["texts_a_second"] == 30
    found = ratios.compare(fast, slow)
    assert (found["wall"], found["cpu"], found["counts"], found["rounds"]) == (30, 12, 12, [10, 14])
    assert found["points_ahead"] == pytest.approx(-0.5)
    assert found["equal_score"]
    slower = ratios.compare(ratios.summarise([run(10, 10, 0.874)] * 2), slow)
    assert not slower["equal_score"]


def told_of(counts: float, ahead: float) -> dict:
    against = {"counts": counts, "points_ahead": ahead, "equal_score": ahead >= -0.5}
    rows = [{"name": name, "title": name} for name in ("trainer-padded", "textbrewer")]
    mine = {"name": "ours", "title": "ours", "against": {"trainer-padded": against}}
    return {"rows": [*rows, mine], "quick": False, "limit": {"share_of_the_limit": 0.3}}


def test_speed_at_a_lower_score_is_a_miss_and_an_arm_that_did_not_run_is_not_judged(module):
    ratios, spell = module("parts.ratios"), module("goals").spell
    goals = {goal["goal"]: goal for goal in ratios.judge(told_of(45, 0.2))}
    assert list(goals) == [
        "times the speed: trainer-padded", "points ahead on dev: trainer-padded", "share of the arithmetic limit",
    ]  # fmt: skip
    assert spell(goals["times the speed: trainer-padded"]).endswith("measured 45: met, and beyond: 40")
    assert goals["share of the arithmetic limit"]["aim_met"] is False
    speed, score, _ = ratios.judge(told_of(45, -0.6))
    assert (speed["met"], speed["aim_met"], speed["beyond_met"], score["met"]) == (False, False, False, False)
    assert all(goal["met"] is None for goal in ratios.judge({**told_of(45, 0.2), "quick": True}))


def test_a_part_of_a_step_is_the_range_it_lies_in_or_what_its_operator_does(module, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "throughput_arms"))
    shares = module("shares")

    class Event:
        def __init__(self, name, cpu_parent=None, spent=1e6):
            self.name, self.cpu_parent, self.self_cpu_time_total = name, cpu_parent, spent

    optimizer = Event("Optimizer.step#AdamW.step")
    names = ("aten::addmm", "aten::mm", "aten::bmm", "aten::_softmax", "aten::embedding_dense_backward", "aten::gelu",
             "aten::native_layer_norm_backward", "MulBackward0")  # fmt: skip
    found = [shares.part(Event(name)) for name in names]
    assert found == ["matrix products", "matrix products", "attention", "attention",
                     "embeddings and rows of tokens", "GELU, layer norm and other elementwise",
                     "GELU, layer norm and other elementwise", "autograd between operators"]  # fmt: skip
    assert shares.part(Event("aten::mm", Event("inner", optimizer))) == "optimizer"
    told = shares.where([optimizer, Event("aten::mm", spent=2e6)], seconds=4)
    assert told == {"matrix products": 0.5, "optimizer": 0.25, "Python between operators": 0.25}


def test_steps_are_looked_into_as_the_whole_training_takes_them(module, monkeypatch, tmp_path):
    from distill.training.trainer import Trainer

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "throughput_arms"))
    arm, *_, step = (module(name) for name in ("arm", "ours", "shares", "step"))
    before = Trainer._tell
    with step._ranges():
        assert Trainer._tell is not before
    assert Trainer._tell is before
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "a text\tpositive\n" * 640)
    plan = arm.Plan("ours", *[tmp_path / "train.tsv"] * 6, batch_size=32, learning_rate=1.0, epochs=3, seed=0)
    for steps, often in ((60, 10), (12, 2), (2, 1)):
        assert step.pulls(replace(plan, steps=steps)) == often


def test_corpora_are_the_same_each_time_and_of_the_size_asked_for(module, tmp_path):
    corpora = module("corpora")
    assert len(set(corpora.vocabulary())) > 1000
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        written = corpora.write_corpus(tmp_path / name, 250)
        found.append([path.read_text() for path in written.values()])
    assert found[0] == found[1]
    lines, table, _ = (text.splitlines() for text in found[0])
    assert len(lines) == 250 == len(table) - 1 and len(set(lines)) < 250, "some are there twice"
    assert all(row.rpartition(",")[0] == line for row, line in zip(table[1:], lines, strict=True))


def test_memory_is_drawn_by_task(module, tmp_path):
    memory = module("memory")
    peak = {"own": 400.0, "mapped": 100.0, "shared": 0.0, "resident": 500.0}
    rows = [{"task": task, "lines": 10**n, "corpus": 1.0, "peak": peak} for task in memory.TASKS for n in (4, 5)]
    memory.draw(rows, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 5000
