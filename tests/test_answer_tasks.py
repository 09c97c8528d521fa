"""Answers in a text: windows, spans and SQuAD's scores against hand-worked values, errors, and the whole chain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from made_tasks import asked, write_jsonl
from tiny_models import tiny
from torch.nn import functional

from distill import Data, Predictor, load_data
from distill import recipe as recipes
from distill.data.batching import collate
from distill.data.windows import END, START, span_targets, windows_of
from distill.distillation import Lesson
from distill.errors import DataError
from distill.pipeline import run
from distill.recipe import settings
from distill.signals import Signals
from distill.tasks import QuestionAnswering
from distill.tasks.answers import Numbers, compare, exact_match, f1, laid_out, normalise
from distill.verification import verify

WORDS = {"text": ["question", "context"], "label": "answers", "validation": 0.2, "test": 0.2}
TASK = QuestionAnswering("question_answering", ("start", "end"), "f1")


@pytest.fixture(scope="module")
def asked_file(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("asked") / "asked.jsonl", asked(150, unanswerable=True))


def of(path: Path, **words: object):
    """A file's rows, loaded and split."""
    return load_data(Data(**{**WORDS, "source": str(path), **words}), task="question-answering")


# ---------------------------------------------------------------------------------------------------------- the scores


@pytest.mark.parametrize(
    ("given", "right", "exact", "score"),
    [
        ("The Cat!", ["a cat"], 1.0, 1.0),  # case, punctuation and articles don't count
        ("the black cat", ["black cat", "cat"], 1.0, 1.0),  # the best of several
        ("a big black cat", ["cat"], 0.0, 2 * 1 / (3 + 1)),
        ("cat cat", ["cat sat"], 0.0, 2 * 1 / (2 + 2)),  # a word counts as often as it is there
        ("dog", ["cat"], 0.0, 0.0),
        ("", [""], 1.0, 1.0),
        ("cat", [""], 0.0, 0.0),
        ("", ["cat"], 0.0, 0.0),
    ],
)
def test_scores_are_squads(given, right, exact, score):
    words = [normalise(one) for one in right]
    assert exact_match(normalise(given), words) == exact
    assert f1(normalise(given), words) == pytest.approx(score)
    numbers = Numbers("a context")
    held = laid_out([[numbers.of(one) for one in right]])
    predicted = np.zeros((1, 30), dtype=np.int64)
    predicted[0, : len(numbers.of(given))] = numbers.of(given)
    assert compare(predicted, held)[0].tolist() == pytest.approx([score, exact])


def test_articles_and_signs_go_as_in_the_official_script():
    assert normalise("The U.S.A. -- a well-known  Theatre, an O'Neill") == ["usa", "wellknown", "theatre", "oneill"]


def test_words_are_numbers_that_tell_no_text():
    one, other = Numbers("a context"), Numbers("another context")
    assert one.of("cat dog cat")[0] == one.of("cat dog cat")[2] != one.of("dog")[0]
    assert one.of("cat") != other.of("cat")
    assert all(0 < number < 2**53 for number in one.of("every word that is there"))


# ---------------------------------------------------------------------------------------------------------- the windows


def pair(question: str, context: str):
    return make_tokenizer()([question], [context]).encodings[0]


def test_windows_overlap_and_each_has_the_question():
    context = "the goal of a match is to win the cup"  # ten tokens
    found = windows_of(pair("who ?", context), 9, 2)  # [CLS] who ? [SEP] four [SEP]
    tokenizer = make_tokenizer()
    assert found.lengths == (9, 9, 9, 9)
    rows = np.split(found.ids, 4)
    for row, text in zip(rows, ("the goal of a", "of a match is", "match is to win", "to win the cup"), strict=True):
        assert tokenizer.decode(row) == f"[CLS] [UNK] [UNK] [SEP] {text} [SEP]"
    shown = [context[a:b] for a, b in found.places[4:8]]
    assert shown == ["the", "goal", "of", "a"]
    assert (found.places[:4] == -1).all()
    whole = windows_of(pair("who ?", context), 48, None)
    assert whole.lengths == (15,) and whole.cut is False  # what is counted of it goes into report.json


def test_windows_are_those_of_transformers():
    context = " ".join(["the goal of a match is to win the cup"] * 3)
    for longest, stride in ((14, 3), (16, 4), (20, 6)):
        expected = make_tokenizer()(
            "who is it ?", context, truncation="only_second", max_length=longest, stride=stride,
            return_overflowing_tokens=True,
        )["input_ids"]  # fmt: skip
        found = windows_of(pair("who is it ?", context), longest, stride)
        assert found.ids.tolist() == [number for row in expected for number in row]


def test_a_question_that_leaves_no_room_loses_its_end():
    found = windows_of(pair("the goal of a match is to win the cup", "a team of it"), 12, None)
    assert found.cut
    assert max(found.lengths) <= 12
    assert (found.places >= 0).any()
    with pytest.raises(DataError, match=r"data.max_length: 4 tokens hold no question"):
        windows_of(pair("the goal of it", "a team of it"), 4, None)


def test_an_answer_is_marked_in_the_windows_that_hold_all_of_it():
    context = "the goal of a match is to win the cup"
    found = windows_of(pair("who ?", context), 9, 2)
    start = context.index("a match")
    flags = np.split(span_targets(found, (start, start + len("a match"))), 4)
    both = START | END
    assert flags[1].tolist() == [0, 0, 0, 0, 0, START, END, 0, 0]  # of [a match] is
    assert [row.tolist() for row in (flags[0], flags[2], flags[3])] == [[both, *[0] * 8]] * 3
    assert all(row[0] == both for row in np.split(span_targets(found, None), 4))
    one = context.index("win")
    assert np.split(span_targets(found, (one, one + 3)), 4)[2].tolist() == [0, 0, 0, 0, 0, 0, 0, both, 0]


def test_a_batch_has_a_sequence_a_window_and_targets_are_their_places(tmp_path):
    data = of(write_jsonl(tmp_path / "rows.jsonl", asked(30, fillers=10)), max_length=14, stride=3)
    encoded = data.encode("train", make_tokenizer())
    batch = collate(encoded, [0, 1, 2])
    number = int(encoded.windows.lengths[:3].sum())
    assert batch["input_ids"].shape[0] == number > 3
    assert batch["rows"].tolist() == [0, 1, 2]
    assert (batch["attention_mask"].sum(1) == encoded.sequences[:number]).all()
    found = TASK.targets({name: torch.as_tensor(array) for name, array in batch.items()}).view(number, 2)
    for sequence, (start, end) in enumerate(found.tolist()):
        flags = batch["labels"][sequence]
        assert flags[start] & START
        assert flags[end] & END
    some = encoded.take(np.array([2, 0]))
    assert (collate(some, [1])["input_ids"] == collate(encoded, [0])["input_ids"]).all()


class Said:
    """An engine that wants one span of the first text and none of the second."""

    name = format = "said"
    batch_dependent = False

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def answer(self, batch):
        return self.logits


def test_the_best_span_is_found_over_all_windows(tmp_path):
    context = "the goal of a match is to win the cup"
    answers = {"text": ["a match"], "answer_start": [12]}
    rows = [{"question": "who ?", "context": context, "answers": answers}] * 2 + asked(40)
    data = of(write_jsonl(tmp_path / "rows.jsonl", rows), max_length=9, stride=2)
    texts = {split: getattr(data, split).texts for split in ("train", "validation", "test")}
    split, row = next(
        (name, rows.index(("who ?", context))) for name, rows in texts.items() if ("who ?", context) in rows
    )
    encoded = data.encode(split, make_tokenizer())
    batch = collate(encoded, [row])
    logits = np.zeros((4, 9, 2), dtype=np.float32)
    logits[1, 5, 0], logits[1, 6, 1] = 4, 5  # `a` and `match`, in the second window
    logits[2, 4, 0], logits[2, 7, 1] = 3, 3
    logits[0, 6, 0], logits[0, 4, 1] = 8, 8  # an end before its start is no span
    logits[3, 2, 0], logits[3, 2, 1] = 9, 9  # nor is a word of the question
    logits[:, 0] = 2
    found = TASK.ask(Said(logits), batch, encoded)
    (answer,) = TASK.answer(found, 1.0, [encoded.about[row]])
    assert (answer["text"], answer["start"], answer["end"]) == ("a match", 12, 19)
    share = np.exp(4) / np.exp(logits[1, :, 0]).sum() * np.exp(5) / np.exp(logits[1, :, 1]).sum()
    assert answer["score"] == pytest.approx(share)
    assert TASK.scores(TASK.predictions(found), encoded.labels[[row]]) == {"f1": 1.0, "exact_match": 1.0}
    (none,) = TASK.answer(found, 0.001, [encoded.about[row]])
    assert none["text"] == ""
    assert none["score"] == pytest.approx(1 / (1 + np.exp(9 - 4)))
    assert TASK.scores(TASK.predictions(found, 0.001), encoded.labels[[row]])["f1"] == 0.0


# ------------------------------------------------------------------------------------------------------------ the data


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": {"text": ["cup"], "answer_start": [3]}}, r"'cup' is not in its context at answer_start 3; it st"),
        ({"answers": {"text": ["zoo"], "answer_start": [0]}}, "it stands nowhere in it"),
        ({"answers": {"text": ["cup"], "answer_start": []}}, "answers without as many of `text` as of `answer_start`"),
        ({"context": " "}, "data.text: row 0 of train holds an empty context; leave such rows out"),
        ({"question": ""}, "data.text: row 0 of train holds an empty question"),
    ],
)
def test_rows_that_are_no_questions_with_answers_are_named(tmp_path, row, message):
    whole = {"question": "who ?", "context": "a team won the cup", "answers": {"text": ["team"], "answer_start": [2]}}
    with pytest.raises(DataError, match=message):
        of(write_jsonl(tmp_path / "rows.jsonl", [{**whole, **row}, *asked(12)]))


def test_questions_without_a_single_answer_and_other_columns_are_refused(tmp_path):
    rows = [{**row, "answers": {"text": [], "answer_start": []}} for row in asked(12)]
    mixed = [*rows[:-2], *asked(12)[-2:]]
    path = write_jsonl(
        tmp_path / "rows.jsonl", [{**row, "context": f"{row['context']} {i}"} for i, row in enumerate(mixed)]
    )
    with pytest.raises(DataError, match="takes `text:"):
        of(path, text="question")
    with pytest.raises(DataError, match=r"data.problem: means nothing for question-answering"):
        of(path, problem="regression")


def test_squads_own_files_and_both_forms_of_answers_are_read(tmp_path):
    rows = asked(40)
    articles = [
        {
            "title": "a title",
            "paragraphs": [
                {
                    "context": row["context"],
                    "qas": [
                        {
                            "question": row["question"],
                            "id": str(number),
                            "answers": [
                                {"text": text, "answer_start": start}
                                for text, start in zip(*row["answers"].values(), strict=True)
                            ],
                        }
                    ],
                }
            ],
        }
        for number, row in enumerate(rows)
    ]
    own = tmp_path / "squad.json"
    own.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    pairs = [
        {
            **row,
            "answers": [
                dict(zip(("text", "answer_start"), one, strict=True))
                for one in zip(*row["answers"].values(), strict=True)
            ],
        }
        for row in rows
    ]
    expected = of(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert of(own).fingerprint == expected.fingerprint
    rest = [{"title": str(number), "paragraphs": []} for number in range(20_000)]  # beyond the block of its reader
    own.write_text(json.dumps({"version": "1.1", "data": [*articles, *rest]}, indent=2), encoding="utf-8")
    assert own.stat().st_size > 1 << 20
    assert of(own).fingerprint == expected.fingerprint
    assert of(write_jsonl(tmp_path / "pairs.jsonl", pairs)).fingerprint == expected.fingerprint


@pytest.mark.parametrize("none", [None, [], {"text": None, "answer_start": None}, {"text": [], "answer_start": []}])
def test_a_question_without_an_answer_says_so_in_any_form(tmp_path, none):
    rows = asked(40)
    single = [{**row, "answers": {name: held[0] for name, held in row["answers"].items()}} for row in rows[:30]]
    found = of(write_jsonl(tmp_path / "rows.jsonl", [*single, *({**row, "answers": none} for row in rows[30:])]))
    answers = [one for split in (found.train, found.validation, found.test) for one in split.labels]
    assert sum(not one for one in answers) == 10 and len(answers) == 40


def test_questions_on_one_context_stay_together(tmp_path):
    rows = [row for row in asked(24) for _ in range(2)]
    data = of(write_jsonl(tmp_path / "rows.jsonl", rows))
    contexts = [{context for _, context in getattr(data, split).texts} for split in ("train", "validation", "test")]
    assert not contexts[0] & contexts[1]
    assert not (contexts[0] | contexts[1]) & contexts[2]


def test_the_stride_is_a_part_of_what_a_result_hangs_on(asked_file):
    assert of(asked_file, stride=3).facts != of(asked_file).facts


# ----------------------------------------------------------------------------------------------------------- the chain


def recipe_of(recipe_file, body, source, *steps, **sections):
    return recipe_file(
        task="question-answering",
        teacher={
            "checkpoint": str(body),
            "finetune": {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "warmup": 0},
        },
        data={**WORDS, "source": str(source), "max_length": 16, "stride": 4},
        steps=list(steps),
        **sections,
    )


def taught(**imitate: float) -> dict[str, object]:
    return {"distill": {"imitate": imitate, "epochs": 2, "learning_rate": 3e-3, "batch_size": 16}}


def test_answers_go_through_the_whole_chain(recipe_file, body, asked_file, tmp_path, without_memory):
    path = recipe_of(
        recipe_file, body, asked_file,
        taught(logits=1.0, hidden_states=1.0),
        {"prune": {"heads": 0.5, "neurons": 0.5, "vocabulary": "used", "examples": 32}},
        taught(logits=1.0),
        "quantize",
        ship=["transformers", "onnx"],
    )  # fmt: skip
    report = run(recipes.load(path), tmp_path / "run", beside=path.parent)
    teacher, last = report.ledger.rows[0], report.ledger.last
    assert teacher.metric == "f1"
    assert teacher.score > 0.4
    assert set(last.scores) == {"f1", "exact_match"}
    assert last.interval[0] <= last.score <= last.interval[1]
    assert set(last.by_class) == {"answerable", "unanswerable"}
    shipped = tmp_path / "run" / "shipped"
    manifest = json.loads((shipped / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["outputs"]["logits"]["shape"] == ["batch", "tokens", 2]
    assert (manifest["activation"], manifest["preprocessing"]["stride"]) == ("softmax over tokens", 4)
    findings = verify(shipped, overrides=(f"data.source={asked_file}",), rounds=3)
    assert not [str(finding) for finding in findings if finding.outcome == "FAILS" and "latency" not in finding.name]
    assert "holds" in {finding.outcome for finding in findings if finding.name.startswith("score ")}
    _asked_alike(shipped, manifest["threshold"])


def _asked_alike(shipped: Path, threshold: float) -> None:
    """Torch, the fp32 graph and both snippets answer alike, in several windows."""
    given = [(row["question"], row["context"]) for row in asked(8, seed=9, unanswerable=True, fillers=12)]
    torch_says, graph_says = (Predictor(shipped, form).predict(given) for form in ("transformers", "onnx-fp32"))
    assert [one["text"] for one in torch_says] == [one["text"] for one in graph_says]
    assert [one["score"] for one in torch_says] == pytest.approx([one["score"] for one in graph_says], abs=1e-3)
    for (_, context), one in zip(given, graph_says, strict=True):
        assert not one["text"] or context[one["start"] : one["end"]] == one["text"]
    with pytest.raises(DataError, match="takes pairs of a question and a context"):
        Predictor(shipped).predict(["a question alone"])
    card = (shipped / "README.md").read_text(encoding="utf-8")
    assert "answers a question by a piece of the text" in card
    for title in ("transformers alone", "onnxruntime and tokenizers alone"):
        snippet = card.partition(f"### {title}")[2].partition("```python\n")[2].partition("```")[0]
        lines = [f"texts = {given!r}" if line.startswith("texts = ") else line for line in snippet.splitlines()]
        code = "\n".join(lines).replace("model_int8.onnx", "model.onnx")
        done = subprocess.run([sys.executable, "-c", code], cwd=shipped, capture_output=True, text=True, check=True)
        assert done.stdout.strip().splitlines()[-1] == repr([one["text"] for one in graph_says])


@pytest.mark.parametrize("loss", ["mse", "kl", "js"])
def test_what_is_imitated_of_a_window_is_the_same_whatever_it_is_padded_to(loss):
    rng = np.random.default_rng(0)
    mine, theirs = (torch.from_numpy(rng.normal(size=(3, 6, 2)).astype(np.float32)) for _ in range(2))
    real = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]])
    lesson = Lesson(tiny("bert", "QuestionAnswering"), TASK, settings.Imitate(logits={"weight": 1.0, "loss": loss}))
    found = []
    for more in (0, 5):
        batch = {"attention_mask": functional.pad(real, (0, more)), "labels": functional.pad(real, (0, more))}
        one, other = (Signals(functional.pad(logits, (0, 0, 0, more), value=7.0)) for logits in (mine, theirs))
        ((mean, places),) = lesson._logits(one, other, batch)
        found.append((float(mean), int(places)))
    assert found[0] == pytest.approx(found[1])
    if loss == "mse":
        squared = ((mine - theirs) ** 2)[real.bool()]
        assert found[0] == pytest.approx((float(squared.mean()), squared.numel()))
