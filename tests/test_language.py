"""Masked and causal language modelling: packing, masking, perplexity, what is trained and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PIECES, SIZES, make_tokenizer, rows
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from distill import Data, Distill, Finetune, Predictor, distill, finetune, library, load_data
from distill import checkpoint as checkpoints
from distill.data import arrays, collate, overlap, packing
from distill.data.encoding import Rows
from distill.data.masking import masking_for, weights_of
from distill.data.packing import encode_texts, frame_of
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError, DataError, TrainingError
from distill.losses import in_portions, kl
from distill.pipeline import run
from distill.preflight import prepare
from distill.recipe import load as load_recipe
from distill.recipe.settings import Mask, Recipe
from distill.signals import read, tensors
from distill.student import cut, from_config
from distill.tasks import NO_TARGET
from distill.verification import verify

MASKED, CAUSAL = "masked-language-modelling", "causal-language-modelling"


def tokenizer_of(kind: str):
    """BERT's frame; or none, an end of text, and no padding, as GPT-2's."""
    if kind == "bert":
        return make_tokenizer()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<end>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", model_max_length=64)


def save_language(folder: Path, family: str, **more: object) -> Path:
    """A tiny checkpoint with a language-model head; its biases and norms are no two alike."""
    tokenizer = tokenizer_of("bert" if family == "bert" else "gpt2")
    words = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 64} | more
    if family == "gpt2":
        words = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": len(tokenizer)} | more
    if family == "llama":
        words |= {"num_key_value_heads": 2, "num_hidden_layers": 2, "tie_word_embeddings": True}
    torch.manual_seed(0)
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    model = kind.from_config(AutoConfig.for_model(family, **words))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """240 lines of text, some blank."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join("" if i % 40 == 7 else text for i, (text, _) in enumerate(rows(240, seed=4))))
    return path


def load(corpus: Path, task: str, **words: object):
    given = {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24, **words}
    return load_data(Data(**given), task=task, seed=3)


@pytest.fixture(scope="module")
def masked(corpus):
    return load(corpus, MASKED)


@pytest.fixture(scope="module")
def causal(corpus):
    return load(corpus, CAUSAL)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny masked language model. Nothing may change it."""
    return checkpoints.load(save_language(tmp_path_factory.mktemp("lm") / "bert", "bert"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A tiny causal language model, without a padding token. Nothing may change it."""
    return checkpoints.load(save_language(tmp_path_factory.mktemp("lm") / "gpt2", "gpt2"))


# ---------------------------------------------------------------------------------------------------------- packing


def texts(*lines: str) -> Rows:
    return Rows([(line,) for line in lines], [0] * len(lines))


def test_blocks_are_texts_end_to_end_parted_and_framed():
    tokenizer = tokenizer_of("bert")
    found = encode_texts(texts("the goal of", "a match", "in the bank and a film"), tokenizer, 6, "train", packed=True)
    words = [tokenizer.convert_ids_to_tokens(found.tokens[row].tolist()) for row in range(len(found))]
    assert words[:2] == [
        ["[CLS]", "the", "goal", "of", "[SEP]", "[SEP]"],
        ["[CLS]", "a", "match", "[SEP]", "in", "[SEP]"],
    ]
    # the two that are left, "the bank and a [UNK] [SEP]", make a whole block and a shorter one
    assert words[2:] == [["[CLS]", "the", "bank", "and", "a", "[SEP]"]]


def test_without_a_frame_the_end_of_text_parts_texts_and_is_foretold():
    tokenizer = tokenizer_of("gpt2")
    assert frame_of(tokenizer) == packing.Frame((), (), 0)
    found = encode_texts(texts("abc", "de", "fghijklmnop"), tokenizer, 4, "train", packed=True)
    blocks = [tokenizer.convert_ids_to_tokens(found.tokens[row].tolist()) for row in range(len(found))]
    assert blocks == [["a", "b", "c", "<end>"], ["d", "e", "<end>", "f"], [*"ghij"], [*"klmn"]]
    assert found.pad == 0, "any id does, because padding is masked"
    batch = collate(replace(found, targets=found.tokens), [0, 1])
    assert (batch["labels"] == batch["input_ids"]).all()


def test_a_text_a_row_is_framed_ended_and_cut():
    bert, plain = tokenizer_of("bert"), tokenizer_of("gpt2")
    found = encode_texts(texts("the goal of a match", "a"), bert, 5, "train", packed=False)
    assert found.lengths.tolist() == [5, 3] and found.truncated == 1
    assert found.ids.tolist()[0] == bert.cls_token_id and found.ids.tolist()[4] == bert.sep_token_id
    found = encode_texts(texts("abc", "d"), plain, 3, "train", packed=False)
    assert [plain.decode(found.tokens[row]) for row in range(2)] == ["ab<end>", "d<end>"]


def test_bytes_by_token_add_up_to_those_of_the_text():
    text = "the  goal\tof a mätch €5 in ☃ snow"
    for kind in ("bert", "gpt2"):
        found = encode_texts(texts(text, "a"), tokenizer_of(kind), 60, "train", packed=False)
        assert found.sizes[: found.offsets[1]].sum() == len(text.encode())


def test_a_corpus_of_less_than_two_blocks_is_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"train make 4 tokens, less than one block of 18; lower data.max_length"):
        encode_texts(texts("the goal of"), tokenizer_of("bert"), 20, "tokenise train", packed=True)
    with pytest.raises(DataError, match="one block alone of 3"):
        encode_texts(texts("the goal"), tokenizer_of("bert"), 5, "tokenise test", packed=True)
    with pytest.raises(DataError, match="leave no room"):
        encode_texts(texts("the goal"), tokenizer_of("bert"), 2, "tokenise test", packed=True)


def test_a_large_corpus_lies_in_a_file(monkeypatch):
    lines = texts(*(text for text, _ in rows(300)))
    expected = encode_texts(lines, tokenizer_of("bert"), 16, "train", packed=True)
    monkeypatch.setattr(arrays, "IN_MEMORY", 500)
    monkeypatch.setattr(arrays, "PORTION", 7)
    found = encode_texts(lines, tokenizer_of("bert"), 16, "train", packed=True)
    assert all(isinstance(array.base, np.memmap) for array in (found.ids, found.sizes, found.offsets))
    assert (found.ids == expected.ids).all() and (found.sizes == expected.sizes).all()
    assert (found.offsets == expected.offsets).all()


def test_blank_lines_are_left_out_and_texts_stay_where_they_are(corpus, masked):
    kept = [line for line in corpus.read_text().splitlines() if line]
    held = [text for name in ("train", "validation", "test") for (text,) in getattr(masked, name).texts]
    assert sorted(held) == sorted(kept)
    assert masked.train.texts[0] == masked.train.texts[0:1][0]


def test_of_many_rows_only_equal_ones_are_duplicates(corpus, monkeypatch):
    lines = [("The goal!",), ("the goal",), ("a match",)]
    assert overlap.group_equal(lines, 3)[0] == overlap.group_equal(lines, 3)[1]
    assert len(set(overlap.group_equal(lines, 3))) == 2
    monkeypatch.setattr(overlap, "LARGE", 100)
    assert any("only equal texts" in note for note in load(corpus, CAUSAL).notes)


def test_paragraphs_files_and_folders_of_files_are_rows(tmp_path):
    (tmp_path / "book.txt").write_text("\n\n".join(f"{text}\nsecond line" for text, _ in rows(30)))
    held = load(tmp_path / "book.txt", CAUSAL, source={"path": str(tmp_path / "book.txt"), "row": "paragraph"})
    assert len(held.train) + len(held.validation) + len(held.test) == 30
    assert "\nsecond line" in held.train.texts[0][0]
    for place, (text, _) in enumerate(rows(20, seed=9)):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / f"{place}.txt").write_text(f"{text}\n\nmore")
    held = load(tmp_path / "many", CAUSAL)
    assert len(held.train) + len(held.validation) + len(held.test) == 20


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        (CAUSAL, {"mask": {"share": 0.2}}, "data.mask: only masked-language-modelling masks"),
        (MASKED, {"label": "topic"}, "data.label: masked-language-modelling learns from the texts alone"),
        (MASKED, {"text": ["text", "label"]}, "takes one text column"),
        ("text-classification", {"packed": True}, "data.packed: a word of language modelling"),
    ],
)
def test_words_that_have_no_use_are_refused(topics_csv, task, words, message):
    with pytest.raises(DataError, match=message):
        load(topics_csv, task, **words)


# ---------------------------------------------------------------------------------------------------------- masking


def test_a_seventh_of_the_tokens_is_chosen_and_most_of_them_masked(bert, masked):
    held = bert.encode(masked, "train")
    special = set(bert.tokenizer.all_special_ids)
    chosen = hidden = same = total = 0
    for turn in range(20):
        batch = collate(held, range(len(held)), (0, turn))
        there = batch["labels"] != NO_TARGET
        plain = held.tokens.padded(range(len(held)), held.pad)
        assert (batch["labels"][there] == plain[there]).all()
        assert (batch["input_ids"][~there] == plain[~there]).all()
        assert not np.isin(batch["labels"][there], list(special)).any()
        assert there.any(1).all()
        total += int((~np.isin(plain, list(special))).sum())
        chosen += int(there.sum())
        hidden += int((batch["input_ids"][there] == bert.tokenizer.mask_token_id).sum())
        same += int((batch["input_ids"] == plain)[there].sum())
    assert chosen / total == pytest.approx(0.15, abs=0.01)
    assert hidden / chosen == pytest.approx(0.8, abs=0.03)
    assert same / chosen == pytest.approx(0.1, abs=0.03)  # and now and then the same token is drawn


def test_masks_hang_on_turn_and_row_alone(bert, masked):
    held = bert.encode(masked, "test")
    one, again, other = collate(held, [3, 1]), collate(held, [1, 2, 3]), collate(held, [3, 1], (0, 1))
    assert (one["input_ids"][0] == again["input_ids"][2]).all()
    assert (one["input_ids"][1] == again["input_ids"][0]).all()
    assert (one["input_ids"] != other["input_ids"]).any()


def test_whole_words_are_chosen_whole():
    tokenizer = make_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##do", "##ing", "go", "##es"])
    masking = masking_for(tokenizer, Mask(share=0.4, whole_words=True))
    ids = np.array([2, 5, 6, 7, 8, 9, 5, 6, 8, 3])
    words = [{1, 2, 3}, {4, 5}, {6, 7}, {8}]
    for turn in range(30):
        chosen = set(np.flatnonzero(masking.apply(ids, (turn,))[1] != NO_TARGET).tolist())
        assert chosen == set().union(*(word for word in words if word & chosen))
        assert 3 <= len(chosen) <= 5


@pytest.mark.parametrize("whole_words", [False, True])
def test_rare_tokens_are_chosen_by_a_power_of_their_count(whole_words):
    tokenizer = make_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])
    ids, smoothing = np.array([5] * 16 + [6] * 4 + [7]), 0.5
    weights = weights_of(ids, len(tokenizer), smoothing)
    assert weights[5:].tolist() == pytest.approx([1 / 4, 1 / 2, 1]) and (weights[:5] == 1).all()
    masking = replace(masking_for(tokenizer, Mask(share=0.01, whole_words=whole_words)), weights=weights)
    chosen = np.array([ids[masking.apply(ids, (turn,))[1] != NO_TARGET][0] for turn in range(2000)])
    drawn = np.bincount(chosen, minlength=8)[5:] / len(chosen)
    assert drawn == pytest.approx(np.array([4, 2, 1]) / 7, abs=0.04)  # a token's count times its weight


def test_smoothing_is_for_training_alone(bert, corpus):
    data = load(corpus, "masked-language-modelling", mask={"smoothing": 0.7})
    assert bert.encode(data, "train").masking.weights is not None
    assert bert.encode(data, "validation").masking.weights is None
    assert "smoothing" not in str(load(corpus, "masked-language-modelling", mask={"share": 0.2}).facts)


def test_without_a_mask_token_nothing_is_masked():
    with pytest.raises(CheckpointError, match="no mask token"):
        masking_for(tokenizer_of("gpt2"), Mask())


# ------------------------------------------------------------------------------------------------------- perplexity


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


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_perplexity_is_that_of_numpy(kind, request, masked, causal, monkeypatch):
    checkpoint, data = request.getfixturevalue(kind), masked if kind == "bert" else causal
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
    monkeypatch.setattr("distill.tasks.language._PLACES", 5)
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


def test_imitation_is_of_every_real_token_and_labels_of_masked_ones(bert, masked):
    held = bert.encode(masked, "test")
    batch = tensors(collate(held, range(len(held))), torch.device("cpu"))
    logits = read(bert.model, batch).logits
    assert len(masked.task.imitated(logits, batch)) == int(held.lengths.sum())
    assert len(masked.task.scored(logits, batch)) == int((batch["labels"] != NO_TARGET).sum())


def test_a_loss_in_portions_is_the_loss(monkeypatch):
    one, other = torch.randn(30, 11, requires_grad=True), torch.randn(30, 11)
    whole = kl(one, other, 2.0)
    (gradient,) = torch.autograd.grad(whole, one)
    monkeypatch.setattr("distill.losses._PORTION", 70)
    found = in_portions(partial(kl, temperature=2.0), one, other)
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(found, one)[0], gradient, atol=1e-7)


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_student_of_half_the_layers_learns(kind, request, masked, causal):
    teacher, data = request.getfixturevalue(kind), masked if kind == "bert" else causal
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


def test_another_tokenizer_is_refused_with_the_reason(tmp_path, bert, masked):
    folder = save_language(tmp_path / "other", "bert")
    make_tokenizer([*PIECES[:5], "unheard", *PIECES[5:-1]]).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="cut the same texts into different tokens"):
        distill(checkpoints.load(folder), Distill(epochs=1), data=masked, teacher=bert)


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
def test_what_is_frozen_stays(bert, masked, part):
    words = Finetune(epochs=1, max_steps=2, freeze=[part], learning_rate=1e-3, dtype="float32")
    made = finetune(bert, words, data=masked)
    inside = f"bert.{part}."
    for name, weight in made.model.named_parameters():
        same = bool((weight == bert.model.get_parameter(name)).all())
        assert same == name.startswith(inside), name


def test_a_decoder_has_no_encoder_to_freeze(gpt2, causal):
    with pytest.raises(TrainingError, match="a gpt2 has no encoder"):
        finetune(gpt2, Finetune(epochs=1, freeze=["encoder"]), data=causal)
    made = finetune(gpt2, Finetune(epochs=1, max_steps=1, freeze=["embeddings"], dtype="float32"), data=causal)
    assert (made.model.lm_head.weight == gpt2.model.lm_head.weight).all(), "tied to the embeddings"


# ------------------------------------------------------------------------------------- recipes, and what they refuse


@pytest.fixture
def language_recipe(tmp_path, corpus):
    """Writes a small recipe for a family's language model; keyword arguments replace whole sections."""

    def write(family: str, **sections: object) -> Path:
        teacher = tmp_path / f"teacher-{family}"
        if not teacher.exists():
            save_language(teacher, family)
        recipe = {
            "task": MASKED if family == "bert" else CAUSAL,
            "teacher": {"checkpoint": str(teacher)},
            "student": {"layers": 1},
            "data": {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24},
            "steps": [{"distill": {"epochs": 1, "max_steps": 2}}],
            "timing": {"batch": [1], "rounds": 3},
            "track": {"wandb": "off", "energy": False},
        }
        path = tmp_path / f"{family}.yaml"
        path.write_text(json.dumps({key: value for key, value in {**recipe, **sections}.items() if value is not None}))
        return path

    return write


def problems(path: Path) -> list[str]:
    return prepare(load_recipe(path), path.parent, fetch=False).problems


@pytest.mark.parametrize("name", ["distilbert", "distilgpt2"])
def test_a_shipped_recipe_trains_two_steps_with_a_tiny_teacher(tmp_path, corpus, without_memory, name):
    recipe = load_recipe(library.find("recipes", name)).model_dump(mode="json", exclude_none=True)
    family = "bert" if name == "distilbert" else "gpt2"
    teacher = save_language(
        tmp_path / "teacher", family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 12}
    )
    recipe["teacher"] = {"checkpoint": str(teacher)}
    recipe["data"] |= {"source": {"path": str(corpus)}, "validation": 0.2, "test": 0.2, "max_length": 24}
    recipe["steps"][0]["distill"] |= {"max_steps": 2, "epochs": 2}
    recipe |= {"expect": {}, "track": {"wandb": "off", "energy": False}, "ship": None}
    recipe["timing"] |= {"rounds": 3, "tokens": 24}
    report = run(Recipe(**recipe), tmp_path / "run", beside=tmp_path)
    assert report.training[0]["records"][-1]["step"] == 2
    assert set(report.training[0]["records"][-1]["terms"]) == {"logits", "labels", "hidden_states"}
    assert [row.metric for row in report.ledger.rows] == ["perplexity", "perplexity"]


def test_a_general_student_becomes_the_student_of_a_task(tmp_path, language_recipe, topics_csv, headed, without_memory):
    general = language_recipe("bert", student={"layers": 2})
    run(load_recipe(general), tmp_path / "general", beside=tmp_path)
    recipe = {
        "task": "text-classification",
        "teacher": {"checkpoint": str(headed)},
        "student": {"checkpoint": "general/1-distill"},
        "data": {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16},
        "steps": [{"distill": {"imitate": {"logits": 1.0, "hidden_states": 1.0}, "epochs": 1, "max_steps": 2}}],
        "timing": {"batch": [1], "rounds": 3},
        "track": {"wandb": "off", "energy": False},
    }
    path = tmp_path / "topics.yaml"
    path.write_text(json.dumps(recipe))
    assert problems(path) == []
    run(load_recipe(path), tmp_path / "task", beside=tmp_path)
    start = checkpoints.load(tmp_path / "task" / "student").model.state_dict()
    body = checkpoints.load(tmp_path / "general" / "1-distill").model.state_dict()
    shared = [name for name in start if name.startswith("bert.") and "pooler" not in name]
    assert shared and all((start[name] == body[name]).all() for name in shared)


@pytest.mark.parametrize(
    ("family", "sections", "message"),
    [
        ("bert", {"task": CAUSAL}, "causal-language-modelling takes an decoder, and a bert is an encoder"),
        ("gpt2", {"task": MASKED}, "masked-language-modelling takes an encoder, and a gpt2 is an decoder"),
        ("bert", {"data": {"max_length": 80}}, "data.max_length: 80 tokens, but the teacher has 64 positions"),
        ("bert", {"metric": "accuracy"}, "accuracy does not fit a masked language modelling; these do: perplexity"),
    ],
)
def test_what_can_not_work_is_told_before_anything_is_loaded(language_recipe, corpus, family, sections, message):
    if "data" in sections:
        sections = {"data": {"source": str(corpus), **sections["data"]}}
    (problem,) = problems(language_recipe(family, **sections))
    assert message in problem


def test_a_teacher_without_a_language_model_head_is_refused_unless_one_is_trained(language_recipe, body):
    (problem,) = problems(language_recipe("bert", teacher={"checkpoint": str(body)}))
    assert (
        problem
        == "teacher: a BertModel has no head for masked-language-modelling; give it a `finetune`, which trains one"
    )
    assert problems(language_recipe("bert", teacher={"checkpoint": str(body), "finetune": {"epochs": 1}})) == []


def test_a_new_head_is_tied_to_the_embeddings_that_stay(body, masked):
    headed = checkpoints.load(body, masked.task, new_head=True)
    table = headed.model.get_input_embeddings().weight
    assert headed.model.get_output_embeddings().weight is table
    assert (AutoModel.from_pretrained(body).get_input_embeddings().weight == table).all()


# --------------------------------------------------------------------------------------------------- what is handed on


def test_what_ships_holds_its_claims_and_is_asked(language_recipe, corpus, tmp_path, without_memory):
    recipe = language_recipe(
        "bert",
        steps=[
            {"distill": {"epochs": 1, "max_steps": 2}},
            {"prune": {"heads": 0.25, "neurons": 0.5, "vocabulary": "used", "examples": 8}},
            "quantize",
        ],
        student={"layers": 2},
        ship=["transformers", "onnx"],
    )
    run(load_recipe(recipe), tmp_path / "run", beside=tmp_path)
    folder = tmp_path / "run" / "shipped"
    for form in (None, "transformers", "onnx-fp32"):
        one, two = Predictor(folder, form).predict(["the [MASK] of a goal", "a [MASK] in the [MASK]"])
        assert [len(one), len(two)] == [1, 2]
        shares = list(two[1].values())
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1
    with pytest.raises(DataError, match=r"has no \[MASK\]; write one"):
        Predictor(folder).predict(["nothing to fill in"])
    findings = verify(folder, overrides=[f"data.source={corpus}"])
    assert [finding for finding in findings if finding.outcome == "FAILS"] == []
    assert any(finding.name == "score onnx-int8" and finding.outcome == "holds" for finding in findings)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card and "fills in what is masked" in card
    assert len(json.loads((folder / "manifest.json").read_text())["probe"]["logits"]["transformers"][0]) <= 16 * 32


def test_a_decoder_without_padding_ships_and_writes_on(language_recipe, corpus, tmp_path, without_memory):
    recipe = language_recipe("gpt2", steps=[{"finetune": {"epochs": 1, "max_steps": 2}}], ship=["transformers"])
    run(load_recipe(recipe), tmp_path / "run", beside=tmp_path)
    folder = tmp_path / "run" / "shipped"
    findings = verify(folder, overrides=[f"data.source={corpus}"])
    assert [finding for finding in findings if finding.outcome == "FAILS"] == []
    long = "the goal of the match and " * 9
    written = Predictor(folder).predict(["the goal", long])
    assert len(written) == 2 and all(isinstance(text, str) for text in written)
    shipped = checkpoints.load(folder / "transformers")
    assert len(shipped.tokenizer) == shipped.model.config.vocab_size, "no token was made up for padding"


def test_where_less_is_better_plots_and_budgets_turn_round():
    from distill.comparison.page import _flat_front
    from distill.report.plots import Point

    points = [Point(name, "transformers", cost, kept, (kept, kept)) for name, cost, kept in
              (("a", 1, 30.0), ("b", 2, 40.0), ("c", 3, 20.0))]  # fmt: skip
    assert [point.name for point in _flat_front(points, lower=True)] == ["a", "c"]
    assert [point.name for point in _flat_front(points, lower=False)] == ["a", "b"]
