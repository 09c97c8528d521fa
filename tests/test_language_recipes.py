"""Recipes of language models: what they refuse, what they hand on, what ships."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import make_config, make_tokenizer
from language_models import CAUSAL, MASKED, save_language
from tiny_models import no_two_alike
from transformers import AutoModel, BertForPreTraining

from distill import Predictor, library, tasks
from distill import checkpoint as checkpoints
from distill.cli import main
from distill.errors import DataError, DistillError
from distill.evaluation import session, timing
from distill.pipeline import run
from distill.preflight import prepare
from distill.recipe import load as load_recipe
from distill.recipe.settings import Recipe
from distill.verification import verify


@pytest.fixture
def language_recipe(tmp_path, corpus):
    """Writes a small recipe for a family's language model; keyword arguments replace whole sections."""

    def write(family: str, **sections: object) -> Path:
        teacher = tmp_path / f"teacher-{family}"
        if not teacher.exists():
            save_language(teacher, family)
        recipe = {
            "task": MASKED if family == "bert" else CAUSAL,
            "teacher": {"checkpoint": str(teacher)},
            "student": {"layers": 1},
            "data": {"source": str(corpus), "validation": 0.2, "test": 0.2, "max_length": 24},
            "steps": [{"distill": {"epochs": 1, "max_steps": 2}}],
            "timing": {"batch": [1], "rounds": 3},
            "track": {"wandb": "off", "energy": False},
        }
        path = tmp_path / f"{family}.yaml"
        path.write_text(json.dumps({key: value for key, value in {**recipe, **sections}.items() if value is not None}))
        return path

    return write


def problems(path: Path) -> list[str]:
    return prepare(load_recipe(path), path.parent, fetch=False).problems


@pytest.mark.parametrize("name", ["distilbert", "distilgpt2"])
def test_a_shipped_recipe_trains_two_steps_with_a_tiny_teacher(tmp_path, corpus, without_memory, name):
    recipe = load_recipe(library.find("recipes", name)).model_dump(mode="json", exclude_none=True)
    family = "bert" if name == "distilbert" else "gpt2"
    teacher = save_language(
        tmp_path / "teacher", family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 12}
    )
    recipe["teacher"] = {"checkpoint": str(teacher)}
    recipe["data"] |= {"source": {"path": str(corpus)}, "validation": 0.2, "test": 0.2, "max_length": 24}
    recipe["steps"][0]["distill"] |= {"max_steps": 2, "epochs": 2}
    recipe |= {"expect": {}, "track": {"wandb": "off", "energy": False}, "ship": None}
    recipe["timing"] |= {"rounds": 3, "tokens": 24}
    report = run(Recipe(**recipe), tmp_path / "run", beside=tmp_path)
    assert report.training[0]["records"][-1]["step"] == 2
    assert set(report.training[0]["records"][-1]["terms"]) == {"logits", "labels", "hidden_states"}
    assert [row.metric for row in report.ledger.rows] == ["perplexity", "perplexity"]


def test_a_general_student_becomes_the_student_of_a_task(tmp_path, language_recipe, topics_csv, headed, without_memory):
    general = language_recipe("bert", student={"layers": 2})
    run(load_recipe(general), tmp_path / "general", beside=tmp_path)
    recipe = {
        "task": "text-classification",
        "teacher": {"checkpoint": str(headed)},
        "student": {"checkpoint": "general/1-distill"},
        "data": {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16},
        "steps": [{"distill": {"imitate": {"logits": 1.0, "hidden_states": 1.0}, "epochs": 1, "max_steps": 2}}],
        "timing": {"batch": [1], "rounds": 3},
        "track": {"wandb": "off", "energy": False},
    }
    path = tmp_path / "topics.yaml"
    path.write_text(json.dumps(recipe))
    assert problems(path) == []
    run(load_recipe(path), tmp_path / "task", beside=tmp_path)
    start = checkpoints.load(tmp_path / "task" / "student").model.state_dict()
    body = checkpoints.load(tmp_path / "general" / "1-distill").model.state_dict()
    shared = [name for name in start if name.startswith("bert.") and "pooler" not in name]
    assert shared and all((start[name] == body[name]).all() for name in shared)


@pytest.mark.parametrize(
    ("family", "sections", "message"),
    [
        ("bert", {"task": CAUSAL}, "causal-language-modelling takes a decoder, and a bert is an encoder"),
        ("gpt2", {"task": MASKED}, "masked-language-modelling takes an encoder, and a gpt2 is a decoder"),
        ("bert", {"data": {"max_length": 80}}, "data.max_length: 80 tokens, but the teacher has 64 positions"),
        ("gpt2", {"generation": {"max_new_tokens": 64}}, "65 tokens, but the teacher has 64 positions"),
        ("bert", {"metric": "accuracy"}, "accuracy does not fit a masked language modelling; these do: perplexity"),
    ],
)
def test_what_can_not_work_is_told_before_anything_is_loaded(language_recipe, corpus, family, sections, message):
    if "data" in sections:
        sections = {"data": {"source": str(corpus), **sections["data"]}}
    (problem,) = problems(language_recipe(family, **sections))
    assert message in problem


def test_a_decoder_whose_texts_nothing_ends_is_noted(language_recipe, tmp_path):
    path = language_recipe("gpt2", generation={"max_new_tokens": 8})
    file = tmp_path / "teacher-gpt2" / "generation_config.json"
    found = []
    for told in (json.loads(file.read_text()), {"max_length": 20}):
        file.write_text(json.dumps(told))
        plan = prepare(load_recipe(path), path.parent, fetch=False)
        assert plan.problems == []
        found.append([note for note in plan.notes if "names no eos_token_id" in note])
    assert (len(found[0]), len(found[1])) == (0, 1)


def test_words_that_mean_nothing_to_a_language_model_are_refused(language_recipe):
    for family, sections, said in (
        ("bert", {"generation": {"beams": 2}}, "generation: masked-language-modelling has no use for it"),
        (
            "gpt2",
            {"steps": [{"distill": {"targets": "teacher"}}]},
            "steps.0.distill.targets: causal-language",
        ),
    ):
        done = CliRunner().invoke(main, ["check", str(language_recipe(family, **sections))])
        assert done.exit_code == 2 and said in done.output, done.output


def test_a_teacher_without_a_language_model_head_is_refused_unless_one_is_trained(language_recipe, body):
    (problem,) = problems(language_recipe("bert", teacher={"checkpoint": str(body)}))
    assert (
        problem
        == "teacher: a BertModel has no head for masked-language-modelling; give it a `finetune`, which trains one"
    )
    assert problems(language_recipe("bert", teacher={"checkpoint": str(body), "finetune": {"epochs": 1}})) == []


def test_what_was_pretrained_with_a_second_head_keeps_the_one_for_masks(language_recipe, tmp_path, masked):
    torch.manual_seed(0)
    whole = no_two_alike(BertForPreTraining(make_config("bert")))
    folder = tmp_path / "teacher-bert"
    whole.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    path = language_recipe("bert")
    plan = prepare(load_recipe(path), path.parent, fetch=False).require()
    assert not plan.new_head
    found = checkpoints.load(folder, masked.task).model.cls.predictions.state_dict()
    theirs = whole.cls.predictions.state_dict()
    assert found.keys() == theirs.keys() and all(torch.equal(found[name], theirs[name]) for name in theirs)
    assert tasks.kind_of({"architectures": ["FlaubertWithLMHeadModel"]}) is tasks.MaskedLanguageModelling
    with pytest.raises(DistillError, match="a ElectraForPreTraining; it has no head"):
        tasks.kind_of({"architectures": ["ElectraForPreTraining"]})


def test_a_tokenizers_own_mask_stands_for_a_blank(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<blank>"})
    folder = save_language(tmp_path / "bert", "bert", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    (found,) = Predictor(folder).predict(["the <blank> of a goal"])
    assert [len(blank) for blank in found] == [5]
    with pytest.raises(DataError, match="has no <blank>; write one"):
        Predictor(folder).predict(["the [MASK] of a goal"])


def test_a_new_head_is_tied_to_the_embeddings_that_stay(body, masked):
    headed = checkpoints.load(body, masked.task, new_head=True)
    table = headed.model.get_input_embeddings().weight
    assert headed.model.get_output_embeddings().weight is table
    assert (AutoModel.from_pretrained(body).get_input_embeddings().weight == table).all()


@pytest.fixture
def steady(monkeypatch):
    """Median latencies that hang on the format alone, whatever else this machine does meanwhile."""
    measure, by_format = timing.measure_latency, {"transformers": 8.0, "onnx-fp32": 4.0, "onnx-int8": 2.0}

    def told(engines, *given):
        found = measure(engines, *given)
        return [
            [replace(spent, p50_ms=by_format[engine.format]) for spent in row]
            for engine, row in zip(engines, found, strict=True)
        ]

    for module in (timing, session):
        monkeypatch.setattr(module, "measure_latency", told)


def test_what_ships_holds_its_claims_and_is_asked(language_recipe, corpus, tmp_path, without_memory, steady):
    recipe = language_recipe(
        "bert",
        steps=[
            {"distill": {"epochs": 1, "max_steps": 2}},
            {"prune": {"heads": 0.25, "neurons": 0.5, "vocabulary": "used", "examples": 8}},
            "quantize",
        ],
        student={"layers": 2},
        ship=["transformers", "onnx"],
    )
    run(load_recipe(recipe), tmp_path / "run", beside=tmp_path)
    folder = tmp_path / "run" / "shipped"
    for form in (None, "transformers", "onnx-fp32"):
        one, two = Predictor(folder, form).predict(["the [MASK] of a goal", "a [MASK] in the [MASK]"])
        assert [len(one), len(two)] == [1, 2]
        shares = list(two[1].values())
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1
    with pytest.raises(DataError, match=r"has no \[MASK\]; write one"):
        Predictor(folder).predict(["nothing to fill in"])
    findings = verify(folder, overrides=[f"data.source={corpus}"])
    assert [finding for finding in findings if finding.outcome == "FAILS"] == []
    assert any(finding.name == "score onnx-int8" and finding.outcome == "holds" for finding in findings)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card and "fills in what is masked" in card
    assert len(json.loads((folder / "manifest.json").read_text())["probe"]["logits"]["transformers"][0]) <= 16 * 32


def test_a_decoder_without_padding_ships_and_writes_on(language_recipe, corpus, tmp_path, without_memory, steady):
    recipe = language_recipe(
        "gpt2", steps=[{"finetune": {"epochs": 1, "max_steps": 2}}], ship=["transformers"],
        generation={"max_new_tokens": 7, "beams": 2},
    )  # fmt: skip
    run(load_recipe(recipe), tmp_path / "run", beside=tmp_path)
    folder = tmp_path / "run" / "shipped"
    findings = verify(folder, overrides=[f"data.source={corpus}"])
    assert [finding for finding in findings if finding.outcome == "FAILS"] == []
    long = "the goal of the match and " * 9
    written = Predictor(folder).predict(["the goal", long])
    assert len(written) == 2 and all(isinstance(text, str) for text in written)
    shipped = checkpoints.load(folder / "transformers")
    assert len(shipped.tokenizer) == shipped.model.config.vocab_size, "no token was made up for padding"
    read = shipped.tokenizer("the goal", return_tensors="pt")
    theirs = shipped.model.generate(**read)[0]  # by the generation config that ships
    assert shipped.model.generation_config.num_beams == 2 and len(theirs) == read["input_ids"].shape[1] + 7
    assert "the goal" + written[0] == shipped.tokenizer.decode(theirs, skip_special_tokens=True)


def test_where_less_is_better_plots_and_budgets_turn_round():
    from distill.comparison.page import _flat_front
    from distill.report.plots import Point

    points = [Point(name, "transformers", cost, kept, (kept, kept)) for name, cost, kept in
              (("a", 1, 30.0), ("b", 2, 40.0), ("c", 3, 20.0))]  # fmt: skip
    assert [point.name for point in _flat_front(points, lower=True)] == ["a", "c"]
    assert [point.name for point in _flat_front(points, lower=False)] == ["a", "b"]
