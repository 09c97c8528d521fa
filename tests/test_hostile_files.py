"""Hostile weights, code and tokenizers of a checkpoint: refused before anything of them is run or used."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import hostile
import pytest
import torch
from conftest import PIECES
from hostile import change, refused

from distill import checkpoint
from distill.errors import CheckpointError
from distill.safety.tokenizers import misbehaves

folder, nothing_loaded = hostile.folder, hostile.nothing_loaded  # fixtures; imported, they would look unused

# ------------------------------------------------------------------------------------------------ weights as files


def safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file, whatever the header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: list[object], begin: object, end: object, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (safetensors({}, length=10**15), "its header claims 1000000000000000 bytes, the file has 10"),
        (safetensors({}, length=2**64 - 1), "its header claims 18446744073709551615 bytes"),
        (b"\x08", "its header claims 8 bytes, the file has 1"),
        (b"", "the file has 0"),
        (safetensors(b"{" * 50_000), "its header is not JSON"),
        (safetensors(b"[" * 50_000), "its header is not JSON"),
        (safetensors([1]), "its header is not a list of tensors"),
        (safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)), "its tensors overlap or leave gaps"),
        (safetensors({"a": entry([4], 8, 24)}, bytes(24)), "its tensors overlap or leave gaps"),
        (safetensors({"a": entry([4], 0, 16)}, bytes(8)), "its tensors end at byte 16, its data at 8"),
        (safetensors({"a": entry([4], 0, 16)}, bytes(99)), "its tensors end at byte 16, its data at 99"),
        (safetensors({"a": entry([10**9, 10**9], 0, 16)}, bytes(16)), "a has 16 bytes, but its shape"),
        (safetensors({"a": entry([-4], 0, 16)}, bytes(16)), "the entry of a is none of a tensor"),
        (safetensors({"a": entry([4], 16, 0)}, bytes(16)), "the entry of a is none of a tensor"),
        (safetensors({"a": entry([4.0], 0, 16)}, bytes(16)), "the entry of a is none of a tensor"),
        (safetensors({"a": {"dtype": "F32"}}, bytes(16)), "the entry of a is none of a tensor"),
        (safetensors({"a": [1, 2]}, bytes(16)), "the entry of a is none of a tensor"),
    ],
    ids=range(17),
)
def test_a_header_that_can_not_be_true_is_refused(folder, nothing_loaded, content, expected):
    (folder / "model.safetensors").write_bytes(content)
    problem = refused(folder)
    assert "model.safetensors: not a sound safetensors file: " in problem and expected in problem


def test_a_header_of_100_megabytes_is_not_read(folder, nothing_loaded):
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100 << 20))
        file.truncate(101 << 20)  # a hole: it takes no disk, and no reader could take it for JSON
    assert "its header claims 104857600 bytes" in refused(folder)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["../model.safetensors"], "names ../model.safetensors; shards are .safetensors files in the same folder"),
        (["/etc/passwd"], "names /etc/passwd; shards are"),
        (["sub/a.safetensors"], "names sub/a.safetensors; shards are"),
        (["..\\a.safetensors"], "names ..\\a.safetensors; shards are .safetensors files"),
        (["pytorch_model.bin"], "names pytorch_model.bin; shards are .safetensors files"),
        (["gone.safetensors"], "names gone.safetensors, which is not there"),
        ([], "names no weights (weight_map)"),
        (None, "names no weights (weight_map)"),
    ],
    ids=str,
)
def test_an_index_names_shards_of_its_own_folder_only(folder, tmp_path, nothing_loaded, names, expected):
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "other.safetensors").write_bytes(safetensors({}))
    told = {} if names is None else {"weight_map": {f"tensor {i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(told))
    assert f"model.safetensors.index.json: {expected}" in refused(folder)
    with pytest.raises(CheckpointError):
        checkpoint.count_bytes(folder)


class _Opens:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_never_read_whatever_its_name(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Opens(tmp_path / "ran")}, folder / name)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.locate(str(folder))
    assert ("pickled weights" in str(caught.value)) == (name == "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        checkpoint.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_the_weights_is_left_alone(folder, tmp_path):
    torch.save({"weight": _Opens(tmp_path / "ran")}, folder / "pytorch_model.bin")
    checkpoint.load(folder)
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------- code in a folder


@pytest.fixture
def code(folder, tmp_path) -> Path:
    """A folder with code of its own for everything that transformers could ask for; run, it makes a folder `ran`."""
    body = f"""
import os
os.makedirs({str(tmp_path / "ran")!r}, exist_ok=True)
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class EvilConfig(BertConfig): model_type = "evil"
class EvilModel(BertForSequenceClassification): config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast): pass
"""
    for name in ("evil", "modeling_evil", "configuration_evil", "tokenization_evil", "bert", "__init__"):
        (folder / f"{name}.py").write_text(body)
    change(
        folder / "config.json",
        auto_map={
            "AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel",
            "AutoModel": "evil.EvilModel",
        },
    )  # fmt: skip
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]},
        tokenizer_class="EvilTokenizer",
    )
    return tmp_path / "ran"


def test_code_of_a_model_that_transformers_knows_is_told_and_not_run(folder, code, caplog, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked, either
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    found = checkpoint.load(checkpoint.locate(str(folder)))
    assert type(found.model).__module__.startswith("transformers.models.bert")
    assert type(found.tokenizer).__module__.startswith("transformers.")
    assert not code.exists()
    assert f"{folder} brings code of its own (auto_map); it is not run" in caplog.messages


def test_a_model_that_needs_its_own_code_is_refused(folder, code, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    change(folder / "config.json", model_type="evil")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "no model type 'evil' without the checkpoint's own code (auto_map), which is never run" in str(caught.value)
    assert "trust_remote_code" not in str(caught.value)
    assert not code.exists()


def test_a_tokenizer_that_needs_its_own_code_does_not_get_it(folder, code, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    try:
        found = checkpoint.load(folder)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert type(found.tokenizer).__module__.startswith("transformers.")
    assert not code.exists()


# --------------------------------------------------------------------------------------------------- tokenizer.json

KNOWN_PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "clip": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "digits from the right": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
    "albert": " {2,}",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "sign classes": r"[]a*+]+[^]b(]*",
}
CATASTROPHES = [
    "(a+)+$", "(a*)*b", "(?:a+)*", "((a+)b?)+", "(a{1,})+", "(a+){2,}", "(a{1,50}){1,50}$", "(a|a)+$", "(?:a|aa)*b",
    "(?i:x+)+?", "([a-z]+)*", r"(\p{L}+\s?)+$", r"(?:\w+)+\d", "(a+)++", "((((a+))))*", "(?<name>a+)+", "x(?=(a+)+)",
]  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_PATTERNS)
def test_patterns_of_known_tokenizers_pass(name):
    assert misbehaves(KNOWN_PATTERNS[name]) is None


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_patterns_that_explode_are_told_by_their_form(pattern):
    assert "inside a repetition" in misbehaves(pattern)


@pytest.mark.parametrize(
    "pattern", ["", "(", ")", "[", "\\", "{", "(((", ")))", "[[[", "a{", "\\p{", "(?", "*", "+{2}{3}"]
)
def test_patterns_that_are_none_are_read_to_their_end(pattern):
    misbehaves(pattern)
    assert "a pattern of 5000 characters" in misbehaves("a" * 5000)


def test_the_library_passes_and_refuses_as_its_form_foretells():
    """The engine itself gives up on what is refused, and answers at once for what passes."""
    from tokenizers import Regex, pre_tokenizers

    text = "a" * 40 + "!"
    for pattern in KNOWN_PATTERNS.values():
        assert pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
    with pytest.raises(BaseException, match="retry-limit-in-match"):
        pre_tokenizers.Split(Regex(CATASTROPHES[0]), "isolated").pre_tokenize_str(text)


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"pre_tokenizer": SPLIT}, "a pattern with a repetition, or alternatives, inside a repetition: (a+)+$"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT]}}, "inside a repetition: (a+)+$"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*"}, "content": ""}}, "inside a repetition"),
        ({"decoder": {"type": "Replace", "pattern": {"Regex": "(a*)*"}, "content": ""}}, "inside a repetition"),
        ({"pre_tokenizer": {**SPLIT, "pattern": {"Regex": "a" * 9999}}}, "a pattern of 9999 characters"),
        ({"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right"}}, "it pads every text to Fixed 1000000000"),
        ({"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**9}}, "pad_to_multiple_of 1000000000"),
        (
            {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 1000}},
            "puts more than 256 tokens around a text",
        ),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}}, "at most 10000"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 10**9}}}, "it gives the id 1000000000, but the model embeds"),
        (
            {"model": {"type": "WordLevel", "vocab": {"a": len(PIECES)}}},
            f"it gives the id {len(PIECES)}, but the model",
        ),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]] * 1000}}, "it gives the id 999, but the model embeds"),
        ({"added_tokens": [{"id": 10**6, "content": "x"}]}, "it gives the id 1000000, but the model embeds"),
        ({"model": None}, "not a tokenizer (no `model` in it)"),
        ({"model": []}, "not a tokenizer (no `model` in it)"),
    ],
    ids=range(15),
)
def test_a_hostile_tokenizer_is_refused_before_it_is_used(folder, nothing_loaded, words, expected):
    change(folder / "tokenizer.json", **words)
    problem = refused(folder)
    assert "tokenizer.json: " in problem and expected in problem


@pytest.mark.parametrize(
    "text", ["[]", "null", "[" * 100_000, '{"model": {}, "a": ' + "[" * 90 + "]" * 90 + "}", "{", ""]
)
def test_a_tokenizer_file_that_is_none_is_refused(folder, nothing_loaded, text):
    (folder / "tokenizer.json").write_text(text)
    assert "tokenizer.json: not" in refused(folder)


@pytest.mark.parametrize(
    "words",
    [
        {"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}},
        {"model": {"type": "Nonsense"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 99}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"post_processor": {"type": "TemplateProcessing", "single": 1, "pair": 2, "special_tokens": 3}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated", "invert": False}},
    ],
    ids=lambda words: json.dumps(words)[:70],
)
def test_what_only_the_library_can_tell_is_one_error_too(folder, words):
    """Also when its Rust code panics, which is no Exception in Python."""
    change(folder / "tokenizer.json", **words)
    with pytest.raises(CheckpointError, match="transformers can't load it: "):
        checkpoint.load(folder)


def test_a_length_of_a_billion_allocates_nothing(folder, topics):
    change(folder / "tokenizer_config.json", model_max_length=10**30)
    found = checkpoint.load(checkpoint.locate(str(folder)))
    encoded = found.encode(topics, "test")
    assert encoded.lengths.max() <= 64


@pytest.mark.parametrize("text", ["[]", '"words"', "{", '{"a": 1, "a": 2}'])
def test_a_tokenizer_config_that_is_none_is_refused(folder, nothing_loaded, text):
    (folder / "tokenizer_config.json").write_text(text)
    assert "tokenizer_config.json: not" in refused(folder)


def test_a_tokenizer_that_gives_up_on_a_text_is_one_error(bert, topics):
    """What a pattern's form does not tell: the engine gives up, by a panic that is no Exception."""
    from tokenizers import Regex, pre_tokenizers

    found = bert.copy()
    found.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("([a-z ]+)+[0-9]"), "isolated")
    with pytest.raises(CheckpointError, match=r"the tokenizer gives up on a text: .*retry-limit-in-match"):
        found.encode(topics, "test")
