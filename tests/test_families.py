"""Each family with each of its heads: loaded as its config says, with a new head where one is asked for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from conftest import make_splits, make_tokenizer
from families import BERT, CONFIGS, HEADS, batch_for, build, gap, logits, save

from distill import (
    Data,
    Distill,
    Finetune,
    Prune,
    anatomy,
    checkpoint,
    cut,
    distill,
    finetune,
    prune,
    surgery,
)
from distill.anatomy import abilities, families
from distill.checkpoint import Checkpoint, heads
from distill.data.rows import Rows
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError
from distill.signals import read
from distill.surgery.parts import stacks_of

EVERY = [(name, head) for name, (model_type, _) in CONFIGS.items() for head in HEADS[anatomy.FAMILIES[model_type].kind]]
TWINS = (
    "xlm-roberta",
    "camembert",
    "electra-wide",
    "gpt2-plain",
    "opt-narrow",
    "qwen2",
    "t5",
)  # of another in the list
HEADLESS = ("marian", "pegasus")  # there are no classifiers of them
EVERY = [pair for pair in EVERY if pair[0] not in TWINS and (pair[0] not in HEADLESS or pair[1] == "Seq2SeqLM")]


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
    continues: bool = False

    def misfit(self, config) -> str | None:
        return None


@pytest.mark.parametrize(("name", "head"), [pair for pair in EVERY if pair[0] == "bert" or pair[1].endswith("LM")])
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


# ------------------------------------------------------------------------------------------------------ the page

PAGE = Path(__file__).parents[1] / "docs" / "families.md"


def test_the_page_says_what_the_anatomy_says():
    made = PAGE.read_text(encoding="utf-8").split(abilities.BEGIN)[1].split(abilities.END)[0]
    assert made.strip() == abilities.table().strip()


def test_the_pages_example_is_the_real_one():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    homes = [Path(families.__file__), Path(__file__).parent / "families.py"]
    assert len(blocks) == 2
    for block, home in zip(blocks, homes, strict=True):
        assert block in home.read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["layers", "heads", "neurons", "hidden"])
def test_what_the_table_refuses_is_refused_and_the_rest_is_done(what):
    tries = {
        "layers": lambda m: surgery.keep_layers(m, range(1, len(surgery.layers_of(m)) + 1)),
        "heads": lambda m: surgery.keep_units(m, [range(n) for n in surgery.shape_of(m).heads], None),
        "neurons": lambda m: surgery.keep_units(m, None, [range(n) for n in surgery.shape_of(m).neurons]),
        "hidden": lambda m: surgery.hidden_axes(m),
    }
    for name, (model_type, _) in CONFIGS.items():
        if name in TWINS:
            continue
        reason = anatomy.FAMILIES[model_type].refuses.get(what)
        if reason is None:
            tries[what](build(name))
        else:
            with pytest.raises(CheckpointError, match=re.escape(reason)):
                tries[what](build(name))


def test_every_family_has_a_row_among_the_tests():
    assert {model_type for model_type, _ in CONFIGS.values()} == set(anatomy.FAMILIES) - {"albert"}


# ------------------------------------------------------------------------------------------------ an unknown family


def stranger(folder: Path, labels: int = 3) -> Checkpoint:
    config = transformers.AutoConfig.for_model(
        "deberta-v2", vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=32, num_labels=labels, type_vocab_size=0,
    )  # fmt: skip
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    return checkpoint.load(Checkpoint(model, make_tokenizer()).save(folder))


def test_a_family_without_a_page_learns_and_teaches_and_is_told_what_cutting_would_need(tmp_path):
    data, found = make_splits(number=24), stranger(tmp_path / "stranger")
    fast = {"epochs": 1, "max_steps": 2, "learning_rate": 1e-3}
    found = finetune(found, Finetune(**fast), data=data)
    pupil = Checkpoint(build("bert", "SequenceClassification", vocab_size=50, num_labels=3), make_tokenizer())
    words = Distill(imitate={"logits": 1.0, "hidden_states": {"weight": 1.0, "layers": {1: 1}}}, **fast)
    assert distill(pupil, words, data=data, teacher=found).labels == pupil.labels
    other = stranger(tmp_path / "other")
    made = distill(other, Distill(imitate={"logits": 1.0}, **fast), data=data, teacher=found)
    again = checkpoint.load(made.save(tmp_path / "made"))
    assert gap(answer(again, data), answer(made, data)) == 0
    for step in (lambda: cut(found, 1), lambda: prune(found, Prune(heads=0.5), data=data)):
        with pytest.raises(CheckpointError, match=r"model type 'deberta-v2'.*added in distill/anatomy/families\.py"):
            step()


def answer(found: Checkpoint, data) -> torch.Tensor:
    return torch.from_numpy(answer_all(Torch(found.model), found.encode(data, "test")))


# -------------------------------------------------------------------------------------- what each family does its way


def test_alberts_vocabulary_is_trimmed_and_its_relations_are_refused(tmp_path):
    data = make_splits(number=24)
    config = transformers.AutoConfig.for_model("albert", **{**BERT, "vocab_size": 50}, embedding_size=12, num_labels=3)
    albert = Checkpoint(transformers.AutoModelForSequenceClassification.from_config(config).eval(), make_tokenizer())
    smaller = prune(albert, Prune(vocabulary={"keep": "used", "margin": 0}), data=data)
    assert smaller.parameters < albert.parameters
    again = checkpoint.load(smaller.save(tmp_path / "smaller"))
    assert gap(answer(again, data), answer(smaller, data)) == 0
    words = Distill(imitate={"relations": {"weight": 1.0, "heads": 4}}, epochs=1, max_steps=1)
    with pytest.raises(CheckpointError, match="ALBERT's layers share one set of weights, so none has queries"):
        distill(albert, words, data=data, teacher=albert)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_that_classifies_teaches_by_hidden_states(name):
    data = make_splits(number=24)
    teacher = Checkpoint(
        build(name, "SequenceClassification", vocab_size=50, num_labels=3, eos_token_id=3), make_tokenizer()
    )
    student = cut(teacher, {"decoder": 1})
    words = Distill(imitate={"logits": 1.0, "hidden_states": 1.0}, epochs=1, max_steps=2, learning_rate=1e-3)
    assert distill(student, words, data=data, teacher=teacher).parameters == student.parameters


@pytest.mark.parametrize("name", ["bart", "mbart", "t5"])
def test_an_encoder_decoder_that_classifies_starts_as_in_transformers(name):
    """mBART's texts end in their language, from which the decoder starts."""
    model = build(name, "SequenceClassification", vocab_size=50, num_labels=3, eos_token_id=3)
    ids = torch.tensor([[7, 9, 11, 12, 3, 20], [8, 10, 3, 21, 0, 0]])
    given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    assert gap(read(model.eval(), given).logits.detach(), logits(model, given)) < 1e-6


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_text_of_nothing_is_a_token_where_the_tokenizer_adds_none(name, tmp_path):
    bare = make_tokenizer()
    bare.backend_tokenizer.post_processor = tokenizers.processors.Sequence([])
    texts = [("",) if i == 3 else (f"the ball of cinema {i}",) for i in range(20)]
    data = make_splits(number=24)
    data = replace(data, train=Rows(texts, [i % len(data.task.labels) for i in range(20)]), _encoded={})
    teacher = Checkpoint(build(name, "SequenceClassification", vocab_size=50, num_labels=3, pad_token_id=0), bare)
    assert teacher.encode(data, "train").lengths.min() == 1
    words = Distill(imitate={"logits": 1.0}, epochs=1, max_steps=2)
    assert distill(cut(teacher, 1), words, data=data, teacher=teacher).parameters < teacher.parameters


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_padding_token_that_only_the_tokenizer_knows_counts(name, tmp_path):
    data = make_splits(number=24)
    model = build(name, "SequenceClassification", vocab_size=50, num_labels=3, pad_token_id=None)
    Checkpoint(model, make_tokenizer()).save(tmp_path / "teacher")
    found = checkpoint.load(tmp_path / "teacher", data.task, new_head=True)
    assert found.model.config.pad_token_id == 0
    assert finetune(found, Finetune(epochs=1, max_steps=2), data=data).labels == list(data.task.labels)


def test_texts_are_cut_somewhere_where_nothing_says_how_long_they_may_be():
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = int(1e30)
    data = replace(make_splits(number=24), words=Data(source="made"))
    data.train.texts[0] = ("goal " * 600,)
    assert data.encode("train", tokenizer).lengths.max() == 512
