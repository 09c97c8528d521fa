"""Several teachers as one: the mean that is imitated, against NumPy; who reads what; what is refused; a whole run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import LABELS, PIECES, load_tiny, make_splits, make_tokenizer, rows, save_tiny
from made_tasks import TAGS, asked, tagged, write_jsonl
from scipy.special import expit, log_softmax, softmax
from test_other_tokenizer import WORDS, save_other
from test_processes import EXACT, curves, launch
from tiny_models import tiny

from distill import Data, Distill, Ensemble, checkpoint, cut, load_data, preflight
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data import collate
from distill.distillation import Lesson, distill
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError
from distill.losses import LOSSES
from distill.recipe import Recipe, load
from distill.redaction import portable_recipe
from distill.signals import Signals
from distill.store import Store
from distill.teacher import ensemble, saved

WEIGHTS = (0.5, 0.3, 0.2)
FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0, "epochs": 1}


def logits(*shape: int, seed: int = 0) -> list[np.ndarray]:
    """What three teachers say."""
    rng = np.random.default_rng(seed)
    return [3 * rng.standard_normal(shape).astype(np.float32) for _ in WEIGHTS]


def mean(parts: list[np.ndarray]) -> np.ndarray:
    return sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))


def as_tensors(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


# ------------------------------------------------------------------------------------------------------- the mean


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
def test_softened_it_is_the_weighted_mean_of_softened_probabilities(temperature, monkeypatch):
    told = logits(6, 5)
    expected = mean([softmax(one / temperature, axis=-1) for one in told])
    found = ensemble.mean_of_classes(as_tensors(told), WEIGHTS, temperature)
    assert np.allclose(softmax(found.numpy() / temperature, axis=-1), expected, atol=1e-6)
    monkeypatch.setattr("distill.portions._NUMBERS", 10)  # two places at a time
    portions = ensemble.mean_of_classes(as_tensors(told), WEIGHTS, temperature)
    torch.testing.assert_close(portions, found, rtol=1e-6, atol=1e-6)  # some processors sum a few numbers otherwise
    flags = ensemble.mean_of_flags(as_tensors(told), WEIGHTS, temperature)
    expected = mean([expit(one / temperature) for one in told])
    assert np.allclose(expit(flags.numpy() / temperature), expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["kl", "reverse_kl", "js", "skew_kl", "decoupled_kl"])
def test_losses_of_a_student_to_it_are_those_to_the_mean(loss):
    told, mine, labels = logits(8, 4), logits(8, 4, seed=1)[0], np.arange(8) % 4
    p = mean([softmax(one / 2.0, axis=-1) for one in told])
    words = {"labels": torch.from_numpy(labels)} if loss == "decoupled_kl" else {}
    mixed = ensemble.mean_of_classes(as_tensors(told), WEIGHTS, 2.0)
    found = float(LOSSES[loss](torch.from_numpy(mine), mixed, 2.0, **words))
    log_p, log_q = np.log(p), log_softmax(mine / 2.0, axis=-1)
    q = np.exp(log_q)
    if loss == "kl":
        assert found == pytest.approx(4 * (p * (log_p - log_q)).sum(-1).mean(), rel=1e-4)
    elif loss == "reverse_kl":
        assert found == pytest.approx(4 * (q * (log_q - log_p)).sum(-1).mean(), rel=1e-4)
    elif loss == "js":
        log_m = np.log((p + q) / 2)
        both = (p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)
        assert found == pytest.approx(4 * (both / 2).mean(), rel=1e-4)
    elif loss == "skew_kl":
        assert found == pytest.approx(4 * (p * (log_p - np.log(0.1 * p + 0.9 * q))).sum(-1).mean(), rel=1e-4)
    assert float(LOSSES[loss](mixed, mixed, 2.0, **words)) == pytest.approx(0, abs=1e-6)


def test_raw_logits_and_numbers_are_averaged_as_they_are():
    told, task = logits(4, 3), make_splits().task
    found = ensemble.mixed(task, WEIGHTS, as_tensors(told), torch.ones(4, 7), temperature=3.0, raw=True)
    assert np.allclose(found.numpy(), mean(told), atol=1e-6)
    number = make_splits("regression").task
    found = ensemble.mixed(number, WEIGHTS, as_tensors(logits(4, 1)), torch.ones(4, 7), temperature=3.0)
    assert np.allclose(found.numpy(), mean(logits(4, 1)), atol=1e-6)


def test_one_teacher_alone_and_teachers_that_agree_say_what_each_says():
    one = torch.from_numpy(logits(4, 3)[0])
    for weights, several in (((1.0,), [one]), ((0.9, 0.1), [one, one + 5])):  # logits have no place of their own
        found = ensemble.mean_of_classes(several, weights, 2.0)
        torch.testing.assert_close((found / 2).softmax(-1), (one / 2).softmax(-1))


def test_vocabularies_that_are_padded_differently_are_mixed_in_what_all_have(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(text for text, _ in rows(30)))
    task = load_data(Data(source=str(lines), max_length=16), task="masked-language-modelling").task
    told = [*as_tensors(logits(2, 5, 12))[:2], as_tensors(logits(2, 5, 9, seed=2))[2]]
    found = ensemble.mixed(task, WEIGHTS, told, torch.ones(2, 5))
    assert found.shape == (2, 5, 9)
    expected = mean([softmax(one[..., :9].numpy(), axis=-1) for one in told])
    assert np.allclose(softmax(found.numpy(), axis=-1), expected, atol=1e-6)


@pytest.fixture
def questions(tmp_path):
    source = write_jsonl(tmp_path / "asked.jsonl", asked(40))
    words = Data(source=str(source), text=["question", "context"], label="answers", max_length=24)
    return load_data(words, task="question-answering")


def test_a_span_is_a_distribution_over_the_real_tokens_of_a_window(questions):
    told, real = logits(3, 6, 2), np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    found = ensemble.mixed(questions.task, WEIGHTS, as_tensors(told), torch.from_numpy(real), temperature=2.0).numpy()
    for row, length in enumerate((6, 4, 2)):
        expected = mean([softmax(one[row, :length] / 2.0, axis=0) for one in told])
        assert np.allclose(softmax(found[row, :length] / 2.0, axis=0), expected, atol=1e-6)
    assert (found[real == 0] < -1000).all()


# ------------------------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Ensemble:
    """Two BERTs that share a tokenizer, and a RoBERTa that cuts words in two."""
    place = tmp_path_factory.mktemp("several")
    other = load_tiny(place / "shallow", num_hidden_layers=1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.5)
    stranger = checkpoint.load(save_other(place / "other"))
    return Ensemble([load_tiny(place / "deep"), other, stranger], [5, 3, 2])


def test_it_answers_with_the_mean_of_what_each_says_of_its_own_tokens(several, data):
    assert several.weights == pytest.approx(WEIGHTS)
    each = [answer_all(Torch(one.model), one.encode(data, "test")) for one in several.teachers]
    found = answer_all(several.engine(data, "test"), several.encode(data, "test"), data.task)
    assert np.allclose(softmax(found, axis=-1), mean([softmax(one, axis=-1) for one in each]), atol=1e-6)


def heard_by(monkeypatch) -> dict[int, torch.Tensor]:
    """The teacher's logits of each training row, as the student's objective hears them."""
    heard: dict[int, torch.Tensor] = {}
    forward = Lesson.forward

    def spy(self: Lesson, batch: dict[str, torch.Tensor], signals: Signals) -> object:
        lengths = batch["attention_mask"].sum(1).tolist()
        for row, length, told in zip(batch["rows"].tolist(), lengths, signals.logits, strict=True):
            heard[row] = told[:length] if signals.logits.ndim == 3 else told
        return forward(self, batch, signals)

    monkeypatch.setattr(Lesson, "forward", spy)
    return heard


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_a_student_hears_the_mean_at_its_temperature(several, data, loss, monkeypatch):
    heard = heard_by(monkeypatch)
    each = [answer_all(Torch(one.model), one.encode(data, "train")) for one in several.teachers]
    imitate = {"logits": {"weight": 1.0, "loss": loss}, "hidden_states": 0.1}
    distill(cut(several.first, 2), Distill(**FAST, imitate=imitate, temperature=3), data=data, teacher=several)
    found = np.stack([heard[row].numpy() for row in range(len(data.train))])
    if loss == "mse":
        assert np.allclose(found, mean(each), atol=1e-5)
    else:
        expected = mean([softmax(one / 3, axis=-1) for one in each])
        assert np.allclose(softmax(found / 3, axis=-1), expected, atol=1e-5)


@pytest.fixture
def tags(tmp_path):
    source = write_jsonl(tmp_path / "tagged.jsonl", tagged(40))
    words = Data(source=str(source), **WORDS, max_length=24)
    return load_data(words, task="token-classification")


def with_head(head: str, labels: tuple[str, ...], number: int) -> Checkpoint:
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = tiny("bert", head, pad_token_id=0, num_hidden_layers=number, **(names if labels else {}))
    return Checkpoint(model, make_tokenizer())


@pytest.mark.parametrize("epochs", [1, 2])  # live, and saved
def test_tokens_are_mixed_live_and_saved_alike(tags, epochs, monkeypatch):
    heard = heard_by(monkeypatch)
    guide = Ensemble([with_head("TokenClassification", TAGS, number) for number in (2, 1)])
    distill(cut(guide.first, 1), Distill(**FAST | {"epochs": epochs}), data=tags, teacher=guide)
    batch = collate(guide.encode(tags, "train"), range(len(tags.train)))
    each = [Torch(one.model).answer(batch) for one in guide.teachers]
    expected = sum(softmax(one / 2, axis=-1) for one in each) / 2
    for row, told in heard.items():
        assert np.allclose(softmax(told.numpy() / 2, axis=-1), expected[row, : len(told)], atol=1e-5)


def test_spans_are_chosen_by_all(questions):
    guide = Ensemble([with_head("QuestionAnswering", ("start", "end"), number) for number in (2, 1)])
    encoded = guide.encode(questions, "validation")
    found = answer_all(guide.engine(questions, "validation"), encoded, questions.task)
    assert np.isfinite(found[:, :5]).all()
    alone = answer_all(Ensemble([guide.first, guide.first]).engine(questions, "validation"), encoded, questions.task)
    own = answer_all(Torch(guide.first.model), encoded, questions.task)
    assert np.array_equal(questions.task.predictions(alone), questions.task.predictions(own))


# ------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_mixed_is_refused_in_python(several, data, tags, tmp_path):
    for weights in ([1], [1, 0], [1, float("inf")], [1, -2]):
        with pytest.raises(CheckpointError, match="give each one > 0"):
            Ensemble(several.teachers[:2], weights)
    for labels, why in ((("a", "b"), "2 labels, the data 3"), (("money", "film", "sport"), "its labels are money")):
        wrong = Ensemble([several.first, load_tiny(tmp_path / labels[0], labels=labels)])
        with pytest.raises(CheckpointError, match=f"teacher 2 of the ensemble: its head.*{why}.*finetune"):
            distill(cut(several.first, 2), Distill(**FAST), data=data, teacher=wrong)
    mine = with_head("TokenClassification", TAGS, 2)
    theirs = Checkpoint(mine.model, make_tokenizer([*PIECES[:5], *reversed(PIECES[5:-9])]))
    with pytest.raises(CheckpointError, match="teacher 2 of the ensemble cuts texts into other tokens"):
        distill(cut(mine, 1), Distill(**FAST), data=tags, teacher=Ensemble([mine, theirs]))


def problems_of(path: Path) -> list[str]:
    """What `check` says, which is what `run` says, too, without the line of the recipe."""
    done = [CliRunner().invoke(main, [word, str(path)]) for word in ("check", "run")]
    assert [one.exit_code for one in done] == [2, 2] and "Traceback" not in done[0].output
    told = [[line for line in one.stderr.splitlines() if line.startswith("error: ")] for one in done]
    assert told[0] == told[1]
    return [re.sub(rf"^error: {re.escape(str(path))}(:\d+)?: ", "", line) for line in told[0]]


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ({"ensemble": [{"checkpoint": "a"}]}, "teacher.ensemble: "),
        ({"ensemble": [{"checkpoint": "a"}, {"weight": 2}]}, "name each teacher by `card` or by `checkpoint`"),
        ({"ensemble": [{"checkpoint": "a"}, {"checkpoint": "b", "weight": 0}]}, "teacher.ensemble.1.weight: "),
        ({"ensemble": [{"checkpoint": "a"}, {"checkpoint": "b", "wieght": 1}]}, "did you mean 'weight'?"),
        ({"ensemble": [{"checkpoint": "a"}, {"checkpoint": "a"}]}, "names a twice"),
        ({"checkpoint": "a", "ensemble": [{"checkpoint": "b"}, "c"]}, "belong to each teacher"),
        ({"ensemble": [{"checkpoint": "b"}, "c"], "finetune": {}}, "belong to each teacher"),
    ],
)
def test_words_that_make_no_ensemble_are_refused(recipe_file, teacher, why):
    (problem,) = problems_of(recipe_file(teacher=teacher))
    assert why in problem


def test_teachers_whose_folders_end_alike_are_told_apart_without_their_paths(recipe_file):
    ready = [{"checkpoint": f"/runs/{place}/teacher"} for place in ("a", "b", "c")]
    told = portable_recipe(load(recipe_file(teacher={"ensemble": ready}))).teacher.members
    assert [one.checkpoint for one in told] == ["teacher", "teacher-2", "teacher-3"]


def two(one: Path, other: Path) -> dict[str, object]:
    return {"ensemble": [{"checkpoint": str(one)}, {"checkpoint": str(other)}]}


def test_teachers_that_do_not_fit_each_other_are_refused_before_anything_is_loaded(recipe_file, tmp_path, headed, body):
    swapped = save_tiny(tmp_path / "swapped", labels=LABELS[::-1])
    steps = [{"distill": {"imitate": {"logits": 1.0}}}]
    (problem,) = problems_of(recipe_file(teacher=two(headed, swapped), steps=steps))
    assert problem.startswith("teacher.ensemble.1: its head doesn't fit the data: its labels are sport, money, film")
    (problem,) = problems_of(recipe_file(teacher=two(headed, body), steps=steps))
    assert problem.startswith("teacher.ensemble.1: a BertModel has no head for text-classification")
    other = save_other(tmp_path / "other")
    (problem,) = problems_of(
        recipe_file(teacher=two(headed, other), steps=[{"distill": {"imitate": {"relations": 1}}}])
    )
    assert "what several teachers say together are logits" in problem
    assert preflight.prepare(load(recipe_file(teacher=two(headed, other), steps=steps))).problems == []
    writing = [{"distill": {"targets": "teacher"}}]
    (problem,) = problems_of(recipe_file(task="translation", teacher=two(headed, other), steps=writing))
    assert "an ensemble writes none" in problem


def test_tokenizers_that_differ_are_refused_where_logits_are_by_token(recipe_file, tmp_path):
    with_head("TokenClassification", TAGS, 2).save(tmp_path / "one")
    save_other(tmp_path / "other", TAGS, "TokenClassification")
    source = write_jsonl(tmp_path / "tagged.jsonl", tagged(60))
    told = {"task": "token-classification", "data": {"source": str(source), **WORDS}}
    told["steps"] = [{"distill": {"imitate": {"logits": 1.0}}}]
    (problem,) = problems_of(recipe_file(**told, teacher=two(tmp_path / "one", tmp_path / "other")))
    assert problem.startswith("teacher.ensemble.1: its tokenizer is not that of teacher.ensemble.0, and a token-")


# --------------------------------------------------------------------------------------------------------- a run


LEARN = [{"distill": {**EXACT, "imitate": {"logits": 1.0, "hidden_states": 0.5}, "epochs": 2}}]


@pytest.fixture
def together(recipe_file, headed, body):
    """A recipe of two teachers, one ready and one to be trained."""
    learned = {**EXACT, "epochs": 1}
    members = [{"checkpoint": str(headed), "weight": 3}, {"checkpoint": str(body), "finetune": learned}]

    def write(**sections: object) -> Path:
        return recipe_file(**{"teacher": {"ensemble": members}, "steps": LEARN, "expect": {"retained": "at least 0.01"},
                              **sections})  # fmt: skip

    return write


def run(path: Path, folder: Path, *overrides: str):
    words = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(main, ["run", str(path), "--output", str(folder), *words])


def test_a_run_tells_what_they_score_and_keeps_each_ones_signals(
    together, recipe_file, tmp_path, headed, without_memory, monkeypatch
):
    passes = []
    write = saved.Layout.write

    def cut_off(layout: saved.Layout, *given: object) -> None:
        passes.append(layout)
        if len(passes) == 2:
            raise KeyboardInterrupt
        write(layout, *given)

    monkeypatch.setattr(saved.Layout, "write", cut_off)
    assert run(together(ship=["transformers"]), tmp_path / "run").exit_code == 130  # while the second one labels
    done = run(together(ship=["transformers"]), tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert len(passes) == 3 and "teacher 1's signals: in the store already" in done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["teacher", "1-distill"]
    assert report["ensemble"]["latency"] == [] and report["ensemble"]["params"] > 2 * report["rows"][1]["params"]
    assert report["rows"][1]["retained"] == pytest.approx(report["rows"][1]["score"] / report["ensemble"]["score"])
    assert [round(one["weight"], 2) for one in report["teacher"]["ensemble"]] == [0.75, 0.25]
    assert report["training"][-1]["teacher"].keys() == {"score", "agreement", "entropy"}
    told = (tmp_path / "run" / "report.md").read_text()
    assert "| ensemble |" in told and "cut from the first teacher, bert" in told
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        score = float((arrays["ensemble"] == arrays["labels"]).mean())
    assert score == pytest.approx(report["ensemble"]["score"])

    verified = CliRunner().invoke(main, ["verify", str(tmp_path / "run" / "shipped"), "--quick"])
    assert verified.exit_code == 0 and "FAILS" not in verified.output, verified.output
    compared = CliRunner().invoke(main, ["compare", str(tmp_path / "run"), "--json"])
    assert "what is kept is held against its teachers as one" in compared.output

    single = recipe_file(teacher={"checkpoint": str(headed)}, steps=LEARN)
    assert run(single, tmp_path / "single").exit_code == 0
    assert len(passes) == 3  # one teacher's signals serve it alone and among others
    facts = [piece.facts["teacher"] for piece in Store().pieces() if piece.kind == "distill"]
    assert sorted(type(one).__name__ for one in facts) == ["dict", "str"]


def test_two_processes_learn_from_several_teachers_as_one_does(together, topics_csv, tmp_path, headed, without_memory):
    second = save_other(tmp_path / "other")
    steps = [{"distill": {**EXACT, "imitate": {"logits": 1.0}, "epochs": 1}}]
    data = {"source": str(topics_csv), "limit": 60, "max_length": 16}
    path = together(teacher=two(headed, second), steps=steps, data=data)
    alone = run(path, tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    done = launch(path, tmp_path / "together")
    assert done.returncode == 0, done.stderr
    mine, theirs = curves(tmp_path / "alone"), curves(tmp_path / "together")
    assert mine.keys() == theirs.keys() and len(mine["1-distill"]) > 3
    for name, losses in mine.items():
        assert theirs[name] == pytest.approx(losses, rel=1e-3), name


def test_a_recipe_of_one_teacher_is_written_as_before(recipe_file):
    told = load(recipe_file()).model_dump(mode="json", exclude_none=True)
    assert set(told["teacher"]) == {"checkpoint", "finetune"}
    assert [member.weight for member in Recipe.model_validate(told).teacher.members] == [1.0]


def test_the_same_checkpoint_trained_twice_is_two_teachers(together, tmp_path, body, without_memory):
    learned = {**EXACT, "epochs": 1}
    twins = {"ensemble": [{"checkpoint": str(body), "finetune": learned}] * 2}
    plan = preflight.prepare(load(together(teacher=twins))).require()
    from distill.pipeline.teachers import load_models

    guide, _ = load_models(plan)
    heads = [one.model.classifier.weight for one in guide.teachers]
    assert not torch.equal(*heads)
