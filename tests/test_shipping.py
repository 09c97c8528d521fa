"""What ships: a folder that works without this package, tells nothing of this machine, and is whole or not there."""

from __future__ import annotations

import ast
import getpass
import json
import logging
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import venv
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, load_tiny, make_splits
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from shipped import make_recipe, make_run

from distill import Predictor, Quantize
from distill import recipe as recipes
from distill.distillation import settle
from distill.errors import CheckpointError, MachineError
from distill.quantization import quantize
from distill.recipe import Ship
from distill.redaction import portable_recipe, portable_report
from distill.shipping import push, ship
from distill.shipping.manifest import Manifest

MANY, NUMBER = "multi_label_classification", "regression"
FILES = {
    "README.md", "recipe.yaml", "report.json", "predictions.npz", "manifest.json",
    "transformers/config.json", "transformers/model.safetensors", "transformers/tokenizer.json",
    "transformers/tokenizer_config.json", "onnx/model.onnx", "onnx/model_int8.onnx", "onnx/config.json",
    "onnx/tokenizer.json", "onnx/tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(bert, quantized, topics, topics_csv, tmp_path_factory):
    """A finished run's folder, its recipe and its report."""
    folder, recipe = tmp_path_factory.mktemp("shipping") / "run", make_recipe(topics_csv)
    return folder, recipe, make_run(folder, bert, bert, quantized, topics, recipe)


def ship_it(run, target: Path, recipe=None) -> Path:
    folder, ours, report = run
    return ship(
        recipe or ours, report, folder, torch_folder=folder / "1-distill", graph_folder=folder / "2-quantize",
        folder=target,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    """The shipped folder. Nothing may change it."""
    return ship_it(run, tmp_path_factory.mktemp("shipped") / "topics")


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_the_folder_holds_known_files_and_nothing_else(folder):
    assert files_of(folder) == FILES


def test_every_file_is_an_ordinary_one_of_its_own(run, folder):
    theirs = {(found.st_dev, found.st_ino) for path in run[0].rglob("*") if (found := path.stat())}
    for path in folder.rglob("*"):
        found = path.lstat()
        assert (found.st_dev, found.st_ino) not in theirs
        if not stat.S_ISDIR(found.st_mode):
            assert stat.S_ISREG(found.st_mode)
            assert found.st_nlink == 1
            assert stat.S_IMODE(found.st_mode) == 0o644, path
        else:
            assert stat.S_IMODE(found.st_mode) == 0o755, path


def test_nothing_of_this_machine_is_told(run, folder, topics_csv):
    places = {str(run[0]), str(run[0].parent), str(topics_csv.parent), str(folder.parent), "/home/somebody", "somebody"}
    names = {name for name in (platform.node(), getpass.getuser()) if len(name) > 4}  # a short one is in other words
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [place for place in places | names if place.encode() in content], path


def test_no_text_of_the_data_is_told(folder, topics):
    told = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for rows in (topics.train, topics.test):
        assert not [text for (text,) in rows.texts if text.encode() in told]


def test_the_recipe_that_ships_reads_again_with_names_for_paths(run, folder, topics_csv):
    found = recipes.load(folder / "recipe.yaml")
    assert found.data.source.path == topics_csv.name
    assert found.teacher.checkpoint == "bert"
    report = json.loads((folder / "report.json").read_text())
    assert report["recipe"] == found.model_dump(mode="json", exclude_none=True)
    assert report["notes"] == ["read from topics.csv, see https://example.org/a/b"]
    assert report["rows"] == run[2]["rows"]


def test_hub_ids_packages_and_cards_stay_in_the_recipe(topics_csv):
    packaged = {"source": {"package": "corpus", "path": "corpus/news/data"}, "validation": "corpus/news/val"}
    kept = make_recipe(topics_csv, teacher="acme/bert", data=packaged, student={"checkpoint": "acme/small"})
    assert portable_recipe(kept) == kept
    hub = make_recipe(topics_csv, data={"source": {"hub": "nyu-mll/glue", "config": "sst2"}, "test": "validation"})
    assert portable_recipe(hub).data == hub.data
    card = make_recipe(topics_csv).model_copy(
        update={"teacher": recipes.Teacher(card="/home/somebody/cards/mine.yaml")}
    )  # fmt: skip
    assert portable_recipe(card).teacher.card == "mine.yaml"


def test_labels_that_look_like_paths_stay(run):
    label = {"by_class": {"/r/python": 0.5}, "worst_class": {"name": "/r/python", "score": 0.5}}
    rows = [{**row, **label} for row in run[2]["rows"]]
    told = {**run[2], "rows": rows, "data": {**run[2]["data"], "labels": ["/r/python", "/r/rust"]}}
    found = portable_report(told)
    assert (found["rows"], found["data"]["labels"]) == (rows, ["/r/python", "/r/rust"])
    assert told["notes"] != found["notes"]


def test_the_manifest_tells_hashes_labels_and_the_contract(folder):
    told = json.loads((folder / "manifest.json").read_text())
    assert set(told["files"]) == FILES - {"manifest.json"}
    for name, entry in told["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    assert (told["labels"], told["activation"]) == (list(LABELS), "softmax")
    assert told["problem"] == "single_label_classification"
    rule = told["preprocessing"]
    assert (rule["max_length"], rule["pad_token"], rule["pad_id"], rule["texts"]) == (16, "[PAD]", 0, 1)
    assert rule["inputs"]["input_ids"] == {"dtype": "int64", "shape": ["batch", "tokens"]}
    assert told["opset"] == 23
    assert set(told["probe"]["logits"]) == {"transformers", "onnx-fp32", "onnx-int8"}
    claims = {claim["name"]: claim["value"] for claim in told["claims"]}
    assert claims["latency onnx-int8 / teacher, batch 1"] == pytest.approx(0.5 / 4.0, abs=1e-4)
    assert claims["latency onnx-int8 / teacher onnx-fp32, batch 1"] == pytest.approx(0.5 / 3.0, abs=1e-4)
    assert claims["latency onnx-fp32 / transformers, batch 1"] == pytest.approx(1.5 / 2.0)


def test_the_probes_ids_can_be_made_from_the_manifests_own_words(bert, folder):
    told = json.loads((folder / "manifest.json").read_text())["probe"]
    stream = iter(range(10_000))
    for row, length in enumerate(told["lengths"]):
        ids = []
        for _ in range(length):
            digest = sha256(f"{told['seed']}:{next(stream)}".encode()).digest()[:8]
            found = int.from_bytes(digest, "big") % told["vocabulary"]
            ids.append(1 if found == 0 else found)
        with torch.inference_mode():
            logits = bert.model(input_ids=torch.tensor([ids])).logits[0].tolist()
        assert logits == pytest.approx(told["logits"]["transformers"][row], abs=1e-4)


def test_the_tokenizer_cuts_and_pads_by_itself(folder):
    from tokenizers import Tokenizer

    rows = Tokenizer.from_file(str(folder / "onnx" / "tokenizer.json")).encode_batch(["goal " * 60, "goal"])
    assert [len(row.ids) for row in rows] == [16, 16]
    assert sum(rows[1].attention_mask) == 3
    assert json.loads((folder / "transformers" / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_a_folder_of_an_earlier_try_is_replaced(run, tmp_path):
    target = tmp_path / "shipped"
    ship_it(run, target)
    (target / "stray.txt").write_text("mine")
    for left in (".shipped-new", ".shipped-before", ".shipped-a1b2", "..shipped-new-a1b2"):
        (tmp_path / left).mkdir()
    ship_it(run, target, make_recipe(run[1].data.source.path, ship=["transformers"]))
    assert files_of(target) == {name for name in FILES if not name.startswith("onnx/")}
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_a_kill_between_the_two_renames_loses_nothing(run, tmp_path):
    target = tmp_path / "shipped"
    ship_it(run, target).rename(tmp_path / ".shipped-new")
    broken = (*run[:2], {**run[2], "rows": run[2]["rows"][:1]})
    with pytest.raises(CheckpointError, match="nothing to ship"):
        ship_it(broken, target)
    assert files_of(target) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_what_fails_leaves_the_earlier_folder_as_it_was(run, tmp_path):
    target = tmp_path / "shipped"
    ship_it(run, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    broken = (*run[:2], {**run[2], "rows": run[2]["rows"][:1]})
    with pytest.raises(CheckpointError, match="nothing to ship"):
        ship_it(broken, target)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_a_full_disk_is_one_clear_error(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(MachineError, match="no space left on device"):
        ship_it(run, tmp_path / "shipped")
    assert list(tmp_path.iterdir()) == []


LINKED = ["1-distill/model.safetensors", "2-quantize/model.onnx", "1-distill", "predictions.npz"]


@pytest.mark.parametrize("linked", LINKED)
def test_links_are_not_shipped(run, tmp_path, linked):
    copy = shutil.copytree(run[0], tmp_path / "run")
    (copy / linked).rename(tmp_path / "elsewhere")
    (copy / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link; only files that are really there"):
        ship_it((copy, *run[1:]), tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_predictions_that_hold_texts_are_refused(run, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "run")
    np.savez(copy / "predictions.npz", labels=np.array([0, 1]), texts=np.array(["a text", "of the data"]))
    with pytest.raises(CheckpointError, match="more than numbers"):
        ship_it((copy, *run[1:]), tmp_path / "shipped")


def test_a_page_ships_unless_it_names_a_place_of_this_machine(run, tmp_path, caplog):
    copy = shutil.copytree(run[0], tmp_path / "run")
    (copy / "report.html").write_text("<p>figures</p>")
    assert "report.html" in files_of(ship_it((copy, *run[1:]), tmp_path / "shipped"))
    (copy / "report.html").write_text(f"<p>{copy}/teacher</p>")
    assert "report.html" not in files_of(ship_it((copy, *run[1:]), tmp_path / "shipped"))
    assert "report.html names a path of this machine" in caplog.text


# ------------------------------------------------------------------------------------------------- the card


def front_matter(card: str) -> dict:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(card.split("---\n")[1])


def test_the_cards_front_matter_is_the_hubs(run, folder):
    from huggingface_hub import ModelCard

    card = ModelCard((folder / "README.md").read_text())
    assert card.data.license == "mit"
    assert (card.data.base_model, card.data.pipeline_tag) == ("acme/bert", "text-classification")
    assert card.data.library_name == "transformers"
    told = {one.metric_name: one.metric_value for one in card.data.eval_results}
    last = run[2]["rows"][-1]
    assert told["accuracy (onnx-int8)"] == pytest.approx(last["score"], abs=1e-6)
    assert told["retained (onnx-int8)"] == pytest.approx(last["retained"], abs=1e-6)
    assert told["bytes (onnx-int8)"] == last["bytes"]


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ({"name": "minilm", "source": "https://github.com/acme/minilm", "hub_id": "acme/minilm"}, "acme/minilm"),
        ({"name": "bert", "source": "https://huggingface.co/acme/bert"}, "acme/bert"),
        ({"name": "bert", "source": None, "hub_id": None}, None),
    ],
)
def test_the_base_model_is_the_teachers_hub_id(teacher, expected):
    from distill.shipping.model_card import base_model

    assert base_model({"teacher": teacher}) == expected


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("Apache-2.0", ("apache-2.0", None)), ("Our Own, v2", ("other", "our-own-v2")), (None, (None, None))],
)
def test_the_licence_is_the_recipes_or_the_teachers_or_not_stated(run, tmp_path, licence, expected):
    told = {**run[2], "teacher": {**run[2]["teacher"], "licence": licence}}
    card = (ship_it((*run[:2], told), tmp_path / "shipped") / "README.md").read_text()
    found = front_matter(card)
    assert (found.get("license"), found.get("license_name")) == expected
    assert ("* what is shipped here: not stated: ask before you publish" in card) == (licence is None)
    named = make_recipe(run[1].data.source.path, ship={"licence": "MIT"})
    card = (ship_it((*run[:2], told), tmp_path / "shipped", named) / "README.md").read_text()
    assert front_matter(card)["license"] == "mit"


def test_the_card_tells_every_row_the_licences_the_limits_and_the_way_to_the_hub(run, folder):
    card = (folder / "README.md").read_text()
    for row in run[2]["rows"]:
        assert f"| {row['score']:.4f} | {row['interval'][0]:.3f}–{row['interval'][1]:.3f} |" in card
    for words in (
        "vs eager", "vs same engine", "* licence: CC0-1.0", "[bert](https://huggingface.co/acme/bert): MIT",
        'snapshot_download("acme/topics", local_dir="topics")', "distill verify .", "Some Processor", "* seed: 1",
        "cut to 16 tokens",
    ):  # fmt: skip
        assert words in card, words
    assert "smoke" not in card


def test_a_smoke_runs_card_says_that_its_figures_mean_nothing(run, tmp_path):
    told = {**run[2], "smoke": True}
    assert "Its figures mean nothing" in (ship_it((*run[:2], told), tmp_path / "shipped") / "README.md").read_text()


# --------------------------------------------------------------------------- the card's snippets, where we are not


def closure(*names: str) -> set[str]:
    """Distributions that are needed for some, as their own metadata tells."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            asked = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system, or optional
        found.add(name)
        wanted = map(Requirement, asked)
        waiting += [words.name for words in wanted if not words.marker or words.marker.evaluate({"extra": ""})]
    return found


def bare_python(folder: Path, names: set[str]) -> Path:
    """The interpreter of a fresh venv that sees the given distributions of this environment and no others."""
    venv.create(folder, with_pip=False, system_site_packages=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    for name in names:
        installed = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in installed.files or [] if ".." not in Path(file).parts}:
            source = Path(str(installed.locate_file(top)))
            if source.exists() and top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(source, target_is_directory=source.is_dir())
    return python


def run_in(python: Path, folder: Path, code: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def missing_in(python: Path, folder: Path, names: list[str]) -> list[str]:
    code = "import importlib.util as u, sys\nprint([n for n in sys.argv[1:] if u.find_spec(n) is None])"
    done = subprocess.run([python, "-I", "-c", code, *names], cwd=folder, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


@pytest.fixture(scope="module")
def with_transformers(tmp_path_factory) -> Path:
    """A venv with transformers and torch, and without this package."""
    return bare_python(tmp_path_factory.mktemp("venv") / "torch", closure("transformers", "torch"))


@pytest.fixture(scope="module")
def with_onnxruntime(tmp_path_factory) -> Path:
    """A venv with ONNX Runtime, tokenizers and NumPy, and without this package, torch and transformers."""
    return bare_python(tmp_path_factory.mktemp("venv") / "onnx", closure("onnxruntime", "tokenizers", "numpy"))


def snippet(folder: Path, title: str) -> str:
    card = (folder / "README.md").read_text()
    return re.search(r"```python\n(.*?)\n```", card.partition(f"\n### {title}\n")[2], re.DOTALL)[1]


def with_texts(code: str, texts: list) -> str:
    changed, count = re.subn(r"^texts = .*$", lambda _: f"texts = {texts!r}", code, flags=re.MULTILINE)
    assert count == 1
    return changed


def printed(done: subprocess.CompletedProcess) -> list:
    assert done.returncode == 0, done.stderr[-2000:]
    return ast.literal_eval(done.stdout.strip().splitlines()[-1])


def as_predictor(answers: list) -> list[dict[str, float]]:
    """The snippets' answers in the Predictor's form."""
    listed = [answer if isinstance(answer, list) else [answer] for answer in answers]
    return [{one["label"]: one["score"] for one in answer} for answer in listed]


SHORT = ["goal match team", "the bank", "actor scene movie star " * 20]
PAIRS = [("goal match", "team score"), ("the bank and", "the fund " * 20)]


def kinds_of_folders(tmp: Path, topics_csv: Path):
    """A shipped folder of each kind of problem, and texts to ask it."""
    for kind, problem, texts in (("many", MANY, SHORT), ("number", NUMBER, SHORT), ("pairs", None, PAIRS)):
        data = make_splits(problem or "single_label_classification", texts=2 if kind == "pairs" else 1)
        names = ("degree",) if problem == NUMBER else LABELS
        model = load_tiny(tmp / kind / "bert", labels=names, problem_type=data.task.problem)
        settle(model, data)
        graph = quantize(model, Quantize(), data=data, folder=tmp / kind / "graph")
        columns = {"text": ["one", "other"]} if kind == "pairs" else {}
        recipe = make_recipe(topics_csv, data={"source": "t.csv", "max_length": data.max_length, **columns})
        run = tmp / kind / "run"
        report = make_run(run, model, model, graph, data, recipe)
        shipped = ship(
            recipe, report, run, torch_folder=run / "1-distill", graph_folder=run / "2-quantize",
            folder=tmp / kind / "shipped",
        )  # fmt: skip
        yield shipped, texts


@pytest.fixture(scope="module")
def folders(folder, topics_csv, tmp_path_factory):
    """Every kind: one label, many labels, a number, pairs."""
    return [(folder, SHORT), *kinds_of_folders(tmp_path_factory.mktemp("kinds"), topics_csv)]


def test_the_transformers_snippet_runs_where_only_transformers_is(folders, with_transformers):
    assert missing_in(with_transformers, folders[0][0], ["distill", "onnxruntime", "onnx", "sklearn", "torch"]) == [
        "distill", "onnxruntime", "onnx", "sklearn",
    ]  # fmt: skip
    for folder, texts in folders:
        code, one_by_one = snippet(folder, "transformers alone"), Predictor(folder, format="transformers")
        as_it_stands = f"exec({code!r})\n"
        done = run_in(with_transformers, folder, as_it_stands + with_texts(code, texts))
        assert len(ast.literal_eval(done.stdout.splitlines()[0] if done.returncode == 0 else "None")) == 2, done.stderr
        answers = as_predictor(printed(done))
        for answer, text in zip(answers, texts, strict=True):
            assert answer == pytest.approx(one_by_one.predict([text])[0], abs=1e-5)


def test_the_onnx_snippet_runs_where_only_onnxruntime_and_tokenizers_are(folders, with_onnxruntime):
    asked = ["distill", "torch", "transformers", "onnx", "onnxruntime", "tokenizers"]
    assert missing_in(with_onnxruntime, folders[0][0], asked) == ["distill", "torch", "transformers", "onnx"]
    for folder, texts in folders:
        code = snippet(folder, "onnxruntime and tokenizers alone")
        assert len(printed(run_in(with_onnxruntime, folder, code))) == 2
        answers = as_predictor(printed(run_in(with_onnxruntime, folder, with_texts(code, texts))))
        for answer, expected in zip(answers, Predictor(folder).predict(texts), strict=True):
            assert list(answer) == list(expected)
            assert answer == pytest.approx(expected, abs=1e-6)


def test_the_predictors_snippet_runs_here(folders):
    for folder, texts in folders:
        code = snippet(folder, "distill's Predictor")
        answers = printed(run_in(Path(sys.executable), folder, with_texts(code, texts)))
        for answer, expected in zip(answers, Predictor(folder).predict(texts), strict=True):
            assert answer == pytest.approx(expected, abs=1e-6)


def test_a_graph_alone_ships_with_torchs_logits_to_be_held_against(run, tmp_path):
    shipped = ship_it(run, tmp_path / "shipped", make_recipe(run[1].data.source.path, ship=["onnx"]))
    told = Manifest.model_validate_json((shipped / "manifest.json").read_text())
    assert told.formats == ["onnx-fp32", "onnx-int8"]
    assert "transformers" in told.probe.logits
    assert "### transformers alone" not in (shipped / "README.md").read_text()


# -------------------------------------------------------------------------------------------------- the Hub


class Hub:
    """The edge of huggingface_hub."""

    def __init__(self, token: str) -> None:
        assert token == "hf_secret"

    def create_repo(self, repo_id, *, private, exist_ok):
        Hub.made = (repo_id, private, exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, allow_patterns, delete_patterns):
        Hub.sent = (repo_id, Path(folder_path), set(allow_patterns))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    Hub.made = Hub.sent = None
    return Hub


def test_a_push_makes_the_repository_and_sends_what_the_manifest_names(hub, folder):
    assert push(folder, Ship(hub="acme/topics")) == "https://huggingface.co/acme/topics"
    assert hub.made == ("acme/topics", True, True)
    assert hub.sent == ("acme/topics", folder, FILES)


def test_nothing_is_pushed_where_no_repository_is_named(hub, folder):
    assert push(folder, Ship()) is None
    assert hub.made is None


def test_without_a_token_the_list_is_told_and_nothing_is_pushed(hub, folder, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with caplog.at_level(logging.INFO, logger="distill"):
        assert push(folder, Ship(hub="acme/topics", private=False)) is None
    assert hub.made is None
    for name in FILES:
        size = (folder / name).stat().st_size
        assert re.search(rf"{re.escape(name)} +{size:,} bytes", caplog.text), name
    assert "https://huggingface.co/acme/topics" in caplog.text
    assert "hf auth login" in caplog.text
    assert "public" in caplog.text


def test_a_folder_that_lost_a_file_is_not_pushed(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "recipe.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is not there"):
        push(copy, Ship(hub="acme/topics"))
    assert hub.made is None


def test_a_hub_that_fails_is_one_sentence_without_the_token_and_the_folder_stays(hub, folder, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("hf_secret was refused\nwith a long story")

    monkeypatch.setattr(Hub, "upload_folder", refuse)
    with pytest.raises(MachineError) as caught:
        push(folder, Ship(hub="acme/topics"))
    assert str(caught.value).startswith("pushing to acme/topics failed (ConnectionError: … was refused); the folder is")
    assert "\n" not in str(caught.value)
    assert files_of(folder) == FILES


@pytest.mark.parametrize(
    ("examples", "metric", "score", "expected"),
    [
        (1000, "accuracy", 0.9, 0.005), (50, "accuracy", 0.9, 0.02), (1000, "chrf", 54.0, 0.5), (50, "bleu", 30.0, 2.0),
        (1000, "perplexity", 12.0, 0.06), (50, "bits_per_byte", 1.2, 0.006),
    ],
)  # fmt: skip
def test_a_score_may_be_off_by_half_a_hundredth_of_its_own_scale(examples, metric, score, expected):
    from distill.shipping.claims import of_score

    assert of_score(examples, metric, score) == pytest.approx(expected)
