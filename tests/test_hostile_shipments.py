"""A shipped folder that a stranger made: nothing of it is read elsewhere, unpickled, built or waited for."""

from __future__ import annotations

import re
import shutil
import zipfile

import numpy as np
import pytest
import verified
from verified import change_json, failing, patch_hashes

from distill import Predictor, verification
from distill.errors import CheckpointError

original, timed = verified.original, verified.timed  # fixtures; imported, they would look unused
folder = verified.folder

OUTSIDE = ["../secret.txt", "/etc/passwd", "onnx/../../secret.txt", "C:\\secret.txt", "a//b", "."]
READ = ["report.json", "onnx/config.json", "onnx/tokenizer.json", "transformers/tokenizer.json"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_leaves_the_folder_is_refused(folder, name):
    (folder.parent / "secret.txt").write_text("secret")
    change_json(folder / "manifest.json", lambda told: told["files"].update({name: told["files"]["report.json"]}))
    with pytest.raises(CheckpointError, match="leaves the folder; nothing was read"):
        verification.verify(folder)


@pytest.mark.parametrize("linked", ["onnx/model.onnx", "onnx", "stray", "manifest.json"])
def test_links_are_refused(folder, linked):
    if (folder / linked).exists():
        (folder / linked).rename(folder.parent / "elsewhere")
    else:
        (folder.parent / "elsewhere").write_text("secret")
    (folder / linked).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(CheckpointError, match=r"is a link|no manifest\.json"):
        verification.verify(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 200_000, "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not a manifest"),
        ('{"schema": 99}', "schema 99 is not known"),
        (" " * (17 << 20), "larger than 16 MiB"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "not valid JSON"),
    ],
    ids=["lists", "settings", "cut", "no-settings", "schema", "large", "odd"],
)
def test_a_hostile_manifest_is_refused(folder, content, told):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=told):
        verification.verify(folder)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("probe", {"lengths": [1 << 30]}),
        ("probe", {"vocabulary": 1 << 40}),
        ("probe", {"logits": {"transformers": [[0.0, 1.0, 2.0], [0.0]]}}),
        ("probe", {"logits": {"transformers": []}}),
        ("preprocessing", {"pad_id": 10**30}),
        ("preprocessing", {"pad_id": -1}),
        ("preprocessing", {"max_length": -1}),
        ("labels", "film"),
        ("formats", ["pickle"]),
        ("unknown", 1),
        ("claims", [{"name": "score", "value": "NaN"}]),
    ],
)
def test_a_manifest_of_wrong_kinds_is_refused(folder, word, value):
    def alter(told):
        told[word] = {**told[word], **value} if isinstance(value, dict) else value

    change_json(folder / "manifest.json", alter)
    with pytest.raises(CheckpointError, match="not a manifest"):
        verification.verify(folder)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("content", ["[" * 100_000, "{", '{"rows": 7}'], ids=["deep", "cut", "odd"])
def test_hostile_json_fails_by_name_and_does_not_hang(folder, name, content):
    (folder / name).write_text(content)
    patch_hashes(folder)
    place = name.split("/")[0]
    assert [named for named in failing(folder) if place in named]


def test_a_report_of_odd_values_fails_by_name(folder):
    for alter in (
        lambda told: told["rows"][-1].update(score="high"),
        lambda told: told["rows"][-1].update(latency=None),
        lambda told: told.update(data=7),
        lambda told: told.update(rows=[]),
        lambda told: told["data"].update(labels=[1, 2, 3]),
    ):
        shutil.copy(folder / "report.json", folder.parent / "kept.json")
        change_json(folder / "report.json", alter)
        patch_hashes(folder)
        assert "report.json" in failing(folder)
        shutil.copy(folder.parent / "kept.json", folder / "report.json")


SIZES = [("num_hidden_layers", 10**9), ("vocab_size", 10**9), ("hidden_size", 10**6)]


@pytest.mark.parametrize(("word", "value"), SIZES)
def test_sizes_that_the_weights_do_not_hold_are_never_built(folder, word, value):
    change_json(folder / "transformers" / "config.json", lambda config: config.update({word: value}))
    patch_hashes(folder)
    with pytest.raises(CheckpointError, match=str(value)):
        Predictor(folder, format="transformers")
    findings = verification.verify(folder, quick=True)
    wrong = next(finding for finding in findings if finding.name == "transformers opens")
    assert wrong.outcome == "FAILS"
    assert str(value) in wrong.why


def test_a_tokenizer_that_takes_for_ever_is_ended(folder, monkeypatch):
    monkeypatch.setattr("distill.verification.answers._PATIENCE", 5)
    change_json(
        folder / "onnx" / "tokenizer.json",
        lambda told: told.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 64,
            }
        ),
    )
    patch_hashes(folder)
    findings = verification.verify(folder, quick=True)
    wrong = next(finding for finding in findings if finding.name == "onnx opens")
    assert wrong.outcome == "FAILS"
    assert wrong.why.startswith("tokenizer.json: ")


def test_predictions_that_claim_more_than_they_hold_fail_by_name(folder):
    def forge(shape: tuple[int, ...]) -> None:
        with zipfile.ZipFile(folder / "predictions.npz", "w") as packed, packed.open("labels.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
        patch_hashes(folder)

    for shape in ((1 << 50,), (1 << 20,)):
        forge(shape)
        assert failing(folder) == ["predictions"]


def test_predictions_of_python_objects_are_never_unpickled(folder):
    np.savez(folder / "predictions.npz", labels=np.array([{"a": 1}], dtype=object))
    patch_hashes(folder)
    finding = next(one for one in verification.verify(folder, quick=True) if one.outcome == "FAILS")
    assert (finding.name, "allow_pickle" in finding.why) == ("predictions", True)


def test_token_ids_that_the_model_does_not_have_fail_by_name(folder, topics_csv):
    change_json(folder / "manifest.json", lambda told: told["probe"].update(vocabulary=1 << 20))
    findings = verification.verify(folder, overrides=[f"data.source={topics_csv}"], rounds=3)
    failed = {finding.name for finding in findings if finding.outcome == "FAILS"}
    assert {"probe onnx-int8", "latency onnx-int8 / transformers, batch 1"} <= failed


def test_batches_that_no_machine_can_be_asked_are_not_timed(folder, topics_csv):
    def alter(told):
        for row in told["rows"]:
            row["latency"][0]["batch"] = 10**9

    change_json(folder / "report.json", alter)
    patch_hashes(folder)
    findings = verification.verify(folder, overrides=[f"data.source={topics_csv}"], quick=False)
    assert "latency onnx-int8 / teacher, batch 1000000000" in {f.name for f in findings if f.outcome == "FAILS"}


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.csv", "~/secret.csv"])
def test_a_strangers_recipe_reads_nothing_outside(folder, path, timed, monkeypatch):
    recipe = folder / "recipe.yaml"
    recipe.write_text(re.sub(r"path: \S+", f"path: {path}", recipe.read_text()))
    change_json(folder / "report.json", lambda told: told["recipe"]["data"]["source"].update(path=path))
    patch_hashes(folder)
    monkeypatch.setattr("distill.data.load", None)  # calling it would be a TypeError
    score = next(one for one in verification.verify(folder) if one.name == "score transformers")
    assert (score.outcome, "the recipe names its data as" in score.why) == ("not checked", True)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_strangers_split_reads_nothing_outside(folder, split, timed, monkeypatch):
    recipe = folder / "recipe.yaml"
    recipe.write_text(re.sub(rf"{split}: 0\.2", f"{split}: /etc/passwd", recipe.read_text()))
    assert "/etc/passwd" in recipe.read_text()
    change_json(folder / "report.json", lambda told: told["recipe"]["data"].update({split: "/etc/passwd"}))
    patch_hashes(folder)
    monkeypatch.setattr("distill.data.load", None)  # calling it would be a TypeError
    score = next(one for one in verification.verify(folder) if one.name == "score transformers")
    assert (score.outcome, "the recipe names its data as" in score.why) == ("not checked", True)
