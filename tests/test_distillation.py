"""Training steps by their properties: what they reach, what they leave alone and what they tell."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LABELS, PIECES, load_tiny, make_splits, make_tokenizer
from tiny_models import same, weights
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from distill import Distill, Finetune, cut, student, teacher
from distill.checkpoint import Checkpoint
from distill.data import TokenBatches, collate
from distill.distillation import Lesson, comparing, distill, finetune
from distill.distillation.comparing import compare, entropy_of
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError, TrainingError
from distill.losses import LOSSES
from distill.recipe import settings
from distill.signals import Signals, Wanted, read, tensors
from distill.tasks import TextClassification, TokenClassification
from distill.teacher import choosing
from distill.training import TrainingLog, Watch, choose_dtype, fit
from distill.training.gradients import gradient_shares

FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0}
ONE_BATCH = {"batch_size": 64, "schedule": "constant", "patience": 10}
BOTH = {"logits": 1.0, "hidden_states": 1.0}


@pytest.fixture(scope="module")
def bert(tmp_path_factory, data) -> Checkpoint:
    """A teacher that knows its topics."""
    words = Finetune(**FAST, epochs=15, batch_size=8, patience=15)
    return finetune(load_tiny(tmp_path_factory.mktemp("bert") / "bert"), words, data=data)


def test_the_tiny_teacher_learned_its_topics(bert, data):
    encoded = bert.encode(data, "test")
    assert data.task.score(answer_all(Torch(bert.model), encoded).argmax(-1), encoded.labels) > 0.8


@pytest.fixture(scope="module")
def narrow(bert, data) -> Checkpoint:
    config = {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
    config |= {"intermediate_size": 16, "max_position_embeddings": 64}
    return student.from_config(config, bert, data.task, seed=0)


def learn(pupil: Checkpoint, bert: Checkpoint, data, **words: object) -> tuple[Checkpoint, TrainingLog]:
    watch = Watch("distill")
    made = distill(pupil, Distill(**{**FAST, **words}), data=data, teacher=bert, watch=watch)
    return made, watch.log


# ------------------------------------------------------------------------------------- what the loss is


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_distilling_a_model_to_itself_has_no_loss(bert, data, loss):
    imitate = {"logits": 1.0, "hidden_states": {"weight": 1.0, "loss": loss}}
    _, record = learn(bert, bert, data, imitate=imitate, epochs=1, max_steps=1)
    assert all(abs(term["value"]) < 1e-6 for term in record.records[0]["terms"].values())


@pytest.mark.parametrize("imitate", [BOTH, {"logits": {"weight": 1.0, "loss": "mse"}}, {"hidden_states": 1.0}])
def test_the_loss_falls_in_ten_steps(bert, data, imitate):
    _, record = learn(cut(bert, 2), bert, data, imitate=imitate, epochs=10, **ONE_BATCH)
    losses = [point["loss"] for point in record.records]
    assert len(losses) == 10
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "reverse_kl"}, {"loss": "js", "beta": 0.3}, {"loss": "skew_kl", "skew": 0.2},
        {"loss": "decoupled_kl", "target": 1.0, "others": 2.0},
    ],
    ids=lambda term: term["loss"],
)  # fmt: skip
def test_every_loss_on_logits_is_the_one_of_its_name_with_its_own_words(bert, data, term):
    rows = bert.encode(data, "train")
    pupil = cut(bert, 2)
    batch = tensors(collate(rows, [0, 1, 2, 3]), pupil.model.device)
    imitate = Distill(imitate={"logits": {"weight": 1.0, **term}}).imitate
    lesson = Lesson(pupil.model, data.task, imitate, temperature=3.0)
    signals = read(bert.model, batch)
    loss, _ = lesson(batch, signals)
    words = {name: value for name, value in term.items() if name != "loss"}
    words |= {"labels": batch["labels"]} if term["loss"] == "decoupled_kl" else {}
    expected = LOSSES[term["loss"]](read(pupil.model, batch).logits, signals.logits, 3.0, **words)
    assert loss.item() == pytest.approx(expected.item()) and loss.item() > 0


def test_a_loss_that_makes_no_sense_for_the_labels_is_refused(bert, tmp_path):
    many = make_splits("multi_label_classification")
    with pytest.raises(CheckpointError, match=r"imitate.logits.loss: js: of many labels each is a distribution"):
        learn(bert, bert, many, imitate={"logits": {"weight": 1.0, "loss": "js"}})
    two = TextClassification("single_label_classification", ("a", "b"), "accuracy")
    with pytest.raises(CheckpointError, match=r"decoupled_kl: of two classes there is only one other"):
        two.require_loss("decoupled_kl")


def test_every_term_is_told_with_its_value_and_its_share(bert, data):
    imitate = {"logits": 0.5, "hidden_states": 2.0, "labels": 0.25}
    _, record = learn(cut(bert, 2), bert, data, imitate=imitate, epochs=2)
    assert record.step == "distill"
    for point in record.records:
        terms = point["terms"]
        assert {name: term["weight"] for name, term in terms.items()} == imitate
        assert sum(term["share"] for term in terms.values()) == pytest.approx(1)
        assert sum(term["value"] * term["weight"] for term in terms.values()) == pytest.approx(point["loss"])
        assert all(
            term["share"] == pytest.approx(term["value"] * term["weight"] / point["loss"]) for term in terms.values()
        )
    assert [epoch["epoch"] for epoch in record.epochs] == [1, 2]


def test_the_hidden_states_term_is_the_mean_over_pairs_on_real_tokens(bert, data):
    pupil, asked = cut(bert, 2), settings.Imitate(hidden_states={"weight": 1.0, "loss": "mse"})
    lesson = Lesson(pupil.model, data.task, asked, pairs={"hidden_states": [(1, 2), (2, 4)]}).eval()
    batch = tensors(collate(pupil.encode(data, "train"), [0, 1, 2, 3]), pupil.model.device)
    states = {}
    for name, model in (("mine", pupil.model), ("theirs", bert.model)):
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.inference_mode():
            states[name] = [s.double().numpy() for s in model(**inputs, output_hidden_states=True).hidden_states]
    real = batch["attention_mask"].bool().numpy()
    by_hand = [np.mean((states["mine"][m][real] - states["theirs"][t][real]) ** 2) for m, t in ((1, 2), (2, 4))]
    with torch.inference_mode():
        found, _ = lesson(batch, teacher.Live(bert, Wanted((2, 4)), torch.float32).signals(batch))
    assert found.item() == pytest.approx(np.mean(by_hand), rel=1e-5)


# ------------------------------------------------------------------------------------- projections


def test_a_projection_bridges_widths_is_trained_and_is_left_behind(narrow, bert, data, tmp_path, monkeypatch):
    lessons: list[Lesson] = []
    begin: list[Tensor] = []
    build = Lesson.__init__

    def spy(self: Lesson, *args: object, **words: object) -> None:
        build(self, *args, **words)
        lessons.append(self)
        begin.extend(layer.weight.detach().clone() for layer in self.projections.values())

    monkeypatch.setattr(Lesson, "__init__", spy)
    made, record = learn(narrow, bert, data, imitate=BOTH, epochs=3)
    end = [layer.weight for layer in lessons[0].projections.values()]
    assert [weight.shape for weight in end] == [(32, 16), (32, 16)]
    assert not any(torch.equal(one, other) for one, other in zip(begin, end, strict=True))
    assert record.records[-1]["terms"]["hidden_states"]["value"] < record.records[0]["terms"]["hidden_states"]["value"]
    assert made.model.state_dict().keys() == narrow.model.state_dict().keys()
    folder = made.save(tmp_path / "student")
    stock, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert same(weights(made), stock.state_dict())


def test_equal_widths_need_no_projection(bert, data):
    lesson = Lesson(
        bert.model, data.task, settings.Imitate(hidden_states=1.0), pairs={"hidden_states": [(1, 1)]}, widths=(32, 32)
    )
    assert len(lesson.projections) == 0


# ------------------------------------------------------------------------------------- saved or live


def test_saved_and_live_teachers_train_alike(bert, data, monkeypatch):
    curves = []
    for limit in (choosing.SAVED_AT_MOST, 0):
        monkeypatch.setattr(choosing, "SAVED_AT_MOST", limit)
        _, record = learn(cut(bert, 2), bert, data, imitate=BOTH, epochs=4, patience=4)
        curves.append([term["value"] for point in record.records for term in point["terms"].values()])
    assert len(curves[0]) == 16
    assert curves[0] == pytest.approx(curves[1], rel=0.02)


# ------------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("whose", "way"), [("student", "lower learning_rate"), ("teacher", "the teacher's own logits are no numbers there")]
)
def test_nan_stops_the_training_and_names_step_rows_and_term(bert, data, whose, way):
    pupil = cut(bert, 2)
    lesson = Lesson(pupil.model, data.task, settings.Imitate(labels=1.0, logits=1.0))
    asked: list[list[int]] = []

    def answer(batch: dict[str, Tensor]) -> Signals:
        asked.append(batch["rows"].tolist())
        if len(asked) == 3 and whose == "student":
            pupil.model.classifier.weight.data[:] = math.nan
        bad = math.nan if len(asked) == 3 and whose == "teacher" else 1.0
        return Signals(torch.full((len(asked[-1]), 3), bad))

    words = Distill(**FAST, batch_size=6)
    with pytest.raises(TrainingError) as told:
        fit(lesson, pupil.encode(data, "train"), words, validate=lambda: 0.0, answer=answer, watch=Watch("1-distill"))
    assert len(asked) == 3
    assert "1-distill: the term 'logits' is nan in step 3" in str(told.value)
    assert str(asked[2])[:-1] in str(told.value)
    assert str(told.value).endswith(f"; {way}")


@pytest.mark.parametrize("made", ["gradient", "score"])
def test_a_training_that_ends_in_no_number_is_stopped_there(bert, data, made):
    pupil = cut(bert, 1)
    lesson = Lesson(pupil.model, data.task, settings.Imitate(labels=1.0))
    if made == "gradient":
        pupil.model.classifier.weight.register_hook(lambda gradient: gradient * float("nan"))
    score = float("nan") if made == "score" else 1.0
    with pytest.raises(TrainingError, match=rf"the {'validation ' * (made == 'score')}{made} .*is nan"):
        fit(lesson, pupil.encode(data, "train"), Finetune(**FAST, max_steps=1), validate=lambda: score)
    assert all(torch.isfinite(parameter).all() for parameter in pupil.model.parameters())


def test_a_term_that_hardly_counts_is_warned_of_once(bert, data, caplog):
    with caplog.at_level(logging.WARNING, logger="distill.training"):
        learn(cut(bert, 2), bert, data, imitate={"logits": 1.0, "labels": 1e-6}, epochs=3)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 1
    assert "the term 'labels'" in found[0] and "hardly counts" in found[0]


def test_a_term_whose_gradient_vanishes_is_warned_of_though_its_value_is_large(bert, data, caplog):
    far = {"weight": 1.0, "loss": "mse"}
    with caplog.at_level(logging.WARNING, logger="distill.training"):
        _, record = learn(cut(bert, 2), bert, data, imitate={"logits": far, "labels": 1e-5}, epochs=2)
    shares = [
        terms["labels"]["gradient"]
        for terms in (point["terms"] for point in record.records)
        if "gradient" in terms["labels"]
    ]
    assert shares and all(0 <= share < 0.01 for share in shares)
    assert "labels" in caplog.text


def test_gradient_shares_are_those_of_the_terms_gradients():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    frozen = torch.tensor(2.0)
    terms = {"square": (weight**2).sum(), "sum": weight.sum(), "none": frozen}
    found = gradient_shares(terms, {"square": 1.0, "sum": 5.0, "none": 1.0}, [weight])
    by_hand = {"square": 10.0, "sum": 5 * 2**0.5, "none": 0.0}
    assert found == pytest.approx({name: norm / sum(by_hand.values()) for name, norm in by_hand.items()})
    sum(terms.values()).backward()  # the graph is still there
    assert weight.grad is not None


def test_a_term_that_is_nothing_in_a_batch_is_left_out_of_gradient_shares():
    """As the loss on labels is where none of them is known; one whose gradient has vanished is told."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    terms = {"sum": weight.sum(), "unlabelled": (0 * weight).sum(), "vanished": (0 * weight).sum() + 5}
    assert gradient_shares(terms, dict.fromkeys(terms, 1.0), [weight]) == {"sum": 1.0, "vanished": 0.0}


def test_a_teacher_is_held_against_its_student_on_validation(bert, data, caplog):
    with caplog.at_level(logging.WARNING, logger="distill.distillation"):
        _, record = learn(cut(bert, 4), bert, data, imitate={"logits": 1.0}, epochs=1)
        assert record.teacher["agreement"] > 0.5 and 0 <= record.teacher["entropy"] <= np.log(3) + 1e-6
        assert not caplog.records
        compare(bert, bert, data, replace(record, epochs=[{"epoch": 1.0, "score": 2.0}]))
    assert "imitates what is worse" in caplog.text


def test_the_students_answers_of_its_best_epoch_are_not_asked_for_again(bert, data, monkeypatch):
    asked, before = [], comparing.answer_all
    monkeypatch.setattr(comparing, "answer_all", lambda *given: asked.append(given[0].model) or before(*given))
    made, record = learn(cut(bert, 2), bert, data, imitate={"logits": 1.0}, epochs=3)
    assert asked == [bert.model]
    again = replace(record)
    compare(made, bert, data, again, torch.float32)
    assert len(asked) == 3 and again.teacher == record.teacher


def test_entropy_is_that_of_labels_of_flags_and_of_words_that_are_there(data):
    even, sure = np.zeros((2, 3)), np.array([[50.0, 0, 0]])
    assert entropy_of(data.task, even) == pytest.approx(np.log(3))
    assert entropy_of(data.task, sure) == pytest.approx(0, abs=1e-9)
    many = replace(data.task, problem="multi_label_classification")
    assert entropy_of(many, even) == pytest.approx(np.log(2))
    tags = TokenClassification("token_classification", LABELS, "accuracy")
    assert entropy_of(tags, np.array([[[0.0] * 3, [np.nan] * 3]])) == pytest.approx(np.log(3))
    assert entropy_of(replace(data.task, problem="regression"), even) is None


def test_terms_that_count_are_not_warned_of(bert, data, caplog):
    with caplog.at_level(logging.WARNING, logger="distill.training"):
        learn(cut(bert, 2), bert, data, imitate={"logits": 1.0, "labels": 0.5}, epochs=2)
    assert not caplog.records


# ------------------------------------------------------------------------------------- what is left alone


def test_the_student_and_the_teacher_given_stay_as_they_were(bert, data):
    pupil = cut(bert, 2)
    before = weights(pupil), weights(bert)
    limits = pupil.tokenizer.model_max_length
    made, _ = learn(pupil, bert, data, imitate=BOTH, epochs=1)
    assert same(before[0], weights(pupil)) and same(before[1], weights(bert))
    assert not same(before[0], weights(made))
    for given in (pupil, bert):
        assert all(parameter.requires_grad and parameter.grad is None for parameter in given.model.parameters())
        assert not given.model.training and given.tokenizer.model_max_length == limits
    assert made.tokenizer.model_max_length == data.max_length


def test_a_frozen_student_is_trained_all_the_same(bert, data):
    pupil = cut(bert, 2)
    pupil.model.requires_grad_(False)
    made, _ = learn(pupil, bert, data, epochs=1)
    assert not same(weights(made), weights(pupil))


def test_the_dropout_of_a_checkpoint_comes_back_after_training(bert, data):
    pupil = cut(bert, 1)
    own = [module.p for module in pupil.model.modules() if isinstance(module, nn.Dropout)]
    seen: list[set[float]] = []

    def validate() -> float:
        seen.append({module.p for module in pupil.model.modules() if isinstance(module, nn.Dropout)})
        return 0.0

    lesson = Lesson(pupil.model, data.task, settings.Imitate(labels=1.0))
    fit(lesson, pupil.encode(data, "train"), Finetune(epochs=1, dropout=0.3), validate=validate)
    assert seen == [{0.3}]
    assert own and own == [module.p for module in pupil.model.modules() if isinstance(module, nn.Dropout)]


# ------------------------------------------------------------------------------------- repeatable


@pytest.mark.parametrize("wide", [True, False])
def test_the_same_seed_gives_identical_weights_twice(bert, narrow, data, wide):
    pupil = cut(bert, 2) if wide else narrow
    made = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # what happened before must not matter
        np.random.seed(noise)
        made.append(weights(learn(pupil, bert, data, imitate=BOTH, epochs=2, dropout=0.2)[0]))
    assert same(*made)


def test_another_seed_gives_other_weights(bert, data):
    from dataclasses import replace

    made = [weights(learn(cut(bert, 2), bert, replace(data, seed=seed), epochs=1, batch_size=8)[0]) for seed in (1, 2)]
    assert not same(*made)


# ------------------------------------------------------------------------------------- every kind of problem


@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_every_problem_trains_both_ways(tmp_path, problem, texts):
    data = make_splits(problem, texts)
    names = data.task.labels
    trained = load_tiny(tmp_path / "bert", labels=names, problem_type=problem)
    tuned = Watch()
    trained = finetune(trained, Finetune(**FAST, epochs=8, batch_size=16, patience=8), data=data, watch=tuned)
    assert tuned.log.records[-1]["loss"] < tuned.log.records[0]["loss"]
    imitate = {"logits": 1.0, "hidden_states": 0.1, "labels": 0.5}
    made, told = learn(cut(trained, 2), trained, data, imitate=imitate, epochs=3)
    assert told.records[-1]["loss"] < told.records[0]["loss"]
    folder = made.save(tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == problem
    assert ("threshold" in config) == (problem == "multi_label_classification")


def test_the_threshold_of_many_labels_is_chosen_on_validation_and_kept_in_the_config(tmp_path):
    data = make_splits("multi_label_classification")
    start = load_tiny(tmp_path / "bert", problem_type=data.task.problem)
    with torch.no_grad():
        start.model.classifier.bias.fill_(-2.0)  # probabilities far under a half, so that 0.5 finds nothing
    made = finetune(start, Finetune(epochs=1, max_steps=1, learning_rate=1e-6), data=data)
    held = made.encode(data, "validation")
    logits = answer_all(Torch(made.model), held)
    folder = made.save(tmp_path / "student")
    kept = json.loads((folder / "config.json").read_text())["threshold"]
    assert kept < 0.5
    assert kept == data.task.choose_threshold(logits, held.labels)
    by_hand = {
        t / 20: data.task.score((1 / (1 + np.exp(-logits)) >= t / 20).astype(int), held.labels) for t in range(1, 20)
    }
    assert by_hand[kept] == max(by_hand.values())


# ------------------------------------------------------------------------------------- what does not fit together


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Checkpoint:
    """A student whose tokenizer numbers the words in another way, and knows fewer of them."""
    found = load_tiny(tmp_path_factory.mktemp("stranger") / "bert", num_hidden_layers=2)
    pieces = [*PIECES[:5], *reversed(PIECES[5:-3])]
    return Checkpoint(found.model, make_tokenizer(pieces))


def test_logits_are_learned_across_different_tokenizers(stranger, bert, data):
    made, record = learn(stranger, bert, data, imitate={"logits": 1.0}, epochs=15, batch_size=8, patience=15)
    assert record.records[-1]["loss"] < 0.5 * record.records[0]["loss"]
    assert made.tokenizer.get_vocab() == stranger.tokenizer.get_vocab()


def test_the_teacher_reads_its_own_tokens_whatever_the_students_are(stranger, bert, data, monkeypatch):
    own = answer_all(Torch(bert.model), bert.encode(data, "train"))
    heard: dict[int, Tensor] = {}
    forward = Lesson.forward

    def spy(self: Lesson, batch: dict[str, Tensor], signals: Signals) -> object:
        heard.update(zip(batch["rows"].tolist(), signals.logits, strict=True))
        return forward(self, batch, signals)

    monkeypatch.setattr(Lesson, "forward", spy)
    learn(stranger, bert, data, imitate={"logits": 1.0}, epochs=1)
    assert len(heard) == len(data.train)
    assert np.allclose(np.stack([heard[row].numpy() for row in range(len(own))]), own, atol=1e-5)


def test_hidden_states_across_different_tokenizers_are_refused(stranger, bert, data):
    with pytest.raises(CheckpointError, match=r"different tokens.*imitate logits alone"):
        learn(stranger, bert, data, imitate=BOTH)


def test_a_teacher_with_another_number_of_labels_is_refused(bert, data, tmp_path):
    other = load_tiny(tmp_path / "two", labels=("no", "yes"))
    with pytest.raises(CheckpointError, match=r"2 labels, the data 3.*finetune"):
        learn(cut(bert, 2), other, data)


def test_pairs_of_layers_that_are_not_there_are_refused_before_training(bert, data):
    with pytest.raises(CheckpointError, match="teacher layer 9"):
        learn(cut(bert, 2), bert, data, imitate={"hidden_states": {"weight": 1.0, "layers": {1: 9}}})


# ------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_either_dtype_trains_and_leaves_float32_weights(bert, data, dtype, epochs):
    made, record = learn(cut(bert, 2), bert, data, imitate=BOTH, epochs=epochs, dtype=dtype)
    assert record.dtype == dtype
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in made.model.parameters())
    with torch.inference_mode():
        assert made.model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.dtype == torch.float32


def test_a_dtype_is_taken_at_its_word_and_auto_is_one_of_two():
    assert choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16
    assert choose_dtype("auto") in (torch.float32, torch.bfloat16)


def test_a_batch_holds_no_more_rows_and_tokens_than_it_may(bert, data, monkeypatch):
    shapes: list[tuple[int, int]] = []
    forward = Lesson.forward

    def spy(self: Lesson, batch: dict[str, Tensor], signals: Signals | None) -> object:
        shapes.append(tuple(batch["input_ids"].shape))
        return forward(self, batch, signals)

    monkeypatch.setattr(Lesson, "forward", spy)
    finetune(bert, Finetune(**FAST, epochs=1, batch_size=10, batch_tokens=96), data=data)
    assert all(rows <= 10 and rows * tokens <= 96 for rows, tokens in shapes)
    assert sum(rows for rows, _ in shapes) == len(data.train)
    assert len(shapes) == len(TokenBatches(bert.encode(data, "train").lengths, 10, 96))


def test_the_labels_of_the_task_name_the_head(bert, data):
    assert learn(cut(bert, 2), bert, data, epochs=1)[0].labels == list(LABELS)
