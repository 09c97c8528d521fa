"""Trimming the vocabulary: the same tokens on training texts, no new unknowns, and checkpoints that load again."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import LABELS, load_tiny, make_config, make_splits, sentence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from distill import Data, Distill, Prune, checkpoint, distill, prune
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.data.rows import Rows
from distill.errors import CheckpointError
from distill.pruning.vocabulary import _facts, _renewed, _vocabulary, choose, trim
from distill.recipe import Vocabulary

KINDS = ("wordpiece", "bpe", "byte-bpe", "unigram")
SYLLABLES = [consonant + vowel for consonant in "bdklmrs" for vowel in "aeiou"]


def text(rng: random.Random, words: int = 12) -> str:
    """Made-up words, so that pieces of many lengths are learned."""
    return " ".join("".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 5))) for _ in range(words))


def corpus(seed: int, lines: int) -> list[str]:
    rng = random.Random(seed)
    return [text(rng) for _ in range(lines)]


def make(kind: str) -> PreTrainedTokenizerFast:
    """A real tokenizer of a kind, trained on made-up words, that frames texts as BERT or RoBERTa does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
        )
    elif kind == "byte-bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(corpus(0, 400), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>",
        mask_token="<mask>", bos_token="<s>", eos_token="</s>", model_max_length=60,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def model_for(tokenizer: PreTrainedTokenizerFast, family: str = "roberta") -> Checkpoint:
    """A tiny model over a tokenizer's whole vocabulary."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    config = make_config(family, vocab_size=len(tokenizer), max_position_embeddings=80, **names)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 2
    return Checkpoint(AutoModelForSequenceClassification.from_config(config).eval(), tokenizer)


def splits(seed: int = 1):
    """A few lines, so that much of the vocabulary is not used."""
    found = make_splits()
    lines = corpus(seed, 24)
    held = corpus(seed + 50, 24)
    return replace(
        found, words=Data(source="made", max_length=60), _encoded={},
        train=Rows([(line,) for line in lines], [i % 3 for i in range(24)]),
        validation=Rows([(line,) for line in held], [i % 3 for i in range(24)]),
    )  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def whole(request) -> Checkpoint:
    return model_for(make(request.param))


@pytest.fixture(scope="module")
def data():
    return splits()


def tokens(found: Checkpoint, lines: list[str]) -> list[list[str]]:
    return [found.tokenizer.convert_ids_to_tokens(ids) for ids in found.tokenizer(lines)["input_ids"]]


def answers(found: Checkpoint, lines: list[str]) -> np.ndarray:
    batch = found.tokenizer(lines, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return found.model.eval()(**batch).logits.numpy()


def test_training_texts_are_cut_into_the_same_tokens_and_answered_the_same(whole, data):
    lines = [line for (line,) in data.train.texts]
    smaller, told = trim(whole, Vocabulary(margin=0), data)
    assert len(smaller.tokenizer) < 0.9 * len(whole.tokenizer)
    assert (
        smaller.model.config.vocab_size == len(smaller.tokenizer) == smaller.model.get_input_embeddings().num_embeddings
    )
    assert tokens(smaller, lines) == tokens(whole, lines)
    assert np.abs(answers(smaller, lines) - answers(whole, lines)).max() < 1e-6
    assert f"{len(smaller.tokenizer)} of {len(whole.tokenizer)} tokens kept" in told


def test_nothing_becomes_unknown_that_was_not(whole, data):
    smaller, _ = trim(whole, Vocabulary(margin=0), data)
    held = corpus(99, 200)
    for mine, theirs, line in zip(tokens(smaller, held), tokens(whole, held), held, strict=True):
        assert mine.count("<unk>") == theirs.count("<unk>"), line
    joined = ["".join(t for t in line if t not in ("<s>", "</s>")) for line in tokens(smaller, held)]
    before = ["".join(t for t in line if t not in ("<s>", "</s>")) for line in tokens(whole, held)]
    assert [line.replace("##", "") for line in joined] == [line.replace("##", "") for line in before]


def test_pairs_and_specials_are_framed_as_before(whole, data):
    smaller, _ = trim(whole, Vocabulary(margin=0), data)
    (one, other) = data.train.texts[0][0], data.train.texts[1][0]
    mine, theirs = (found.tokenizer(one, other)["input_ids"] for found in (smaller, whole))
    assert smaller.tokenizer.convert_ids_to_tokens(mine) == whole.tokenizer.convert_ids_to_tokens(theirs)
    for name in ("pad", "cls", "sep", "mask", "unk"):
        assert getattr(smaller.tokenizer, f"{name}_token") == getattr(whole.tokenizer, f"{name}_token")
        assert getattr(smaller.tokenizer, f"{name}_token_id") < len(smaller.tokenizer)
    assert smaller.model.config.pad_token_id == smaller.tokenizer.pad_token_id


def test_what_is_trimmed_is_saved_and_loaded_by_stock_transformers(whole, data, tmp_path):
    smaller, _ = trim(whole, Vocabulary(), data)
    folder = smaller.save(tmp_path / "smaller")
    lines = [*(line for (line,) in data.train.texts), *corpus(99, 20)]
    stock = Checkpoint(
        AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )
    assert tokens(stock, lines) == tokens(smaller, lines)
    assert np.abs(answers(stock, lines) - answers(smaller, lines)).max() < 1e-6
    again = checkpoint.load(folder)
    assert (answers(again, lines) == answers(smaller, lines)).all()


def test_a_margin_keeps_more_and_never_less(whole, data):
    sizes = [len(trim(whole, Vocabulary(margin=margin), data)[0].tokenizer) for margin in (0, 0.1, 0.3, 10)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    kept = [set(trim(whole, Vocabulary(margin=margin), data)[0].tokenizer.get_vocab()) for margin in (0, 0.3)]
    assert kept[0] <= kept[1]


def test_a_size_is_kept_to_with_the_most_used_tokens(whole, data):
    used, _ = trim(whole, Vocabulary(margin=0), data)
    base = {token for token in used.tokenizer.get_vocab() if len(token) <= 3}
    size = len(base) + (len(used.tokenizer) - len(base)) * 3 // 4
    smaller, _ = trim(whole, Vocabulary(keep=size), data)
    assert len(smaller.tokenizer) <= size
    assert len(smaller.tokenizer) >= size - 4


def test_merges_stay_closed(data):
    whole = model_for(make("byte-bpe"))
    smaller, _ = trim(whole, Vocabulary(margin=0.2), data)
    model = _facts(smaller.tokenizer)["model"]
    vocabulary = _vocabulary(model)
    made = {"".join(merge) for merge in model["merges"]}
    assert all(
        left in vocabulary and right in vocabulary and left + right in vocabulary for left, right in model["merges"]
    )
    long = {token for token in vocabulary if len(token) > 1 and token not in smaller.tokenizer.all_special_tokens}
    assert long <= made  # each can be reached


def test_a_student_with_a_trimmed_vocabulary_learns_its_teachers_hidden_states(data, tmp_path):
    whole = model_for(make("wordpiece"))
    smaller, _ = trim(whole, Vocabulary(margin=0), data)
    for epochs in (1, 2):
        words = Distill(epochs=epochs, learning_rate=1e-6, dropout=0, imitate={"hidden_states": 1.0, "logits": 1.0})
        from distill.training import Watch

        watch = Watch("distill")
        distill(smaller, words, data=data, teacher=whole, watch=watch)
        first = watch.log.records[0]["terms"]
        assert (
            first["hidden_states"]["value"] < 1e-3 and first["logits"]["value"] < 1e-3
        )  # it says what the teacher says


def test_the_step_trims_and_prunes_together(whole, data):
    smaller = prune(whole, Prune(vocabulary="used", neurons=0.5, examples=24), data=data)
    assert len(smaller.tokenizer) < len(whole.tokenizer)
    assert smaller.parameters < 0.8 * whole.parameters


def test_chat_templates_stay_and_phrases_go_with_their_tokens(data):
    whole = model_for(make("bpe"))
    whole.tokenizer.chat_template = {"default": "{{ messages }}", "tool": "{{ tools }}"}
    smaller, _ = trim(whole, Vocabulary(margin=0), data)
    assert smaller.tokenizer.chat_template == whole.tokenizer.chat_template
    assert _renewed([[5, 7], [5], [5, 6]], {5: 1, 6: 2}) == [[1], [1, 2]]
    assert _renewed([5, 7], {5: 1}) == [1] and _renewed(7, {5: 1}) is None


def test_a_piece_for_what_is_unknown_stays_though_it_is_no_special_token(data):
    facts = json.loads(make("unigram").backend_tokenizer.to_str())
    facts["added_tokens"] = [token for token in facts["added_tokens"] if token["content"] != "<unk>"]
    assert facts["model"]["unk_id"] in choose(facts, {}, Vocabulary(margin=0))


def test_a_tokenizer_without_a_fast_form_is_refused(data, tmp_path):
    class Slow:
        is_fast = False

    with pytest.raises(CheckpointError, match="has no tokenizer"):
        _facts(Slow())


def test_a_recipe_trims_the_vocabulary_recovers_and_ships(recipe_file, tmp_path, without_memory):
    steps = [
        {"distill": {"imitate": {"logits": 1.0}, "epochs": 1}},
        {"prune": {"neurons": 0.5, "examples": 40, "vocabulary": {"keep": "used", "margin": 0}}},
        {"distill": {"imitate": {"logits": 1.0, "hidden_states": 1.0}, "epochs": 2}},
        "quantize",
    ]
    recipe = recipe_file(steps=steps, ship=["transformers", "onnx"])
    done = CliRunner().invoke(main, ["run", str(recipe), "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    verified = CliRunner().invoke(main, ["verify", str(tmp_path / "run" / "shipped"), "--quick"])
    assert verified.exit_code == 0, verified.output
    rng = random.Random(0)
    asked = CliRunner().invoke(main, ["predict", str(tmp_path / "run"), sentence(rng, "sport")])
    assert asked.exit_code == 0 and asked.output.split()[0] in LABELS


def test_the_word_level_tokenizer_of_the_tests_is_trimmed_too(tmp_path):
    found = load_tiny(tmp_path / "bert")
    data = make_splits()
    smaller, _ = trim(found, Vocabulary(margin=0), data)
    lines = [line for (line,) in data.train.texts]
    assert tokens(smaller, lines) == tokens(found, lines)


def test_a_number_below_what_always_stays_is_warned_of(data, caplog):
    smaller, _ = trim(model_for(make("byte-bpe")), Vocabulary(keep=64), data)  # 256 bytes stay
    assert len(smaller.tokenizer) >= 256
    assert "64 tokens are too few: single char" in caplog.text and f"has {len(smaller.tokenizer)}" in caplog.text
    with pytest.raises(ValueError, match="a number says by itself how many tokens stay"):
        Vocabulary(keep=64, margin=0.5)
    assert Vocabulary(keep=64, margin=0.1).keep == 64  # as a recipe that was written out says it
