"""Texts of a language model: how they are read, parted, framed and packed, and how many bytes a token stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import rows
from language_models import CAUSAL, MASKED, load, tokenizer_of

from distill.data import arrays, collate, overlap, packing
from distill.data.packing import encode_texts, frame_of
from distill.data.rows import Rows
from distill.errors import DataError


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
    framed, plain = tokenizer_of("bert"), tokenizer_of("gpt2")
    found = encode_texts(texts("the goal of a match", "a"), framed, 5, "train", packed=False)
    assert found.lengths.tolist() == [5, 3] and found.truncated == 1
    assert found.ids.tolist()[0] == framed.cls_token_id and found.ids.tolist()[4] == framed.sep_token_id
    found = encode_texts(texts("abcd", "abc", "ab", "d"), plain, 3, "train", packed=False)
    decoded = [plain.decode(found.tokens[row]) for row in range(4)]
    assert decoded == ["abc", "abc", "ab<end>", "d<end>"] and found.truncated == 1  # what goes on doesn't end


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
