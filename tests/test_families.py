"""Each family with each of its heads: loaded as its config says, with a new head where one is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import torch
from conftest import make_tokenizer
from families import CONFIGS, HEADS, batch_for, build, gap, save

from distill import anatomy, checkpoint, cut, heads, surgery
from distill.checkpoint import Checkpoint
from distill.errors import CheckpointError
from distill.surgery.parts import stacks_of

EVERY = [(name, head) for name, (model_type, _) in CONFIGS.items() for head in HEADS[anatomy.FAMILIES[model_type].kind]]
TWINS = ("xlm-roberta", "camembert", "electra-wide", "gpt2-plain", "opt-narrow", "qwen2")  # of another in the list
EVERY = [pair for pair in EVERY if pair[0] not in TWINS and pair != ("marian", "SequenceClassification")]  # it has none


@torch.no_grad()
def answers(model) -> torch.Tensor:
    given = batch_for(model)
    given["input_ids"][:, 5] = model.config.eos_token_id  # where an encoder-decoder classifies
    if "SequenceClassification" in type(model).__name__:
        given.pop("decoder_input_ids", None)
    output = model.eval()(**given)
    return output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits])


@pytest.mark.parametrize(("name", "head"), EVERY)
def test_a_checkpoint_is_loaded_with_the_head_that_its_config_names(name, head, tmp_path):
    model = build(name, head, eos_token_id=3, vocab_size=50)
    whole = Checkpoint(model, make_tokenizer())
    again = checkpoint.load(whole.save(tmp_path / "whole"))
    assert type(again.model) is type(model)
    assert gap(answers(again.model), answers(model)) == 0
    assert again.parameters == sum({id(p): p.numel() for p in model.parameters()}.values())
    labelled = head in ("SequenceClassification", "TokenClassification")
    assert again.labels == ([f"LABEL_{i}" for i in range(model.config.num_labels)] if labelled else [])
    shape = surgery.shape_of(model)
    neurons = [list(range(number - place - 1)) for place, number in enumerate(shape.neurons)]
    cut = Checkpoint(surgery.keep_units(model, None, neurons), whole.tokenizer)
    again = checkpoint.load(cut.save(tmp_path / "cut"))
    assert (tmp_path / "cut" / "shape.json").exists()
    assert gap(answers(again.model), answers(cut.model)) == 0
    assert ties(again.model) == ties(model)


def ties(model) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


@dataclass
class Asked:
    """As much of a task as loading asks for."""

    auto_class: str
    head_config: dict = field(default_factory=dict)

    def misfit(self, config) -> str | None:
        return None


@pytest.mark.parametrize(("name", "head"), EVERY)
def test_a_body_gets_a_new_head_and_stays_what_it_is(name, head, tmp_path):
    if CONFIGS[name][0] == "t5" and head == "Seq2SeqLM":
        return  # T5's head is its embeddings
    body = build(name, head, vocab_size=50).base_model
    body.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    task = Asked(f"AutoModelFor{head}")
    found = [checkpoint.load(tmp_path, task, new_head=True, seed=seed).model for seed in (1, 1, 2)]
    kept = body.state_dict()
    inner = found[0].base_model.state_dict()
    assert all(torch.equal(inner[key], kept[key]) for key in inner if "pooler" not in key)
    fresh = heads.head_weights(found[0])
    behind = [{key: model.state_dict()[key] for key in fresh} for model in found]
    assert all(torch.equal(behind[0][key], behind[1][key]) for key in fresh)
    assert ties(found[0]) == ties(build(name, head))
    if any(behind[0][key].dim() > 1 for key in fresh if key != "final_logits_bias"):
        assert any(not torch.equal(behind[0][key], behind[2][key]) for key in fresh)
        with pytest.raises(CheckpointError, match="the weights lack"):
            checkpoint.load(tmp_path, task)


def test_a_pooler_is_kept_where_a_body_has_one_and_new_where_it_has_none(tmp_path):
    body = build("bert", "SequenceClassification", vocab_size=50).base_model
    body.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    found = checkpoint.load(tmp_path, Asked("AutoModelForSequenceClassification"), new_head=True).model
    assert torch.equal(found.bert.pooler.dense.weight, body.pooler.dense.weight)


def test_what_names_no_head_is_taken_for_a_classifier(tmp_path):
    folder = save(tmp_path / "bert", "bert", "SequenceClassification")
    config = json.loads((folder / "config.json").read_text())
    for architectures in (None, []):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
        assert type(checkpoint.load(folder).model).__name__ == "BertForSequenceClassification"


@pytest.mark.parametrize("name", ["bart", "marian", "t5", "t5-gated"])
def test_either_side_of_an_encoder_decoder_is_cut(name, tmp_path):
    whole = Checkpoint(build(name, vocab_size=50, eos_token_id=3), make_tokenizer())
    pupil = cut(whole, {"encoder": 2, "decoder": 1})
    assert [len(stack) for stack in stacks_of(pupil.model)] == [2, 1]
    stock = type(whole.model).from_pretrained(pupil.save(tmp_path / "pupil"))
    assert gap(answers(stock), answers(pupil.model)) == 0
    half = cut(whole, {"decoder": 1})
    assert gap(*(encoded(model) for model in (whole.model, half.model))) == 0  # the encoder is the teacher's own
    with pytest.raises(CheckpointError, match="layers on two sides"):
        cut(whole, 2)


@torch.no_grad()
def encoded(model) -> torch.Tensor:
    given = batch_for(model)
    return model.get_encoder()(given["input_ids"], given["attention_mask"])[0]
