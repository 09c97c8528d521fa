"""Hostile configs and sizes: each ends in one clear line, before anything is loaded, run or allocated."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import hostile
import pytest
from conftest import FAMILIES, LABELS, save_tiny
from hostile import change, refused

from distill import anatomy, checkpoint, safety
from distill.errors import CheckpointError
from distill.safety import configs, files, weights

folder, nothing_loaded = hostile.folder, hostile.nothing_loaded  # fixtures; imported, they would look unused

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
