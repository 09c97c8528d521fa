"""Every step on a body with the head of a language model: cut, pruned, trimmed, saved, and loaded again."""

from __future__ import annotations

import pytest
import torch
import transformers
from conftest import PIECES, make_tokenizer, rows
from families import CONFIGS, HEADS, build, gap
from writers import make_pairs

from distill import Data, Prune, anatomy, checkpoint, cut, load_data, prune, surgery
from distill.checkpoint import Checkpoint
from distill.errors import CheckpointError
from distill.signals import read, tensors

MASKED = ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"]
EVERY = [*MASKED, "gpt2", "opt", "opt-narrow", "llama", "qwen3", "bart", "marian", "t5", "t5-gated"]


def kind_of(name: str) -> str:
    return anatomy.FAMILIES[CONFIGS[name][0]].kind


def whole(name: str) -> Checkpoint:
    ends = {"bos_token_id": 2, "eos_token_id": 3, "vocab_size": len(PIECES)}
    return Checkpoint(build(name, **ends), make_tokenizer())


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Texts for each kind of language model."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(text for text, _ in rows(60, seed=4)))
    words = Data(source=str(path), validation=0.2, test=0.2, max_length=16)
    return {
        "encoder": load_data(words, task="masked-language-modelling"),
        "decoder": load_data(words, task="causal-language-modelling"),
        "encoder-decoder": make_pairs(24),
    }


def batch_of(found: Checkpoint, data) -> dict[str, torch.Tensor]:
    from distill.data import collate

    return tensors(collate(found.encode(data, "test"), range(4)), found.model.device)


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    return read(model.eval(), batch).logits


def stock(found: Checkpoint, folder):
    """The checkpoint as it ships, loaded without this package."""
    shipped = Checkpoint(surgery.pad(found.model), found.tokenizer).save(folder)
    auto = getattr(transformers, f"AutoModelFor{HEADS[kind_of_model(found.model)][-1]}")
    model, told = auto.from_pretrained(shipped, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    return model


def kind_of_model(model) -> str:
    return anatomy.family_of(model.config.to_dict()).kind


@pytest.mark.parametrize("name", EVERY)
def test_language_models_of_every_family_are_pruned_and_load_again(name, corpora, tmp_path):
    data, before = corpora[kind_of(name)], whole(name)
    words = {"heads": 0.5, "neurons": 0.5, "layers": 1, "vocabulary": "used", "multiple_of": 4, "examples": 8}
    if anatomy.refuse(before.model.config.to_dict(), "hidden") is None:
        words["hidden_size"] = 0.5
    after = prune(before, Prune(**words), data=data)
    assert len(surgery.layers_of(after.model)) == len(surgery.layers_of(before.model)) - 1
    assert after.parameters < 0.7 * before.parameters
    tokens = after.model.get_input_embeddings().num_embeddings
    assert tokens == len(after.tokenizer) <= len(PIECES) and tokens == after.model.config.vocab_size
    batch = batch_of(after, data)
    expected = logits(after.model, batch)
    assert expected.shape[-1] == tokens
    assert gap(logits(checkpoint.load(after.save(tmp_path / "step")).model, batch), expected) < 1e-6
    near = 1e-5 * max(1.0, float(expected.abs().max()))
    assert gap(logits(stock(after, tmp_path / "shipped"), batch), expected) < near
    head, table = after.model.get_output_embeddings(), after.model.get_input_embeddings()
    old = before.model.get_output_embeddings().weight is before.model.get_input_embeddings().weight
    assert (head.weight is table.weight) == old


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_how_a_model_of_uneven_layers_writes_goes_with_it(name, corpora, tmp_path):
    after = prune(
        whole(name), Prune(neurons=0.3, uniform=False, multiple_of=1, examples=8), data=corpora[kind_of(name)]
    )
    after.model.generation_config.update(max_new_tokens=7, no_repeat_ngram_size=3)
    again = checkpoint.load(after.save(tmp_path / "step"))
    assert (tmp_path / "step" / surgery.RECORD).is_file()
    for model in (again.model, surgery.pad(again.model)):
        told = model.generation_config
        assert (told.max_new_tokens, told.no_repeat_ngram_size) == (7, 3)


@pytest.mark.parametrize("by", ["activations", "taylor"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "t5"])
def test_other_ways_to_measure_see_the_right_tokens_of_either_side(name, by, corpora):
    data, before = corpora[kind_of(name)], whole(name)
    words = {"heads": 0.5, "neurons": 0.5, "hidden_size": 0.25, "by": by, "multiple_of": 4, "examples": 8}
    after = prune(before, Prune(**words), data=data)
    assert after.parameters < before.parameters


@pytest.mark.parametrize("name", ["bert", "llama", "bart"])
def test_a_student_keeps_the_layers_that_a_language_model_hangs_on(name, corpora, tmp_path):
    data, teacher = corpora[kind_of(name)], whole(name)
    layers = {"encoder": 2, "decoder": 1} if name == "bart" else 2
    pupil = cut(teacher, layers, "importance", data=data)
    batch = batch_of(pupil, data)
    assert gap(logits(stock(pupil, tmp_path / "pupil"), batch), logits(pupil.model, batch)) == 0


@pytest.mark.parametrize(
    ("name", "why"), [("bert", "is tied to them"), ("bart", "share one table"), ("llama", "is tied")]
)
def test_tied_embeddings_are_not_factorised_and_the_reason_is_told(name, why, corpora):
    with pytest.raises(CheckpointError, match=f"prune.embeddings: .*{why}"):
        prune(whole(name), Prune(embeddings=4), data=corpora[kind_of(name)])


def test_untied_embeddings_are_factorised(corpora, tmp_path):
    data = corpora["decoder"]
    before = Checkpoint(build("qwen2", vocab_size=len(PIECES), eos_token_id=3), make_tokenizer())
    after = prune(before, Prune(embeddings=4), data=data)
    batch = batch_of(after, data)
    assert surgery.rank_of(after.model) == 4
    assert gap(logits(stock(after, tmp_path / "shipped"), batch), logits(after.model, batch)) < 1e-5
