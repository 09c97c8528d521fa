"""The training loop by its properties: when it stops, which epoch it goes back to, and how it goes on when cut off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from tiny_models import same, weights

from distill import Checkpoint, Distill, Finetune, cut
from distill.distillation import Lesson, distill, finetune
from distill.engines import Torch, answer_all
from distill.recipe import settings
from distill.training import TrainingLog, Watch, fit, loop, trainer

FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0}


def scripted(
    bert: Checkpoint, data, scores: list[float], **words: object
) -> tuple[TrainingLog, list[dict], Checkpoint]:
    """A fine-tuning whose validation scores are given beforehand; with the weights at each of them."""
    pupil, kept = cut(bert, 1), []
    pupil.model.requires_grad_(True)

    def validate() -> float:
        kept.append(weights(pupil))
        return scores[len(kept) - 1]

    lesson = Lesson(pupil.model, data.task, settings.Imitate(labels=1.0))
    words = Finetune(**{**FAST, **words})
    return fit(lesson, pupil.encode(data, "train"), words, validate=validate), kept, pupil


@pytest.mark.parametrize(
    ("scores", "patience", "stopped", "best"),
    [
        ([0.5, 0.9, 0.1, 0.2, 0.95], 2, 4, 2),
        ([0.5, 0.4, 0.9, 0.2, 0.1], 1, 2, 1),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1, 5, 5),
        ([0.3, 0.3, 0.3, 0.3, 0.3], 2, 3, 1),
        ([0.0, -0.1, -0.2, 0.4, 0.1], 3, 5, 4),
    ],
)
def test_training_stops_early_and_goes_back_to_its_best_epoch(bert, data, scores, patience, stopped, best):
    record, kept, pupil = scripted(bert, data, scores, epochs=5, patience=patience)
    assert [epoch["score"] for epoch in record.epochs] == scores[:stopped]
    assert record.best_epoch == best
    assert same(weights(pupil), kept[best - 1])


def test_validation_and_the_trained_model_run_without_dropout(bert, data):
    pupil = cut(bert, 1)
    modes: list[bool] = []

    def validate() -> float:
        modes.append(pupil.model.training)
        return len(modes)

    lesson = Lesson(pupil.model, data.task, settings.Imitate(labels=1.0))
    fit(lesson, pupil.encode(data, "train"), Finetune(epochs=2), validate=validate)
    assert modes == [False, False]
    made = finetune(bert, Finetune(epochs=1, max_steps=1), data=data)
    assert not any(module.training for module in made.model.modules())


def test_the_score_told_of_the_best_epoch_is_that_of_the_model_given_back(bert, data):
    watch = Watch()
    made = finetune(bert, Finetune(learning_rate=1e-3, epochs=3, dtype="float32"), data=data, watch=watch)
    held = made.encode(data, "validation")
    score = data.task.score(data.task.predictions(answer_all(Torch(made.model), held)), held.labels)
    assert score == max(epoch["score"] for epoch in watch.log.epochs)


@pytest.mark.parametrize(
    ("words", "steps"), [({"max_steps": 3, "epochs": 9}, 3), ({"epochs": 0.5}, 1), ({"epochs": 2}, 4)]
)
def test_a_training_takes_as_many_steps_as_it_was_told(bert, data, words, steps):
    watch = Watch()
    finetune(bert, Finetune(**FAST, **words), data=data, watch=watch)
    assert watch.log.records[-1]["step"] == steps
    assert watch.log.epochs
    assert watch.log.samples_per_second > 0


def test_the_largest_seed_serves_every_training_of_a_chain(bert, data):
    made = [
        finetune(bert, Finetune(**FAST, max_steps=3, batch_size=8), data=replace(data, seed=seed), turn=2)
        for seed in (2**32 - 1, 2**32 - 1, 0)
    ]
    assert same(*map(weights, made[:2])) and not same(*map(weights, made[1:]))


@pytest.mark.parametrize(("dtype", "said"), [(torch.float32, "no"), (torch.bfloat16, "bf16")])
def test_the_recipe_says_the_precision_whatever_accelerate_was_launched_with(tmp_path, monkeypatch, dtype, said):
    for launched in ("no", "bf16", "fp16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        assert loop._arguments(Finetune(), dtype, 0, tmp_path, False).mixed_precision == said


@pytest.mark.parametrize("step", ["finetune", "distill"])
def test_each_training_of_a_chain_draws_its_batches_anew(bert, data, step, monkeypatch):
    drawn: list[list[int]] = []
    collate = trainer.collate

    def watched(encoded, rows, *more):
        drawn.append(list(rows))
        return collate(encoded, rows, *more)

    monkeypatch.setattr(trainer, "collate", watched)
    words, first = {**FAST, "max_steps": 1, "batch_size": 8}, []
    for turn in (0, 1, 1):
        drawn.clear()
        if step == "finetune":
            finetune(bert, Finetune(**words), data=data, turn=turn)
        else:
            distill(cut(bert, 1), Distill(**words), data=data, teacher=bert, turn=turn)
        first.append(drawn[0])
    assert first[0] != first[1] == first[2]


# ------------------------------------------------------------------------------------- going on


def train_by(bert, data, folder, scores, **words):
    """A training whose validation scores are these, one an epoch; more epochs than scores are an error."""
    pupil = bert.copy()
    lesson, left = Lesson(pupil.model, data.task, settings.Imitate(labels=1.0)), iter(scores)
    watch = Watch("1-finetune", folder)
    fit(lesson, pupil.encode(data, "train"), Finetune(**FAST, **words), validate=lambda: next(left), watch=watch)
    return pupil, watch.log


def cut_off(monkeypatch, bert, data, folder, scores, **words) -> None:
    """The same, but the process dies when all is trained and before the best epoch is loaded."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._load_best_model", die)
        with pytest.raises(KeyboardInterrupt):
            train_by(bert, data, folder, scores, **words)


def test_a_training_that_had_stopped_early_is_not_trained_further(bert, data, tmp_path, monkeypatch):
    scores = [0.9, 0.5, 0.4]
    whole, _ = train_by(bert, data, tmp_path / "whole", scores, epochs=5, patience=2)
    cut_off(monkeypatch, bert, data, tmp_path / "cut", scores, epochs=5, patience=2)
    made, log = train_by(bert, data, tmp_path / "cut", [], epochs=5, patience=2)
    assert [epoch["score"] for epoch in log.epochs] == scores and log.best_epoch == 1
    assert same(weights(made), weights(whole))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_training_cut_off_while_it_validates_validates_that_epoch_again(bert, data, tmp_path, monkeypatch, epochs):
    def die() -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.training.trainer.SAVE_EVERY", 0.0)
    scores = [0.9, 0.5][:epochs]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distill.training.trainer.Trainer.evaluate", lambda self, *_, **__: die())
        train_by(bert, data, tmp_path / "cut", scores, epochs=epochs)
    _, log = train_by(bert, data, tmp_path / "cut", scores, epochs=epochs)
    assert log.sittings == 2 and [epoch["score"] for epoch in log.epochs] == scores


def test_a_training_cut_off_between_two_records_tells_what_an_undisturbed_one_does(bert, data, tmp_path, monkeypatch):
    monkeypatch.setattr("distill.training.trainer._RECORDS", 1)  # the last step alone is told
    words = {"epochs": 1, "batch_size": 8}
    _, whole = train_by(bert, data, tmp_path / "whole", [0.9], **words)
    monkeypatch.setattr("distill.training.trainer.SAVE_EVERY", 0.0)
    step, steps = transformers.Trainer.training_step, iter(range(5))

    def dying(*given: object) -> torch.Tensor:
        if next(steps) == 4:
            raise KeyboardInterrupt
        return step(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("transformers.Trainer.training_step", dying)
        train_by(bert, data, tmp_path / "cut", [0.9], **words)
    _, found = train_by(bert, data, tmp_path / "cut", [0.9], **words)
    assert found.sittings == 2 and len(found.records) == len(whole.records) == 1
    assert found.records[0]["loss"] == pytest.approx(whole.records[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("how", ["damaged", "moved"])
def test_a_training_whose_best_epoch_is_lost_does_not_hand_out_another(bert, data, tmp_path, monkeypatch, how):
    scores = [0.9, 0.5, 0.4]
    whole, _ = train_by(bert, data, tmp_path / "whole", scores, epochs=3, patience=5)
    cut_off(monkeypatch, bert, data, tmp_path / "cut", scores, epochs=3, patience=5)
    folder = tmp_path / "cut"
    if how == "damaged":
        kept = sorted(folder.glob("checkpoint-*/model.safetensors"))[0]
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    else:
        folder = folder.rename(tmp_path / "elsewhere")
    made, log = train_by(bert, data, folder, scores, epochs=3, patience=5)
    assert [epoch["score"] for epoch in log.epochs] == scores and log.best_epoch == 1
    assert same(weights(made), weights(whole))
