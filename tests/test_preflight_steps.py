"""What a later step would refuse is refused before anything is trained: parts, tasks, states, tokens, sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from checked import FINETUNE, only_problem, plain_config, plan_of
from conftest import PIECES, make_config, make_tokenizer, save_tiny
from language_models import CAUSAL, MASKED, save_language, tokenizer_of
from writers import CONFIGS, save_writer, write_lines

from distill import anatomy, checkpoint
from distill.anatomy import FAMILIES
from distill.checkpoint import heads
from distill.distillation import held_out
from distill.errors import CheckpointError
from distill.pipeline.teachers import load_models
from distill.recipe import load

LOGITS = {"distill": {"imitate": {"logits": 1.0}}}


def save_config(folder: Path, model_type: str, **more: object) -> Path:
    """A folder of a config and no weights, without a head that is named."""
    return plain_config(folder, {"model_type": model_type, "architectures": [], **more})


# -------------------------------------------------------------------------------------------------- parts to freeze


@pytest.fixture
def decoder(tmp_path) -> Path:
    """A tiny GPT-2 whose tokenizer pads."""
    folder = save_language(tmp_path / "gpt2", "gpt2")
    tokenizer = tokenizer_of("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


def test_parts_that_a_model_lacks_cannot_be_frozen(recipe_file, decoder):
    teacher, frozen = {"checkpoint": str(decoder), "finetune": FINETUNE}, {"freeze": ["encoder"]}
    steps = [LOGITS, {"finetune": frozen}]
    problem = only_problem(recipe_file(teacher=teacher, student={"layers": 1}, steps=steps))
    assert problem == "steps.1.finetune.freeze: a gpt2 has no encoder; its embeddings can be frozen"
    told = {**teacher, "finetune": {**FINETUNE, **frozen}}
    problem = only_problem(recipe_file(teacher=told, student={"layers": 1}, steps=[LOGITS]))
    assert problem.startswith("teacher.finetune.freeze: a gpt2 has no encoder")
    steps = [{"finetune": {"freeze": ["embeddings"]}}]
    plan_of(recipe_file(teacher=teacher, student={"layers": 1}, steps=steps)).require()


def test_nothing_can_be_frozen_where_nobody_knows_the_layers(recipe_file, tmp_path):
    student = {"checkpoint": str(save_config(tmp_path / "student", "roformer"))}
    steps = [{"distill": {"imitate": {"logits": 1.0}, "freeze": ["embeddings"]}}]
    problem = only_problem(recipe_file(student=student, steps=steps))
    assert problem.startswith("steps.0.distill.freeze: nothing is known about the layers of model type 'roformer'")


# ------------------------------------------------------------------------------------------------ tasks of a model type


def test_transformers_own_tables_are_read_without_it():
    from transformers.models.auto import configuration_auto, modeling_auto

    for auto_class, table in heads.AUTO_CLASSES.items():
        assert dict(getattr(modeling_auto, table)) == heads.tables()[table]
        known = getattr(transformers, auto_class)._model_mapping
        for name in FAMILIES:
            assert heads.has_class(name, auto_class) == (transformers.CONFIG_MAPPING[name] in known), (name, auto_class)
    assert heads.model_types() == set(configuration_auto.CONFIG_MAPPING_NAMES)


@pytest.mark.parametrize("model_type", ["marian", "pegasus"])
@pytest.mark.parametrize("who", ["teacher", "student", "student.config"])
def test_a_task_that_no_class_of_the_model_has_is_refused_with_those_that_some_have(
    recipe_file, tmp_path, body, model_type, who
):
    folder = str(save_config(tmp_path / "writer", model_type))
    teacher = {"checkpoint": folder if who == "teacher" else str(body), "finetune": FINETUNE}
    student = {"config": {"model_type": model_type}} if who == "student.config" else {"checkpoint": folder}
    student = student if who != "teacher" else {"checkpoint": str(body)}
    problem = only_problem(recipe_file(teacher=teacher, student=student, steps=[LOGITS]))
    assert problem.startswith(
        f"{who}: transformers has no class for text-classification that a {model_type} could be "
        f"(AutoModelForSequenceClassification); tasks of a {model_type}: "
    )
    assert problem.endswith("text-to-text, translation, summarization")


def test_a_task_of_another_kind_of_family_is_refused_with_those_of_its_own(recipe_file, tmp_path, body, corpus):
    path = recipe_file(
        task=MASKED, teacher={"checkpoint": str(save_config(tmp_path / "gpt2", "gpt2")), "finetune": FINETUNE},
        student={"checkpoint": str(body)}, data={"source": str(corpus)}, steps=[LOGITS],
    )  # fmt: skip
    problem, broken = plan_of(path).problems
    assert broken.startswith(f"{tmp_path}/gpt2/tokenizer.json: not a tokenizer that can be read: ")
    assert problem == (
        "teacher: masked-language-modelling takes an encoder, and a gpt2 is a decoder; tasks of a gpt2: "
        "text-classification, causal-language-modelling"
    )


SEES_BACK = {
    "bert-generation": {"is_decoder": True}, "roformer": {"is_decoder": True}, "rembert": {"is_decoder": True},
    "ernie": {"is_decoder": True}, "megatron-bert": {"is_decoder": True}, "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
}  # fmt: skip


@pytest.mark.parametrize("model_type", SEES_BACK)
def test_a_causal_head_on_a_model_that_sees_what_it_foretells_is_refused(
    recipe_file, tmp_path, decoder, corpus, model_type
):
    (key,) = SEES_BACK[model_type]
    assert getattr(transformers.CONFIG_MAPPING[model_type](), key) != SEES_BACK[model_type][key]  # where none is said

    def recipe(name: str, **more: object) -> Path:
        student = str(save_config(tmp_path / name, model_type, **more))
        return recipe_file(
            task=CAUSAL, teacher={"checkpoint": str(decoder)}, student={"checkpoint": student},
            steps=[{"finetune": FINETUNE}],
            data={"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24},
        )  # fmt: skip

    problems = plan_of(recipe("ahead")).problems
    assert any(
        problem.startswith(f"student: a {model_type} whose config doesn't say {key}: ") and "sees the tokens" in problem
        for problem in problems
    ), problems
    assert not any("sees the tokens" in told for told in plan_of(recipe("back", **SEES_BACK[model_type])).problems)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "bloom", "mistral", "mbart", "opt"])
def test_a_decoder_needs_no_word_to_see_earlier_tokens_alone(model_type):
    facts = transformers.CONFIG_MAPPING[model_type]().to_dict()
    assert anatomy.sees_ahead(facts) is None and anatomy.sees_ahead({"model_type": model_type}) is None
    assert anatomy.sees_ahead({}) is None


def test_a_model_that_sees_what_it_foretells_is_not_loaded_for_it(tmp_path, causal):
    for name, more in (("ahead", {}), ("back", {"is_decoder": True})):
        save_language(tmp_path / name, "roformer", **more)
    with pytest.raises(CheckpointError, match=r"a roformer whose config doesn't say is_decoder: true sees the tokens"):
        checkpoint.load(tmp_path / "ahead", causal.task)
    assert checkpoint.load(tmp_path / "back", causal.task).model.config.is_decoder


def test_a_model_type_that_transformers_does_not_know_is_refused(recipe_file, tmp_path):
    steps = [{"distill": {"imitate": {"logits": 1.0}}}]
    problem = only_problem(recipe_file(student={"config": {"model_type": "robertta"}}, steps=steps))
    assert problem == "student.config: transformers knows no model type 'robertta'; did you mean 'roberta'?"
    own = save_config(tmp_path / "own", "mine", auto_map={"AutoModel": "mine.Mine"})
    problem = only_problem(recipe_file(student={"checkpoint": str(own)}, steps=steps))
    assert problem.startswith("student: transformers knows no model type 'mine' without the checkpoint's own code")


# --------------------------------------------------------------------------------------------------- what is imitated


@pytest.fixture
def translation(recipe_file, tmp_path):
    """A recipe that translates, of a writer by the folder of it."""

    def write(folder: Path, **sections: object) -> Path:
        source = write_lines(tmp_path / "lines.csv")
        return recipe_file(
            task="translation", teacher={"checkpoint": str(folder)}, student={"checkpoint": str(folder)},
            data={"source": str(source), "validation": 0.2, "test": 0.2, "max_length": 16},
            generation={"max_new_tokens": 8}, **sections,
        )  # fmt: skip

    return write


@pytest.mark.parametrize("term", ["hidden_states", "attentions", "relations"])
def test_layers_of_an_encoder_decoder_that_nobody_knows_cannot_be_imitated(tmp_path, translation, term):
    facts = {**CONFIGS["bart"][1], "architectures": ["BlenderbotForConditionalGeneration"]}
    folder = plain_config(tmp_path / "blenderbot", {"model_type": "blenderbot", **facts})
    steps = [{"distill": {"imitate": {term: 1.0}}}]
    problem = only_problem(translation(folder, steps=steps))
    words = f"steps.0.distill.imitate.{term}: nothing is known about the layers of model type 'blenderbot' (known: bert"
    assert problem.startswith(words)
    assert "distill/anatomy/families.py: where its layers, their attention" in problem
    assert plan_of(translation(folder, steps=[LOGITS])).problems == []


def test_the_embeddings_have_no_attention_on_either_side(recipe_file, translation, tmp_path):
    asked = {"attentions": {"weight": 1.0, "layers": {"0": 0}}}
    steps = [{"distill": {"imitate": asked}}]
    expected = "steps.0.distill.imitate.attentions.layers: 0 is the embeddings, which have no attention"
    assert only_problem(recipe_file(steps=steps)) == expected
    assert only_problem(translation(save_writer(tmp_path / "bart", "bart"), steps=steps)) == expected


@pytest.mark.parametrize("model_type", ["funnel", "xlnet"])
def test_what_a_model_type_without_a_page_cannot_do_is_told_beforehand(recipe_file, model_type):
    sizes = {"block_sizes": [2, 2]} if model_type == "funnel" else {"n_layer": 4, "d_model": 32, "n_head": 4}
    student = {"config": {"model_type": model_type, **sizes}}
    learn = {"distill": {"imitate": {"hidden_states": 1.0}}}
    if model_type == "funnel":
        problem = only_problem(recipe_file(student=student, steps=[learn]))
        assert problem == "steps.0.distill.imitate: the config of a funnel names no number of layers"
    else:
        plan_of(recipe_file(student=student, steps=[learn])).require()
    problem = only_problem(recipe_file(student=student, steps=[LOGITS, "quantize"]))
    assert problem.startswith(f"steps.1.quantize: the student is a {model_type}; torch can't export its code to ONNX")


def test_layers_are_those_that_earlier_steps_left(recipe_file):
    def steps(layers: list[int]) -> list[dict]:
        return [LOGITS, {"prune": {"layers": 1}}, {"distill": {"imitate": {"hidden_states": map_of(layers)}}}]

    def map_of(layers: list[int]) -> dict:
        return {"weight": 1.0, "layers": layers}

    problem = only_problem(recipe_file(steps=steps([2, 4])))
    assert problem == "steps.2.distill.imitate.hidden_states.layers lists 2 teacher layers for a student of 1"
    plan_of(recipe_file(steps=steps([4]))).require()
    problem = only_problem(recipe_file(steps=[{"prune": {"layers": 1}}, LOGITS, {"prune": {"layers": 1}}]))
    assert problem.startswith("steps.2.prune.layers: 1 of 1 layers can't go")


def test_relation_heads_that_divide_no_width_are_refused_unless_pruning_may_change_it(recipe_file):
    sizes = {"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 16}
    student, relations = {"config": {"model_type": "bert", **sizes}}, {"distill": {"imitate": {"relations": 1.0}}}
    problem = only_problem(recipe_file(student=student, steps=[relations]))
    told = "imitate.relations.heads: vectors 30, 32 wide can't be cut into 4 heads each; a divisor of 2 can"
    assert problem == f"steps.0.distill.{told}"
    asked = {"distill": {"imitate": {"relations": {"weight": 1.0, "heads": 2}}}}
    assert plan_of(recipe_file(student=student, steps=[asked])).problems == []
    assert plan_of(recipe_file(student=student, steps=[{"prune": {"heads": 0.3}}, relations])).problems == []


def test_only_a_task_that_writes_learns_its_teachers_texts(recipe_file):
    from distill.errors import RecipeError

    path = recipe_file(steps=[LOGITS, {"distill": {"targets": "teacher", "imitate": {"labels": 1.0}}}])
    with pytest.raises(RecipeError, match=r"steps\.1\.distill\.targets: text-classification has no use for it"):
        load(path)


def test_a_teacher_of_other_ids_is_asked_before_training(recipe_file, tmp_path):
    off = {"distill": {"imitate": {"logits": 1.0}, "signals": "off"}}
    plan_of(recipe_file(steps=[off, {"prune": {"vocabulary": "used"}}])).require()
    problem = only_problem(recipe_file(steps=[{"prune": {"vocabulary": "used"}}, off]))
    assert problem.startswith("steps.1.distill.signals: off: the teacher reads other token ids than the student")
    own = save_tiny(tmp_path / "student", num_hidden_layers=2)
    text = (own / "tokenizer.json").read_text()
    (own / "tokenizer.json").write_text(text.replace('"goal"', '"aim"'))
    problem = only_problem(recipe_file(student={"checkpoint": str(own)}, steps=[off]))
    assert problem.startswith("steps.0.distill.signals: off: the teacher reads other token ids")


def test_a_graph_labels_no_tokens_behind_a_trimmed_vocabulary(recipe_file, corpus, tmp_path):
    teacher = {"checkpoint": str(save_language(tmp_path / "gpt2", "gpt2"))}
    data = {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24}
    graph = {"distill": {"imitate": {"logits": 1.0}, "signals": {"engine": "onnx-fp32"}}}
    steps = [{"prune": {"vocabulary": "used"}}, graph]
    path = recipe_file(task="causal-language-modelling", teacher=teacher, data=data, student={"layers": 1}, steps=steps)
    assert only_problem(path).startswith("steps.1.distill.signals.engine: onnx-fp32: where a student has other token")


def test_a_rank_is_lower_than_the_one_before(recipe_file):
    steps = [{"prune": {"embeddings": 8}}, LOGITS, {"prune": {"embeddings": 8}}]
    problem = only_problem(recipe_file(steps=steps))
    assert problem == (
        "steps.2.prune.embeddings: a rank of 8 makes a table of 50 × 32, of rank 8 already, no smaller; at most 7 does"
    )


@pytest.mark.parametrize(("family", "tied"), [("bert", True), ("gpt2", True), ("llama", False)])
def test_a_head_is_tied_to_the_embeddings_as_transformers_has_it_where_a_config_is_silent(
    recipe_file, corpus, tmp_path, family, tied
):
    folder = save_language(tmp_path / family, family)
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    path = recipe_file(
        task=MASKED if family == "bert" else CAUSAL, teacher={"checkpoint": str(folder)}, student={"layers": 1},
        data={"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24},
        steps=[LOGITS, {"prune": {"embeddings": 8}}],
    )  # fmt: skip
    problems = plan_of(path).problems
    assert len(problems) == tied
    assert all(problem.startswith("steps.1.prune.embeddings: the head of a") for problem in problems)


def test_vocabularies_apart_cannot_be_trimmed_as_one(tmp_path, translation):
    facts = {**CONFIGS["marian"][1], "architectures": ["MarianMTModel"], "share_encoder_decoder_embeddings": False}
    folder = plain_config(tmp_path / "marian", {"model_type": "marian", **facts})
    problem = only_problem(translation(folder, steps=[{"prune": {"vocabulary": "used"}}]))
    assert problem.startswith("steps.0.prune.vocabulary: encoder and decoder have vocabularies of their own")


# -------------------------------------------------------------------------------------- tokenizers and what reads them


def without(name: str, folder: Path) -> Path:
    """A checkpoint whose tokenizer lacks a special token."""
    tokenizer = make_tokenizer()
    setattr(tokenizer, f"{name}_token", None)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_without_a_padding_token_is_refused_where_texts_are_padded(recipe_file, tmp_path, body):
    student = {"checkpoint": str(without("pad", save_tiny(tmp_path / "student")))}
    problem = only_problem(recipe_file(student=student))
    assert problem == (
        "student: the tokenizer has no pad token, so texts can't be batched; give it one (tokenizer.pad_token = "
        "tokenizer.eos_token, say) and save it"
    )
    teacher = {"checkpoint": str(save_language(tmp_path / "gpt2", "gpt2")), "finetune": FINETUNE}
    problem = only_problem(recipe_file(teacher=teacher, student={"layers": 1}, steps=[LOGITS]))
    assert problem.startswith("teacher: the tokenizer has no pad token")


def test_a_tokenizer_without_a_mask_token_masks_nothing(recipe_file, corpus, tmp_path):
    data = {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24}
    path = recipe_file(
        task=MASKED, teacher={"checkpoint": str(without("mask", save_language(tmp_path / "bert", "bert")))},
        student={"layers": 1}, data=data, steps=[LOGITS],
    )  # fmt: skip
    assert only_problem(path).startswith("teacher: the tokenizer has no mask token, so nothing can be masked")


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}, True),
        ({"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<pad>"}}, False),
        ({"tokenizer_config.json": {"pad_token": None}, "special_tokens_map.json": {"pad_token": "<pad>"}}, False),
        ({"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}}, False),
        ({"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "pad_token": None}}, True),
        ({}, False),
    ],
)
def test_what_a_tokenizers_files_say_of_a_token(tmp_path, files, lacks):
    for name, told in files.items():
        (tmp_path / name).write_text(json.dumps(told))
    assert checkpoint.lacks_token(tmp_path, "pad") == lacks


def test_a_tokenizer_of_which_only_transformers_can_tell_is_refused_before_anything_is_trained(
    recipe_file, tmp_path, monkeypatch
):
    student = {"checkpoint": str(without("pad", save_tiny(tmp_path / "student")))}
    monkeypatch.setattr(checkpoint, "lacks_token", lambda *_: False)
    plan = plan_of(recipe_file(student=student)).require()
    with pytest.raises(CheckpointError, match="student: the tokenizer has no pad token"):
        load_models(plan)


def test_more_tokens_than_a_model_embeds_are_refused(recipe_file, tmp_path, topics):
    few = {"config": {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 10}}
    problem = only_problem(recipe_file(student=few, steps=[LOGITS]))
    assert problem.startswith(
        "student.config.vocab_size: 10, but the student reads with the teacher's tokenizer, which"
    )
    model = transformers.AutoModelForSequenceClassification.from_config(make_config("bert", vocab_size=20))
    small = checkpoint.Checkpoint(model, make_tokenizer())
    with pytest.raises(CheckpointError, match=r"tokens up to number \d\d, but the model embeds 0 to 19 alone"):
        held_out(small, topics)
    assert checkpoint.count_tokens(save_tiny(tmp_path / "whole")) == len(PIECES)


def test_heads_that_do_not_divide_a_students_hidden_size_are_refused(recipe_file):
    student = {"config": {"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}}
    problem = only_problem(recipe_file(student=student, steps=[LOGITS]))
    assert problem.startswith("student.config: the config of this bert says a hidden size of 30 and 4 heads")
