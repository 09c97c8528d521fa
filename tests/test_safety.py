"""Hostile files: each ends in one clear line, before anything of them is run, or read elsewhere, or allocated."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, LABELS, PIECES, save_tiny

from distill import anatomy, checkpoint, library, packages, safety
from distill.card import Card, load_card, locate
from distill.data import sources
from distill.errors import CheckpointError, DataError, DistillError, RecipeError
from distill.recipe.settings import Source
from distill.safety import configs, files, weights
from distill.safety.tokenizers import misbehaves


@pytest.fixture
def folder(headed, tmp_path) -> Path:
    """A copy of a tiny checkpoint, to be made hostile."""
    return Path(shutil.copytree(headed, tmp_path / "checkpoint"))


@pytest.fixture
def nothing_loaded(monkeypatch) -> None:
    """Loading is an error: what is refused is refused before transformers sees it."""
    import transformers

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("transformers was asked")

    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", loaded)


def change(path: Path, **words: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **words}))


def refused(folder: Path, *, new_head: bool = True) -> str:
    """The one line by which a checkpoint folder is refused, by `check` and by a run alike, and quickly."""
    start = time.process_time()
    told = []
    for look in (lambda: checkpoint.locate(str(folder)), lambda: checkpoint.load(folder, new_head=new_head)):
        with pytest.raises(CheckpointError) as caught:
            look()
        told.append(str(caught.value))
    assert time.process_time() - start < 20  # far from a limit of speed: what it stands against takes hours or memory
    assert "\n" not in told[0] and len(told[0]) < 600
    assert told[0] == told[1]
    return told[0]


# ------------------------------------------------------------------------------------------- what is well stays well


def test_every_family_passes(tmp_path, family):
    for labels in (None, LABELS):
        checkpoint.inspect(save_tiny(tmp_path / f"{family}-{labels is None}", family, labels=labels))


def test_a_checkpoint_in_shards_passes_and_is_counted_whole(bert, folder):
    whole = checkpoint.count_bytes(folder)
    (folder / "model.safetensors").unlink()
    bert.model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file() and not (folder / "model.safetensors").is_file()
    assert checkpoint.locate(str(folder)) == folder
    assert len(checkpoint.load(folder).model.state_dict()) == len(bert.model.state_dict())
    assert checkpoint.count_bytes(folder) > whole - 20_000


def test_the_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for path in folder.iterdir():
        (cache / path.name).symlink_to(path)
    assert checkpoint.locate(str(cache)) == cache


# ----------------------------------------------------------------------------------------------------- config.json


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it can be 0 to 1000"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000; it can be 0 to 1000000"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; it can be 0 to 10000000"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000"),
        ({"intermediate_size": 10**9}, "intermediate_size is 1000000000"),
        ({"type_vocab_size": 10**9}, "type_vocab_size is 1000000000"),
        ({"num_attention_heads": 10**9}, "num_attention_heads is 1000000000"),
        ({"num_labels": 10**9}, "num_labels is 1000000000; it can be 0 to 100000"),
        ({"num_hidden_layers": -4}, "num_hidden_layers is -4"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"num_local_experts": 10**8}, "num_local_experts is 100000000"),
        ({"text_config": {"hidden_size": 10**9}}, "hidden_size is 1000000000"),
        ({"hidden_sizes": [32, 10**9], "backbone_dim": 10**9}, "backbone_dim is 1000000000"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is a huge number"),
        ({"hidden_size": "32"}, "says '32' for its hidden_size"),
        ({"num_hidden_layers": True}, "says True for its layers"),
        ({"num_hidden_layers": 4.5}, "says 4.5 for its layers"),
        ({"hidden_size": [32]}, "says [32] for its hidden_size"),
        ({"attn_implementation": "someone/kernels"}, "attn_implementation names code on the Hub (someone/kernels)"),
        ({"_attn_implementation_internal": {"": "someone/kernels"}}, "names code on the Hub (someone/kernels)"),
        ({"text_config": {"attn_implementation": "someone/kernels"}}, "names code on the Hub"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_loaded(folder, nothing_loaded, words, expected):
    change(folder / "config.json", **words)
    problem = refused(folder)
    assert expected in problem
    assert "config" in problem


@pytest.mark.parametrize("value", ["1e999", "Infinity"])
def test_a_size_without_end_is_refused(folder, nothing_loaded, value):
    text = (folder / "config.json").read_text().replace('"num_attention_heads": 4', f'"num_attention_heads": {value}')
    (folder / "config.json").write_text(text)
    assert "num_attention_heads is inf" in refused(folder)


def test_a_padding_beyond_the_positions_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "roberta", "roberta")
    for padding in ("0", 10**9, -1):
        change(folder / "config.json", pad_token_id=padding)
        assert f"says {padding!r} for its pad_token_id" in refused(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"model_type": "bert", "a": ' + "[" * 100_000, "not valid JSON"),
        ('{"model_type": "bert", "a": ' + "[" * 200 + "]" * 200 + "}", "nested deeper than 64 levels"),
        ('{"model_type": "bert", "a": ' + '{"a":' * 100 + "1" + "}" * 100 + "}", "nested deeper than 64 levels"),
        ('{"model_type": "bert", "model_type": "evil"}', "'model_type' stands in it twice"),
        ('{"model_type": "bert", "layer_norm_eps": NaN}', "NaN is not a number that JSON has"),
        ('{"model_type": "bert", "vocab_size": ' + "9" * 10_000 + "}", "not valid JSON"),
        ('{"model_type": "bert"', "not valid JSON"),
        ('["bert"]', "names no model_type"),
        ('{"model_type": ["bert"]}', "names no model_type"),
        ("", "not valid JSON"),
        ("\x00" * 100, "not valid JSON"),
    ],
    ids=range(11),
)
def test_what_is_no_json_or_more_than_json_is_refused(folder, nothing_loaded, text, expected):
    (folder / "config.json").write_text(text)
    problem = refused(folder)
    assert expected in problem and str(folder / "config.json") in problem


def test_bytes_that_are_no_text_are_refused(folder, nothing_loaded):
    (folder / "config.json").write_bytes(b'{"model_type": "caf\xe9"}')
    assert "not valid JSON ('utf-8' codec can't decode" in refused(folder)


def test_a_million_labels_are_refused(folder, nothing_loaded, monkeypatch):
    change(folder / "config.json", id2label={str(i): f"label {i}" for i in range(10**6)})
    assert "config.json: larger than 16 MiB, so it is not read" in refused(folder)
    monkeypatch.setattr(configs, "MOST_LABELS", 5)
    change(folder / "config.json", id2label={})
    change(folder / "config.json", id2label={str(i): f"label {i}" for i in range(6)})
    assert "id2label has 6 labels; at most 5 are read" in refused(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
)
def test_sizes_of_files_are_looked_at_before_they_are_read(folder, nothing_loaded, monkeypatch, name):
    monkeypatch.setattr(files, "LARGEST", 40_000)
    monkeypatch.setattr(files, "LARGEST_VOCABULARY", 50_000)
    with (folder / name).open("wb") as file:
        file.truncate(50_001)  # nothing but a hole, which no reader could take for JSON
    real = Path.read_text

    def read(path: Path, *arguments: object, **words: object) -> str:
        assert path.name != name, "it was read"
        return real(path, *arguments, **words)

    monkeypatch.setattr(Path, "read_text", read)
    with pytest.raises(CheckpointError, match=f"{name}: larger than [0-9]+ bytes, so it is not read"):
        checkpoint.inspect(folder)


def test_the_limits_let_real_files_through():
    assert files.LARGEST >= 8 << 20  # a config of 100,000 named labels
    assert files.LARGEST_VOCABULARY >= 64 << 20  # the tokenizers of 260,000 pieces have 35 MB
    assert weights.LARGEST_HEADER >= 16 << 20


def test_the_report_of_a_thousand_labels_is_read(tmp_path):
    confusion = [[0] * 1000] * 1000
    (tmp_path / "report.json").write_text(json.dumps({"rows": [{"confusion": confusion}] * 3}, indent=2))
    assert (tmp_path / "report.json").stat().st_size > files.LARGEST
    assert files.read_json(tmp_path / "report.json")["rows"][2]["confusion"] == confusion


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.txt"])
def test_a_pipe_is_not_waited_for(folder, nothing_loaded, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name}: not a regular file"):
        checkpoint.load(folder)
    if name != "vocab.txt":
        with pytest.raises(CheckpointError, match=r"not a regular file|no tokenizer in it"):
            checkpoint.locate(str(folder))


def test_an_adapter_that_would_fetch_another_model_is_refused(folder, nothing_loaded):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    assert "an adapter, not a whole checkpoint" in refused(folder)


# ------------------------------------------------------------------------------------- config held against weights


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"hidden_size": 1_000_000}, "its config says a hidden size of 1000000, but no tensor of its weights has"),
        ({"vocab_size": 10_000_000}, "its config says a vocabulary of 10000000, but no tensor"),
        ({"num_hidden_layers": 1000, "intermediate_size": 10_000_000}, "parameters, but its weights are"),
        ({"max_position_embeddings": 100_000_000}, "parameters, but its weights are"),
        ({"type_vocab_size": 10_000_000}, "parameters, but its weights are"),
        ({"intermediate_size": 10_000_000}, "parameters, but its weights are"),
    ],
    ids=str,
)
def test_a_config_of_another_model_than_the_weights_is_refused(folder, nothing_loaded, words, expected):
    change(folder / "config.json", **words)
    assert expected in refused(folder, new_head=True)
    assert "config and weights are not of one model" in refused(folder, new_head=False)


def test_a_new_head_may_have_any_number_of_labels(body, topics):
    assert checkpoint.load(body, topics.task, new_head=True).model.config.num_labels == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_near_the_real_number(tmp_path, family):
    shapes = safety.read_shapes(save_tiny(tmp_path / family, family) / "model.safetensors")
    real = sum(math.prod(shape) for shape in shapes.values())
    assert configs.estimate_parameters(checkpoint.read_config(tmp_path / family)) == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shapes_in_a_header_are_those_of_the_tensors(tmp_path, family):
    from safetensors.torch import load_file

    path = save_tiny(tmp_path / family, family) / "model.safetensors"
    assert safety.read_shapes(path) == {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}


def test_the_estimate_of_a_known_model():
    """all-MiniLM-L6-v2 has 22,713,216 parameters, as its card says."""
    config = {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536,
        "vocab_size": 30522, "type_vocab_size": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    assert configs.estimate_parameters(config) == pytest.approx(22_713_216, rel=0.02)


ALBERT_LARGE = {
    "model_type": "albert", "vocab_size": 30000, "embedding_size": 128, "hidden_size": 1024, "num_hidden_layers": 24,
    "num_hidden_groups": 1, "intermediate_size": 4096, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip


def test_layers_that_share_their_weights_are_counted_once():
    """ALBERT-large has 17.7 M parameters in 24 layers."""
    assert configs.estimate_parameters(ALBERT_LARGE) == pytest.approx(17_683_968, rel=0.1)
    shapes = {"embeddings": (30000, 128), "dense": (1024, 1024)}
    configs.check_against(ALBERT_LARGE, shapes, 2 * 17_683_968, "albert-large in float16")


def test_only_families_that_count_positions_from_the_padding_need_it_below_them():
    config = {"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 30000}
    assert anatomy.size(config, "positions") == 512


def test_a_student_config_that_memory_can_not_hold_is_refused():
    small = {"model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "vocab_size": 30522}
    safety.check_buildable(small, "student.config")
    absurd = {**small, "hidden_size": 100_000, "num_hidden_layers": 900}
    with pytest.raises(CheckpointError, match=r"^student.config: describes about [0-9]+ M parameters, [0-9]+ GB in"):
        safety.check_buildable(absurd, "student.config")
    with pytest.raises(CheckpointError, match=r"^student.config: num_hidden_layers is 1000000000; it can be 0 to 1000"):
        safety.check_buildable({**small, "num_hidden_layers": 10**9}, "student.config")


def test_no_list_of_a_billion_layers_is_made():
    for word, key in (("layers", "num_hidden_layers"), ("hidden_size", "hidden_size")):
        with pytest.raises(CheckpointError, match=f"says 1000000000 for its {word}; it can be 0 to"):
            anatomy.size({"model_type": "bert", key: 10**9}, word)


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


# ------------------------------------------------------------------------------------------- paths: data of a recipe


def csv_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("text,label\na,b\n")
    return folder / "rows.csv"


def test_a_relative_path_stays_below_the_recipes_folder(tmp_path, monkeypatch):
    beside, here = tmp_path / "recipes", tmp_path / "here"
    inner, outer = csv_in(beside / "data"), csv_in(tmp_path / "secret")
    here.mkdir()
    monkeypatch.chdir(here)
    assert sources.resolve("data/rows.csv", beside, "data.source") == inner
    assert sources.resolve("data/../data/rows.csv", beside, "data.source").samefile(inner)
    assert sources.resolve(str(outer), beside, "data.source") == outer  # written in full: the user's own choice
    for name in ("../secret/rows.csv", "data/../../secret/rows.csv", "../secret", "../no/such/file"):
        with pytest.raises(DataError) as caught:
            sources.resolve(name, beside, "data.source")
        assert str(caught.value) == f"data.source: {name} leads out of {beside}; name it by its full path"


def test_a_link_that_leads_out_of_the_recipes_folder_is_refused(tmp_path, monkeypatch):
    beside = tmp_path / "recipes"
    inner, outer = csv_in(beside / "data"), csv_in(tmp_path / "secret")
    monkeypatch.chdir(beside)
    (beside / "link.csv").symlink_to(outer)
    (beside / "folder").symlink_to(outer.parent)
    (beside / "inside.csv").symlink_to(inner)
    (beside / "round.csv").symlink_to(beside / "round.csv")
    assert sources.resolve("inside.csv", beside, "data.test").samefile(inner)
    for name in ("link.csv", "folder", "folder/rows.csv"):
        with pytest.raises(DataError, match=f"data.test: {name} leads out of .*; name it by its full path"):
            sources.resolve(name, beside, "data.test")
    with pytest.raises(DataError, match=r"no such file|leads out"):
        sources.resolve("round.csv", beside, "data.test")


def test_a_recipe_in_a_linked_folder_finds_what_is_beside_it(tmp_path, monkeypatch):
    csv_in(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    assert sources.resolve("rows.csv", tmp_path / "link", "data.source").is_file()


def test_a_folder_a_class_follows_no_link_out_of_it(tmp_path):
    data = tmp_path / "data"
    for kind in ("a", "b"):
        (data / kind).mkdir(parents=True)
        (data / kind / "1.txt").write_text("words")
    (data / "b" / "2.txt").symlink_to(data / "a" / "1.txt")
    assert len(sources.read(Source(path=str(data)))) == 3
    (tmp_path / "secret.txt").write_text("secret")
    (data / "a" / "2.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"a/2.txt: a link that leads out of .*data; put the file itself there"):
        sources.read(Source(path=str(data)))


def test_a_class_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    for kind in ("data/a", "elsewhere"):
        (tmp_path / kind).mkdir(parents=True)
        (tmp_path / kind / "1.txt").write_text("words")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"a link that leads out of|without a single .txt file"):
        sources.read(Source(path=str(tmp_path / "data")))


def test_a_pipe_is_no_data(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"rows.csv: neither a file nor a folder"):
        sources.read(Source(path=str(tmp_path / "rows.csv")))


# --------------------------------------------------------------------------------------------------- paths: packages


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed distribution `some-data` with its list of files; the folder is its site-packages."""
    site = tmp_path / "site"
    csv_in(site / "some_data" / "sub")
    csv_in(site / "other")
    info = site / "some_data-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n")
    (info / "RECORD").write_text("some_data/sub/rows.csv,,\nsome_data/link.csv,,\nsome_data/out/rows.csv,,\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return site


def test_a_package_gives_its_own_files_only(package, tmp_path):
    csv_in(tmp_path / "secret")
    assert packages.find_file("some-data", "some_data/sub/rows.csv").is_file()
    assert packages.find_file("some-data", "some_data").is_dir()
    for path in (
        "other/rows.csv",
        "other",
        "../secret/rows.csv",
        "some_data/../other/rows.csv",
        str(package / "other"),
    ):
        with pytest.raises(DistillError) as caught:
            packages.find_file("some-data", path)
        assert str(caught.value) == f"the package some-data 1.0 ships no {path}"


def test_a_link_in_a_package_does_not_lead_out_of_it(package, tmp_path):
    outer = csv_in(tmp_path / "secret")
    (package / "some_data" / "link.csv").symlink_to(outer)
    (package / "some_data" / "out").symlink_to(outer.parent)
    for path in ("some_data/link.csv", "some_data/out/rows.csv", "some_data/out"):
        with pytest.raises(DistillError, match=f"{path} is a link that leads out of the package"):
            packages.find_file("some-data", path)
    with pytest.raises(DataError, match=r"data.source: .* is a link that leads out of the package"):
        sources.read(Source(package="some-data", path="some_data/link.csv"))


# ------------------------------------------------------------------------------------------------------ paths: cards


FACTS = {
    "family": "encoder", "model_type": "bert", "layers": 4, "hidden_size": 32, "parameters": 1, "source": "here",
    "licence": "MIT", "folder": "teacher", "sha256": {"config.json": "0" * 64, "model.safetensors": "0" * 64},
}  # fmt: skip


@pytest.fixture
def card(tmp_path, body):
    """Writes a card, beside which a checkpoint lies in `teacher`; the hashes are the checkpoint's."""
    home = tmp_path / "cards"
    shutil.copytree(body, home / "teacher")
    hashes = {name: checkpoint.sha256(body / name) for name in FACTS["sha256"]}

    def write(**facts: object) -> Path:
        (home / "mine.yaml").write_text(json.dumps({**FACTS, "sha256": hashes, **facts}))
        return home / "mine.yaml"

    return write


def test_a_cards_folder_is_found_beside_it_wherever_one_works(card, tmp_path, monkeypatch):
    path = card()
    monkeypatch.chdir(tmp_path)
    assert locate(load_card(str(path)), "mine") == path.parent / "teacher"
    assert locate(load_card("cards/mine.yaml"), "mine").samefile(path.parent / "teacher")


@pytest.mark.parametrize(
    "name", ["/etc", "../teacher", "teacher/../../x", "~/teacher", "..", "C:\\x", "\\\\host\\x", ""]
)
def test_a_card_names_no_folder_outside_its_own(card, name):
    with pytest.raises(RecipeError, match="folder: a card names a folder beside itself or below"):
        load_card(str(card(folder=name)))


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/passwd", "a/../../b", "..\\b", "~/b"])
def test_a_card_hashes_no_file_outside_its_checkpoint(card, name):
    with pytest.raises(RecipeError, match="a card lists files that are in the checkpoint's folder"):
        load_card(str(card(sha256={**FACTS["sha256"], name: "0" * 64})))


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_a_cards_links_do_not_lead_out_of_its_folder(card, tmp_path, body, linked):
    path = card()
    if linked == "folder":
        shutil.rmtree(path.parent / "teacher")
        (path.parent / "teacher").symlink_to(body)
    else:
        (path.parent / "teacher" / "config.json").unlink()
        (path.parent / "teacher" / "config.json").symlink_to(body / "config.json")
    with pytest.raises(CheckpointError, match=r"card mine: .* is a link that leads out of .*; put the files"):
        locate(load_card(str(path)), "mine")


def test_a_card_of_a_hostile_checkpoint_is_refused_though_its_hashes_fit(card, tmp_path):
    folder = card().parent / "teacher"
    change(folder / "config.json", num_hidden_layers=10**9)
    hashes = {name: checkpoint.sha256(folder / name) for name in FACTS["sha256"]}
    with pytest.raises(CheckpointError, match="num_hidden_layers is 1000000000"):
        locate(load_card(str(card(sha256=hashes))), "mine")


def test_a_card_claims_no_billion_layers(card):
    for key in ("layers", "hidden_size"):
        with pytest.raises(RecipeError, match=f"{key}: .*less than or equal to"):
            load_card(str(card(**{key: 10**9})))


def test_a_card_made_in_python_is_looked_for_where_one_works(card, monkeypatch):
    path = card()
    monkeypatch.chdir(path.parent)
    assert locate(Card(**json.loads(path.read_text())), "mine").samefile(path.parent / "teacher")


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["../recipes/quickstart", "..", ".", "quickstart/../quickstart", "quickstart\x00"])
def test_a_shipped_name_is_one_of_the_list_and_nothing_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RecipeError, ValueError)) as caught:
        library.find("recipes", name)
    assert isinstance(caught.value, RecipeError)


def test_what_leads_out(tmp_path):
    (tmp_path / "a").mkdir()
    assert not library.leads_out(tmp_path / "a" / "x", tmp_path / "a")
    assert not library.leads_out(tmp_path / "a", tmp_path / "a")
    assert library.leads_out(tmp_path / "a" / ".." / "b", tmp_path / "a")
    assert library.leads_out(tmp_path / "ab", tmp_path / "a")
    (tmp_path / "a" / "one").symlink_to("two")
    (tmp_path / "a" / "two").symlink_to("one")
    assert isinstance(library.leads_out(tmp_path / "a" / "one", tmp_path / "a"), bool)


# ---------------------------------------------------------------------------------------------------------- recipes


@pytest.fixture
def recipe(recipe_file, tmp_path):
    """Writes a recipe into a folder of its own and tells what is wrong with it."""
    from distill.preflight import prepare
    from distill.recipe import load

    def problems(**sections: object) -> list[str]:
        path = tmp_path / "home" / "recipe.yaml"
        path.parent.mkdir(exist_ok=True)
        recipe_file(**sections).replace(path)
        return prepare(load(path), path.parent, fetch=False).problems

    return problems


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system ''", "!!binary aGk=", "!mine 3",
        "!!str 5", "!!int '5'", "!!set {a, b}", "!!timestamp 2001-01-01", "! 5", "!<tag:yaml.org,2002:str> x",
        "[1, !!python/tuple [1]]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["recipe", "card", "--set"])
def test_yaml_tags_are_refused_with_their_line(tmp_path, monkeypatch, recipe_file, value, kind):
    from distill.recipe import load

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(f"# mine\nnote: {value}\n")
    with pytest.raises(RecipeError) as caught:
        match kind:
            case "recipe":
                load(path)
            case "card":
                load_card(str(path))
            case _:
                load(recipe_file(), [f"seed={value}"])
    tag = next(word for word in value.split() if word.startswith("!"))
    where = "--set seed:1" if kind == "--set" else f"{path}:2"
    assert str(caught.value) == f"{where}: {tag} is a YAML tag, and tags are not read here; write the value alone"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "x: [" + "y," * 120_000 + "]"])
def test_yaml_that_is_deep_or_long_ends_in_seconds(tmp_path, text):
    from distill.recipe import load

    (tmp_path / "deep.yaml").write_text(f"note: {text}\n" if not text.startswith(("-", "x")) else text)
    start = time.process_time()
    with pytest.raises(RecipeError):
        load(tmp_path / "deep.yaml")
    assert time.process_time() - start < 30  # of the minutes that it would take to scan to the end


def test_a_recipe_larger_than_any_is_not_read(tmp_path, monkeypatch):
    from distill.recipe import load, reading

    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(reading._LARGEST_FILE + 1)
    monkeypatch.setattr(Path, "read_text", None)
    with pytest.raises(RecipeError, match="larger than 256 KiB; this is not a recipe or a card"):
        load(tmp_path / "large.yaml")


def test_a_recipes_checkpoints_and_cards_stay_below_its_folder(recipe, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(body, tmp_path / "secret")
    shutil.copytree(body, tmp_path / "home" / "inside")
    (tmp_path / "home" / "link").symlink_to(tmp_path / "secret")
    finetune = {"finetune": {"epochs": 1}}
    assert recipe(teacher={"checkpoint": "./inside", **finetune}) == []
    assert recipe(teacher={"checkpoint": str(tmp_path / "secret"), **finetune}) == []
    home = tmp_path / "home"
    for name in ("../secret", "link", "./link", "../no/such"):
        assert recipe(teacher={"checkpoint": name, **finetune})[0].startswith(f"teacher: {name} leads out of ")
        assert recipe(student={"checkpoint": name})[0].startswith(f"student: {name} leads out of ")
    assert recipe(teacher={"card": "../secret/card.yaml", **finetune})[0].endswith("; name it by its full path")
    assert str(home) in recipe(teacher={"checkpoint": "link", **finetune})[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 10**9}, "student.config: num_hidden_layers is 1000000000; it can be 0 to 1000"),
        ({"hidden_size": -8}, "student.config: hidden_size is -8"),
        ({"hidden_size": 200_000, "num_hidden_layers": 800}, "student.config: describes about"),
        ({"num_attention_heads": 10**9}, "student.config: num_attention_heads is 1000000000"),
    ],
    ids=str,
)
def test_a_student_config_with_absurd_sizes_is_one_problem(recipe, bert, topics, config, expected):
    from distill import student

    (problem,) = recipe(student={"config": {"model_type": "bert", **config}})
    assert problem.startswith(expected)
    with pytest.raises(CheckpointError) as caught:
        student.from_config({"model_type": "bert", **config}, bert, topics.task, seed=0)
    assert str(caught.value).startswith(expected)


def test_a_tokenizer_that_gives_up_on_a_text_is_one_error(bert, topics):
    """What a pattern's form does not tell: the engine gives up, by a panic that is no Exception."""
    from tokenizers import Regex, pre_tokenizers

    found = bert.copy()
    found.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("([a-z ]+)+[0-9]"), "isolated")
    with pytest.raises(CheckpointError, match=r"the tokenizer gives up on a text: .*retry-limit-in-match"):
        found.encode(topics, "test")
