"""Logits over a vocabulary kept as those of the likeliest tokens and the mass of all others: how exact, and when."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from language_models import CAUSAL, MASKED
from writers import build_writer, make_pairs

from distill import Distill, distill, teacher
from distill import checkpoint as checkpoints
from distill.data import collate
from distill.distillation import Lesson
from distill.errors import CheckpointError, MachineError, RecipeError
from distill.losses import LOSSES, bucketed, in_portions
from distill.pipeline import run
from distill.preflight import prepare
from distill.recipe import load as load_recipe
from distill.recipe import settings
from distill.signals import NOTHING, Kept, Signals, read, tensors
from distill.store import Store
from distill.student import cut
from distill.teacher import choosing, worth
from distill.teacher.likeliest import Likeliest, fidelities
from distill.teacher.saved import Saved
from distill.teacher.worth import Asked
from distill.training import Watch

RNG = np.random.default_rng(5)
STUDENT, TEACHER = 2 * RNG.normal(size=(2, 7, 12))
DIVERGENCES = ("kl", "reverse_kl", "js", "skew_kl")
FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0, "batch_size": 16}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def put_together(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Distributions over the kept classes, row by row, and over all others as one."""
    few = np.take_along_axis(p, kept, -1)
    return np.concatenate([few, 1 - few.sum(-1, keepdims=True)], -1)


def divergence(name: str, p: np.ndarray, q: np.ndarray) -> float:
    """Of a teacher's p and a student's q, from the textbook."""

    def kl(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one * np.log(one / other)).sum(-1)

    both = {
        "kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "js": lambda: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2),
        "skew_kl": lambda: kl(p, 0.1 * p + 0.9 * q),
    }
    return float(both[name]().mean())


# ------------------------------------------------------------------------------------------------------ the maths


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_losses_on_buckets_are_the_divergences_of_what_is_put_together(name, temperature):
    kept = np.argsort(-TEACHER, -1)[:, :4]
    p, q = (softmax(logits / temperature) for logits in (TEACHER, STUDENT))
    expected = temperature**2 * divergence(name, put_together(p, kept), put_together(q, kept))
    mine, theirs = (bucketed(torch.tensor(x), torch.tensor(kept), temperature) for x in (STUDENT, TEACHER))
    assert LOSSES[name](mine, theirs, temperature).item() == pytest.approx(expected, rel=1e-5)
    assert expected < temperature**2 * divergence(name, p, q)  # never above the whole
    assert LOSSES[name](theirs, theirs, temperature).item() == pytest.approx(0, abs=1e-6)


def test_what_is_left_out_of_kl_is_the_tails_own():
    kept = np.argsort(-TEACHER, -1)[:, :4]
    p, q = softmax(TEACHER), softmax(STUDENT)
    inside = []
    for one, other, few in zip(p, q, kept, strict=True):
        tail = np.setdiff1d(np.arange(12), few)
        mine, theirs = one[tail] / one[tail].sum(), other[tail] / other[tail].sum()
        inside.append(one[tail].sum() * (mine * np.log(mine / theirs)).sum())
    buckets = divergence("kl", put_together(p, kept), put_together(q, kept))
    assert buckets + np.mean(inside) == pytest.approx(divergence("kl", p, q), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_of_kl_is_exact_where_logits_are_kept_and_in_sum_for_the_tail(temperature):
    kept = torch.tensor(np.argsort(-TEACHER, -1)[:, :4].copy())
    student = torch.tensor(STUDENT, requires_grad=True)
    theirs = bucketed(torch.tensor(TEACHER), kept, temperature)
    LOSSES["kl"](bucketed(student, kept, temperature), theirs, temperature).backward()
    p, q = (softmax(logits / temperature) for logits in (TEACHER, STUDENT))
    exact = temperature * (q - p) / len(p)  # T² · 1/T
    found, few = student.grad.numpy(), kept.numpy()
    assert np.take_along_axis(found, few, -1) == pytest.approx(np.take_along_axis(exact, few, -1), abs=1e-6)
    assert found.sum(-1) == pytest.approx(exact.sum(-1), abs=1e-6)
    for row, (mine, whole, own) in enumerate(zip(found, exact, q, strict=True)):
        tail = np.setdiff1d(np.arange(12), few[row])
        assert mine[tail] == pytest.approx(whole[tail].sum() * own[tail] / own[tail].sum(), abs=1e-6)


def test_portions_and_extreme_logits_change_nothing():
    from distill import portions

    mine, theirs = torch.randn(40, 50), 90 * torch.randn(40, 50)
    values, tokens = Likeliest(5, 2.0, 50).of(theirs)

    def loss(one, other, kept):
        return LOSSES["kl"](bucketed(one, kept, 2.0), other, 2.0)

    whole = loss(mine, values, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "_NUMBERS", 150)
        assert in_portions(loss, mine, values, tokens).item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.isfinite(whole) and torch.isfinite(values).all()


def test_fidelity_is_what_spreading_the_tail_evenly_loses():
    form = Likeliest(3, 2.0, 10)
    wide = np.concatenate([TEACHER[:, :10], np.full((7, 2), 50.0)], -1)  # what a padded vocabulary has beyond
    p = softmax(TEACHER[:, :10] / 2)
    kept = np.argsort(-p, -1)[:, :3]
    tail = 1 - np.take_along_axis(p, kept, -1).sum(-1)
    again = np.repeat(tail[:, None] / 7, 10, -1)
    np.put_along_axis(again, kept, np.take_along_axis(p, kept, -1), -1)
    (found,) = fidelities([form], [torch.tensor(wide[:4]), torch.tensor(wide[4:])])
    assert (found.tokens, found.same) == (7, 1.0)
    assert found.tail == pytest.approx(tail.mean(), rel=1e-5)
    assert found.nats == pytest.approx((p * np.log(p / again)).sum(-1).mean(), rel=1e-4)


def test_ids_take_two_bytes_where_they_can():
    assert [Likeliest(8, 1.0, size).bytes_a_line for size in (1 << 16, (1 << 16) + 1)] == [36 + 16, 36 + 32]


# ---------------------------------------------------------------------------------------------- what is kept of models


def answering(checkpoint, encoded, scratch, number=None, **words):
    asked = number and Asked(number, 2.0, checkpoint.model.config.vocab_size, checkpoint.model)
    given = {"epochs": 3, "dtype": torch.float32, "scratch": scratch, "asked": asked, **words}
    return teacher.answering(checkpoint, encoded, NOTHING, **given)


def test_saved_logits_are_the_likeliest_of_whole_ones_in_any_batch(gpt2, causal, tmp_path, caplog):
    encoded = gpt2.encode(causal, "train")
    with caplog.at_level(logging.INFO):
        saved = answering(gpt2, encoded, tmp_path, 6)
    assert isinstance(saved, Saved)
    assert "40 bytes a token; whole logits would take 1,028 a token" in caplog.text
    assert "the 6 likeliest of 257 hold" in caplog.text and "nats" in caplog.text
    assert saved.told["likeliest"] == {"number": 6, "temperature": 2.0, "classes": 257}
    for chosen in ([5, 1, 30], [7]):
        batch = tensors(collate(encoded, chosen), gpt2.model.device)
        found, real = saved.signals(batch), batch["attention_mask"].bool()
        with torch.no_grad():
            whole = read(gpt2.model, batch).logits[real].double().numpy()
        tokens, logits = found.kept.tokens[real].numpy(), found.logits[real].numpy()
        assert found.kept.classes == 257
        assert logits[:, :6] == pytest.approx(-np.sort(-whole, -1)[:, :6], abs=1e-4)
        assert np.take_along_axis(whole, tokens, -1) == pytest.approx(logits[:, :6], abs=1e-4)
        np.put_along_axis(whole, tokens, -np.inf, -1)
        assert logits[:, 6] == pytest.approx(2 * np.log(np.exp(whole / 2).sum(-1)), abs=1e-4)


def test_a_lesson_compares_the_kept_tokens_in_the_vocabulary_that_both_have(gpt2, causal):
    """The student has fewer tokens than the teacher: the tail is that of the tokens which both have."""
    encoded = gpt2.encode(causal, "train")
    batch = tensors(collate(encoded, [3, 9]), gpt2.model.device)
    mine, theirs = torch.randn(2, *batch["input_ids"].shape, 257)
    form = Likeliest(5, 2.0, 250)
    values, tokens = form.of(theirs)
    lesson = Lesson(gpt2.model, causal.task, settings.Imitate(logits=1.0), temperature=2.0)
    (part,) = lesson._logits(Signals(mine), Signals(values, kept=Kept(tokens, 250)), batch)
    right = batch["labels"][:, 1:] != -100
    p, q = (softmax(x[:, :-1][right][:, :250].double().numpy() / 2) for x in (theirs, mine))
    kept = np.argsort(-p, -1)[:, :5]
    expected = 4 * divergence("kl", put_together(p, kept), put_together(q, kept))
    assert part.mean.item() == pytest.approx(expected, rel=1e-4) and part.places == int(right.sum())


def learn(pupil, of, data, **words):
    watch = Watch("distill")
    made = distill(pupil, Distill(**{**FAST, **words}), data=data, teacher=of, watch=watch)
    return made, watch.log


def test_nearly_all_tokens_train_nearly_as_whole_logits_do(gpt2, causal):
    curves = []
    for kept in ("whole", 256):  # one token is the tail, so that nothing is left out
        _, record = learn(cut(gpt2, 1), gpt2, causal, epochs=2, signals=kept)
        curves.append([point["loss"] for point in record.records])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_every_divergence_falls_on_few_tokens_and_is_zero_to_itself(gpt2, causal, loss):
    term = {"logits": {"weight": 1.0, "loss": loss}}
    _, record = learn(cut(gpt2, 1), gpt2, causal, imitate=term, epochs=2, signals=8)
    values = [point["loss"] for point in record.records]
    assert values[-1] < values[0] and np.isfinite(values).all()
    assert record.signals["likeliest"]["number"] == 8
    _, same = learn(gpt2.copy(), gpt2, causal, imitate=term, max_steps=1, signals=8, learning_rate=1e-9)
    assert same.records[0]["loss"] == pytest.approx(0, abs=1e-5)


def test_an_encoder_decoders_texts_to_write_are_kept_so_too(tmp_path):
    data = make_pairs()
    writer = checkpoints.Checkpoint(build_writer("bart"), make_tokenizer())
    encoded = writer.encode(data, "train")
    saved = answering(writer, encoded, tmp_path, 4)
    batch = tensors(collate(encoded, [2, 0]), writer.model.device)
    found, real = saved.signals(batch), batch["labels"] != -100
    with torch.no_grad():
        whole = read(writer.model, batch).logits[real]
    assert torch.allclose(found.logits[real][:, :4], whole.topk(4).values, atol=1e-4)
    assert torch.equal(found.kept.tokens[real], whole.topk(4).indices)


# ------------------------------------------------------------------------------------------------------ what pays


def decide(gpt2, causal, monkeypatch, *, rate=1e11, disk=1e9, lost=0.05, **words):
    monkeypatch.setattr(worth, "_RATES", {"cpu": rate})
    monkeypatch.setattr(worth, "_DISK", disk)
    monkeypatch.setattr(worth, "_LOST", lost)
    asked = Asked("auto", 2.0, 257, gpt2.model, words.pop("needs_whole", None))
    source = teacher.Live(gpt2, NOTHING, torch.float32)
    given = {"epochs": 3, "live": True, "at_most": 1 << 30, **words}
    return worth.choose(asked, source, gpt2.encode(causal, "train"), **given)


def test_auto_keeps_few_tokens_where_the_disk_and_the_teacher_are_slow(gpt2, causal, monkeypatch):
    found = decide(gpt2, causal, monkeypatch, rate=1e12, disk=1e5, lost=10.0, at_most=10**6)
    assert found.form == "live"  # a slow disk is too slow for few tokens too
    found = decide(gpt2, causal, monkeypatch, disk=1e7, lost=10.0, live=False)
    assert found.form == Likeliest(8, 2.0, 257)
    assert "8 likeliest tokens 1, whole logits" in found.why and "the 8 likeliest of 257" in found.lines[1]


def test_auto_takes_as_many_tokens_as_it_takes_to_lose_little(gpt2, causal, monkeypatch):
    def of(lost):
        return decide(gpt2, causal, monkeypatch, disk=1e7, lost=lost, live=False)

    few = of(10.0)
    more = of(0.999 * few.fidelity.nats)
    assert few.form.number < more.form.number
    assert more.fidelity.nats < few.fidelity.nats and more.fidelity.tail < few.fidelity.tail


def test_auto_leaves_nothing_out_where_that_saves_little(gpt2, causal, monkeypatch):
    found = decide(gpt2, causal, monkeypatch, disk=1e15, lost=10.0)
    assert found.form == "whole" and "too little to leave anything out" in found.why
    assert not found.binds
    assert decide(gpt2, causal, monkeypatch, disk=1e15, lost=0.0).form == "whole"
    assert "no few tokens are within 0.0 nats" in decide(gpt2, causal, monkeypatch, lost=0.0).why
    assert decide(gpt2, causal, monkeypatch, epochs=1).form == "live"
    found = decide(gpt2, causal, monkeypatch, needs_whole="it compares every logit", at_most=1)
    assert found.form == "live" and "it compares every logit" in found.why


def test_the_same_recipe_decides_alike_again(gpt2, causal, monkeypatch):
    found = [decide(gpt2, causal, monkeypatch, disk=1e7, lost=1.0, live=False) for _ in range(2)]
    assert found[0] == found[1]


def test_off_asks_in_every_step_and_whole_keeps_even_for_one_epoch(gpt2, causal, tmp_path):
    encoded = gpt2.encode(causal, "train")
    assert isinstance(answering(gpt2, encoded, tmp_path, off=True), teacher.Live)
    assert isinstance(answering(gpt2, encoded, tmp_path, "whole", epochs=1), Saved)
    with pytest.raises(CheckpointError, match="other token ids"):
        answering(gpt2, encoded, tmp_path, off=True, live=False)


def test_a_disk_without_room_is_said_and_never_another_training(gpt2, causal, tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(choosing.shutil, "disk_usage", lambda _: full)
    with pytest.raises(MachineError, match="to spare for the teacher's 4 likeliest tokens' logits"):
        answering(gpt2, gpt2.encode(causal, "train"), tmp_path, 4)


# ----------------------------------------------------------------------------------------------- recipes, the store


def recipe(tmp_path, corpus, gpt2, **words) -> Path:
    folder = gpt2.save(tmp_path / "gpt2")
    step = {"distill": {**FAST, "imitate": {"logits": 1.0}, "epochs": 2, "signals": 8, **words}}
    told = {
        "task": CAUSAL, "teacher": {"checkpoint": str(folder)}, "student": {"layers": 1},
        "data": {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24}, "steps": [step],
        "timing": {"batch": [1], "rounds": 3}, "track": {"wandb": "off", "energy": False},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"imitate": {"logits": {"weight": 1, "loss": "mse"}}}, "mse takes whole logits: it compares every logit"),
        ({"imitate": {"logits": {"weight": 1, "loss": "decoupled_kl"}}}, "may be among those not kept"),
        ({"imitate": {"hidden_states": 1.0}}, "give `imitate.logits` a weight"),
        ({"imitate": {"logits": 1, "attentions": 1}}, "attentions take a teacher in every step"),
        ({"imitate": {"logits": 1, "attentions": 1}, "signals": {"engine": "bfloat16"}}, "attentions take a teacher"),
        ({"signals": 0}, "signals.logits: 0 is no"),
        ({"signals": "most"}, "auto"),
        ({"signals": {"k": 3}}, "no such setting"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be_is_refused_when_it_is_read(tmp_path, corpus, gpt2, words, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tmp_path, corpus, gpt2, **words))
    assert message in str(caught.value)


def test_tasks_without_a_vocabulary_to_keep_are_refused_by_check(tmp_path, corpus, gpt2, recipe_file):
    told = prepare(load_recipe(recipe_file(steps=[{"distill": {"signals": 4}}])))
    assert any("signals.logits: 4: it counts a vocabulary's tokens" in one for one in told.problems)
    told = prepare(load_recipe(recipe_file(steps=[{"distill": {"signals": "whole"}}])))
    assert not told.problems and any("signals.logits does nothing here" in note for note in told.notes)
    path = recipe(tmp_path, corpus, gpt2)
    path.write_text(path.read_text().replace(CAUSAL, MASKED))
    assert any("masked anew in each epoch" in problem for problem in prepare(load_recipe(path)).problems)
    path.write_text(path.read_text().replace('"signals": 8', '"signals": {"engine": "bfloat16"}'))
    assert any("there is no label pass" in problem for problem in prepare(load_recipe(path)).problems)
    path.write_text(path.read_text().replace(MASKED, CAUSAL).replace('{"engine": "bfloat16"}', "257"))
    many = prepare(load_recipe(path))
    assert any("signals.logits: 257 is no part of 257 tokens" in problem for problem in many.problems)
    with pytest.raises(CheckpointError, match="300 is no part of 257 tokens"):
        Asked(300, 2.0, 257, None).of(300)


def test_a_run_keeps_them_in_the_store_and_makes_them_again_when_a_bit_flips(
    tmp_path, corpus, gpt2, caplog, without_memory
):
    path = recipe(tmp_path, corpus, gpt2)
    report = run(load_recipe(path), tmp_path / "run")
    (piece,) = [one for one in Store().pieces() if one.kind == "signals"]
    assert piece.facts["likeliest"] == {"number": 8, "temperature": 2.0, "classes": 257}
    assert set(piece.files) == {"logits.npy", "tokens.npy"}
    told = report.training[0]["signals"]
    assert told["likeliest"]["number"] == 8 and told["bytes_a_token"] == 52 and 0 < told["nats"] < 5
    assert "the 8 likeliest of 257 tokens were kept" in (tmp_path / "run" / "report.html").read_text()
    before = {name: (piece.folder / name).read_bytes() for name in piece.files}
    damaged = piece.folder / "tokens.npy"
    damaged.chmod(0o644)
    damaged.write_bytes(before["tokens.npy"][:-1] + bytes([before["tokens.npy"][-1] ^ 1]))
    steps = [{"distill": {**FAST, "imitate": {"logits": 1.0}, "epochs": 3, "signals": 8}}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps": steps}))
    with caplog.at_level(logging.INFO):
        run(load_recipe(path), tmp_path / "again")
    assert "is damaged (tokens.npy); it is made again" in caplog.text
    (again,) = [one for one in Store().pieces() if one.kind == "signals"]
    assert {name: (again.folder / name).read_bytes() for name in again.files} == before
