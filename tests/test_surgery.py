"""What is taken out of a model of any family: what is left answers as it must, loads again, and goes on."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import LABELS, PIECES, make_splits, make_tokenizer
from families import BERT, CONFIGS, T5, VOCABULARY, batch_for, build, gap, generates, learns, logits, reloaded, untied
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from distill import Finetune, Prune, anatomy, checkpoint, cut, finetune, prune, surgery
from distill.checkpoint import Checkpoint
from distill.errors import CheckpointError
from distill.influence import least
from distill.pruning.importance import batches
from distill.pruning.reconstruction import refit
from distill.pruning.sites import gated, sites_of, watched


@pytest.fixture(params=CONFIGS)
def model(request):
    return build(request.param)


def silenced(model, what: str, kept: list[list[int]]) -> torch.Tensor:
    """The whole model's logits with gates shut on all but some heads or neurons."""
    sites = sites_of(model, [what])
    with gated(sites, 2, torch.device("cpu")) as gates, torch.no_grad():
        for site, gate, units in zip(sites, gates, kept, strict=True):
            shut = set(range(site.units)) - {unit // site.group for unit in units}
            gate[:, sorted(shut)] = 0
        return logits(model)


def some(model, what: str, *, uneven: bool) -> list[list[int]]:
    """Heads or neurons to keep: other ones in every layer, as far as a family lets them differ."""
    kept, generator = [], torch.Generator().manual_seed(5)
    shared: dict[int, list[int]] = {}
    for number, site in enumerate(sites_of(model, [what])):
        keep = site.units // 2 + (number // 2 % 2 if uneven else 0)
        units = site.heads(sorted(torch.randperm(site.units, generator=generator)[:keep].tolist()))
        kept.append(units if site.shared_heads is None else shared.setdefault(site.shared_heads, units))
    return kept


def cut_units(model, what: str, kept: list[list[int]]):
    return surgery.keep_units(model, *((kept, None) if what == "heads" else (None, kept)))


# -------------------------------------------------------------------------------------------- heads and neurons


@pytest.mark.parametrize("uneven", [False, True])
def test_what_is_left_answers_as_the_whole_with_the_rest_shut(model, tmp_path, uneven):
    before = logits(model)
    for what in ("heads", "neurons"):
        kept = some(model, what, uneven=uneven)
        smaller = cut_units(model, what, kept)
        assert gap(logits(smaller), silenced(model, what, kept)) < 2e-5
        assert getattr(surgery.shape_of(smaller), what) == tuple(map(len, kept))
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
        assert gap(logits(reloaded(smaller, tmp_path / f"{what}")), logits(smaller)) == 0
        padded, near = surgery.pad(smaller), 1e-6 * max(1, float(logits(smaller).abs().max()))
        assert gap(logits(padded), logits(smaller)) < near
        padded.save_pretrained(tmp_path / f"{what}-padded")
        stock = type(model).from_pretrained(tmp_path / f"{what}-padded")
        assert gap(logits(stock), logits(smaller)) < near
        generates(smaller)
        learns(smaller)
    assert gap(logits(model), before) == 0  # the model given stays as it was


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "t5", "t5-gated"])
def test_heads_that_the_config_can_say_need_no_record(name, tmp_path):
    model = build(name)
    same = [list(range(2, 4))] * len(surgery.shape_of(model).heads)
    smaller = surgery.keep_units(model, same, [list(range(8))] * len(surgery.layers_of(model)))
    surgery.write_record(smaller, tmp_path)
    smaller.save_pretrained(tmp_path)
    assert not (tmp_path / "shape.json").exists()
    stock = type(model).from_pretrained(tmp_path)
    assert gap(logits(stock), logits(smaller)) == 0
    assert anatomy.size(stock.config.to_dict(), "heads") == 2
    assert anatomy.size(stock.config.to_dict(), "neurons") == 8


def test_llama_can_only_say_heads_that_divide_its_hidden_size(tmp_path):
    model = build("llama")  # 32 hidden dimensions, 8 heads of 4 in groups of two: six can't be told
    smaller = surgery.keep_units(model, [list(range(6))] * 3, None)
    surgery.write_record(smaller, tmp_path)
    assert json.loads((tmp_path / "shape.json").read_text())["heads"] == [6, 6, 6]
    assert gap(logits(surgery.pad(smaller)), logits(smaller)) < 1e-6


@pytest.mark.parametrize("heads", [[0], [1, 2], [0, 1, 2], [1, 2, 3, 4]])
def test_heads_that_share_a_key_head_stay_or_go_together(heads):
    with pytest.raises(CheckpointError, match="heads don't divide into groups: in layer 1"):
        surgery.keep_units(build("llama"), [heads] * 3, None)


@pytest.mark.parametrize("name", ["mpnet", "t5"])
def test_layers_that_share_a_table_of_biases_keep_the_same_heads(name):
    model = build(name)
    heads = [list(range(4)) for _ in surgery.shape_of(model).heads]
    heads[1] = [0, 2]
    with pytest.raises(CheckpointError, match=r"layer 2 would keep other heads .* one table of position biases"):
        surgery.keep_units(model, heads, None)
    shared = [site.shared_heads for site in sites_of(model, ["heads"])]
    assert shared == ([0, 0, 0] if name == "mpnet" else [0, 0, 0, 1, None, 1, None])


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ([[0]] * 2, "heads are listed for 2, but the model has 3"),
        ([[0], [], [1]], "would keep no heads"),
        ([[0], [4], [1]], "layer 2 has 4 heads"),
        ([[0], [1, 0], [1]], "layer 2 has 4 heads, 0 and up; a list of some rises"),
    ],
)
def test_heads_that_are_not_there_are_errors(heads, words):
    with pytest.raises(CheckpointError, match=words):
        surgery.keep_units(build("bert"), heads, None)


@pytest.mark.parametrize("what", ["heads", "neurons", "layers", "hidden"])
def test_albert_is_refused_with_the_reason(what):
    config = AutoConfig.for_model("albert", **BERT | {"embedding_size": 16})
    model = AutoModelForMaskedLM.from_config(config)
    tries = {
        "heads": lambda: surgery.keep_units(model, [[0]] * 3, None),
        "neurons": lambda: surgery.keep_units(model, None, [[0]] * 3),
        "layers": lambda: surgery.keep_layers(model, [1]),
        "hidden": lambda: surgery.keep_hidden(model, range(16)),
    }
    with pytest.raises(CheckpointError, match="ALBERT's layers share one set of weights"):
        tries[what]()


# ------------------------------------------------------------------------------------------------------- layers


def test_layers_that_are_left_are_the_old_ones_and_load_again(model, tmp_path):
    there = len(surgery.layers_of(model))
    kept = {2: [2], 3: [1, 3], 5: [2, 3, 5]}[there]
    smaller = surgery.keep_layers(model, kept)
    assert [id(a) for a in surgery.layers_of(smaller)] != [id(a) for a in surgery.layers_of(model)]
    for new, old in zip(surgery.layers_of(smaller), (surgery.layers_of(model)[i - 1] for i in kept), strict=True):
        mine, theirs = new.state_dict(), old.state_dict()
        assert len(mine) >= len(theirs) - 2
        assert all(torch.equal(mine[name], theirs[name]) for name in mine.keys() & theirs.keys())
    assert gap(logits(reloaded(smaller, tmp_path / "cut")), logits(smaller)) == 0
    assert (tmp_path / "cut" / "shape.json").exists() is False
    assert anatomy.size(smaller.config.to_dict(), "layers") == len(kept)
    generates(smaller)
    learns(smaller)
    everything = surgery.keep_layers(model, range(1, there + 1))
    assert gap(logits(everything), logits(model)) == 0


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "t5", "gpt2", "opt", "distilbert"])
def test_a_layer_that_adds_nothing_can_go(name):
    """Layers whose outputs are zero only pass on what they get, where norms come first."""
    if name in ("bert", "bart", "distilbert"):  # norms come last, so passing on takes a norm of what is normal already
        model = build(name)
        cut = surgery.keep_layers(model, [1, 3] if name != "bart" else [1, 3, 4, 5])
        by_hand = build(name)
        place = by_hand.base_model.get_submodule(anatomy.family_of(model.config.to_dict()).stacks[0].layers)
        del place[1]
        assert gap(logits(cut), logits(by_hand)) < 1e-6
        return
    model = build(name)
    stack = anatomy.family_of(model.config.to_dict()).stacks[0]
    layer = surgery.layers_of(model)[1]
    with torch.no_grad():
        for path in (*(attention.output for attention in stack.layer.attentions), stack.layer.down):
            for parameter in layer.get_submodule(path).parameters():
                parameter.zero_()
    kept = [number for number in range(1, len(surgery.layers_of(model)) + 1) if number != 2]
    assert gap(logits(surgery.keep_layers(model, kept)), logits(model)) < 1e-6


def test_a_layer_whose_number_divides_its_scores_answers_the_same_in_another_place():
    model = build("gpt2", scale_attn_by_inverse_layer_idx=True)
    with torch.no_grad():
        for path in ("attn.c_proj", "mlp.c_proj"):  # so that the layer only passes on what it gets
            for parameter in surgery.layers_of(model)[1].get_submodule(path).parameters():
                parameter.zero_()
        surgery.layers_of(model)[2].attn.c_attn.weight *= 5  # scores that matter
    before = logits(model)
    smaller = surgery.keep_layers(model, [1, 3])
    assert gap(logits(smaller), before) < 1e-5
    assert gap(logits(model), before) == 0
    smaller.config.scale_attn_by_inverse_layer_idx = False
    assert gap(logits(type(smaller)(smaller.config).eval()), before) > 1e-3


def test_t5_keeps_its_position_biases_when_the_layer_that_holds_them_goes():
    model = build("t5")
    smaller = surgery.keep_layers(model, [2, 3, 5])
    for side in ("encoder", "decoder"):
        path = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        assert torch.equal(smaller.state_dict()[path], model.state_dict()[path])


def test_modernberts_first_layer_stays_or_its_going_is_told(caplog):
    model = build("modernbert")
    facts = model.config.to_dict()
    assert anatomy.kept_layers(facts, 2, "even") == [1, 3] and anatomy.kept_layers(facts, 1, "even") == [1]
    assert anatomy.kept_layers(facts, [2, 3], "even") == [2, 3]
    words = {"vocab_size": len(PIECES), "num_labels": 3}
    found = Checkpoint(build("modernbert", "SequenceClassification", **words), make_tokenizer())
    assert set(least(found, 2, make_splits())) == {2, 3}
    with caplog.at_level("WARNING", logger="distill"):
        surgery.keep_layers(model, [1, 3])
        assert "attn_norm" not in caplog.text
        surgery.keep_layers(model, [2, 3])
    assert "the first layer of a modernbert has no attn_norm" in caplog.text


def test_a_head_of_its_own_stays_one_whatever_the_config_says(tmp_path):
    whole = untied("t5-gated", vocab_size=len(PIECES))
    whole.save_pretrained(tmp_path / "whole")
    model = type(whole).from_pretrained(tmp_path / "whole").eval()
    assert gap(logits(model), logits(whole)) == 0
    assert gap(logits(surgery.keep_layers(model, [1, 2, 3, 4, 5])), logits(whole)) == 0
    even, uneven = ([list(range(4))] * 7, [list(range(n)) for n in (4, 4, 4, 3, 1, 3, 2)])
    for place, heads in enumerate((even, uneven)):
        smaller = surgery.keep_units(model, heads, [list(range(8))] * 5)
        assert gap(logits(surgery.pad(smaller)), logits(smaller)) < 1e-5
        assert gap(logits(reloaded(smaller, tmp_path / f"{place}")), logits(smaller)) == 0
        make_tokenizer().save_pretrained(tmp_path / f"{place}")
        assert gap(logits(checkpoint.load(tmp_path / f"{place}").model), logits(smaller)) == 0


def test_what_a_config_lists_layer_by_layer_follows(tmp_path):
    smaller = surgery.keep_layers(build("modernbert"), [1, 3])
    assert smaller.config.layer_types == ["full_attention", "sliding_attention"]
    assert [layer.attention_type for layer in surgery.layers_of(smaller)] == smaller.config.layer_types


def test_either_side_of_an_encoder_decoder_can_be_cut_but_not_all_of_it():
    model = build("bart")
    assert surgery.keep_layers(model, [1, 4, 5]).config.encoder_layers == 1
    assert surgery.keep_layers(model, [1, 2, 3, 5]).config.decoder_layers == 1
    with pytest.raises(CheckpointError, match="layers 4 to 5 are all of this bart's decoder"):
        surgery.keep_layers(model, [1, 2])
    with pytest.raises(CheckpointError, match="the model has layers 1 to 5"):
        surgery.keep_layers(model, [1, 6])


def test_uneven_layers_keep_their_own_shapes(tmp_path):
    model = build("t5")
    shape = surgery.Shape((4, 4, 4, 3, 1, 3, 2), (4, 8, 12, 16, 20))
    uneven = surgery.keep_units(model, [list(range(n)) for n in shape.heads], [list(range(n)) for n in shape.neurons])
    assert surgery.shape_of(uneven) == shape
    cut = surgery.keep_layers(uneven, [1, 3, 5])
    assert surgery.shape_of(cut) == surgery.Shape((4, 4, 3, 2), (4, 12, 20))
    assert gap(logits(reloaded(cut, tmp_path / "cut")), logits(cut)) == 0
    assert gap(logits(surgery.pad(cut)), logits(cut)) < 1e-5


# ------------------------------------------------------------------------------------------------------- tokens


def test_fewer_tokens_answer_as_they_did_among_all(model, tmp_path):
    kept = [0, 1, 2, 3, 4, *range(5, 30, 2), 39]
    new = {old: number for number, old in enumerate(kept)}
    smaller = surgery.keep_tokens(model, kept)
    given = batch_for(model, largest=len(kept))
    old = {name: torch.tensor(kept)[ids] if "ids" in name else ids for name, ids in given.items()}
    assert gap(logits(smaller, given), logits(model, old)[..., kept]) < 1e-6
    tied = [m.get_input_embeddings().weight is m.get_output_embeddings().weight for m in (smaller, model)]
    assert tied[0] == tied[1]
    smaller.save_pretrained(tmp_path / "fewer")
    stock = type(model).from_pretrained(tmp_path / "fewer")
    assert gap(logits(stock, given), logits(smaller, given)) == 0
    assert stock.config.vocab_size == len(kept) and new[39] == len(kept) - 1


def test_the_bias_of_final_logits_follows():
    model = build("bart")
    model.final_logits_bias.copy_(torch.arange(VOCABULARY))
    assert surgery.keep_tokens(model, [0, 2, 5, 9]).final_logits_bias.tolist() == [[0, 2, 5, 9]]


@pytest.mark.parametrize("ids", [[], [0, 0], [0, 40], [-1, 0]])
def test_tokens_that_are_not_there_are_errors(ids):
    with pytest.raises(CheckpointError, match=r"keeps at least one token|embeds tokens 0 to 39"):
        surgery.keep_tokens(build("gpt2"), ids)


def test_vocabularies_of_their_own_are_refused():
    model = build("marian", share_encoder_decoder_embeddings=False, decoder_vocab_size=VOCABULARY)
    with pytest.raises(CheckpointError, match="vocabularies of their own"):
        surgery.keep_tokens(model, range(10))


# ------------------------------------------------------------------------------------------- records and sites


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("llama", [8, 7, 8]), ("llama", [8, 8]), ("llama", [8, 8, 10]), ("mpnet", [4, 4, 3]),
        ("t5", [4, 4, 4, 3, 4, 2, 4]), ("bart", [4, 4, 4, 8, 8, 8]), ("bart", [4, 4, 4, 8, 0, 8, 8]),
    ],
)  # fmt: skip
def test_a_record_that_no_model_of_its_family_can_have_is_refused(name, heads, tmp_path):
    model = build(name)
    neurons = list(surgery.shape_of(model).neurons)
    (tmp_path / "shape.json").write_text(json.dumps({"schema": 1, "heads": heads, "neurons": neurons}))
    with pytest.raises(CheckpointError, match=r"shape\.json: says"):
        surgery.read_record(tmp_path, model.config.to_dict())
    with pytest.raises(CheckpointError, match="the shape says"):
        surgery.reshape(model, surgery.Shape(tuple(heads), tuple(neurons)))


def test_a_huge_record_is_not_read(tmp_path):
    (tmp_path / "shape.json").write_text('{"schema": 1, "heads": [' + "1," * 600_000 + '1], "neurons": []}')
    with pytest.raises(CheckpointError, match=r"not a shape record \(1200\d+ bytes\)"):
        surgery.read_record(tmp_path, build("bert").config.to_dict())


def test_every_site_is_passed_in_its_order_and_gates_have_derivatives(model):
    sites = sites_of(model, ["heads", "neurons"])
    assert {type(site.mixer) for site in sites} <= {nn.Linear, Conv1D}
    seen: list[int] = []
    tokens = {"input": 18, "decoder": 10}
    with watched(sites, lambda number, given, made: seen.append((number, len(given), len(made)))):
        logits(model)
    assert [number for number, *_ in seen] == list(range(len(sites)))
    assert all(given == made and given in tokens.values() for _, given, made in seen)
    with gated(sites, 2, torch.device("cpu")) as gates:
        found = torch.autograd.grad(model(**batch_for(model)).logits.square().sum(), gates)
    assert all(derivative.isfinite().all() and derivative.abs().max() > 0 for derivative in found)
    assert [site.units for site in sites if site.what == "neurons"] == list(surgery.shape_of(model).neurons)


def test_an_unknown_family_is_told_what_is_missing():
    config = AutoConfig.for_model("gpt_neox", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                  intermediate_size=32, vocab_size=40)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    for attempt in (
        surgery.layers_of,
        surgery.shape_of,
        lambda m: surgery.keep_layers(m, [1]),
        lambda m: surgery.keep_hidden(m, range(16)),
        lambda m: surgery.keep_units(m, None, [[0]] * 2),
    ):
        with pytest.raises(CheckpointError, match=r"'gpt_neox'.*families\.py: where its layers, .* \(up, down\) are"):
            attempt(model)


def test_a_model_that_lacks_what_its_family_has_is_told_so():
    from transformers import T5EncoderModel

    model = T5EncoderModel(AutoConfig.for_model("t5", **T5))
    with pytest.raises(CheckpointError, match=r"this T5EncoderModel has no 'decoder\.block'"):
        surgery.layers_of(model)


@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "llama", "qwen2", "opt", "bart", "t5"])
def test_bodies_and_classifiers_are_cut_as_language_models_are(name):
    model_type, words = CONFIGS[name]
    config = AutoConfig.for_model(model_type, **words)
    given = batch_for(build(name))
    for auto in (AutoModel, AutoModelForSequenceClassification):
        model = auto.from_config(config).eval()
        mine = given if auto is AutoModel else {k: v for k, v in given.items() if not k.startswith("decoder")}
        if auto is not AutoModel and config.is_encoder_decoder:  # they classify at the last token of a text
            mine = {**mine, "input_ids": mine["input_ids"].index_fill(1, torch.tensor([5]), config.eos_token_id)}

        def read(m, g=mine):
            return m(**g)[0].detach()

        kept = some(model, "heads", uneven=True)
        smaller = surgery.keep_layers(
            surgery.keep_units(model, kept, None), range(1, len(surgery.layers_of(model)) + 1)
        )
        assert gap(read(surgery.pad(smaller)), read(smaller)) < 1e-5


# --------------------------------------------------------------------------------------- the steps on classifiers


def classifier(name: str, folder) -> Checkpoint:
    """A classifier of the three topics with a tokenizer, loaded as a step loads it."""
    model_type, words = CONFIGS[name]
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    ends = {"eos_token_id": 3, "vocab_size": len(PIECES)}  # [SEP]
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(model_type, **words | labels | ends)
    ).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return checkpoint.load(folder, make_splits().task)


@pytest.mark.parametrize("name", ["modernbert", "gpt2", "opt", "llama", "bart", "t5-gated", "mpnet"])
def test_classifiers_of_every_kind_are_pruned_cut_and_trained(name, tmp_path):
    data, whole = make_splits(), classifier(name, tmp_path / "whole")
    twin = whole.copy()
    refit(twin, whole, ["heads", "neurons"], data, range(16))
    batch = next(batches(whole, data, range(4), "some"))
    given = {key: batch[key] for key in ("input_ids", "attention_mask")}

    def read(found):
        return logits(found.model, given)

    assert gap(read(twin), read(whole)) < 1e-3  # nothing is gone, so there is nothing to make up for
    for by in ("fisher", "magnitude", "activations"):
        words = {"heads": 0.5, "neurons": 0.5, "examples": 16, "multiple_of": 4, "by": by}
        smaller = prune(whole, Prune(**words), data=data)
        before, after = surgery.shape_of(whole.model), surgery.shape_of(smaller.model)
        assert sum(after.neurons) == sum(before.neurons) // 2
        assert abs(sum(after.heads) - sum(before.heads) / 2) <= 2
    trimmed = prune(smaller, Prune(vocabulary={"keep": "used"}, examples=16), data=data)
    layers = {"encoder": 1, "decoder": 1} if whole.model.config.is_encoder_decoder else 2
    pupil = finetune(cut(trimmed, layers), Finetune(epochs=1), data=data)
    again = checkpoint.load(pupil.save(tmp_path / "pupil"))
    assert gap(read(again), read(pupil)) == 0
    assert len(surgery.layers_of(again.model)) == 2
