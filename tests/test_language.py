"""Language models: perplexity, and what is learned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import PIECES, make_tokenizer
from language_models import CAUSAL, load, save_language, tokenizer_of
from tokenizers import processors
from torch.nn import functional as F

from distill import Distill, Finetune, Predictor, distill, finetune
from distill import checkpoint as checkpoints
from distill.data import collate
from distill.data.readers import READERS
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError
from distill.generation import read_config
from distill.losses import in_portions, kl, to_targets
from distill.shipping.preprocessing import frame_of
from distill.signals import read, tensors
from distill.student import cut, from_config
from distill.tasks import NO_TARGET


def by_hand(checkpoint, encoded, ahead: int) -> np.ndarray:
    """Nats, tokens and right ones over a split, row by row, in NumPy."""
    found = np.zeros(3)
    for row in range(len(encoded)):
        batch = collate(encoded, [row])
        with torch.no_grad():
            logits = read(checkpoint.model, tensors(batch, checkpoint.model.device)).logits[0].double().numpy()
        for place, target in enumerate(batch["labels"][0][ahead:]):
            if target != NO_TARGET:
                shares = np.exp(logits[place]) / np.exp(logits[place]).sum()
                found += [-np.log(shares[target]), 1, shares.argmax() == target]
    return found


@pytest.mark.parametrize("kind", ["bert_mlm", "gpt2"])
def test_perplexity_is_that_of_numpy(kind, request, masked, causal, monkeypatch):
    checkpoint, data = request.getfixturevalue(kind), masked if kind == "bert_mlm" else causal
    held, task = checkpoint.encode(data, "test"), data.task
    answers = answer_all(Torch(checkpoint.model), held, task, batch_size=7)
    nats, tokens, right = by_hand(checkpoint, held, task.ahead)
    scores = task.scores(task.predictions(answers), held.labels)
    assert scores["perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-4)
    assert scores["token_accuracy"] == pytest.approx(right / tokens)
    assert next(iter(scores)) == task.metric == "perplexity" and task.lower
    batch = collate(held, range(len(held)))
    some = batch["sizes"][:, task.ahead :][batch["labels"][:, task.ahead :] != NO_TARGET].sum()
    assert scores["bits_per_byte"] == pytest.approx(nats / np.log(2) / some, rel=1e-4)
    monkeypatch.setattr("distill.tasks.language._LOGITS", 1000)  # a few rows at a time
    monkeypatch.setattr("distill.portions._NUMBERS", 5 * checkpoint.model.config.vocab_size)  # five places at a time
    apart = answer_all(Torch(checkpoint.model), held, task, batch_size=7)
    assert np.allclose(apart, answers, rtol=1e-5, equal_nan=True)
    assert task.agreement(apart, answers) == 1.0 and task.moved(apart, answers) < 1e-9


def test_causal_targets_are_the_next_tokens_and_none_of_the_padding(gpt2, causal, corpus):
    held = gpt2.encode(load(corpus, CAUSAL, packed=False, max_length=40), "test")
    shortest, longest = int(held.lengths.argmin()), int(held.lengths.argmax())
    batch = tensors(collate(held, [shortest, longest]), torch.device("cpu"))
    logits = read(gpt2.model, batch).logits
    mine = F.cross_entropy(causal.task.scored(logits, batch), causal.task.targets(batch))
    labels = batch["labels"].clone()
    theirs = gpt2.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert held.lengths[shortest] < held.lengths[longest], "so that there is padding"


def test_imitation_is_of_every_real_token_and_labels_of_masked_ones(bert_mlm, masked):
    held = bert_mlm.encode(masked, "test")
    batch = tensors(collate(held, range(len(held))), torch.device("cpu"))
    logits = read(bert_mlm.model, batch).logits
    assert len(masked.task.imitated(logits, batch)) == int(held.lengths.sum())
    assert len(masked.task.scored(logits, batch)) == int((batch["labels"] != NO_TARGET).sum())


def test_a_loss_in_portions_is_the_loss(monkeypatch):
    one, other = torch.randn(30, 11, requires_grad=True), torch.randn(30, 11)
    whole = kl(one, other, 2.0)
    (gradient,) = torch.autograd.grad(whole, one)
    monkeypatch.setattr("distill.portions._NUMBERS", 70)
    found = in_portions(partial(kl, temperature=2.0), one, other)
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(3 * found, one, retain_graph=True)[0], 3 * gradient, atol=1e-7)
    assert torch.allclose(torch.autograd.grad(found, one)[0], gradient, atol=1e-7)
    assert in_portions(kl, one.detach(), other).item() == pytest.approx(kl(one, other).item(), rel=1e-5)


def test_a_vocabularys_labels_are_learned_in_portions_alike(gpt2, causal, monkeypatch):
    held = gpt2.encode(causal, "test")
    batch = tensors(collate(held, range(4)), torch.device("cpu"))
    logits = read(gpt2.model, batch).logits.detach().requires_grad_()
    whole = to_targets(causal.task, logits, batch)
    (gradient,) = torch.autograd.grad(whole, logits)
    monkeypatch.setattr("distill.portions._NUMBERS", 3 * logits.shape[-1])
    found = to_targets(causal.task, logits, batch)
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(found, logits)[0], gradient, atol=1e-7)


@pytest.mark.parametrize("kind", ["bert_mlm", "gpt2"])
def test_a_student_of_half_the_layers_learns(kind, request, masked, causal):
    teacher, data = request.getfixturevalue(kind), masked if kind == "bert_mlm" else causal
    words = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 8, "accumulate": 2, "dtype": "float32"}
    imitate = {"logits": 5.0, "hidden_states": {"weight": 1.0, "layers": "last"}, "labels": 2.0}
    student = cut(teacher, len(teacher.model.base_model.h if kind == "gpt2" else [0] * 4) // 2)
    held = student.encode(data, "validation")

    def perplexity(checkpoint) -> float:
        return data.task.score(data.task.predictions(answer_all(Torch(checkpoint.model), held, data.task)), held.labels)

    made = distill(student, Distill(imitate=imitate, **words), data=data, teacher=teacher)
    assert perplexity(made) < 0.95 * perplexity(student)
    head, table = made.model.get_output_embeddings(), made.model.get_input_embeddings()
    assert head.weight is table.weight


@pytest.mark.parametrize("imitate", [{"hidden_states": 1.0}, {"relations": {"weight": 1.0, "heads": 4}}])
def test_logits_that_nobody_imitates_are_not_kept(imitate, gpt2, causal, monkeypatch):
    from distill.training import Watch

    words = {"epochs": 2, "dtype": "float32", "dropout": 0, "imitate": imitate}
    trained = []
    for limit in (1 << 30, 0):  # saved, and live
        monkeypatch.setattr("distill.teacher.choosing.SAVED_AT_MOST", limit)
        watch = Watch("vectors")
        trained.append(distill(cut(gpt2, 1), Distill(**words), data=causal, teacher=gpt2, watch=watch))
        vectors = 1 if "hidden_states" in imitate else 3
        assert (watch.log.signals or {}).get("bytes_a_token") == (
            vectors * 2 * gpt2.model.config.hidden_size if limit else None
        )
    one, other = (made.model.state_dict() for made in trained)
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_a_model_follows_itself_without_loss(gpt2, causal):
    from distill.training import Watch

    watch = Watch("same")
    distill(gpt2, Distill(epochs=1, max_steps=1, dtype="float32", dropout=0), data=causal, teacher=gpt2, watch=watch)
    assert abs(watch.log.records[0]["loss"]) < 1e-5


def test_vocabularies_padded_to_different_sizes_are_cut_to_the_common_one(tmp_path, gpt2, causal):
    wider = checkpoints.load(save_language(tmp_path / "wide", "gpt2", vocab_size=len(gpt2.tokenizer) + 7))
    step = Distill(epochs=1, max_steps=2, dtype="float32")
    distill(gpt2, step, data=causal, teacher=wider)
    distill(wider, step, data=causal, teacher=gpt2)
    words = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 64}
    words["vocab_size"] = len(gpt2.tokenizer) - 2
    small = from_config({"model_type": "gpt2", **words}, gpt2, causal.task, seed=0)
    with pytest.raises(CheckpointError, match=r"the tokenizer has 257 tokens, but one of the two models knows 255"):
        distill(small, step, data=causal, teacher=gpt2)


def test_another_tokenizer_is_refused_with_the_reason(tmp_path, bert_mlm, masked):
    folder = save_language(tmp_path / "other", "bert")
    make_tokenizer([*PIECES[:5], "unheard", *PIECES[5:-1]]).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="cut the same texts into different tokens"):
        distill(checkpoints.load(folder), Distill(epochs=1), data=masked, teacher=bert_mlm)


@pytest.mark.parametrize(("batches", "accumulate", "steps"), [(6, 3, 2), (7, 3, 3), (2, 5, 1)])
def test_accumulated_batches_make_one_step(gpt2, causal, batches, accumulate, steps):
    from distill.training import Watch

    few = replace(causal, train=causal.train.take(range(40)), _encoded={})
    number = len(gpt2.encode(few, "train"))
    words = Finetune(
        epochs=2, batch_size=-(-number // batches), accumulate=accumulate, learning_rate=1e-3, dtype="float32"
    )
    made = -(-number // words.batch_size)
    watch = Watch("accumulated")
    finetune(gpt2, words, data=few, watch=watch)
    assert watch.log.records[-1]["step"] == 2 * -(-made // accumulate)
    assert watch.log.samples == 2 * number
    assert [record["step"] for record in watch.log.records] == sorted({r["step"] for r in watch.log.records})
    assert len(watch.log.epochs) == 2 and steps


def test_two_halves_accumulated_are_the_whole(gpt2, causal):
    few = replace(causal, train=causal.train.take(range(30)), _encoded={})
    number = len(gpt2.encode(few, "train")) // 2 * 2
    words = {"epochs": 1, "max_steps": 1, "warmup": 0, "learning_rate": 1e-3, "dtype": "float32", "dropout": 0}
    whole = finetune(gpt2, Finetune(batch_size=number, **words), data=few)
    halves = finetune(gpt2, Finetune(batch_size=number // 2, accumulate=2, **words), data=few)
    # the last block is shorter, and counts the same in its batch: the two differ by little
    for one, other in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert (one - other).abs().max().item() < 2.1e-3


@pytest.mark.parametrize("part", ["embeddings", "encoder"])
def test_what_is_frozen_stays(bert_mlm, masked, part):
    words = Finetune(epochs=1, max_steps=2, freeze=[part], learning_rate=1e-3, dtype="float32")
    made = finetune(bert_mlm, words, data=masked)
    inside = f"bert.{part}."
    for name, weight in made.model.named_parameters():
        same = bool((weight == bert_mlm.model.get_parameter(name)).all())
        assert same == name.startswith(inside), name


def test_a_student_from_a_config_ends_as_its_teacher_does(gpt2, causal):
    pupil = from_config({"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                         "intermediate_size": 16}, gpt2, causal.task, seed=0)  # fmt: skip
    assert pupil.model.config.eos_token_id == gpt2.model.config.eos_token_id


def test_greedy_text_is_not_compared_where_no_row_is_long_enough(gpt2, causal):
    from distill.evaluation.writing import agreements, draw_samples, write_texts
    from distill.recipe.settings import Timing

    encoded = [gpt2.encode(causal, "test")] * 2
    engines = [Torch(gpt2.model)] * 2
    for tokens, expected in ((4, [1.0, 1.0]), (60, [None, None])):
        timing = Timing(batch=[1], rounds=3, tokens=tokens, new_tokens=3)
        written = write_texts(engines, [], encoded, causal.task, timing)
        assert agreements(written, encoded, causal.task) == expected
        samples = draw_samples(dict(zip("ab", written, strict=True)), encoded, causal, timing)
        assert bool(samples) == (expected != [None, None])


def test_a_sample_of_a_decoder_is_how_the_text_goes_on_and_how_it_is_gone_on_with(gpt2, causal):
    from distill.evaluation.writing import draw_samples, write_texts
    from distill.recipe.settings import Timing

    encoded, timing = gpt2.encode(causal, "test"), Timing(batch=[1], rounds=3, tokens=4, new_tokens=3)
    (written,) = write_texts([Torch(gpt2.model)], [], [encoded], causal.task, timing)
    samples = draw_samples({"teacher": written, "other": None}, [encoded, encoded], causal, timing)
    long = [row for row in range(len(encoded)) if encoded.lengths[row] >= 4]
    assert samples and len(samples) == min(8, len(long))
    for sample in samples:
        ids = encoded.tokens[sample.row].tolist()
        assert sample.read == gpt2.tokenizer.decode(ids[:4])
        assert sample.expected == gpt2.tokenizer.decode(ids[4:7])
        assert sample.written == {"teacher": gpt2.tokenizer.decode(written[long.index(sample.row)].tolist())}


def test_a_decoder_is_held_to_its_teacher_as_the_recipe_says(gpt2, causal, monkeypatch):
    from distill.evaluation.writing import write_texts
    from distill.recipe.settings import Generation, Timing

    engine, asked = Torch(gpt2.model), []
    write = engine.generate
    monkeypatch.setattr(
        engine, "generate", lambda batch, words, **more: asked.append(words) or write(batch, words, **more)
    )
    told = causal.task.writing(Generation(beams=3))
    timing = Timing(batch=[1], rounds=3, tokens=4, new_tokens=3)
    assert write_texts([engine], [], [gpt2.encode(causal, "test")], told, timing)[0].shape[1] == 3
    assert {words.beams for words in asked} == {3}


def test_what_a_recipe_says_of_writing_goes_with_a_decoder_and_nothing_else_does(gpt2, causal, tmp_path):
    from distill.recipe.settings import Generation

    made = checkpoints.load(gpt2.save(tmp_path / "teacher"))
    made.model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9)
    causal.task.settle(made.model)
    assert made.model.generation_config.temperature == 0.6 and made.model.generation_config.max_new_tokens is None
    words = Generation(max_new_tokens=9, beams=2, length_penalty=0.5)
    told = replace(causal, task=causal.task.writing(words), _encoded={})
    assert told.facts["generation"]["beams"] == 2 and "generation" not in causal.facts
    told.task.settle(made.model)
    saved = read_config(made.save(tmp_path / "made"))
    assert (saved["max_new_tokens"], saved["num_beams"], saved["length_penalty"]) == (9, 2, 0.5)
    assert saved["do_sample"] is False and saved.get("temperature") is None


def test_no_more_tokens_are_timed_than_are_written(gpt2, causal, tmp_path):
    from distill.evaluation import subjects_in
    from distill.evaluation.session import _settled
    from distill.recipe.settings import Generation, Timing

    subjects = subjects_in("teacher", gpt2.save(tmp_path / "teacher"))
    encoded = [gpt2.encode(causal, "test")]
    for words, expected in ((None, 32), (Generation(max_new_tokens=12), 12), (Generation(max_new_tokens=50), 32)):
        data = replace(causal, task=causal.task.writing(words))
        assert _settled(Timing(tokens=8), subjects, encoded, data).new_tokens == expected


def test_a_decoder_has_no_encoder_to_freeze(gpt2, causal):
    with pytest.raises(CheckpointError, match="a gpt2 has no encoder"):
        finetune(gpt2, Finetune(epochs=1, freeze=["encoder"]), data=causal)
    made = finetune(gpt2, Finetune(epochs=1, max_steps=1, freeze=["embeddings"], dtype="float32"), data=causal)
    assert (made.model.lm_head.weight == gpt2.model.lm_head.weight).all(), "tied to the embeddings"


# ------------------------------------------------------------------------------------------------- a user's texts


def test_how_a_text_goes_on_does_not_hang_on_a_longer_one(gpt2, tmp_path):
    predictor = Predictor(gpt2.save(tmp_path / "gpt2"))
    asked = ["the goal", "a match and the team " * 4, "by the score of a", "with it " * 3]
    encoded = READERS[CAUSAL].asked(asked, predictor.cutter)
    rooms = [row.room for row in encoded.about]
    assert len(set(rooms)) == 2
    batch = collate(encoded, range(4))
    written = predictor.task.ask(predictor.engine, batch, encoded)
    assert [int((row >= 0).sum()) for row in written] == rooms  # nothing ends these
    assert predictor.predict(asked) == [predictor.predict([text])[0] for text in asked]


@pytest.mark.parametrize(
    ("frame", "before"), [("$A <end>", ()), ("<end> $A <end>", (0,)), ("$A", ()), ("<end> $A", (0,))]
)
def test_a_text_is_written_on_before_what_the_tokenizer_ends_it_with(gpt2, tmp_path, frame, before):
    folder = gpt2.save(tmp_path / "gpt2")
    plain = Predictor(folder).predict(["the goal"])
    tokenizer = tokenizer_of("gpt2")
    text = tokenizer("the goal").input_ids
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[("<end>", 0)]
    )
    tokenizer.save_pretrained(folder)
    predictor = Predictor(folder)
    encoded = READERS[CAUSAL].asked(["the goal"], predictor.cutter)
    assert encoded.ids.tolist() == [*before, *text]
    assert frame_of(predictor.cutter.tokenizer) == (len(before), int(frame.endswith("<end>")))
    assert before or predictor.predict(["the goal"]) == plain
