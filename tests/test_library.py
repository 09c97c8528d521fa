"""The shelf of recipes and cards, and which module may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import save_tiny

import distill
from distill import library
from distill.errors import RecipeError
from distill.pipeline import run
from distill.recipe import load
from distill.recipe.settings import Recipe

PACKAGE = Path(distill.__file__).parent
HEAVY = (
    "torch",
    "transformers",
    "transformers.trainer",
    "onnxruntime",
    "accelerate",
    "wandb",
    "matplotlib",
    "codecarbon",
)


def test_the_names_on_the_shelf_are_the_files_on_it():
    assert "quickstart" in library.names("recipes")
    assert "minilm-l6" in library.names("teachers")
    for kind in ("recipes", "teachers"):
        assert library.names(kind) == sorted(library.names(kind))
        assert {library.find(kind, name).parent for name in library.names(kind)} == {library.shelf(kind)}


@pytest.mark.parametrize("kind", ["recipes", "teachers"])
def test_every_shipped_file_says_what_it_is_for_in_its_first_line(kind):
    for name in library.names(kind):
        assert len(library.summary(library.find(kind, name))) > 20


def test_a_file_without_a_comment_has_no_summary(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: text-classification  # not this\n")
    assert library.summary(tmp_path / "mine.yaml") == ""


@pytest.mark.parametrize("name", ["./quickstart.yaml", "quickstart.yaml", "quickstart.yml", "sub/quickstart"])
def test_a_path_is_never_taken_for_a_shipped_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="no such recipe file"):
        library.find("recipes", name)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert library.find("recipes", name).read_text() == "mine"


def test_a_shipped_name_is_not_shadowed_by_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("mine")
    assert library.find("recipes", "quickstart") == library.shelf("recipes") / "quickstart.yaml"


def test_an_unknown_name_gets_the_nearest_one_the_others_and_the_way_to_a_file():
    with pytest.raises(RecipeError) as caught:
        library.find("recipes", "quikstart")
    assert str(caught.value).startswith("quikstart: no recipe of this name is shipped; did you mean 'quickstart'?")
    assert "./quikstart.yaml" in str(caught.value)
    with pytest.raises(RecipeError, match="no teacher of this name is shipped; did you mean 'minilm-l6'"):
        library.find("teachers", "minilm-l12")


@pytest.mark.parametrize("name", ["", ".", "..", "folder.yaml"])
def test_what_is_no_file_is_no_recipe(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError):
        library.find("recipes", name)


@pytest.mark.parametrize(
    ("word", "expected"), [("epoch", "; did you mean 'epochs'?"), ("epochs", "; did you mean 'epochs'?"), ("zzz", "")]
)
def test_the_nearest_word_is_told_when_it_is_near(word, expected):
    assert library.nearest(word, ["epochs", "warmup"]) == expected
    assert library.nearest(word, []) == ""


def module_level_imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports whenever it is imported, and not for types alone."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If):
            typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            waiting += node.orelse if typing_only else [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            waiting += [*node.body, *node.orelse, *node.finalbody, *(stmt for h in node.handlers for stmt in h.body)]
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            found |= inner | ({node.module} if len(inner) < len(node.names) else set())
    return found & set(known)


def modules() -> dict[str, Path]:
    """Every module of the package, by its name."""
    known = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("distill", *path.relative_to(PACKAGE).with_suffix("").parts)
        known[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return known


def test_imports_only_point_up():
    """No cycles among modules; `distill` itself is lazy and so stands above all."""
    known = modules()
    graph = {name: module_level_imports(path, known) for name, path in known.items()}
    assert len(graph) > 20
    assert sum(map(len, graph.values())) > 40
    assert graph["distill"] == set()
    assert all(name.startswith("distill.cli.") for part in graph if ".cli" in part for name in graph[part])
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the cycle
    assert order.index("distill.errors") < order.index("distill.recipe.settings") < order.index("distill.pipeline")


def test_steps_do_not_know_each_other():
    known, steps = modules(), ("distill.distillation", "distill.pruning", "distill.quantization", "distill.student")

    def step_of(name: str) -> str | None:
        return next((step for step in steps if name == step or name.startswith(f"{step}.")), None)

    seen = Counter()
    for name, path in known.items():
        if (step := step_of(name)) is not None:
            seen[step] += 1
            assert {step_of(other) for other in module_level_imports(path, known)} <= {step, None}, name
    assert set(seen) == set(steps) and seen["distill.pruning"] > 5


def heavy_modules_after(code: str) -> list[str]:
    script = f"import sys\n{code}\nprint('loaded', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["show", "quickstart"], ["run", "--help"]], ids=" ".join)
def test_the_command_line_answers_without_heavy_imports(arguments):
    code = f"from distill.cli import main\nmain({arguments!r}, standalone_mode=False)"
    assert heavy_modules_after(code) == []


def test_check_needs_no_torch(recipe_file):
    code = f"from distill.cli import main\nmain(['check', {str(recipe_file())!r}], standalone_mode=False)"
    assert "torch" not in heavy_modules_after(code)


def test_comparing_and_measuring_load_no_training_loop():
    """transformers' Trainer takes seconds to import."""
    assert "transformers.trainer" not in heavy_modules_after("import distill.comparison, distill.evaluation")


def test_the_package_is_lazy_and_its_names_are_all_there():
    assert heavy_modules_after("import distill\ndir(distill)") == []
    assert sorted(distill.__all__) == sorted(dir(distill))
    assert all(getattr(distill, name) is not None for name in distill.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune_all'"):
        _ = distill.prune_all


@pytest.mark.parametrize("name", ["sst2-compact", "sst2-fast"])
def test_a_shipped_classifier_goes_its_whole_way_in_two_steps_each(name, topics_csv, tmp_path, without_memory):
    recipe = load(library.find("recipes", name)).model_dump(mode="json", exclude_none=True)
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=6, num_attention_heads=4)
    few = {"epochs": 1, "max_steps": 2}
    recipe["teacher"] = {"checkpoint": str(teacher), "finetune": {**recipe["teacher"]["finetune"], **few}}
    recipe["data"] = {"source": str(topics_csv), "validation": 0.2, "test": 0.2, "max_length": 16}
    for step in recipe["steps"]:
        if "distill" in step:
            step["distill"] |= few
        if "embeddings" in step.get("prune", {}):
            step["prune"]["embeddings"] = 4  # of a table as small as the tests'
    recipe |= {"expect": {}, "track": {"wandb": "off", "energy": False}}
    recipe["timing"] |= {"rounds": 3, "tokens": 8}
    report = run(Recipe(**recipe), tmp_path / "run", beside=tmp_path)
    *_, last = report.ledger.rows
    assert last.format == "onnx-int8" and last.params < report.ledger.rows[0].params
    assert [len(training["records"]) > 0 for training in report.training] == [True] * len(report.training)
    assert (tmp_path / "run" / "shipped" / "onnx" / "model_int8.onnx").is_file()
