"""Which layers are chosen and paired, and what a config's keys mean in each family."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import SIZES, make_config

from distill.anatomy import FAMILIES, choose_layers, family_of, kept_layers, layer_map, refuse, size
from distill.errors import CheckpointError


@pytest.mark.parametrize(
    ("layers", "choose", "of", "kept"),
    [
        (3, "even", 6, [2, 4, 6]),
        (2, "even", 4, [2, 4]),
        (6, "even", 12, [2, 4, 6, 8, 10, 12]),
        (4, "even", 12, [3, 6, 9, 12]),
        (1, "even", 5, [5]),
        (5, "even", 5, [1, 2, 3, 4, 5]),
        (3, "first", 6, [1, 2, 3]),
        (3, "last", 6, [4, 5, 6]),
        (6, "last", 6, [1, 2, 3, 4, 5, 6]),
        ([1, 4, 6], "even", 6, [1, 4, 6]),
    ],
)
def test_layers_are_chosen(layers, choose, of, kept):
    assert choose_layers(layers, choose, of) == kept


@pytest.mark.parametrize("of", range(1, 25))
def test_even_layers_rise_are_distinct_and_end_with_the_last(of):
    for layers in range(1, of + 1):
        kept = choose_layers(layers, "even", of)
        assert kept == sorted(set(kept)) and len(kept) == layers
        assert kept[0] >= 1 and kept[-1] == of


@pytest.mark.parametrize(
    ("layers", "words"),
    [(7, "asks for 7 layers, but the teacher has 6"), ([1, 8], "asks for layer 8, but the teacher has 6")],
)
def test_more_layers_than_there_are_is_an_error(layers, words):
    with pytest.raises(CheckpointError, match=words):
        choose_layers(layers, "even", 6)


@pytest.mark.parametrize("layers", [0, -1, [], [0, 1], [2, 1], [1, 1]])
def test_no_layers_and_layers_out_of_order_are_errors(layers):
    with pytest.raises(CheckpointError, match=r"student\.layers"):
        choose_layers(layers, "even", 6)


BART = {"model_type": "bart", "encoder_layers": 6, "decoder_layers": 4}


@pytest.mark.parametrize(
    ("layers", "choose", "kept"),
    [
        ({"encoder": 3, "decoder": 2}, "even", [2, 4, 6, 8, 10]),
        ({"decoder": 2}, "even", [1, 2, 3, 4, 5, 6, 8, 10]),
        ({"encoder": 1}, "first", [1, 7, 8, 9, 10]),
        ({"decoder": [1, 4], "encoder": 2}, "last", [5, 6, 7, 10]),
    ],
)
def test_layers_of_an_encoder_decoder_are_chosen_by_side_and_a_side_not_named_stays(layers, choose, kept):
    assert kept_layers(BART, layers, choose) == kept


@pytest.mark.parametrize("layers", [3, [1, 7]])
def test_a_number_alone_does_not_say_which_side_of_an_encoder_decoder(layers):
    with pytest.raises(
        CheckpointError, match=r"two sides \(encoder: 6, decoder: 4\).* such as {encoder: 6, decoder: 2}"
    ):
        kept_layers(BART, layers, "even")


def test_sides_are_for_encoder_decoders_alone():
    with pytest.raises(CheckpointError, match="a bert is no encoder-decoder"):
        kept_layers({"model_type": "bert", "num_hidden_layers": 4}, {"decoder": 2}, "even")
    with pytest.raises(CheckpointError, match="the teacher has 4 layers"):
        kept_layers(BART, {"decoder": 5}, "even")
    with pytest.raises(CheckpointError, match="the config of this bart doesn't say decoder_layers and encoder_layers"):
        kept_layers({"model_type": "bart"}, {"decoder": 1}, "even")


@pytest.mark.parametrize(
    ("asked", "student", "teacher", "pairs"),
    [
        ("even", 3, 6, [(1, 2), (2, 4), (3, 6)]),
        ("even", 4, 4, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ("even", 2, 6, [(1, 3), (2, 6)]),
        ("even", 6, 3, [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)]),
        ("skip", 6, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),  # as published
        ("skip", 3, 12, [(1, 4), (2, 8)]),
        ("skip", 6, 24, [(1, 4), (2, 8), (3, 12), (4, 16), (5, 20)]),
        ("skip", 4, 6, [(1, 1), (2, 2), (3, 3)]),
        ("skip", 4, 4, [(1, 1), (2, 2), (3, 3)]),
        ("learned", 2, 3, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
        ("last", 2, 6, [(1, 5), (2, 6)]),
        ("last", 4, 2, [(3, 1), (4, 2)]),
        ([1, 6], 2, 6, [(1, 1), (2, 6)]),
        ([0, 3], 2, 6, [(1, 0), (2, 3)]),
        ({2: 6}, 2, 6, [(2, 6)]),
        ({2: 6, 0: 0}, 2, 6, [(0, 0), (2, 6)]),
    ],
)
def test_student_layers_are_paired_with_teacher_layers(asked, student, teacher, pairs):
    assert layer_map(asked, student, teacher) == pairs


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([1, 2, 3], "lists 3 teacher layers for a student of 2"),
        ([1, 7], "student layer 2 with teacher layer 7, but they have 2 and 6 layers"),
        ({3: 1}, "student layer 3 with teacher layer 1"),
        ({1: -1}, "teacher layer -1"),
        ({}, "pairs no layers"),
    ],
)
def test_pairs_that_cannot_be_are_errors(asked, words):
    with pytest.raises(CheckpointError, match=words):
        layer_map(asked, 2, 6)


@pytest.mark.parametrize(
    ("asked", "student", "teacher", "words"),
    [
        ("skip", 1, 6, "skip leaves the last layer to the logits, .* the student has no other: take even"),
        ("skip", 4, 3, "they have 4 and 3: take even"),
        ("learned", 2, 1, "learned mixes the teacher's layers, and it has 1: there is nothing to mix; take even"),
    ],
)
def test_named_maps_that_make_no_sense_say_why(asked, student, teacher, words):
    with pytest.raises(CheckpointError, match=rf"imitate.relations.layers: .*{words}"):
        layer_map(asked, student, teacher, "relations")


def test_skip_is_even_without_the_last_where_layers_divide():
    for student, teacher in ((2, 4), (3, 6), (4, 12), (6, 12), (6, 24)):
        assert layer_map("skip", student, teacher) == layer_map("even", student, teacher)[:-1]


def test_sizes_are_read_in_every_family(family):
    config = make_config(family).to_dict()
    assert size(config, "layers") == 4
    assert size(config, "hidden_size") == 32


@pytest.mark.parametrize(
    ("family", "positions"),
    [
        ("bert", 64), ("distilbert", 64), ("electra", 64), ("albert", 64),
        ("roberta", 62), ("xlm-roberta", 62), ("camembert", 62), ("mpnet", 62),
    ],
)  # fmt: skip
def test_positions_that_no_token_takes_are_not_counted(family, positions):
    assert size(make_config(family, pad_token_id=1).to_dict(), "positions") == positions


@pytest.mark.parametrize(("padding", "positions"), [(0, 63), (1, 62), (5, 58)])
def test_roberta_counts_positions_from_behind_its_padding_token(padding, positions):
    assert size(make_config("roberta", pad_token_id=padding).to_dict(), "positions") == positions
    assert size(make_config("mpnet", pad_token_id=padding).to_dict(), "positions") == 62


def test_the_longest_text_a_size_allows_is_answered_and_one_token_more_is_not(family, tmp_path):
    import torch
    from conftest import load_tiny

    model = load_tiny(tmp_path / family, family).model
    longest = size(model.config.to_dict(), "positions")
    with torch.inference_mode():
        assert model(input_ids=torch.full((1, longest), 7)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 7))


BERT_LIKE = {**SIZES, "max_position_embeddings": 24, "attention_window": 4, "pad_token_id": 1}
GPT_LIKE = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 24}


@pytest.mark.parametrize(
    ("family", "words", "positions"),
    [
        ("data2vec-text", BERT_LIKE, 22), ("ibert", BERT_LIKE, 22), ("longformer", BERT_LIKE, 22),
        ("roberta-prelayernorm", BERT_LIKE, 22), ("xlm-roberta-xl", BERT_LIKE, 22), ("megatron-bert", BERT_LIKE, 24),
        ("gpt_bigcode", GPT_LIKE, 24), ("openai-gpt", GPT_LIKE, 24),
    ],
)  # fmt: skip
def test_a_text_is_cut_to_the_positions_of_a_family_that_nobody_knows(family, words, positions):
    import torch
    from conftest import PIECES, make_splits, make_tokenizer
    from transformers import AutoConfig, AutoModel

    from distill.checkpoint import Checkpoint

    given = {key: value for key, value in words.items() if key != "attention_window" or family == "longformer"}
    model = AutoModel.from_config(AutoConfig.for_model(family, vocab_size=len(PIECES), **given)).eval()
    assert size(model.config.to_dict(), "positions") == positions
    data = make_splits()
    long = replace(data.train, texts=[(" ".join(["the", *text.split()] * 4),) for (text,) in data.train.texts])
    data = replace(data, train=long, words=data.words.model_copy(update={"max_length": None}))
    encoded = Checkpoint(model, make_tokenizer()).encode(data, "train")
    assert encoded.truncated == len(encoded) and set(encoded.lengths) == {positions}
    ids = torch.full((1, positions), 7)
    with torch.inference_mode():
        assert model(input_ids=ids).last_hidden_state.isfinite().all()


def test_sizes_of_an_unknown_family_are_none_or_read_from_the_usual_keys():
    assert size({"model_type": "unheard-of"}, "layers") is None
    assert size({"model_type": "unheard-of", "num_hidden_layers": 3}, "layers") == 3
    assert size({"model_type": "unheard-of", "n_layer": 3, "d_model": 8}, "layers") == 3
    assert size({"model_type": "unheard-of", "n_layer": 3, "d_model": 8}, "hidden_size") == 8
    two_sided = {"model_type": "unheard-of", "num_layers": 3, "num_decoder_layers": 2}  # it may be of one side alone
    assert size(two_sided, "layers") is None
    assert size({}, "positions") is None


def test_albert_refuses_to_lose_layers_and_says_why():
    assert "share one set of weights" in refuse({"model_type": "albert"}, "layers")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "albert"])
def test_other_families_refuse_nothing(name):
    assert refuse({"model_type": name}, "layers") is None


def test_an_unknown_family_is_named_with_its_nearest():
    with pytest.raises(CheckpointError, match=r"model type 'distillbert'.*distilbert"):
        family_of({"model_type": "distillbert"})


@pytest.mark.parametrize(
    "rotary", [{"rope_parameters": {"rope_type": "dynamic"}}, {"rope_scaling": {"type": "dynamic"}}]
)
def test_rotary_positions_that_hang_on_a_batchs_length_become_no_graph(rotary):
    assert "hang on how long a batch is" in refuse({"model_type": "llama", **rotary}, "graph")
    assert refuse({"model_type": "llama", "rope_parameters": {"rope_type": "llama3"}}, "graph") is None
    assert refuse({"model_type": "llama", "rope_scaling": "dynamic"}, "graph") is None
