"""Training with torch.compile: what it gives, that nothing of it is left, and what it is refused for."""

from __future__ import annotations

import pytest
import torch

from distill import Distill, Finetune, compiling, cut
from distill.cli import main
from distill.compiling import compiled, is_compiled, lacking
from distill.distillation import distill, finetune
from distill.errors import MachineError
from distill.pipeline.pieces import said
from distill.signals import NOTHING
from distill.teacher import Live
from distill.teacher.saved import facts_of
from distill.training import Watch

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about itself
EXACT = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0, "epochs": 1, "batch_size": 16}
BOTH = {"logits": 1.0, "hidden_states": 1.0}


@pytest.fixture
def traced(monkeypatch) -> None:
    """All of torch.compile but the machine code, which takes a minute."""
    monkeypatch.setattr(compiling, "_BACKEND", "eager")


@pytest.fixture(scope="module")
def small(bert):
    return cut(bert, 1)


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


def close(one, other) -> bool:
    pairs = zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True)
    return all(name == also and torch.allclose(a, b, atol=1e-5) for (name, a), (also, b) in pairs)


def test_a_compiled_training_is_the_same_training_and_leaves_nothing_behind(small, data, traced, tmp_path):
    pupil, teacher, ways, seen = small, small.copy(), {}, []
    for way in (False, True):
        watch = Watch(folder=tmp_path / str(way), tell=lambda _: seen.append(is_compiled(teacher.model)))
        words = Distill(**EXACT, imitate=BOTH, compile=way)
        ways[way] = distill(pupil, words, data=data, teacher=teacher, watch=watch), watch.log
    assert close(ways[True][0], ways[False][0])
    losses = [[record["loss"] for record in log.records] for _, log in ways.values()]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    pulls = [log.records[-1]["terms"]["logits"]["gradient"] for _, log in ways.values()]
    assert pulls[1] == pytest.approx(pulls[0], rel=1e-3)
    assert set(seen) == {False, True}, "the teacher is compiled, too"
    assert not any(is_compiled(model) for model in (ways[True][0].model, teacher.model, pupil.model))
    saved = ways[True][0].save(tmp_path / "made")
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        path.name for path in ways[False][0].save(tmp_path / "plain").iterdir()
    )


def test_a_training_goes_on_from_a_compiled_one(small, data, traced, tmp_path, monkeypatch):
    words = {**EXACT, "epochs": 2, "batch_size": 64}
    whole = finetune(small, Finetune(**words), data=data)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distill.training.trainer.rotate_checkpoints", die)
        finetune(small, Finetune(**words, compile=True), data=data, watch=Watch(folder=tmp_path))
    watch = Watch(folder=tmp_path)
    made = finetune(small, Finetune(**words), data=data, watch=watch)
    assert watch.log.sittings == 2 and len(watch.log.epochs) == 2 and close(made, whole)


@pytest.mark.skipif(lacking() is not None, reason=f"no compiler: {lacking()}")
def test_machine_code_gives_the_same(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.LayerNorm(8))
    given = [torch.randn(number, 8) for number in (4, 7)]
    expected = [model(batch) for batch in given]
    with compiled(model, True), torch.no_grad():
        assert all(torch.allclose(model(one), other, atol=1e-6) for one, other in zip(given, expected, strict=True))
    assert not is_compiled(model) and next(iter(model.state_dict())) == "0.weight"


def test_a_missing_compiler_is_told_before_any_work(bert, data, no_compiler, recipe_file, tmp_path, monkeypatch):
    from click.testing import CliRunner

    with pytest.raises(MachineError, match=r"compile: the C\+\+ compiler that CXX names, no-such-compiler"):
        finetune(bert, Finetune(**EXACT, compile=True), data=data)
    monkeypatch.setattr("distill.distillation.steps.with_more", None)  # nothing is asked of the data
    with pytest.raises(MachineError, match="leave compile out"):
        distill(bert, Distill(**EXACT, compile=True), data=data, teacher=bert)
    recipe = recipe_file(steps=[{"distill": {"imitate": {"logits": 1.0}, "compile": True}}])
    checked = CliRunner().invoke(main, ["check", str(recipe)])
    assert "steps.0.distill.compile: the C++ compiler" in checked.output
    ran = CliRunner().invoke(main, ["run", str(recipe), "--output", str(tmp_path / "run")])
    assert ran.exit_code == 2 and "steps.0.distill.compile: the C++ compiler" in ran.output


def test_missing_headers_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "sh")  # anything that is there
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert lacking().startswith(f"Python's headers are not in {tmp_path}")
    (tmp_path / "Python.h").touch()
    assert lacking() is None


def test_a_compiler_that_fails_is_told(bert, data, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no room for machine code")

    monkeypatch.setattr(compiling, "_BACKEND", broken)
    with pytest.raises(MachineError, match="no room for machine code"):
        finetune(bert, Finetune(**EXACT, compile=True), data=data)
    assert not is_compiled(bert.model)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"simulate": "int8"}, "`simulate` changes layers"),
        ({"imitate": {"relations": 1.0}}, "`relations` are read off"),
    ],
)
def test_what_cannot_be_compiled_is_refused(words, reason):
    with pytest.raises(ValueError, match=reason):
        Distill(**words, compile=True)


def test_a_recipe_that_does_not_compile_has_the_key_that_it_had():
    assert said(Finetune(compile=False)) == said(Finetune()) and "compile" not in said(Finetune())
    assert said(Finetune(compile=True))["compile"] is True


def test_signals_of_a_compiled_teacher_are_kept_apart(bert, data, traced):
    source, encoded = Live(bert, NOTHING, torch.float32), bert.encode(data, "train")
    plain = facts_of(source, encoded)
    with compiled(bert.model, True):
        assert facts_of(source, encoded) == {**plain, "compiled": True}
    assert facts_of(source, encoded) == plain
