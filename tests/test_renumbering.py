"""A student with a trimmed vocabulary beside its teacher: the same tokens under other numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import PIECES, make_tokenizer, rows
from language_models import CAUSAL, MASKED, load, save_language
from writers import make_pairs, save_writer

from distill import Distill, Prune, distill, prune
from distill import checkpoint as checkpoints
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data import collate
from distill.errors import CheckpointError
from distill.losses import kl
from distill.signals import read, tensors
from distill.teacher.renumbering import numbers_between
from distill.training import Watch

ONE_STEP = {"epochs": 1, "max_steps": 1, "dtype": "float32", "dropout": 0, "batch_size": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(text for text, _ in rows(240, seed=4) if not {"award", "cinema"} & {*text.split()}))
    return path


@pytest.fixture(scope="module", params=["bert", "gpt2", "t5"])
def pair(request, tmp_path_factory, corpus):
    """A teacher, itself with the vocabulary that its training texts use, and the data."""
    folder = tmp_path_factory.mktemp("lm") / "teacher"
    if request.param == "t5":
        save_writer(folder, "t5")
        data = make_pairs()
    else:
        save_with_merges(folder) if request.param == "gpt2" else save_language(folder, "bert")
        data = load(corpus, MASKED if request.param == "bert" else CAUSAL)
    teacher = checkpoints.load(folder)
    trimmed = prune(teacher, Prune(vocabulary={"keep": "used", "margin": 0}, examples=8), data=data)
    assert trimmed.model.config.vocab_size < teacher.model.config.vocab_size
    return teacher, trimmed, data


def save_with_merges(folder: Path) -> Path:
    """A tiny GPT-2 whose tokenizer has merges of words that the corpus uses, and of others."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    cutter = ByteLevelBPETokenizer()
    texts = [text for text, _ in rows(80, seed=4)] + ["some quite unheard of verbs wander"] * 9
    cutter.train_from_iterator(texts, vocab_size=400, min_frequency=2, special_tokens=["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cutter._tokenizer, eos_token="<end>", model_max_length=64)
    save_language(folder, "gpt2", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


def first_loss(student: Checkpoint, words: dict, data, teacher: Checkpoint) -> float:
    watch = Watch("trial")
    distill(student, Distill(**(ONE_STEP | words)), data=data, teacher=teacher, watch=watch)
    return watch.log.records[0]["loss"]


def test_numbers_are_those_of_the_same_tokens(pair):
    teacher, trimmed, data = pair
    numbers = numbers_between(trimmed, teacher, data)
    tokens = [
        trimmed.tokenizer.convert_ids_to_tokens(list(range(len(numbers.theirs)))),
        teacher.tokenizer.convert_ids_to_tokens(numbers.theirs.tolist()),
    ]
    assert tokens[0] == tokens[1]
    mine, theirs = trimmed.encode(data, "train"), teacher.encode(data, "train")
    assert (numbers.theirs.numpy()[mine.ids] == theirs.ids).all() and (mine.ids != theirs.ids).any()


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"epochs": 2, "max_steps": 1},
        {"epochs": 2, "max_steps": 1, "signals": {"logits": "whole"}},
        {"epochs": 2, "max_steps": 1, "signals": {"logits": 8}},
        {"imitate": {"logits": 1, "hidden_states": {"weight": 1, "loss": "mse"}, "attentions": 1, "relations": 1}},
    ],
)
def test_who_has_only_lost_tokens_that_nobody_uses_follows_without_loss(pair, words):
    """Live, and in every way in which signals are kept; of what is masked anew in each epoch nothing is."""
    teacher, trimmed, data = pair
    if "signals" in words and trimmed.encode(data, "train").masking is not None:
        with pytest.raises(CheckpointError, match="masked anew"):
            first_loss(trimmed, words, data, teacher)
        return
    assert abs(first_loss(trimmed, words, data, teacher)) < 1e-5


def test_the_loss_is_that_of_the_teachers_distribution_over_the_students_tokens(pair):
    teacher, trimmed, data = pair
    numbers = numbers_between(trimmed, teacher, data)
    student = trimmed.copy()
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.mul_(1.1)
    encoded = student.encode(data, "train")
    batch = tensors(collate(encoded, range(4), (data.seed, 0)), torch.device("cpu"))
    with torch.no_grad():
        mine = data.task.imitated(read(student.model, batch).logits, batch)
        theirs = data.task.imitated(read(teacher.model, numbers.asked(batch)).logits, batch)
    shares = np.exp(theirs.double().numpy())[:, numbers.theirs.numpy()]
    shares /= shares.sum(-1, keepdims=True)
    own = np.exp(mine.double().numpy())
    own /= own.sum(-1, keepdims=True)
    by_hand = (shares * np.log(shares / own)).sum(-1).mean()
    assert kl(mine, theirs[:, numbers.theirs], 1.0).item() == pytest.approx(by_hand, rel=1e-4)


def test_classifiers_attentions_are_imitated_too(bert, topics):
    trimmed = prune(bert, Prune(vocabulary="used", examples=8), data=topics)
    words = {"imitate": {"logits": 1, "attentions": {"weight": 1, "layers": "even"}}}
    assert abs(first_loss(trimmed, words, topics, bert)) < 1e-5


def test_a_token_that_the_teacher_lacks_is_refused(tmp_path, corpus):
    teacher = checkpoints.load(save_language(tmp_path / "teacher", "bert"))
    folder = save_language(tmp_path / "other", "bert")
    make_tokenizer([*PIECES[:5], "unheard", *PIECES[5:-1]]).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="cut the same texts into different tokens"):
        distill(checkpoints.load(folder), Distill(epochs=1), data=load(corpus, MASKED), teacher=teacher)


def test_a_recipe_trims_first_and_recovers_behind_it(tmp_path, corpus, without_memory):
    """Its test texts have words that training texts lack, so the two cut them into other tokens, and other blocks."""
    other = tmp_path / "test.txt"
    other.write_text("\n".join(f"{text} some quite unheard of verbs wander" for text, _ in rows(60, seed=9)))
    recipe = {
        "task": CAUSAL,
        "teacher": {"checkpoint": str(save_with_merges(tmp_path / "teacher"))},
        "student": {"layers": 1},
        "data": {"source": str(corpus), "validation": 0.2, "test": str(other), "max_length": 24},
        "steps": [{"prune": {"vocabulary": {"keep": "used", "margin": 0}}}, {"distill": {"epochs": 2, "max_steps": 4}}],
        "timing": {"batch": [1], "rounds": 3},
        "track": {"wandb": "off", "energy": False},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    run = str(tmp_path / "run")
    for command in (["check", str(path)], ["run", str(path), "--output", run], ["compare", run]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    teacher, last = told["rows"][0], told["rows"][-1]
    assert last["params"] < teacher["params"] and last["n"] != teacher["n"]
    assert last["p_value"] is None and last["agreement"] is None
    assert any("their perplexities, which are by token, don't compare" in note for note in told["notes"])
