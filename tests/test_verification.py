"""`distill verify`: what holds, and each kind of claim altered by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import verified
from click.testing import CliRunner
from conftest import LABELS
from shipped import make_recipe, make_run
from verified import change_card, change_json, claim, failing, patch_hashes

from distill import cli, verification
from distill.cli.verify import verify as command
from distill.errors import RecipeError
from distill.shipping import ship

original, timed = verified.original, verified.timed  # fixtures; imported, they would look unused
folder = verified.folder

# --------------------------------------------------------------------------------------------- what holds


def here(topics_csv: Path, teacher: Path) -> list[str]:
    return [f"data.source={topics_csv}", f"teacher.checkpoint={teacher}"]


def test_everything_holds_where_data_and_teacher_are_at_hand(original, topics_csv, headed, timed):
    before = {path: path.read_bytes() for path in original.rglob("*") if path.is_file()}
    findings = verification.verify(original, overrides=here(topics_csv, headed))
    assert [str(finding) for finding in findings if finding.outcome != "holds"] == []
    names = {finding.name for finding in findings}
    assert {
        "files", "labels", "predictions", "model-index", "table", "recipe", "probe onnx-int8", "parity onnx-fp32",
        "size onnx-int8", "parameters transformers", "score onnx-int8", "latency onnx-int8 / teacher, batch 1",
        "latency onnx-int8 / teacher onnx-fp32, batch 1", "latency onnx-int8 / transformers, batch 1",
    } <= names  # fmt: skip
    assert {path: path.read_bytes() for path in original.rglob("*") if path.is_file()} == before


def test_every_claim_of_the_manifest_gets_its_own_line(original, topics_csv, timed):
    findings = verification.verify(original, overrides=[f"data.source={topics_csv}"])
    claimed = [one["name"] for one in json.loads((original / "manifest.json").read_text())["claims"]]
    told = [finding.name for finding in findings]
    assert [told.count(name) for name in claimed] == [1] * len(claimed)
    assert all(" claimed " in str(f) for f in findings if f.name in claimed)


def test_what_is_not_at_hand_is_not_checked_and_said_why(original, timed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings = {finding.name: finding for finding in verification.verify(original)}
    assert not [name for name, finding in findings.items() if finding.outcome == "FAILS"]
    score = findings["score onnx-int8"]
    assert (score.outcome, score.why[:23]) == ("not checked", "the data isn't at hand:")
    teacher = findings["latency onnx-int8 / teacher, batch 1"]
    assert teacher.outcome == "not checked"
    assert "the teacher isn't at hand" in teacher.why
    assert findings["latency onnx-int8 / transformers, batch 1"].outcome == "holds"


def test_other_data_is_not_scored(original, timed, topics_csv, tmp_path):
    lines = topics_csv.read_text().splitlines(keepends=True)
    (tmp_path / "other.csv").write_text("".join([lines[0], *(line.replace("goal", "match") for line in lines[1:])]))
    found = verification.verify(original, overrides=[f"data.source={tmp_path / 'other.csv'}"])
    score = next(finding for finding in found if finding.name == "score onnx-fp32")
    assert score.outcome == "not checked"
    assert "the data differs" in score.why


def test_another_teacher_is_not_timed(original, timed, topics_csv, tmp_path):
    from conftest import save_tiny

    other = save_tiny(tmp_path / "bert", labels=LABELS, num_hidden_layers=2)
    found = verification.verify(original, overrides=here(topics_csv, other))
    teacher = next(finding for finding in found if finding.name == "latency onnx-int8 / teacher, batch 1")
    assert teacher.outcome == "not checked"
    assert "parameters" in teacher.why


def test_the_teacher_of_a_recipe_is_never_fetched(original, timed, topics_csv):
    found = verification.verify(original, overrides=[f"data.source={topics_csv}", "teacher.checkpoint=acme/bert"])
    teacher = next(finding for finding in found if finding.name == "latency onnx-int8 / teacher, batch 1")
    assert "acme/bert was never fetched" in teacher.why


def test_a_folder_with_graphs_alone_or_torch_alone_holds_too(bert, quantized, topics, topics_csv, tmp_path, timed):
    for formats, names in ((["onnx"], "onnx-int8"), (["transformers"], "transformers")):
        recipe = make_recipe(topics_csv, ship=formats)
        place = tmp_path / formats[0]
        report = make_run(place, bert, bert, quantized, topics, recipe)
        shipped = ship(
            recipe, report, place, torch_folder=place / "1-distill", graph_folder=place / "2-quantize",
            folder=place / "shipped",
        )  # fmt: skip
        findings = verification.verify(shipped, quick=True)
        assert [str(finding) for finding in findings if finding.outcome == "FAILS"] == []
        assert f"probe {names}" in {finding.name for finding in findings if finding.outcome == "holds"}


# ------------------------------------------------------------------------------------------ each claim altered


def test_a_number_of_the_cards_table(folder):
    score = re.search(r"\| 2-quantize · onnx-int8 \| ([0-9.]+) \|", (folder / "README.md").read_text())[1]
    change_card(folder, f"| 2-quantize · onnx-int8 | {score} |", "| 2-quantize · onnx-int8 | 0.9999 |")
    assert failing(folder) == ["table 2-quantize · onnx-int8, accuracy"]
    finding = next(one for one in verification.verify(folder, quick=True) if one.outcome == "FAILS")
    assert finding.why == f"the card says 0.9999, report.json says {score}"


def test_any_cell_of_the_table(folder):
    change_card(folder, "| 8.00x |", "| 80.00x |")  # int8 against the teacher in eager torch: 4.0 / 0.5
    assert failing(folder) == ["table 2-quantize · onnx-int8, vs eager"]


def test_a_row_that_is_left_out_of_the_table(folder):
    text = (folder / "README.md").read_text()
    row = next(line for line in text.splitlines(keepends=True) if line.startswith("| teacher · onnx-fp32 |"))
    change_card(folder, row, "")
    assert failing(folder) == ["table"]


@pytest.mark.parametrize("metric", ["accuracy", "retained", "bytes"])
def test_a_number_of_the_model_index(folder, metric):
    found = re.search(rf"value: ([0-9.]+)\n +name: {metric} \(onnx-int8\)", (folder / "README.md").read_text())
    change_card(folder, found[0], found[0].replace(found[1], "7.5"))
    assert failing(folder) == [f"model-index {metric} (onnx-int8)"]


def test_a_number_that_is_left_out_of_the_model_index(folder):
    text = (folder / "README.md").read_text()
    found = re.search(r" +- type: retained\n +value: [0-9.]+\n +name: retained \(onnx-int8\)\n", text)
    change_card(folder, found[0], "")
    assert failing(folder) == ["model-index retained (onnx-int8)"]


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (lambda row: row.update(score=0.999), "score onnx-int8"),
        (lambda row: row.update(bytes=1234), "size onnx-int8"),
        (lambda row: row.update(params=7), "parameters onnx-int8"),
        (lambda row: row.update(retained=1.5), "retained 2-quantize · onnx-int8"),
        (lambda row: row["latency"][0].update(p50_ms=0.1), "latency onnx-int8 / teacher, batch 1"),
        (lambda row: row["scores"].update(macro_f1=0.999), "macro_f1 2-quantize · onnx-int8"),
        (lambda row: row["by_class"].update(film=0.999), "film alone 2-quantize · onnx-int8"),
        (lambda row: row["confusion"][0].__setitem__(0, 99), "confusion 2-quantize · onnx-int8"),
    ],
    ids=["score", "bytes", "params", "retained", "latency", "scores", "by_class", "confusion"],
)
def test_a_number_of_the_report_with_its_hash_patched(folder, alter, named):
    change_json(folder / "report.json", lambda told: alter(told["rows"][-1]))
    patch_hashes(folder)
    assert named in failing(folder)


def test_a_number_that_is_forged_everywhere_still_differs_from_the_kept_predictions(folder):
    def forge(told):
        told["rows"][-1]["score"] = told["rows"][-1]["scores"]["accuracy"] = 0.999

    change_json(folder / "report.json", forge)
    change_json(folder / "manifest.json", lambda told: claim(told, "score onnx-int8").update(value=0.999))
    patch_hashes(folder)
    assert "accuracy 2-quantize · onnx-int8" in failing(folder)


def test_a_score_that_is_forged_everywhere_is_measured_again(folder, topics_csv, timed):
    score = json.loads((folder / "report.json").read_text())["rows"][-1]["score"]
    forged = score - 0.25 if score > 0.5 else score + 0.25

    def forge(told):
        told["rows"][-1]["score"] = told["rows"][-1]["scores"]["accuracy"] = forged

    change_json(folder / "report.json", forge)
    more = {"value": forged, "tolerance": 1.0}
    change_json(folder / "manifest.json", lambda told: claim(told, "score onnx-int8").update(more))
    (folder / "predictions.npz").unlink()
    change_json(folder / "manifest.json", lambda told: told["files"].pop("predictions.npz"))
    patch_hashes(folder)
    assert "score onnx-int8" in failing(folder, quick=False, overrides=[f"data.source={topics_csv}"])


def test_a_report_cannot_widen_a_tolerance_by_claiming_few_examples(folder, topics_csv, timed):
    def forge(told):
        told["rows"][-1]["n"] = 1
        told["rows"][-1]["score"] = told["rows"][-1]["scores"]["accuracy"] = 0.25 + told["rows"][-1]["score"] / 2

    change_json(folder / "report.json", forge)
    forged = json.loads((folder / "report.json").read_text())["rows"][-1]["score"]
    change_json(folder / "manifest.json", lambda told: claim(told, "score onnx-int8").update(value=forged))
    (folder / "predictions.npz").unlink()
    change_json(folder / "manifest.json", lambda told: told["files"].pop("predictions.npz"))
    patch_hashes(folder)
    assert "score onnx-int8" in failing(folder, quick=False, overrides=[f"data.source={topics_csv}"])


def test_a_byte_of_the_weights(folder):
    path = folder / "onnx" / "model_int8.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    findings = verification.verify(folder, quick=True)
    assert [finding.name for finding in findings if finding.outcome == "FAILS"] == ["file onnx/model_int8.onnx"]
    probed = next(finding for finding in findings if finding.name == "probe onnx-int8")
    assert probed.outcome == "not checked"
    assert "onnx/model_int8.onnx is not the file" in probed.why


@pytest.mark.parametrize("inside", ["transformers", "onnx"])
def test_weights_that_are_changed_together_with_their_hash(folder, inside, bert):
    """What hashes can't tell the probe tells."""
    from distill import export

    other = bert.copy()
    other.model.classifier.bias.data += 0.5
    if inside == "onnx":
        export.export(other, folder / "onnx" / "model.onnx")
    else:
        other.model.save_pretrained(folder / "transformers")
    patch_hashes(folder)
    form = {"onnx": "onnx-fp32"}.get(inside, inside)
    assert {f"probe {form}", "parity onnx-fp32"} <= set(failing(folder))


def test_a_file_that_is_missing_or_was_added(folder):
    (folder / "recipe.yaml").rename(folder / "notes.yaml")
    assert {"file recipe.yaml", "file notes.yaml"} <= set(failing(folder))


def test_a_size_that_is_claimed(folder):
    change_json(folder / "manifest.json", lambda told: claim(told, "size onnx-int8").update(value=10_000))
    assert failing(folder) == ["size onnx-int8", "size onnx-int8"]  # not the report's, and not the files'


def test_a_probes_logit(folder):
    def alter(told):
        told["probe"]["logits"]["onnx-fp32"][2][1] += 0.01

    change_json(folder / "manifest.json", alter)
    assert "probe onnx-fp32" in failing(folder)


def test_a_manifest_cannot_allow_itself_more(folder):
    def alter(told):
        told["probe"]["logits"]["onnx-fp32"][2][1] += 0.01
        told["probe"]["tolerance"]["onnx-fp32"] = 100.0
        claim(told, "size onnx-int8").update(value=10_000, tolerance=1e9)

    change_json(folder / "manifest.json", alter)
    assert {"probe onnx-fp32", "size onnx-int8"} <= set(failing(folder))


def test_a_parity_that_is_claimed(folder):
    change_json(folder / "manifest.json", lambda told: claim(told, "parity onnx-int8").update(value=0.0))
    assert failing(folder) == ["parity onnx-int8"]


@pytest.mark.parametrize("where", ["manifest.json", "report.json", "onnx/config.json", "transformers/config.json"])
def test_the_order_of_the_labels(folder, where):
    def swap(told):
        if where == "manifest.json":
            told["labels"].reverse()
        elif where == "report.json":
            told["data"]["labels"].reverse()
        else:
            told["id2label"] = {str(i): name for i, name in enumerate(reversed(LABELS))}
            told["label2id"] = {name: i for i, name in enumerate(reversed(LABELS))}

    change_json(folder / where, swap)
    patch_hashes(folder)
    assert "labels" in failing(folder)


def test_the_preprocessing_that_is_claimed(folder):
    change_json(folder / "manifest.json", lambda told: told["preprocessing"].update(max_length=32))
    assert {"preprocessing onnx, max_length", "preprocessing transformers, max_length"} <= set(failing(folder))


def test_a_folder_from_before_a_word_existed_has_its_default(folder):
    def forget(report: dict) -> None:
        (words,) = [step["quantize"] for step in report["recipe"]["steps"] if "quantize" in step]
        for word in ("activations", "calibration", "group", "changed"):
            del words[word]

    change_json(folder / "report.json", forget)
    assert "recipe" not in failing(folder)


def test_a_recipe_that_is_not_the_reports(folder):
    path = folder / "recipe.yaml"
    path.write_text(path.read_text().replace("seed: 1", "seed: 2"))
    patch_hashes(folder)
    assert failing(folder) == ["recipe"]


def test_latency_fails_where_it_is_slower_and_not_where_it_is_faster(original, topics_csv, headed, timed):
    timed["2-quantize.onnx-int8"] = 2.0
    slower = failing(original, quick=False, overrides=here(topics_csv, headed))
    others = ("transformers", "onnx-fp32", "teacher", "teacher onnx-fp32")
    assert slower == [f"latency onnx-int8 / {other}, batch 1" for other in others]
    timed["2-quantize.onnx-int8"] = 0.1
    assert failing(original, quick=False, overrides=here(topics_csv, headed)) == []


# ------------------------------------------------------------------------------------------ the command line


def call(*arguments: str):
    """The command below a group of the command line's own kind, which turns errors into exit codes."""
    group = type(cli.main)("distill", commands={"verify": command})
    return CliRunner().invoke(group, ["verify", *map(str, arguments)])


def test_the_command_prints_a_line_a_claim_and_exits_with_0(original):
    done = call(original, "--quick")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) == len(verification.verify(original, quick=True))
    assert all(re.match(r"(holds|not checked) +\S", line) for line in lines)
    assert re.search(r"\d+ hold, 0 fail, \d+ not checked", done.stderr)


def test_the_command_names_what_fails_and_exits_with_1(folder):
    (folder / "report.json").write_text((folder / "report.json").read_text() + " ")
    done = call(folder, "--quick")
    assert done.exit_code == 1
    assert "these claims fail: file report.json" in done.stderr
    told = json.loads(call(folder, "--quick", "--json").stdout)
    assert [one["name"] for one in told if one["outcome"] == "FAILS"] == ["file report.json"]


def test_what_is_no_shipped_folder_exits_with_2(tmp_path, quantized):
    for folder, why in ((tmp_path / "nowhere", "no such folder"), (quantized, "no manifest.json, so this is not")):
        done = call(folder)
        assert done.exit_code == 2
        assert why in done.stderr


def test_settings_that_do_not_fit_exit_with_2(original):
    with pytest.raises(RecipeError, match="no such setting"):
        verification.verify(original, overrides=["data.sauce=x"], quick=True)
