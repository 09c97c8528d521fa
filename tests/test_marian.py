"""Marian's own tokenizer, two SentencePiece models over one vocabulary: cut as by transformers, kept in a chain."""

from __future__ import annotations

import copy
import json
import random
import re
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import write_csv
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, MarianTokenizer
from writers import CONFIGS

from distill import Data, Predictor, checkpoint, load_data
from distill.checkpoint import marian
from distill.checkpoint.tokenizers import TwoSided, load_tokenizer
from distill.cli import main
from distill.errors import CheckpointError
from distill.pruning.vocabulary import trim
from distill.recipe import Vocabulary

pytest.importorskip("sentencepiece", reason="transformers' own code for Marian, the oracle, needs it")

READ = [consonant + vowel for consonant in "bdklmr" for vowel in "aeiou"]
WRITTEN = [vowel + consonant for consonant in "ßvbdkl" for vowel in "aeiöü"]
FAST = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 16}


def pairs(number: int, seed: int = 0) -> list[list[str]]:
    """A text of made-up words, and the same in syllables of another language."""
    rng, made = random.Random(seed), []
    for _ in range(number):
        words = [[rng.randrange(len(READ)) for _ in range(rng.randint(1, 4))] for _ in range(rng.randint(2, 7))]
        made.append([" ".join("".join(side[i] for i in word) for word in words) + "." for side in (READ, WRITTEN)])
    return made


def write_tokenizer(folder: Path, **words: object) -> Path:
    """The files of a Marian checkpoint's tokenizer, as its converter writes them."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    ids = {"</s>": 0, "<unk>": 1, ">>deu<<": 2}
    for name, texts in zip((marian.SOURCE, marian.TARGET), zip(*pairs(400), strict=True), strict=True):
        prefix = folder / name.removesuffix(".spm")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(prefix), vocab_size=120, minloglevel=2, **words
        )
        prefix.with_suffix(".model").replace(folder / name)
        held = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        numbers = range(held.get_piece_size())
        pieces = [held.id_to_piece(i) for i in numbers if not held.is_control(i) and not held.is_unknown(i)]
        ids.update({piece: len(ids) + i for i, piece in enumerate(p for p in pieces if p not in ids)})
    ids["<pad>"] = len(ids)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    told = {"source_lang": "en", "target_lang": "de", "model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny Marian, the files of its tokenizer beside it. Nothing may change it."""
    folder = write_tokenizer(tmp_path_factory.mktemp("marian") / "opus")
    ids = json.loads((folder / "vocab.json").read_text())
    words = CONFIGS["marian"][1] | {
        "vocab_size": len(ids), "pad_token_id": ids["<pad>"], "eos_token_id": 0, "bos_token_id": 0,
        "decoder_start_token_id": ids["<pad>"], "bad_words_ids": [[ids["<pad>"]]],
    }  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("marian", **words))
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder) -> MarianTokenizer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        return MarianTokenizer.from_pretrained(folder)


ODD = ["", "  ", "  bada  keli ", "ﬁ ｂａ", ">>deu<< bada keli.", "da\tba\nda", "ß", "x ☃ y", "…", "ba" * 40]


@pytest.mark.parametrize("side", ["text", "text_target"])
def test_texts_are_cut_as_by_transformers(side, folder, theirs):
    ours = load_tokenizer(folder)
    texts = [pair[side == "text_target"] for pair in pairs(200, seed=1)] + ODD
    how = {"truncation": True}
    assert ours(**{side: texts}, **how)["input_ids"] == theirs(**{side: texts}, **how)["input_ids"]


def test_what_is_written_reads_as_with_transformers(folder, theirs):
    ours = load_tokenizer(folder)
    for _, text in pairs(50, seed=2):
        ids = theirs(text_target=text)["input_ids"]
        assert ours.backend_tokenizer.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True) == text


def test_characters_of_the_other_language_are_taken_out_of_the_vocabulary(folder, theirs):
    ours = load_tokenizer(folder)
    for one in ("ö", "ba ß ö"):  # neither is in source.spm
        assert ours.tokenize(one) == theirs.tokenize(one)
    ids = ours("ßvß", add_special_tokens=False)["input_ids"]
    assert ours.convert_ids_to_tokens(ids) == ["▁", "ß", "v", "ß"]
    assert theirs("ßvß", add_special_tokens=False)["input_ids"][1:] == [theirs.unk_token_id]


def test_both_sides_are_saved_copied_and_loaded(folder, tmp_path):
    ours = load_tokenizer(folder)
    (read, written), *_ = pairs(1, seed=3)
    ours(text_target=written)  # whichever side was cut last
    copy.deepcopy(ours).save_pretrained(tmp_path)
    again, stock = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again, TwoSided) and not isinstance(stock, TwoSided)
    assert again(read)["input_ids"] == ours(read)["input_ids"] == stock(read)["input_ids"]
    assert again(text_target=written)["input_ids"] == ours(text_target=written)["input_ids"] != again(written)
    assert again.pad_token_id == ours.pad_token_id and again.model_max_length == 40
    assert checkpoint.same_tokenizer(folder, tmp_path)


def test_a_trimmed_vocabulary_cuts_both_sides_as_before(folder, tmp_path):
    path = write_csv(tmp_path / "lines.csv", ["text", "label"], pairs(30, seed=4))
    data = load_data(Data(source=str(path), max_length=40), task="translation")
    whole = checkpoint.load(folder, data.task)
    smaller, _ = trim(whole, Vocabulary(keep="used", margin=0), data)
    assert len(smaller.tokenizer) < len(whole.tokenizer)
    smaller.save(tmp_path / "smaller")
    again = checkpoint.load(tmp_path / "smaller")
    for kept in (smaller, again):
        for (read,), written in zip(data.train.texts, data.train.labels, strict=True):
            for side in ({"text": read}, {"text_target": written}):
                before, after = whole.tokenizer(**side), kept.tokenizer(**side)
                assert whole.tokenizer.convert_ids_to_tokens(before["input_ids"]) == (
                    kept.tokenizer.convert_ids_to_tokens(after["input_ids"])
                )


def test_a_marian_goes_through_the_whole_chain_and_ships(folder, tmp_path, without_memory):
    path = write_csv(tmp_path / "lines.csv", ["text", "label"], pairs(80))
    recipe = {
        "task": "translation",
        "teacher": {"checkpoint": str(folder)},
        "student": {"layers": {"decoder": 1}},
        "data": {"source": str(path), "max_length": 40},
        "generation": {"max_new_tokens": 12},
        "steps": [
            {"distill": {"imitate": {"logits": 1.0, "hidden_states": 0.5}, **FAST}},
            {"prune": {"vocabulary": {"keep": "used"}}},
            "quantize",
        ],
        "timing": {"batch": [1], "rounds": 3},
        "track": {"wandb": "off", "energy": False},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "ship": ["transformers", "onnx"]}))
    done = CliRunner().invoke(main, ["run", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    notes = json.loads((tmp_path / "run" / "report.json").read_text())["notes"]
    assert any(re.match(r"2-prune: vocabulary: \d+ of \d+ tokens kept", note) for note in notes), notes
    shipped = tmp_path / "run" / "shipped"
    texts = [read for read, _ in pairs(6, seed=5)]
    stock = AutoTokenizer.from_pretrained(shipped / "transformers")
    model = AutoModelForSeq2SeqLM.from_pretrained(shipped / "transformers")
    given = stock(texts, return_tensors="pt", padding=True, truncation=True)
    written = stock.batch_decode(model.generate(**given), skip_special_tokens=True)
    for form in ("transformers", "onnx-fp32"):
        assert Predictor(shipped, form).predict(texts) == [text.strip() for text in written]
    assert isinstance(load_tokenizer(shipped / "transformers"), TwoSided)  # goes on learning from both sides


def test_a_checkpoint_as_it_was_published_answers(folder):
    ours = load_tokenizer(folder)
    texts = [read for read, _ in pairs(3, seed=6)]
    model = checkpoint.load(folder).model
    given = ours(texts, return_tensors="pt", padding=True, truncation=True)
    written = ours.batch_decode(model.generate(**given), skip_special_tokens=True)
    assert Predictor(folder).predict(texts) == [text.strip() for text in written]


def change(folder: Path, **words: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **words}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: change(folder, separate_vocabs=True), "have a vocabulary each"),
        (lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 2}'), "every id from 0 up once"),
        (lambda folder: (folder / "vocab.json").write_text('{"</s>": "0", "<unk>": []}'), "every id from 0 up once"),
        (lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 1}'), "lacks <pad>"),
        (lambda folder: (folder / "vocab.json").unlink(), "not a vocabulary"),
        (lambda folder: (folder / "target.spm").write_bytes(b"no model"), "target.spm: not a SentencePiece model"),
        (lambda folder: (folder / "target.spm").write_bytes(b""), "target.spm: not a SentencePiece model"),
    ],
)
def test_other_files_are_refused(spoil, said, folder, tmp_path):
    import shutil

    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    spoil(broken)
    with pytest.raises(CheckpointError, match=said):
        load_tokenizer(broken)


def test_only_unigram_models_are_read(tmp_path):
    broken = write_tokenizer(tmp_path / "bpe", model_type="bpe")
    with pytest.raises(CheckpointError, match=r"source.spm: a SentencePiece model that is no Unigram"):
        load_tokenizer(broken)
