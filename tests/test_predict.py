"""The Predictor on shipped folders and from many threads, and folders that would have it read elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import FILLER, LABELS, TOPICS
from shipped import ship_topics

from distill import Predictor
from distill.errors import CheckpointError, DataError

FORMATS = ("onnx-int8", "onnx-fp32", "transformers")


@pytest.fixture(scope="module")
def folder(bert, quantized, topics, topics_csv, tmp_path_factory) -> Path:
    """A shipped folder. Nothing may change it."""
    return ship_topics(tmp_path_factory.mktemp("predicted"), bert, quantized, topics, topics_csv)


def mixed_texts(number: int) -> list[str]:
    """Short and long texts in turn, the long ones beyond what is read."""
    rng = random.Random(5)
    words = [*FILLER, *(word for topic in TOPICS.values() for word in topic)]
    return [" ".join(rng.choices(words, k=rng.choice([1, 2, 5, 9, 14, 40]))) for _ in range(number)]


@pytest.mark.parametrize("form", [None, *FORMATS])
def test_a_shipped_folder_is_served_in_the_format_that_is_asked_for(folder, form):
    predictor = Predictor(folder, format=form)
    assert predictor.engine.format == (form or "onnx-int8")
    ((label, probability),) = predictor.predict(["goal match team"])[0].items()
    assert label in LABELS
    assert 1 / 3 < probability <= 1


def test_the_formats_agree(folder):
    texts = mixed_texts(20)
    answers = {form: Predictor(folder, format=form).predict(texts) for form in FORMATS}
    for int8, fp32, torch in zip(*answers.values(), strict=True):
        assert fp32 == pytest.approx(torch, abs=1e-5)
        assert max(int8.values()) == pytest.approx(max(torch.values()), abs=0.05)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([None], "takes a text, or a pair of texts; not None"),
        ([1], "not 1"),
        ([float("nan")], "not nan"),
        ([("a", None)], "takes a text, or a pair of texts"),
        ([("a", "b", "c")], "reads one text at a time, not 3"),
        ([("a", "b")], "reads one text at a time, not 2"),
        (["caf\udce9"], "is no text in Unicode"),
    ],
)
def test_what_is_no_text_is_refused(folder, tmp_path, texts, why):
    copy = shutil.copytree(folder / "transformers", tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"texts": 1}))
    with pytest.raises(DataError, match=why):
        Predictor(copy).predict(texts)


def test_a_language_model_in_torch_writes_for_many_threads_at_once(gpt2, tmp_path):
    """What it may write hangs on how long the text is that it goes on with."""
    predictor = Predictor(gpt2.save(tmp_path / "gpt2"))
    texts = [" ".join(["goal"] * number) for number in range(1, 25)]
    expected = [predictor.predict([text]) for text in texts]
    own = predictor.engine.model.generation_config.to_dict()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: predictor.predict([text]), texts)) == expected
    assert predictor.engine.model.generation_config.to_dict() == own


@pytest.mark.parametrize("rule", [{"min_length": 9}, {"forced_bos_token_id": 7}])
def test_what_is_written_behind_a_text_does_not_hang_on_a_longer_one_beside_it(gpt2, tmp_path, rule):
    """Whose length is that of its padding, too, for transformers and for a graph alike."""
    copy = gpt2.copy()
    ends = list(range(0, len(copy.tokenizer), 2))  # so many that a text soon ends
    copy.model.generation_config.update(max_new_tokens=12, eos_token_id=ends, pad_token_id=ends[0], **rule)
    predictor = Predictor(copy.save(tmp_path / "gpt2"))
    one = next(text for text in map(copy.tokenizer.decode, range(9, 60)) if len(copy.tokenizer(text).input_ids) == 1)
    texts = [one, " ".join(["match"] * 20), "team score", "the bank"]
    assert predictor.predict(texts) == [predictor.predict([text])[0] for text in texts]


def test_texts_are_cut_where_the_measurement_cut_them(folder):
    long = " ".join(["goal"] * 14)  # 16 tokens with the two that frame it
    for form in FORMATS:
        predictor = Predictor(folder, format=form)
        assert predictor.predict([long + " actor movie" * 9]) == predictor.predict([long])
        assert predictor.predict([long[:-5] + " actor"]) != predictor.predict([long])


@pytest.mark.parametrize("form", ["onnx-int8", "onnx-fp32", "transformers"])
def test_many_threads_get_what_one_gets(folder, form):
    predictor, texts = Predictor(folder, format=form), mixed_texts(240)
    asked = [texts[start : start + size] for start, size in zip(range(0, 200, 5), [1, 3, 40] * 14, strict=False)]
    alone = [predictor.predict(some) for some in asked]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = list(pool.map(predictor.predict, asked))
            for some, expected in zip(together, alone, strict=True):
                assert [list(answer) for answer in some] == [list(answer) for answer in expected]
                for answer, one in zip(some, expected, strict=True):
                    assert answer == pytest.approx(one, abs=1e-6)


def test_a_shipped_graph_is_served_without_torch(folder):
    script = (
        "import sys; from distill import Predictor; "
        "print(len(Predictor(sys.argv[1]).predict(['goal match', 'bank']))); "
        "assert not {'torch', 'transformers', 'onnx', 'huggingface_hub'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr[-500:]


def test_a_snapshot_of_links_is_served(folder, tmp_path):
    """The Hub's cache holds links into its store."""
    for path in folder.rglob("*"):
        place = tmp_path / "snapshot" / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            place.symlink_to(os.path.relpath(path, place.parent))
    texts = mixed_texts(5)
    assert Predictor(tmp_path / "snapshot").predict(texts) == Predictor(folder).predict(texts)


def test_a_format_that_is_not_there_is_refused(folder, bert, tmp_path):
    with pytest.raises(CheckpointError, match="format: pickle is none of: transformers, onnx-fp32, onnx-int8"):
        Predictor(folder, format="pickle")
    alone = bert.save(tmp_path / "alone")
    with pytest.raises(CheckpointError, match=r"no model_int8\.onnx in it"):
        Predictor(alone, format="onnx-int8")
    assert Predictor(alone, format="transformers").engine.format == "transformers"
    part = shutil.copytree(folder, tmp_path / "part")
    shutil.rmtree(part / "onnx")
    with pytest.raises(CheckpointError, match="a shipped folder without onnx"):
        Predictor(part, format="onnx-int8")
    assert Predictor(part).engine.format == "transformers"


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "", 7, None, "a/b"])
def test_a_report_cannot_send_it_elsewhere(tmp_path, name):
    (tmp_path / "report.json").write_text(json.dumps({"rows": [{"name": name}]}))
    with pytest.raises(CheckpointError, match="no folder beside it"):
        Predictor(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "{", '{"a": '], ids=["deep", "cut", "half"])
def test_hostile_json_is_an_error_that_names_the_file(folder, tmp_path, name, content):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "onnx" / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        Predictor(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_too_large_are_not_read(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with (copy / "onnx" / name).open("wb") as file:
        file.truncate(200 << 20)  # takes no room on disk
    with pytest.raises(CheckpointError, match=rf"{name}: larger than \d+ MiB"):
        Predictor(copy)
