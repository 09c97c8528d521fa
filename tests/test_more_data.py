"""Rows that a teacher labels: unlabelled ones and changed copies, none of which gives a held-out row away."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from conftest import LABELS, make_splits, make_tokenizer, sentence, write_csv
from held import contains
from made_tasks import asked, tagged, write_jsonl
from writers import lines, make_pairs, write_lines

from distill import Data, Distill, cut, load_data
from distill.augmentation import augment
from distill.data import collate
from distill.data.held_out import EQUAL, NEAR, HeldOut
from distill.data.more import UNLABELLED, WORDS
from distill.data.overlap import normalise
from distill.data.readers import READERS
from distill.distillation import distill
from distill.distillation.steps import with_more
from distill.errors import CheckpointError, DataError, RecipeError
from distill.losses import LOSSES, to_targets
from distill.preflight import prepare
from distill.recipe import load as load_recipe
from distill.recipe import settings
from distill.signals import tensors
from distill.training import Watch

NEW = [sentence(random.Random(seed), "film", 9) for seed in range(90, 100)]


@pytest.fixture
def more(tmp_path, topics_csv):
    """Loads the topics with some unlabelled lines; the first of them equal a test, a validation and a training row."""

    def load(lines: list[str] | None = None, **words: object):
        plain = {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16}
        base = load_data(Data(**plain), seed=1)
        held = [base.test.texts[0][0].upper(), f"so {base.validation.texts[3][0]}, then", base.train.texts[0][0]]
        path = tmp_path / "more.txt"
        path.write_text("\n".join([*held, *NEW] if lines is None else lines) + "\n")
        return base, load_data(Data(**plain, unlabelled=str(path), **words), seed=1)

    return load


# ---------------------------------------------------------------------------------------------- what is held out


def test_equal_containing_and_alike_rows_are_told_and_others_are_not():
    long = "the quick brown fox jumps over the lazy dog while nobody looks at all today"
    held = HeldOut([(long,), ("rather good",), ("!!",)])
    assert held.tells(("The QUICK, brown fox jumps over the lazy dog while nobody looks at all today!",)) == EQUAL
    assert held.tells((f"I said: {long}.",)) == EQUAL
    assert held.tells(("it is rather  good , no?",)) == EQUAL
    assert held.tells((f"{long} yes",)) == EQUAL
    assert held.tells((long.replace("all today", "all"),)) == NEAR
    assert held.tells(("rather goods",)) is None
    assert held.tells(("good rather",)) is None
    assert held.tells(("the quick brown fox jumps over a fence",)) is None


@pytest.mark.parametrize(
    ("held", "row"),
    [("今天天气很好", "今天天气很好我们出去玩吧"), ("วันนี้อากาศดี", "วันนี้อากาศดีมาก"), ("そうですね", "はい、そうですね!")],
)
def test_where_no_blanks_stand_between_words_characters_are_words(held, row):
    assert HeldOut([(held,)]).tells((row,)) == EQUAL
    assert HeldOut([(row,)]).tells((held,)) is None
    assert normalise("Das 天气 ist gut!") == "das 天 气 ist gut"


def test_of_pairs_both_texts_have_to_tell():
    held = HeldOut([("who came home", "anna did"), ("where", "")])
    assert held.tells(("who came home?", "I think Anna did")) == EQUAL
    assert held.tells(("who came home", "bert did")) is None
    assert held.tells(("anna did", "who came home")) is None
    assert held.tells(("where then", "")) == EQUAL


def test_the_join_finds_what_comparing_all_pairs_finds():
    rng = random.Random(0)
    words = [f"w{number}" for number in range(40)]
    held = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(60)]
    near = [text.rsplit(" ", 1)[0] for text in held if len(text.split()) > 9]
    wrapped = [f"{rng.choice(words)} {text} {rng.choice(words)}" for text in held]
    others = near + wrapped + [" ".join(rng.choices(words, k=8)) for _ in range(60)]

    def runs(text: str) -> set[str]:
        parts = text.split()
        return {" ".join(parts[place : place + 5]) for place in range(len(parts) - 4)}

    def slow(text: str) -> str | None:
        if any(contains(text, one) for one in held):
            return EQUAL
        alike = any(
            runs(one) and runs(text) and len(runs(one) & runs(text)) >= 0.8 * len(runs(one) | runs(text))
            for one in held
        )
        return NEAR if alike else None

    index = HeldOut((text,) for text in held)
    found = [index.tells((text,)) for text in others]
    assert found == [slow(text) for text in others]
    assert {EQUAL, NEAR, None} == set(found)


# --------------------------------------------------------------------------------------------- unlabelled rows


def test_unlabelled_rows_come_in_beside_the_splits_and_what_is_dropped_is_said(more):
    base, data = more()
    (extra,) = data.extra
    assert (data.train, data.validation, data.test) == (base.train, base.validation, base.test)
    assert data.facts == base.facts and data.fingerprint == base.fingerprint  # of all but distillation
    assert base.extra_facts == [] and data.extra_facts == [[UNLABELLED, extra.sha256]]
    assert [text for (text,) in extra.texts] == NEW
    assert (extra.given, extra.held_out, extra.near, extra.repeated) == (13, 2, 0, 1)
    assert any("2 that equal or contain a validation or test example" in note for note in data.notes)
    assert len(data.extended.train) == len(base.train) + len(NEW)
    assert data.extended.train.labels[: len(base.train)] == base.train.labels
    assert set(data.extended.train.labels[len(base.train) :]) == {-100}
    assert data.extended.extended is data.extended and base.extended is base


def test_rows_may_come_in_columns_and_a_label_column_is_not_read(tmp_path, topics_csv):
    path = write_csv(tmp_path / "more.csv", ["text", "label"], [[text, "no such label"] for text in NEW])
    data = load_data(Data(source=str(topics_csv), unlabelled=str(path)))
    assert len(data.extra[0]) == len(NEW)
    assert any("its column 'label' is not read" in note for note in data.notes)
    assert len(load_data(Data(source=str(topics_csv), unlabelled=str(path), limit=60)).extra[0]) == len(NEW)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "holds no rows"),
        (None, "no such file"),
        (["  ", ""], "dropped: 0 that equal .* 2 blank or repeated; 0 are for the teacher"),
    ],
)
def test_what_holds_nothing_to_learn_from_is_refused(tmp_path, topics_csv, lines, problem):
    path = tmp_path / "none.jsonl"
    if lines is not None:
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    with pytest.raises(DataError, match=problem):
        load_data(Data(source=str(topics_csv), unlabelled=str(path)))


def test_rows_in_other_columns_and_tagged_lines_are_refused(tmp_path, topics_csv):
    path = write_csv(tmp_path / "more.csv", ["sentence", "x"], [["one", "two"]])
    with pytest.raises(DataError, match=r"data.unlabelled has no column 'text' \(it has: sentence, x\)"):
        load_data(Data(source=str(topics_csv), unlabelled=str(path)))
    source = write_jsonl(tmp_path / "tags.jsonl", tagged(40))
    (lines := tmp_path / "x.conll").write_text("the O\ncup B-x\n")
    with pytest.raises(DataError, match="are no unlabelled texts"):
        load_data(
            Data(source=str(source), text="words", label="tags", unlabelled=str(lines)), task="token-classification"
        )


@pytest.mark.parametrize("word", ["unlabelled", "augment"])
def test_language_modelling_has_no_labels_to_miss(tmp_path, word):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(NEW))
    words = {"unlabelled": str(path), "augment": {"words": 1}}
    with pytest.raises(DataError, match=r"add the texts to data\.source"):
        load_data(Data(source=str(path), **{word: words[word]}), task="causal-language-modelling")


# ---------------------------------------------------------------------------------------------- losses on labels


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_losses_on_labels_leave_unlabelled_rows_out(problem):
    data = make_splits(problem)
    unknown = READERS["text-classification"].unknown([("a",), ("b",)], data.task)
    logits = torch.randn(5, len(data.task.labels), requires_grad=True)
    known = {"labels": torch.tensor(data.train.labels[:3])}
    mixed = {"labels": torch.tensor([*data.train.labels[:3], *unknown])}
    none = {"labels": torch.tensor(unknown).to(mixed["labels"].dtype)}
    assert to_targets(data.task, logits, mixed).item() == to_targets(data.task, logits[:3], known).item()
    nothing = to_targets(data.task, logits[3:], none)
    assert nothing.item() == 0
    (nothing + to_targets(data.task, logits, mixed)).backward()
    assert torch.isfinite(logits.grad).all() and (logits.grad[3:] == 0).all() and (logits.grad[:3] != 0).any()


def test_known_labels_give_torchs_own_losses():
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(7, 3, generator=generator), torch.tensor([0, 2, 1, 0, 1, 1, 2])
    flags, numbers = torch.randint(2, (7, 3), generator=generator).double(), torch.randn(7, 1, generator=generator)
    assert torch.equal(LOSSES["cross_entropy"](logits, classes), torch.nn.functional.cross_entropy(logits, classes))
    yes = torch.nn.functional.binary_cross_entropy_with_logits(logits, flags.float())
    assert torch.equal(LOSSES["binary_cross_entropy"](logits, flags), yes)
    assert torch.equal(LOSSES["binary_cross_entropy"](logits, flags.long()), yes)
    squared = LOSSES["squared_error"](logits[:, :1], numbers)
    assert torch.equal(squared, torch.nn.functional.mse_loss(logits[:, :1], numbers))


# ------------------------------------------------------------------------------------------------ other tasks


def test_unlabelled_words_have_no_tags_and_are_imitated(tmp_path):
    source = write_jsonl(tmp_path / "tags.jsonl", tagged(60))
    more = write_jsonl(tmp_path / "more.jsonl", [{"words": row["words"]} for row in tagged(30, seed=9)])
    words = Data(
        source=str(source), text="words", label="tags", unlabelled=str(more), augment={"words": {"share": 0.3}}
    )
    data = augment(load_data(words, task="token-classification"))
    assert [extra.origin for extra in data.extra] == [UNLABELLED, WORDS]
    encoded = data.extended.encode("train", make_tokenizer())
    row = len(encoded) - 1
    batch = tensors(collate(encoded, [row]), torch.device("cpu"))
    logits = torch.randn(*batch["input_ids"].shape, len(data.task.labels))
    assert len(data.task.imitated(logits, batch)) == len(data.extended.train.texts[row])
    assert (data.task.targets(batch) == -100).all()
    assert to_targets(data.task, logits, batch).item() == 0


def test_unlabelled_questions_have_no_answer_and_are_imitated(tmp_path):
    source = write_jsonl(tmp_path / "asked.jsonl", asked(60))
    new = [{"question": "ball of it ?", "context": row["context"]} for row in asked(20, seed=7)]
    more = write_jsonl(tmp_path / "more.jsonl", new)
    words = Data(source=str(source), text=["question", "context"], label="answers", unlabelled=str(more))
    data = load_data(words, task="question-answering")
    encoded = data.extended.encode("train", make_tokenizer())
    batch = tensors(collate(encoded, [len(encoded) - 1, 0]), torch.device("cpu"))
    logits = torch.randn(*batch["input_ids"].shape, 2)
    targets = data.task.targets(batch)
    assert (targets[:2] == -100).all() and (targets[2:] >= 0).all()
    assert data.task.imitated(logits, batch).shape[0] == 4
    assert math.isfinite(to_targets(data.task, logits, batch).item())


def test_a_teacher_writes_for_texts_that_have_nothing_to_write(tmp_path):
    source = write_lines(tmp_path / "pairs.csv")
    new = write_csv(tmp_path / "more.csv", ["text"], [[text] for text, _ in lines(10, seed=8)])
    pairs = make_pairs()
    words = pairs.words.model_copy(
        update={"source": settings.Source(path=str(source)), "unlabelled": settings.Source(path=str(new))}
    )
    data = load_data(words, task="translation")
    assert set(data.extended.train.labels[len(data.train) :]) == {""}
    with pytest.raises(CheckpointError, match="set `targets: teacher`"):
        with_more(data, Distill())
    assert len(with_more(data, Distill(targets="teacher")).train) == len(data.train) + len(data.extra[0])


# ------------------------------------------------------------------------------------------------- the step


def test_a_student_imitates_what_nobody_has_labelled(more, bert):
    base, data = more(augment={"words": 1})
    words = Distill(imitate={"logits": 1.0, "hidden_states": 0.5, "labels": 0.5}, epochs=1, learning_rate=1e-3)
    watch = Watch("distill")
    pupil = distill(cut(bert, 2), words, data=data, teacher=bert, watch=watch)
    assert watch.log.samples == len(with_more(data, words).train) > len(base.train) + len(NEW)
    assert all(torch.isfinite(weights).all() for weights in pupil.model.state_dict().values())


def test_steps_that_cannot_learn_from_such_rows_are_refused(more, bert):
    _, data = more()
    words = Distill(imitate={"logits": {"weight": 1.0, "loss": "decoupled_kl"}})
    with pytest.raises(CheckpointError, match="decoupled_kl sets the true class apart"):
        distill(cut(bert, 2), words, data=data, teacher=bert)


# ------------------------------------------------------------------------------------------------- recipes


@pytest.fixture
def extended_recipe(recipe_file, topics_csv, tmp_path):
    """A recipe with unlabelled rows and other words about its data."""
    (tmp_path / "more.txt").write_text("\n".join(NEW) + "\n")

    def write(steps: list | None = None, **words: object):
        data = {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16, "unlabelled": "more.txt"}
        steps = [{"distill": {"imitate": {"logits": 1.0, "labels": 0.5}, "epochs": 1}}] if steps is None else steps
        return recipe_file(data={**data, **words}, steps=steps, teacher={"checkpoint": "headed"})

    return write


def problems_of(path) -> list[str]:
    """What a check finds wrong, but for the teacher's place."""
    found = prepare(load_recipe(path), path.parent, fetch=False)
    return [problem for problem in found.problems if not problem.startswith("teacher")]


def test_a_check_refuses_what_cannot_work(extended_recipe, headed, tmp_path):
    assert problems_of(extended_recipe()) == []
    (problem,) = problems_of(extended_recipe(augment={"masked_lm": str(headed)}))
    assert problem.startswith("data.augment.masked_lm.checkpoint: ") and "BertForSequenceClassification" in problem
    (problem,) = problems_of(extended_recipe(augment={"masked_lm": str(tmp_path / "nowhere")}))
    assert "data.augment.masked_lm.checkpoint" in problem and "no such checkpoint folder" in problem
    (problem,) = problems_of(extended_recipe(unlabelled="nowhere.txt"))
    assert problem.startswith("data.unlabelled: no such file")
    decoupled = {"distill": {"imitate": {"logits": {"weight": 1.0, "loss": "decoupled_kl"}}}}
    (problem,) = problems_of(extended_recipe([decoupled]))
    assert problem.startswith("steps.0.distill: imitate.logits.loss: decoupled_kl")
    trimmed = [{"prune": {"vocabulary": "used"}}, {"distill": {"imitate": {"hidden_states": 1.0}}}]
    (problem,) = problems_of(extended_recipe(trimmed))
    assert "prune the vocabulary after the last `distill`" in problem
    plan = prepare(load_recipe(extended_recipe([{"finetune": {}}])), tmp_path, fetch=False)
    assert any("no step is a `distill`" in note for note in plan.notes)
    with pytest.raises(RecipeError, match="say how copies are made"):
        load_recipe(extended_recipe(augment={}))


def test_a_run_labels_rows_keeps_copies_and_says_what_it_dropped(
    recipe_file, headed, topics_csv, tmp_path, without_memory, caplog
):
    from distill.pipeline import run

    base = load_data(Data(source=str(topics_csv), validation=0.2, test=0.2, max_length=16), names=LABELS)
    (tmp_path / "more.txt").write_text("\n".join([*NEW, base.test.texts[0][0]]) + "\n")
    data = {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16}
    common = {
        "teacher": {"checkpoint": str(headed)},
        "steps": [{"distill": {"imitate": {"logits": 1.0}, "epochs": 1, "max_steps": 2}}],
    }
    recipe = load_recipe(recipe_file(data={**data, "unlabelled": "more.txt", "augment": {"words": 1}}, **common))
    report = run(recipe, tmp_path / "more", beside=tmp_path)
    told = json.loads((tmp_path / "more" / "report.json").read_text())
    unlabelled, copies = told["data"]["extra"]
    assert (unlabelled["origin"], unlabelled["rows"], unlabelled["held_out"]) == (UNLABELLED, len(NEW), 1)
    assert copies["origin"] == WORDS and copies["given"] == len(base.train)
    assert told["data"]["sha256"] == base.fingerprint and told["data"]["rows"]["train"] == len(base.train)
    assert any(note.startswith("data.augment.words: ") for note in report.notes)
    lines = (tmp_path / "more" / "augment" / "words.jsonl").read_text().splitlines()
    assert len(lines) == copies["rows"]
    again = run(recipe, tmp_path / "again", beside=tmp_path).as_dict()
    assert all(step["reused"] for step in again["steps"]) and again["data"]["extra"] == told["data"]["extra"]
