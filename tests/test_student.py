"""A student keeps exactly what it was given, for every family; what can't be a student is refused with the reason."""

from __future__ import annotations

import pytest
import torch
from conftest import LABELS, load_tiny, make_config, make_splits, make_tokenizer, save_tiny
from families import untied
from tiny_models import same
from transformers import AutoModelForSequenceClassification

from distill import Distill, cut, student
from distill import checkpoint as checkpoints
from distill.checkpoint import Checkpoint
from distill.distillation import distill
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError
from distill.recipe import settings
from distill.tasks import TextClassification

TASK = TextClassification("single_label_classification", LABELS, "accuracy")


@pytest.fixture(scope="module")
def teacher(family, tmp_path_factory) -> Checkpoint:
    return load_tiny(tmp_path_factory.mktemp(family) / family, family)


def layers_of(checkpoint: Checkpoint) -> list[torch.nn.Module]:
    base = checkpoint.model.base_model
    return list((base.transformer if checkpoint.model.config.model_type == "distilbert" else base.encoder).layer)


def outside_the_stack(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in checkpoint.model.state_dict().items() if ".layer." not in name}


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[2, 30, 31, 32, 33, 3], [2, 25, 26, 3, 0, 0]])
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits


@pytest.mark.parametrize(
    ("layers", "choose", "kept"), [(2, "even", [2, 4]), (3, "first", [1, 2, 3]), ([1, 4], "even", [1, 4])]
)
def test_a_cut_keeps_the_weights_of_the_chosen_layers_embeddings_and_head(teacher, layers, choose, kept):
    pupil = cut(teacher, layers, choose)
    mine, theirs = layers_of(pupil), layers_of(teacher)
    assert len(mine) == len(kept)
    assert all(same(mine[i].state_dict(), theirs[k - 1].state_dict()) for i, k in enumerate(kept))
    assert same(outside_the_stack(pupil), outside_the_stack(teacher))
    assert pupil.model.config.num_hidden_layers == len(kept)
    assert pupil.labels == list(LABELS)


def test_keeping_all_layers_gives_equal_logits(teacher):
    assert torch.equal(logits(cut(teacher, 4).model), logits(teacher.model))


def test_leaving_layers_out_gives_other_logits(teacher):
    assert not torch.allclose(logits(cut(teacher, 2).model), logits(teacher.model), atol=1e-4)


def test_a_saved_student_reloads_to_identical_logits_with_stock_transformers(teacher, tmp_path):
    pupil = cut(teacher, 2)
    folder = pupil.save(tmp_path / "student")
    stock, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(logits(stock), logits(pupil.model))
    assert stock.config.id2label == dict(enumerate(LABELS))


def test_the_teacher_is_unchanged_and_shares_no_memory_with_the_student(teacher):
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    pupil = cut(teacher, 3)
    places = {tensor.data_ptr() for tensor in teacher.model.state_dict().values()}
    assert not places & {tensor.data_ptr() for tensor in pupil.model.state_dict().values()}
    with torch.no_grad():
        for parameter in pupil.model.parameters():
            parameter.zero_()
    assert same(before, teacher.model.state_dict())
    assert teacher.model.config.num_hidden_layers == 4


def test_a_cut_student_keeps_the_dtype_of_its_teacher(bert):
    half = Checkpoint(bert.copy().model.bfloat16(), bert.tokenizer)
    assert {parameter.dtype for parameter in cut(half, 2).model.parameters()} == {torch.bfloat16}


def test_albert_is_refused_with_the_reason(tmp_path):
    with pytest.raises(CheckpointError, match="share one set of weights"):
        cut(load_tiny(tmp_path / "albert", "albert"), 2)


def test_a_family_that_is_not_known_is_refused_by_name(tmp_path):
    config = make_config("deberta-v2", num_labels=3)
    stranger = Checkpoint(AutoModelForSequenceClassification.from_config(config), make_tokenizer())
    with pytest.raises(CheckpointError, match=r"model type 'deberta-v2'.*known: bert, .*anatomy/families\.py"):
        cut(stranger, 2)


@pytest.mark.parametrize("layers", [5, [2, 5]])
def test_more_layers_than_the_teacher_has_is_an_error(bert, layers):
    with pytest.raises(CheckpointError, match="the teacher has 4 layers"):
        cut(bert, layers)


# ------------------------------------------------------------------------------------- from a config


SMALL = {
    "model_type": "bert",
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def test_a_student_from_a_config_has_seeded_random_weights(bert):
    one, again, other = (student.from_config(SMALL, bert, TASK, seed=seed) for seed in (1, 1, 2))
    assert same(one.model.state_dict(), again.model.state_dict())
    assert not same(one.model.state_dict(), other.model.state_dict())
    assert one.labels == list(LABELS)
    config = one.model.config
    assert (config.hidden_size, config.num_hidden_layers) == (16, 1)
    assert config.vocab_size == bert.model.config.vocab_size
    assert one.tokenizer is bert.tokenizer and not one.model.training


def test_a_config_may_use_the_familys_other_names_for_a_size(bert):
    made = student.from_config(
        {"model_type": "distilbert", "num_hidden_layers": 1, "dim": 32, "n_heads": 2}, bert, TASK, seed=0
    )
    assert len(layers_of(made)) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bertt"}, r"no model type 'bertt'; did you mean 'bert'\?"),
        ({**SMALL, "hidden_sise": 16}, r"student\.config\.hidden_sise: .*did you mean 'hidden_size'\?"),
        ({**SMALL, "num_attention_heads": 3}, r"student\.config"),
        ({**SMALL, "hidden_act": 3}, r"student\.config: .*'hidden_act' expected str, got int"),
        ({**SMALL, "layer_norm_eps": "1e-12"}, r"student\.config: .*layer_norm_eps"),
    ],
)
def test_a_config_that_cannot_be_is_named_with_the_nearest_word(bert, config, words):
    with pytest.raises(CheckpointError, match=words):
        student.from_config(config, bert, TASK, seed=0)
    with pytest.raises(CheckpointError, match=words):  # before anything is loaded
        student.check_config(config, TASK.auto_class, {"vocab_size": 40})
    student.check_config(SMALL, TASK.auto_class, {"vocab_size": 40})


def test_a_config_takes_its_padding_from_the_teacher(bert):
    """ModernBERT's own lies beyond a small vocabulary."""
    config = {"model_type": "modernbert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 16}
    student.check_config(config, TASK.auto_class, {"vocab_size": 40, "pad_token_id": 0})
    assert student.from_config(config, bert, TASK, seed=0).model.config.pad_token_id == bert.tokenizer.pad_token_id


def test_a_two_sided_student_of_a_config_reads_from_padding_to_the_tokenizers_end(bert):
    config = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    made = student.from_config(config, bert, TASK, seed=0)
    assert made.model.config.decoder_start_token_id == bert.tokenizer.pad_token_id
    assert made.model.config.eos_token_id == bert.tokenizer.sep_token_id


def test_a_random_copy_of_a_t5_has_a_head_of_its_own_where_the_student_has():
    pupil = Checkpoint(untied("t5-gated"), make_tokenizer())
    made = student.from_random(pupil, seed=1)
    assert made.parameters == pupil.parameters
    assert made.model.lm_head.weight is not made.model.shared.weight


# ------------------------------------------------------------------------------------- a checkpoint of its own


def test_a_student_checkpoint_with_other_labels_gets_a_new_head_on_the_same_body(bert, tmp_path):
    folder = save_tiny(tmp_path / "own", labels=("no", "yes"))
    choice = settings.Student(checkpoint=str(folder))
    made = student.make(choice, bert, TASK, seed=0, folder=folder)
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert made.labels == list(LABELS)
    assert made.model.classifier.weight.shape == (3, 32)
    assert same(made.model.bert.encoder.state_dict(), stock.bert.encoder.state_dict())


def test_a_student_checkpoint_with_the_same_labels_keeps_its_head(bert, tmp_path):
    folder = save_tiny(tmp_path / "own", labels=LABELS)
    made = student.make(settings.Student(checkpoint=str(folder)), bert, TASK, seed=0, folder=folder)
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(made.model.classifier.weight, stock.classifier.weight)


def test_a_student_checkpoint_without_a_head_gets_one(bert, body):
    made = student.make(settings.Student(checkpoint=str(body)), bert, TASK, seed=0, folder=body)
    assert made.labels == list(LABELS) and made.model.classifier.out_features == 3


def test_a_student_checkpoint_that_lacks_weights_of_its_body_is_refused(bert, body, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(body, tmp_path / "torn")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    with pytest.raises(CheckpointError, match=r"the weights lack .*encoder\.layer"):
        student.make(settings.Student(checkpoint=str(folder)), bert, TASK, seed=0, folder=folder)


def test_a_recipe_without_a_checkpoint_cuts_or_builds(bert):
    assert len(layers_of(student.make(settings.Student(layers=1, choose="last"), bert, TASK, seed=0))) == 1
    assert student.make(settings.Student(config=SMALL), bert, TASK, seed=0).model.config.hidden_size == 16


# ------------------------------------------------------------------------------------- of another family


def other_family(bert: Checkpoint, family: str) -> Checkpoint:
    config = {"model_type": family, "max_position_embeddings": 64}
    if family == "distilbert":
        sizes = {"n_layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
        sizes |= {} if family == "mpnet" else {"type_vocab_size": 1}
    return student.from_config({**config, **sizes}, bert, TASK, seed=0)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("texts", [1, 2])
def test_a_student_of_another_family_learns_from_a_bert_with_berts_tokens(bert, family, texts):
    data = make_splits(texts=texts)
    pupil = other_family(bert, family)
    assert (pupil.encode(data, "train").types == 1).any() == (texts == 2)  # the tokenizer's; not the model's
    words = Distill(imitate={"logits": 1.0, "hidden_states": 1.0}, epochs=1, max_steps=2, learning_rate=1e-3)
    made = distill(pupil, words, data=data, teacher=bert)
    assert answer_all(Torch(made.model), made.encode(data, "test")).shape == (30, 3)
    assert not torch.equal(logits(made.model), logits(pupil.model))


def test_a_student_of_another_family_reloads_with_stock_transformers(bert, tmp_path):
    pupil = other_family(bert, "roberta")
    folder = pupil.save(tmp_path / "roberta")
    assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained(folder)), logits(pupil.model))
    assert torch.equal(logits(checkpoints.load(folder).model), logits(pupil.model))


def test_a_new_head_is_new_even_where_the_old_one_has_its_shape(headed):
    fresh = checkpoints.load(headed, TASK, new_head=True, seed=1).model.classifier.weight
    assert not torch.equal(fresh, checkpoints.load(headed, TASK).model.classifier.weight)
    assert torch.equal(fresh, checkpoints.load(headed, TASK, new_head=True, seed=1).model.classifier.weight)


def test_a_head_whose_labels_are_in_another_order_is_not_renamed(headed):
    other = TextClassification("single_label_classification", LABELS[::-1], "accuracy")
    with pytest.raises(CheckpointError, match="its head doesn't fit the data: its labels are"):
        checkpoints.load(headed, other)


def test_a_folder_without_a_tokenizer_is_no_checkpoint(headed, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((headed / file).read_bytes())
    with pytest.raises(CheckpointError, match="no tokenizer in it"):
        checkpoints.locate(str(tmp_path))
