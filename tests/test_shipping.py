"""What ships: a folder that works without this package, tells nothing of this machine, and is whole or not there."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import stat
from hashlib import sha256

import numpy as np
import pytest
import torch
from conftest import LABELS
from shipped import FILES, files_of, make_recipe, ship_it

from distill import recipe as recipes
from distill.errors import CheckpointError, MachineError
from distill.redaction import portable_recipe, portable_report
from distill.shipping.manifest import Manifest


def test_the_folder_holds_known_files_and_nothing_else(shipped_folder):
    assert files_of(shipped_folder) == FILES


def test_every_file_is_an_ordinary_one_of_its_own(shipped_run, shipped_folder):
    theirs = {(found.st_dev, found.st_ino) for path in shipped_run[0].rglob("*") if (found := path.stat())}
    for path in shipped_folder.rglob("*"):
        found = path.lstat()
        assert (found.st_dev, found.st_ino) not in theirs
        if not stat.S_ISDIR(found.st_mode):
            assert stat.S_ISREG(found.st_mode)
            assert found.st_nlink == 1
            assert stat.S_IMODE(found.st_mode) == 0o644, path
        else:
            assert stat.S_IMODE(found.st_mode) == 0o755, path


def test_nothing_of_this_machine_is_told(shipped_run, shipped_folder, topics_csv):
    ours = (shipped_run[0], shipped_run[0].parent, topics_csv.parent, shipped_folder.parent)
    places = {*map(str, ours), "/home/somebody", "somebody"}
    names = {name for name in (platform.node(), getpass.getuser()) if len(name) > 4}  # a short one is in other words
    for path in shipped_folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [place for place in places | names if place.encode() in content], path


def test_no_text_of_the_data_is_told(shipped_folder, topics):
    told = b"".join(path.read_bytes() for path in shipped_folder.rglob("*") if path.is_file())
    for rows in (topics.train, topics.test):
        assert not [text for (text,) in rows.texts if text.encode() in told]


def test_the_recipe_that_ships_reads_again_with_names_for_paths(shipped_run, shipped_folder, topics_csv):
    found = recipes.load(shipped_folder / "recipe.yaml")
    assert found.data.source.path == topics_csv.name
    assert found.teacher.checkpoint == "bert"
    report = json.loads((shipped_folder / "report.json").read_text())
    assert report["recipe"] == found.model_dump(mode="json", exclude_none=True)
    assert report["notes"] == ["read from topics.csv, see https://example.org/a/b"]
    assert report["rows"] == shipped_run[2]["rows"]


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


def test_labels_that_look_like_paths_stay(shipped_run):
    label = {"by_class": {"/r/python": 0.5}, "worst_class": {"name": "/r/python", "score": 0.5}}
    rows = [{**row, **label} for row in shipped_run[2]["rows"]]
    told = {**shipped_run[2], "rows": rows, "data": {**shipped_run[2]["data"], "labels": ["/r/python", "/r/rust"]}}
    found = portable_report(told)
    assert (found["rows"], found["data"]["labels"]) == (rows, ["/r/python", "/r/rust"])
    assert told["notes"] != found["notes"]


def test_the_manifest_tells_hashes_labels_and_the_contract(shipped_folder):
    told = json.loads((shipped_folder / "manifest.json").read_text())
    assert set(told["files"]) == FILES - {"manifest.json"}
    for name, entry in told["files"].items():
        content = (shipped_folder / name).read_bytes()
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


def test_the_probes_ids_can_be_made_from_the_manifests_own_words(bert, shipped_folder):
    told = json.loads((shipped_folder / "manifest.json").read_text())["probe"]
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


def test_the_tokenizer_cuts_and_pads_by_itself(shipped_folder):
    from tokenizers import Tokenizer

    rows = Tokenizer.from_file(str(shipped_folder / "onnx" / "tokenizer.json")).encode_batch(["goal " * 60, "goal"])
    assert [len(row.ids) for row in rows] == [16, 16]
    assert sum(rows[1].attention_mask) == 3
    assert json.loads((shipped_folder / "transformers" / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_a_folder_of_an_earlier_try_is_replaced(shipped_run, tmp_path):
    target = tmp_path / "shipped"
    ship_it(shipped_run, target)
    (target / "stray.txt").write_text("mine")
    for left in (".shipped-new", ".shipped-before", ".shipped-a1b2", "..shipped-new-a1b2"):
        (tmp_path / left).mkdir()
    ship_it(shipped_run, target, make_recipe(shipped_run[1].data.source.path, ship=["transformers"]))
    assert files_of(target) == {name for name in FILES if not name.startswith("onnx/")}
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_a_kill_between_the_two_renames_loses_nothing(shipped_run, tmp_path):
    target = tmp_path / "shipped"
    ship_it(shipped_run, target).rename(tmp_path / ".shipped-new")
    broken = (*shipped_run[:2], {**shipped_run[2], "rows": shipped_run[2]["rows"][:1]})
    with pytest.raises(CheckpointError, match="nothing to ship"):
        ship_it(broken, target)
    assert files_of(target) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_what_fails_leaves_the_earlier_folder_as_it_was(shipped_run, tmp_path):
    target = tmp_path / "shipped"
    ship_it(shipped_run, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    broken = (*shipped_run[:2], {**shipped_run[2], "rows": shipped_run[2]["rows"][:1]})
    with pytest.raises(CheckpointError, match="nothing to ship"):
        ship_it(broken, target)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_a_full_disk_is_one_clear_error(shipped_run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(MachineError, match="no space left on device"):
        ship_it(shipped_run, tmp_path / "shipped")
    assert list(tmp_path.iterdir()) == []


LINKED = ["1-distill/model.safetensors", "2-quantize/model.onnx", "1-distill", "predictions.npz"]


@pytest.mark.parametrize("linked", LINKED)
def test_links_are_not_shipped(shipped_run, tmp_path, linked):
    copy = shutil.copytree(shipped_run[0], tmp_path / "run")
    (copy / linked).rename(tmp_path / "elsewhere")
    (copy / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link; only files that are really there"):
        ship_it((copy, *shipped_run[1:]), tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_predictions_that_hold_texts_are_refused(shipped_run, tmp_path):
    copy = shutil.copytree(shipped_run[0], tmp_path / "run")
    np.savez(copy / "predictions.npz", labels=np.array([0, 1]), texts=np.array(["a text", "of the data"]))
    with pytest.raises(CheckpointError, match="more than numbers"):
        ship_it((copy, *shipped_run[1:]), tmp_path / "shipped")


def test_a_page_ships_unless_it_names_a_place_of_this_machine(shipped_run, tmp_path, caplog):
    copy = shutil.copytree(shipped_run[0], tmp_path / "run")
    (copy / "report.html").write_text("<p>figures</p>")
    assert "report.html" in files_of(ship_it((copy, *shipped_run[1:]), tmp_path / "shipped"))
    (copy / "report.html").write_text(f"<p>{copy}/teacher</p>")
    assert "report.html" not in files_of(ship_it((copy, *shipped_run[1:]), tmp_path / "shipped"))
    assert "report.html names a path of this machine" in caplog.text


def test_a_graph_alone_ships_with_torchs_logits_to_be_held_against(shipped_run, tmp_path):
    shipped = ship_it(shipped_run, tmp_path / "shipped", make_recipe(shipped_run[1].data.source.path, ship=["onnx"]))
    told = Manifest.model_validate_json((shipped / "manifest.json").read_text())
    assert told.formats == ["onnx-fp32", "onnx-int8"]
    assert "transformers" in told.probe.logits
    assert "### transformers alone" not in (shipped / "README.md").read_text()
