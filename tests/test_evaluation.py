"""Checkpoints that are measured: size, parameters, batches, latency, and each held against the first."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import load_tiny, make_splits
from scripted import Scripted, one_hot

from distill import evaluate
from distill.engines import OnnxRuntime, Torch, answer_all
from distill.errors import CheckpointError
from distill.evaluation import Subject, make_ledger, score, subjects_in
from distill.evaluation.quality import measure_quality
from distill.evaluation.timing import measure_latency
from distill.recipe import settings

MANY = "multi_label_classification"
QUICK = settings.Timing(batch=[1, 3], rounds=3)

# ------------------------------------------------------------------------------------- int8 at batch 1 and 32


@pytest.mark.parametrize(("worse", "batch"), [(1, 1), (32, 32)])
def test_int8_is_scored_at_batch_1_and_32_and_the_worse_counts(data, bert, worse, batch):
    encoded = bert.encode(data, "test")
    right, wrong = one_hot(encoded.labels), one_hot((encoded.labels + 1) % 3)
    engine = Scripted({size: wrong if size == worse else right for size in (1, 32)})
    found = measure_quality(engine, encoded, data.task)
    assert found.score == 0 and found.batch == batch
    assert {rows for rows, _ in engine.shapes} == {1, 30}  # one at a time, and all 30 in a batch of at most 32
    assert (found.predictions == wrong.argmax(-1)).all()


def test_what_does_not_depend_on_its_batch_is_scored_once(data, bert):
    encoded = bert.encode(data, "test")
    engine = Scripted({32: one_hot(encoded.labels)}, batch_dependent=False)
    found = measure_quality(engine, encoded, data.task)
    assert found.score == 1 and found.batch is None


def test_only_the_int8_graph_depends_on_its_batch(quantized, bert):
    assert OnnxRuntime(quantized / "model_int8.onnx").batch_dependent
    assert not OnnxRuntime(quantized / "model.onnx").batch_dependent
    assert not Torch(bert.model).batch_dependent


# ------------------------------------------------------------------------------------- subjects: size, parameters


def test_bytes_are_those_of_the_files_that_one_engine_needs(quantized, bert, tmp_path):
    small, large = (found for found in subjects_in("x", quantized)[::-1])
    assert (small.format, large.format) == ("onnx-int8", "onnx-fp32")
    aside = ("config.json", "tokenizer.json", "tokenizer_config.json")
    rest = sum((quantized / name).stat().st_size for name in aside)
    assert small.bytes == rest + (quantized / "model_int8.onnx").stat().st_size
    assert large.bytes == rest + (quantized / "model.onnx").stat().st_size
    folder = bert.save(tmp_path / "torch")
    (folder / "README.md").write_text("not needed to answer" * 1000)
    (found,) = subjects_in("y", folder)
    sizes = (path.stat().st_size for path in folder.iterdir() if path.name in (*aside, "model.safetensors"))
    assert found.bytes == sum(sizes)


def test_external_data_of_a_graph_counts(quantized, tmp_path):
    folder = shutil.copytree(quantized, tmp_path / "copy")
    before = {found.format: found.bytes for found in subjects_in("x", folder)}
    (folder / "model.onnx.data").write_bytes(b"0" * 1000)
    after = {found.format: found.bytes for found in subjects_in("x", folder)}
    assert after == {"onnx-fp32": before["onnx-fp32"] + 1000, "onnx-int8": before["onnx-int8"]}


def test_the_parameters_of_a_graph_are_about_those_of_torch(quantized, bert):
    assert bert.parameters == sum(parameter.numel() for parameter in bert.model.parameters())
    for found in subjects_in("x", quantized):
        assert found.parameters == pytest.approx(bert.parameters, rel=0.01), found.format


def test_a_folder_that_holds_nothing_to_run_or_other_labels_is_refused(quantized, data, tmp_path):
    with pytest.raises(CheckpointError, match="neither safetensors nor an ONNX graph"):
        (tmp_path / "config.json").write_text((quantized / "config.json").read_text())
        subjects_in("x", tmp_path)
    other = replace(data, task=replace(data.task, labels=("a", "b", "c")))
    with pytest.raises(CheckpointError, match="its labels are film, money, sport, the data's a, b, c"):
        subjects_in("x", quantized, other)


def test_the_threshold_of_the_config_is_the_one_that_is_scored_with(tmp_path):
    data = make_splits(MANY)
    found = load_tiny(tmp_path / "bert", problem_type=MANY)
    found.model.config.threshold = 0.05
    folder = found.save(tmp_path / "saved")
    (subject,) = subjects_in("x", folder, data)
    assert subject.threshold == 0.05
    logits = answer_all(Torch(found.model), found.encode(data, "test"))
    assert (score(subject, data).predictions == (1 / (1 + np.exp(-logits)) >= 0.05)).all()


# ------------------------------------------------------------------------------------- timing


def test_latency_fills_every_cell_and_interleaves(bert, data):
    turns: list[str] = []

    class Named(Scripted):
        def answer(self, batch: dict[str, np.ndarray]) -> np.ndarray:
            turns.append(self.name)
            return super().answer(batch)

    engines = [Named({}), Named({}), Named({})]
    for engine, engine.name in zip(engines, "abc", strict=True):
        engine.by_size = {1: one_hot(np.zeros(1, int)), 32: one_hot(np.zeros(3, int))}
    encoded = bert.encode(data, "test")
    threads = torch.get_num_threads()
    found = measure_latency(engines, [encoded] * 3, QUICK)
    assert torch.get_num_threads() == threads
    tokens = int(np.median(encoded.lengths))
    for row, engine in zip(found, engines, strict=True):
        assert [(cell.engine, cell.batch, cell.tokens, cell.threads, cell.rounds) for cell in row] == [
            (engine.name, 1, tokens, 1, 3), (engine.name, 3, tokens, 1, 3),
        ]  # fmt: skip
        assert all(0 <= cell.p50_ms <= cell.p95_ms and cell.cpu_ms >= 0 for cell in row)
        assert set(engine.shapes) == {(1, tokens), (3, tokens)}
    assert Counter(turns) == {"a": 10, "b": 10, "c": 10}  # two to warm up and three rounds, for two batch sizes
    assert sorted(turns[6:9]) == sorted(turns[9:12]) == ["a", "b", "c"] and turns[6:9] != turns[9:12]


def test_latency_takes_the_tokens_it_was_told(bert, data):
    (cells,) = measure_latency([Torch(bert.model)], [bert.encode(data, "test")], QUICK.model_copy(update={"tokens": 7}))
    assert [(cell.batch, cell.tokens) for cell in cells] == [(1, 7), (3, 7)]


# ------------------------------------------------------------------------------------- evaluate


def test_evaluate_holds_every_format_against_the_first(bert, data, quantized, without_memory):
    ledger = evaluate({"teacher": bert, "small": quantized}, data=data, timing=QUICK)
    assert [(found.name, found.format) for found in ledger.rows] == [
        ("teacher", "transformers"), ("teacher", "onnx-fp32"), ("small", "onnx-fp32"), ("small", "onnx-int8"),
    ]  # fmt: skip
    teacher, _, exact, small = ledger.rows
    assert teacher.retained is None and teacher.p_value is None
    assert (exact.retained, exact.p_value) == (1, 1)
    assert small.retained == pytest.approx(small.score / teacher.score)
    assert [found.scored_at_batch is None for found in ledger.rows] == [True, True, True, False]
    assert all(len(found.latency) == 2 and found.memory_mb == 123 and found.n == 30 for found in ledger.rows)
    assert teacher.latency[0].engine == "torch" and small.latency[0].engine == "onnxruntime"
    encoded = bert.encode(data, "test")
    by_hand = (answer_all(Torch(bert.model), encoded).argmax(-1) == encoded.labels).mean()
    assert teacher.score == pytest.approx(float(by_hand))


def test_a_teacher_that_scores_nothing_gives_no_share_kept(bert, data, without_memory, tmp_path):
    folder = bert.save(tmp_path / "a")
    subject = Subject("a", "transformers", folder, bert.tokenizer, bert)
    none, some = (replace(score(subject, data), score=value) for value in (0.0, 0.5))
    ledger = make_ledger([subject, replace(subject, name="b")], [none, some], data, QUICK)
    assert ledger.last.retained is None
    json.dumps(ledger.last.as_dict(), allow_nan=False)
