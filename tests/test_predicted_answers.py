"""A Predictor answers as torch does: one text or many, pairs, every problem; a folder that can't answer is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS, load_tiny, make_splits
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from distill import Predictor, anatomy, export
from distill.checkpoint import Checkpoint, load
from distill.distillation import settle
from distill.errors import CheckpointError, DistillError
from distill.shipping import preprocessing

MANY, NUMBER = "multi_label_classification", "regression"


@pytest.fixture(scope="module")
def graph(quantized, tmp_path_factory):
    """The fp32 graph alone."""
    folder = shutil.copytree(quantized, tmp_path_factory.mktemp("run") / "graph")
    (folder / "model_int8.onnx").unlink()
    return folder


TEXTS = ["goal match team score", "the bank and the fund", "actor", "a price of the stock and of the trade in it"]


def by_torch(checkpoint: Checkpoint, texts: list) -> np.ndarray:
    columns = [list(column) for column in zip(*texts, strict=True)] if isinstance(texts[0], tuple) else [texts]
    given = checkpoint.tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return checkpoint.model(**given).logits.numpy()


@pytest.mark.parametrize("form", ["transformers", "onnx-fp32", "onnx-int8"])
def test_a_predictor_agrees_with_torch(form, bert, quantized, graph, tmp_path):
    folder = {"onnx-int8": quantized, "onnx-fp32": graph}.get(form) or bert.save(tmp_path / "torch")
    predictor = Predictor(folder)
    assert predictor.engine.format == form
    expected = torch.tensor(by_torch(bert, TEXTS)).softmax(-1).numpy()
    close = 0.02 if form == "onnx-int8" else 1e-5
    for answer, probabilities in zip(predictor.predict(TEXTS), expected, strict=True):
        ((label, probability),) = answer.items()
        assert probability == pytest.approx(float(probabilities[LABELS.index(label)]), abs=close)
        assert probability >= probabilities.max() - close


def test_a_predictor_answers_one_text_as_it_answers_many(graph):
    predictor, many = Predictor(graph), TEXTS * 20  # more than are asked at once
    alone = [predictor.predict([text])[0] for text in TEXTS]
    for found, expected in zip(predictor.predict(many), alone * 20, strict=True):
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_predictor_answers_pairs(bert, graph, tmp_path):
    pairs = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    expected = torch.tensor(by_torch(bert, pairs)).softmax(-1).numpy()
    assert not np.allclose(by_torch(bert, pairs), by_torch(bert, TEXTS), atol=1e-3)
    for folder in (graph, bert.save(tmp_path / "torch")):
        for answer, probabilities in zip(Predictor(folder).predict(pairs), expected, strict=True):
            assert answer == pytest.approx({LABELS[probabilities.argmax()]: float(probabilities.max())}, abs=1e-5)


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "BertTokenizerFast", "DistilBertTokenizer", None])
def test_pairs_are_told_apart_as_transformers_does_where_a_folder_does_not_say(bert, tmp_path, kind):
    """Such folders are transformers' own, and what is made of them says it."""
    bert.model.save_pretrained(tmp_path / "stock")
    bert.tokenizer.save_pretrained(tmp_path / "stock")
    path = tmp_path / "stock" / "tokenizer_config.json"
    words = json.loads(path.read_text()) | {"tokenizer_class": kind}
    path.write_text(json.dumps({word: words[word] for word in words if word != "model_input_names" and words[word]}))
    pairs = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    loaded = load(tmp_path / "stock")
    assert ("token_type_ids" in loaded.tokenizer("a", "b")) == (kind in ("BertTokenizerFast", None))
    expected = torch.tensor(by_torch(loaded, pairs)).softmax(-1).numpy()
    for folder in (tmp_path / "stock", loaded.save(tmp_path / "ours")):
        for answer, probabilities in zip(Predictor(folder).predict(pairs), expected, strict=True):
            assert answer == pytest.approx({LABELS[probabilities.argmax()]: float(probabilities.max())}, abs=1e-5)
    told = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
    assert told["model_input_names"] == list(loaded.tokenizer.model_input_names)


def test_the_tables_of_tokenizers_with_token_types_are_transformers_own():
    for name in preprocessing._TYPED:
        assert "token_type_ids" in getattr(transformers, name).model_input_names
    for model_type, name in TOKENIZER_MAPPING_NAMES.items():
        if model_type in preprocessing._TYPED_MODELS:
            assert name in preprocessing._TYPED
        elif model_type in anatomy.FAMILIES and name is not None:
            assert name not in preprocessing._TYPED


def test_a_predictor_cuts_texts_as_training_did(bert, graph):
    long = " ".join(TEXTS * 12)
    assert len(bert.tokenizer(long)["input_ids"]) > 48
    expected = torch.tensor(by_torch(bert, [long])).softmax(-1)
    assert list(Predictor(graph).predict([long])[0].values()) == pytest.approx([float(expected.max())], abs=1e-5)


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_predictor_answers_many_labels_by_the_threshold_of_the_config(tmp_path, as_graph):
    data = make_splits(MANY)
    found = load_tiny(tmp_path / "bert", problem_type=MANY)
    settle(found, data)
    expected = 1 / (1 + np.exp(-by_torch(found, TEXTS)))
    found.model.config.threshold = float(np.median(expected))
    folder = tmp_path / "saved"
    export.as_graph(found, data=data, folder=folder) if as_graph else found.save(folder)
    for answer, probabilities in zip(Predictor(folder).predict(TEXTS), expected, strict=True):
        over = {name: float(p) for name, p in zip(LABELS, probabilities, strict=True) if p >= np.median(expected)}
        assert answer == pytest.approx(over, abs=1e-5)
        assert list(answer.values()) == sorted(answer.values(), reverse=True)


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_predictor_answers_a_regression_with_its_number(tmp_path, as_graph):
    data = make_splits(NUMBER)
    found = load_tiny(tmp_path / "bert", labels=("degree",), problem_type=NUMBER)
    folder = tmp_path / "saved"
    export.as_graph(found, data=data, folder=folder) if as_graph else found.save(folder)
    expected = by_torch(found, TEXTS)[:, 0]
    assert [answer["degree"] for answer in Predictor(folder).predict(TEXTS)] == pytest.approx(list(expected), abs=1e-5)


def test_a_predictor_never_imports_torch_where_there_is_a_graph(quantized):
    script = (
        "import sys; from distill import Predictor; "
        f"print(Predictor({str(quantized)!r}).predict(['goal match'])); "
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip()[2:-2].split("'")[1] in LABELS


def test_a_predictor_takes_the_result_of_a_runs_folder(quantized, tmp_path):
    folder = shutil.copytree(quantized, tmp_path / "2-quantize")
    (tmp_path / "report.json").write_text(json.dumps({"rows": [{"name": "teacher"}, {"name": "2-quantize"}]}))
    assert Predictor(tmp_path).folder == folder


def test_a_predictor_reads_long_texts_to_the_end_where_the_model_does(tmp_path):
    found = load_tiny(tmp_path / "bert", max_position_embeddings=700)
    found.tokenizer.model_max_length = 700
    long = " ".join(["of"] * 600 + ["goal"] * 50)
    expected = torch.tensor(by_torch(found, [long])).softmax(-1)
    answer = Predictor(found.save(tmp_path / "saved")).predict([long])[0]
    assert list(answer.values()) == pytest.approx([float(expected.max())], abs=1e-6)


def test_a_folder_that_cannot_answer_is_refused_with_the_reason(tmp_path, body, quantized):
    with pytest.raises(CheckpointError, match="no such folder"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(DistillError, match=r"BertModel.*no head for text-classification"):
        Predictor(body)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("task: text-classification")
    with pytest.raises(CheckpointError, match="a run that did not finish"):
        Predictor(tmp_path / "run")
    mute = shutil.copytree(quantized, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Predictor(mute)
