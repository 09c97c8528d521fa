"""The model card: the Hub's front matter, every row with its interval, the licences and the limits."""

from __future__ import annotations

import pytest
from shipped import make_recipe, ship_it


def front_matter(card: str) -> dict:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(card.split("---\n")[1])


def test_the_cards_front_matter_is_the_hubs(shipped_run, shipped_folder):
    from huggingface_hub import ModelCard

    card = ModelCard((shipped_folder / "README.md").read_text())
    assert card.data.license == "mit"
    assert (card.data.base_model, card.data.pipeline_tag) == ("acme/bert", "text-classification")
    assert card.data.library_name == "transformers"
    told = {one.metric_name: one.metric_value for one in card.data.eval_results}
    last = shipped_run[2]["rows"][-1]
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
def test_the_licence_is_the_recipes_or_the_teachers_or_not_stated(shipped_run, tmp_path, licence, expected):
    told = {**shipped_run[2], "teacher": {**shipped_run[2]["teacher"], "licence": licence}}
    card = (ship_it((*shipped_run[:2], told), tmp_path / "shipped") / "README.md").read_text()
    found = front_matter(card)
    assert (found.get("license"), found.get("license_name")) == expected
    assert ("* what is shipped here: not stated: ask before you publish" in card) == (licence is None)
    named = make_recipe(shipped_run[1].data.source.path, ship={"licence": "MIT"})
    card = (ship_it((*shipped_run[:2], told), tmp_path / "shipped", named) / "README.md").read_text()
    assert front_matter(card)["license"] == "mit"


@pytest.mark.parametrize(("own", "expected"), [("MIT", "mit"), ("CC-BY-NC-4.0", None), (None, None)])
def test_a_student_with_a_start_of_its_own_has_its_licence_too(shipped_run, tmp_path, own, expected):
    start = {
        "name": "acme/small",
        "licence": own,
        "source": "https://huggingface.co/acme/small",
        "hub_id": "acme/small",
    }
    told = {**shipped_run[2], "student": start}
    recipe = make_recipe(shipped_run[1].data.source.path, student={"checkpoint": "acme/small"})
    card = (ship_it((*shipped_run[:2], told), tmp_path / "shipped", recipe) / "README.md").read_text()
    assert front_matter(card).get("license") == expected and front_matter(card)["base_model"] == "acme/small"
    assert f"[acme/small](https://huggingface.co/acme/small): {own or 'not stated'}" in card
    assert "* weights are derived from those that the student started from, and were trained on the data" in card


def test_a_card_says_no_more_than_was_done(shipped_run, tmp_path):
    recipe = make_recipe(shipped_run[1].data.source.path, steps=[{"prune": {"heads": 0.25}}, "quantize"])
    told = {**shipped_run[2], "recipe": recipe.model_dump(mode="json", exclude_none=True)}
    card = (ship_it((*shipped_run[:2], told), tmp_path / "shipped", recipe) / "README.md").read_text()
    assert "A compact text classifier, made from" in card and "knowledge-distillation" not in front_matter(card)["tags"]
    assert "* weights are derived from the teacher's; both licences" in card


def test_the_card_tells_every_row_the_licences_the_limits_and_the_way_to_the_hub(shipped_run, shipped_folder):
    card = (shipped_folder / "README.md").read_text()
    for row in shipped_run[2]["rows"]:
        assert f"| {row['score']:.4f} | {row['interval'][0]:.3f}–{row['interval'][1]:.3f} |" in card
    for words in (
        "vs eager", "vs same engine", "* licence: CC0-1.0", "[bert](https://huggingface.co/acme/bert): MIT",
        'snapshot_download("acme/topics", local_dir="topics")', "distill verify .", "Some Processor", "* seed: 1",
        "cut to 16 tokens",
    ):  # fmt: skip
        assert words in card, words
    assert "smoke" not in card


def test_a_smoke_runs_card_says_that_its_figures_mean_nothing(shipped_run, tmp_path):
    shipped = ship_it((*shipped_run[:2], {**shipped_run[2], "smoke": True}), tmp_path / "shipped")
    assert "Its figures mean nothing" in (shipped / "README.md").read_text()


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
