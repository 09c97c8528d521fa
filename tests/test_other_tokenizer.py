"""A student whose tokenizer is not its teacher's: it learns what is said of whole texts, never of tokens."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import LABELS, PIECES, SIZES, make_splits, make_tokenizer, rows, save_tiny
from made_tasks import TAGS, tagged, write_jsonl
from writers import build_writer, make_pairs

from distill import Data, Distill, checkpoint, preflight
from distill.checkpoint import Checkpoint
from distill.cli import main
from distill.distillation import Lesson, distill
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError
from distill.recipe import load
from distill.signals import Signals
from distill.teacher import saved

FAST = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0, "epochs": 1}
HALVES = [
    *PIECES[:5],
    *sorted({part for word in PIECES[5:] for part in (f"{word[0]}", f"##{word[1:]}") if part != "##"}),
]


def in_pieces():
    """A WordPiece tokenizer that cuts each word behind its first letter: other tokens, and more of them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    cutter = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(HALVES)}, unk_token="[UNK]"))
    cutter.normalizer = normalizers.Lowercase()
    cutter.pre_tokenizer = pre_tokenizers.Whitespace()
    cutter.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=cutter, model_max_length=20, model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )  # fmt: skip


def save_other(folder: Path, labels: tuple[str, ...] = LABELS, head: str = "SequenceClassification") -> Path:
    """A tiny RoBERTa that cuts words in two and reads 20 tokens at most."""
    import transformers

    torch.manual_seed(2)
    sizes = {**SIZES, "num_hidden_layers": 2, "vocab_size": len(HALVES), "max_position_embeddings": 40}
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    config = transformers.RobertaConfig(**sizes, pad_token_id=0, **(names if labels else {}))
    getattr(transformers, f"AutoModelFor{head}").from_config(config).save_pretrained(folder)
    in_pieces().save_pretrained(folder)
    return folder


def run(path: Path, folder: Path, *overrides: str):
    words = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(main, ["run", str(path), "--output", str(folder), *words])


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Checkpoint:
    return checkpoint.load(save_other(tmp_path_factory.mktemp("other") / "roberta"))


# ------------------------------------------------------------------------------------------------ text by text


@pytest.mark.parametrize("texts", [1, 2])
def test_each_reads_its_own_tokens_cut_to_its_own_length(bert, other, texts, monkeypatch):
    data = make_splits(texts=texts, number=30)
    data = replace(data, words=Data(source="made"), _encoded={})  # no length that would be that of both
    mine, theirs = other.encode(data, "train"), bert.encode(data, "train")
    assert mine.lengths.max() == 20 and mine.truncated > 0 and theirs.truncated == 0
    assert mine.types is None and theirs.types is not None
    own = answer_all(Torch(bert.model), theirs)
    heard: dict[int, torch.Tensor] = {}
    read: dict[int, list[int]] = {}
    forward = Lesson.forward

    def spy(self: Lesson, batch: dict[str, torch.Tensor], signals: Signals) -> object:
        rows = batch["rows"].tolist()
        heard.update(zip(rows, signals.logits, strict=True))
        real = batch["attention_mask"].bool()
        read.update({row: batch["input_ids"][i][real[i]].tolist() for i, row in enumerate(rows)})
        return forward(self, batch, signals)

    monkeypatch.setattr(Lesson, "forward", spy)
    distill(other, Distill(**FAST), data=data, teacher=bert)
    assert np.allclose(np.stack([heard[row].numpy() for row in range(len(own))]), own, atol=1e-5)
    assert all(read[row] == mine.tokens[row].tolist() for row in read)


def test_a_run_learns_from_signals_that_a_student_of_the_teachers_tokens_has_left(
    recipe_file, tmp_path, headed, without_memory, monkeypatch
):
    passes = []
    write = saved.Layout.write
    monkeypatch.setattr(saved.Layout, "write", lambda self, *to: passes.append(self) or write(self, *to))
    steps = [{"distill": {**FAST, "epochs": 2}}]
    teacher = {"checkpoint": str(headed)}
    assert run(recipe_file(teacher=teacher, steps=steps), tmp_path / "cut").exit_code == 0
    student = {"checkpoint": str(save_other(tmp_path / "other"))}
    done = run(recipe_file(teacher=teacher, student=student, steps=steps), tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert len(passes) == 1  # what a teacher says of a text hangs on its own tokens alone
    assert "compared text by text" in done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("compared text by text" in note for note in report["notes"])
    assert any("tokens in a test text (median)" in note for note in report["notes"])
    made = checkpoint.load(tmp_path / "run" / "1-distill")
    assert made.tokenizer.get_vocab() == in_pieces().get_vocab()


def test_a_student_of_any_tokenizer_learns_the_texts_that_its_teacher_writes(caplog):
    data, teacher = make_pairs(), Checkpoint(build_writer("t5", 1), make_tokenizer())
    pupil = Checkpoint(build_writer("t5"), make_tokenizer([*PIECES[:5], "unheard", *PIECES[5:-1]]))
    caplog.set_level(logging.INFO)
    distill(pupil, Distill(targets="teacher", **FAST), data=data, teacher=teacher)
    assert "signals" not in caplog.text  # it is asked for texts and for nothing else
    with pytest.raises(CheckpointError, match=r"different tokens.*targets: teacher"):
        distill(pupil, Distill(**FAST), data=data, teacher=teacher)


# ------------------------------------------------------------------------------------------------- token by token

WORDS = {"text": "words", "label": "tags", "validation": 0.2, "test": 0.2}


@pytest.fixture
def tagging(recipe_file, tmp_path):
    """A recipe for words with tags, whose student is a checkpoint of its own."""
    source = write_jsonl(tmp_path / "tagged.jsonl", tagged(80))
    steps = [{"distill": {"imitate": {"logits": 1.0}, "epochs": 1}}]

    def write(student: Path, **sections: object) -> Path:
        told = {"task": "token-classification", "student": {"checkpoint": str(student)}, "steps": steps}
        return recipe_file(**{**told, "data": {"source": str(source), **WORDS}, **sections})

    return write


@pytest.mark.parametrize("kept", ["off", None])
def test_padding_is_each_models_own(kept, monkeypatch):
    """A decoder's classifier reads its answer off the last token that isn't padding; another's it may not even know."""
    import families

    data = make_splits()
    model = families.build("gpt2-plain", "SequenceClassification", vocab_size=len(PIECES), num_labels=3)
    tokenizers = [make_tokenizer() for _ in range(2)]
    tokenizers[1].add_special_tokens({"pad_token": "[MORE]"})
    teacher, student = (Checkpoint(copy.deepcopy(model), tokenizer) for tokenizer in tokenizers)
    student.model.resize_token_embeddings(len(tokenizers[1]))
    for one in (teacher, student):
        one.model.config.pad_token_id = one.tokenizer.pad_token_id
    mine, theirs = student.encode(data, "train"), teacher.encode(data, "train")
    assert (mine.pad, theirs.pad) == (len(PIECES), 0) and np.array_equal(mine.ids, theirs.ids)
    expected = answer_all(Torch(teacher.model), theirs, data.task)
    heard: dict[int, np.ndarray] = {}
    forward = Lesson.forward

    def spy(self: Lesson, batch: dict, signals: Signals) -> object:
        heard.update(zip(batch["rows"].tolist(), signals.logits.numpy(), strict=True))
        return forward(self, batch, signals)

    monkeypatch.setattr(Lesson, "forward", spy)
    words = Distill(**{**FAST, "signals": kept and {"logits": kept}, "imitate": {"logits": 1.0}})
    distill(student, words, data=data, teacher=teacher)
    assert np.allclose(np.stack([heard[row] for row in range(len(expected))]), expected, atol=1e-5)


def test_logits_by_token_are_refused_before_anything_is_loaded(tagging, tmp_path):
    path = tagging(save_other(tmp_path / "other", TAGS, "TokenClassification"))
    for command in (["check", str(path)], ["run", str(path), "--output", str(tmp_path / "run")]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and not (tmp_path / "run").exists()
        assert done.stderr.count("error: ") == 1
        assert "steps.0.distill.imitate.logits: student and teacher have different tokenizers, and a " in done.stderr
        assert "take a student with the teacher's tokenizer" in done.stderr
    texts = tagging(save_other(tmp_path / "more", TAGS, "TokenClassification"), steps=[{"finetune": {"epochs": 1}}])
    assert preflight.prepare(load(texts)).problems == []


def test_a_vocabulary_that_was_trimmed_cuts_words_as_before(tagging, tmp_path, body):
    trimmed = save_tiny(tmp_path / "trimmed", num_hidden_layers=1)
    rest = [piece for piece in PIECES if piece not in ("award", "cinema")]
    make_tokenizer([*PIECES[:5], *reversed(rest[5:])]).save_pretrained(trimmed)
    assert not checkpoint.same_tokenizer(trimmed, body)
    source = write_jsonl(
        tmp_path / "few.jsonl", [row for row in tagged(120) if not {"award", "cinema"} & {*row["words"]}]
    )
    assert preflight.prepare(load(tagging(trimmed, data={"source": str(source), **WORDS}))).problems == []


def test_a_vocabulary_of_other_tokens_is_refused_where_logits_are_over_it(recipe_file, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(text for text, _ in rows(80)) + "\n")
    plain = {"task": "masked-language-modelling", "data": {"source": str(lines), "max_length": 16}}
    own = {"checkpoint": str(save_other(tmp_path / "other", (), "MaskedLM"))}
    steps = [{"distill": {"imitate": {"logits": 1.0}, "epochs": 1}}]
    (problem,) = preflight.prepare(load(recipe_file(**plain, student=own, steps=steps))).problems
    assert problem.startswith("steps.0.distill.imitate.logits: ") and "over the tokens that there are" in problem
    assert "`finetune` without a teacher" in problem
