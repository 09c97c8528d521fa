"""Tiny models, their tokenizers and data sets, all built in code: no test touches the network."""

from __future__ import annotations

import csv
import functools
import gc
import json
import os
import random
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Files of tests run side by side, so each takes its share of the cores, and so do the processes that it starts.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(
    max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
)

import pytest
import torch

pytest.register_assert_rewrite("checked", "hostile")  # their asserts tell their values, as a test's do

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

TOPICS = {
    "sport": ["goal", "match", "team", "score", "league", "player", "cup", "coach", "win", "ball"],
    "money": ["bank", "price", "trade", "market", "profit", "share", "stock", "rate", "fund", "sale"],
    "film": ["actor", "scene", "movie", "star", "screen", "director", "cinema", "role", "drama", "award"],
}
FILLER = ["the", "a", "of", "in", "on", "and", "to", "with", "for", "was", "is", "at", "by", "it", "from"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *(word for words in TOPICS.values() for word in words)]
SIZES = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
LABELS = ("film", "money", "sport")
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet", "xlm-roberta", "camembert")


def sentence(rng: random.Random, topic: str, words: int = 12) -> str:
    """A line of filler and of a topic's words."""
    return " ".join(rng.choice(TOPICS[topic]) if rng.random() < 0.5 else rng.choice(FILLER) for _ in range(words))


def rows(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, topic) rows, topics in turn."""
    rng = random.Random(seed)
    topics = list(TOPICS)
    return [(sentence(rng, topics[i % 3], rng.randint(6, 14)), topics[i % 3]) for i in range(number)]


def write_csv(path: Path, header: list[str], lines: list[list[object]]) -> Path:
    """A csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def make_tokenizer(pieces: list[str] = PIECES):
    """A word-level tokenizer that frames texts as BERT does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=48, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def make_config(family: str, **more: object):
    """A tiny config of a family."""
    from transformers import AutoConfig

    sizes = {**SIZES, "vocab_size": len(PIECES), "max_position_embeddings": 64, "pad_token_id": 0}
    if family == "distilbert":
        sizes = {"n_layers": 4, "dim": 32, "n_heads": 4, "hidden_dim": 64} | {
            key: sizes[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")
        }
    if family == "electra":
        sizes["embedding_size"] = 16
    return AutoConfig.for_model(family, **{**sizes, **more})


def save_tiny(folder: Path, family: str = "bert", labels: tuple[str, ...] | None = None, **more: object) -> Path:
    """A tiny checkpoint folder: without a head, or with one for the given labels."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    torch.manual_seed(0)
    if labels is None:
        model = AutoModel.from_config(make_config(family, **more))
    else:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        model = AutoModelForSequenceClassification.from_config(make_config(family, **names, **more))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def load_tiny(folder: Path, family: str = "bert", labels: tuple[str, ...] = LABELS, **more: object):
    """A tiny checkpoint with a head, in memory; no two of its tensors are alike, biases and norms included."""
    from distill import checkpoint

    found = checkpoint.load(save_tiny(folder, family, labels=labels, **more))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return found


def make_splits(problem: str = "single_label_classification", texts: int = 1, number: int = 60):
    """Splits built without a file: topics of one text or of a pair, one of three labels, many labels, or a number."""
    from distill import Data
    from distill.data import Splits
    from distill.data.rows import Rows
    from distill.tasks import METRICS_OF, TextClassification

    rng = random.Random(3)
    found: dict[str, Rows] = {}
    for position, name in enumerate(("train", "validation", "test")):
        lines = rows(number if name == "train" else number // 2, seed=position)
        held = [(text, *(sentence(rng, topic) for _ in range(texts - 1))) for text, topic in lines]
        if problem == "regression":
            labels = [LABELS.index(topic) + rng.random() for _, topic in lines]
        elif problem == "multi_label_classification":
            labels = [[float(topic == "film"), float(i % 2), float(i % 5 == 0)] for i, (_, topic) in enumerate(lines)]
        else:
            labels = [LABELS.index(topic) for _, topic in lines]
        found[name] = Rows(held, labels)
    names = ("degree",) if problem == "regression" else LABELS
    task = TextClassification(problem, names, METRICS_OF[problem][0])
    return Splits(**found, task=task, words=Data(source="made", max_length=24 * texts), seed=5)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """What `datasets` keeps goes where the tests' files go."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _translations():
    """What torch's exporter makes of each operator, which it reads out of its own sources for every graph anew."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module", autouse=True)
def _settled():
    """What is there before a file's first test, libraries above all, is left out of every collection of garbage: each
    training ends with one, which would go through a million objects.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def body(tmp_path_factory) -> Path:
    """A tiny BERT without a head."""
    return save_tiny(tmp_path_factory.mktemp("body") / "bert")


@pytest.fixture(scope="session")
def headed(tmp_path_factory) -> Path:
    """A tiny BERT with a (random) head for the three topics."""
    return save_tiny(tmp_path_factory.mktemp("headed") / "bert", labels=LABELS)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tiny BERT with a head, in memory. Nothing may change it."""
    return load_tiny(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="session")
def quantized(bert, tmp_path_factory) -> Path:
    """The folder that `quantize` makes of it. Nothing may be written beside it."""
    from distill import Quantize
    from distill.quantization import quantize

    return quantize(bert, Quantize(), data=make_splits(), folder=tmp_path_factory.mktemp("run") / "2-quantize")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """240 lines of text, some blank."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join("" if i % 40 == 7 else text for i, (text, _) in enumerate(rows(240, seed=4))))
    return path


@pytest.fixture(scope="module")
def masked(corpus):
    """It, to be read by masked language models."""
    import language_models

    return language_models.load(corpus, language_models.MASKED)


@pytest.fixture(scope="module")
def causal(corpus):
    """It, to be read by causal language models."""
    import language_models

    return language_models.load(corpus, language_models.CAUSAL)


@pytest.fixture(scope="session")
def bert_mlm(tmp_path_factory):
    """A tiny masked language model. Nothing may change it."""
    from language_models import save_language

    from distill import checkpoint

    return checkpoint.load(save_language(tmp_path_factory.mktemp("lm") / "bert", "bert"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A tiny causal language model, without a padding token. Nothing may change it."""
    from language_models import save_language

    from distill import checkpoint

    return checkpoint.load(save_language(tmp_path_factory.mktemp("lm") / "gpt2", "gpt2"))


@pytest.fixture(scope="module")
def data():
    """Splits of one text and one label."""
    return make_splits()


@pytest.fixture
def csv_of(tmp_path):
    """A csv of the sixty texts with a label each, from a list or from a function of the row's number."""

    def write(labels, texts=None, name="rows.csv") -> Path:
        texts = [text for text, _ in rows(60)] if texts is None else texts
        given = labels if isinstance(labels, list) else [labels(i) for i in range(len(texts))]
        return write_csv(tmp_path / name, ["text", "label"], [list(row) for row in zip(texts, given, strict=True)])

    return write


@pytest.fixture
def jsonl_of(tmp_path):
    """A jsonl file of the sixty texts with a label each."""

    def write(labels, texts=None, name="rows.jsonl") -> Path:
        texts = [text for text, _ in rows(60)] if texts is None else texts
        given = labels if isinstance(labels, list) else [labels(i) for i in range(len(texts))]
        lines = [{"text": text, "label": label} for text, label in zip(texts, given, strict=True)]
        (tmp_path / name).write_text("\n".join(json.dumps(line) for line in lines))
        return tmp_path / name

    return write


@pytest.fixture
def model(tmp_path, family):
    """A tiny checkpoint of each family, with a head."""
    return load_tiny(tmp_path / "tiny", family)


@pytest.fixture
def without_memory(monkeypatch) -> None:
    """Memory takes a process for each row; one test of the pipeline measures it, the others go without."""
    import sys

    import distill.evaluation

    assert distill.evaluation  # its function `evaluate` hides the module of this name, which is what is patched
    monkeypatch.setattr(sys.modules["distill.evaluation.session"], "peak_memory", lambda _: 123.0)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> str:
    """Each family that the anatomy can cut."""
    return request.param


@pytest.fixture(scope="session")
def topics_csv(tmp_path_factory) -> Path:
    """120 rows of text and topic."""
    return write_csv(
        tmp_path_factory.mktemp("data") / "topics.csv", ["text", "label"], [list(row) for row in rows(120)]
    )


@pytest.fixture(scope="session")
def topics(topics_csv):
    """The same, loaded and split."""
    from distill import Data, load_data

    return load_data(Data(source=str(topics_csv), validation=0.2, test=0.2, max_length=16), seed=1)


@pytest.fixture(autouse=True)
def _store(tmp_path_factory, monkeypatch):
    """No test finds what another has left in the store, nor writes into the user's own."""
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def recipe_file(tmp_path, body, topics_csv):
    """Writes a small recipe on the tiny teacher, told to nobody; keyword arguments replace whole sections."""
    import json

    def write(**sections: object) -> Path:
        recipe = {
            "task": "text-classification",
            "teacher": {"checkpoint": str(body), "finetune": {"epochs": 1, "learning_rate": 1e-3}},
            "student": {"layers": 2},
            "data": {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16},
            "steps": [{"distill": {"imitate": {"logits": 1.0, "hidden_states": 1.0}, "epochs": 2}}, "quantize"],
            "timing": {"batch": [1], "rounds": 3},
            "track": {"wandb": "off", "energy": False},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps({key: value for key, value in {**recipe, **sections}.items() if value is not None}))
        return path

    return write


@pytest.fixture(scope="session")
def shipped_run(bert, quantized, topics, topics_csv, tmp_path_factory):
    """A finished run's folder, its recipe and its report. Nothing may change them."""
    from shipped import make_recipe, make_run

    folder, recipe = tmp_path_factory.mktemp("shipping") / "run", make_recipe(topics_csv)
    return folder, recipe, make_run(folder, bert, bert, quantized, topics, recipe)


@pytest.fixture(scope="session")
def shipped_folder(shipped_run, tmp_path_factory) -> Path:
    """What it ships. Nothing may change it."""
    from shipped import ship_it

    return ship_it(shipped_run, tmp_path_factory.mktemp("shipped") / "topics")
