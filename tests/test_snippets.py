"""The model card's snippets, each run where only what it names is installed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from conftest import LABELS, load_tiny, make_splits, make_tokenizer
from language_models import save_language
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from shipped import make_recipe, make_run, ship_it
from writers import build_writer, make_pairs

from distill import Predictor, Quantize, checkpoint, export
from distill.distillation import settle
from distill.generation import read_config
from distill.quantization import quantize
from distill.shipping import snippets

_END = "── a snippet's end"
MANY, NUMBER = "multi_label_classification", "regression"


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


def answers_of(python: Path, codes: list[tuple[Path, list[str]]]) -> list[list]:
    """What each code prints last, one behind the other in one process: each in its folder and with names of its own."""
    script = ["import os"]
    for folder, ways in codes:
        script.append(f"os.chdir({str(folder)!r})")
        script += [f'exec({code!r}, {{"__name__": "__main__"}}); print({_END!r})' for code in ways]
    done = run_in(python, codes[0][0], "\n".join(script))
    assert done.returncode == 0, done.stderr[-2000:]
    return [ast.literal_eval(told.strip().splitlines()[-1]) for told in done.stdout.split(_END)[:-1]]


def both_ways(folders: list[tuple[Path, list]], codes: list[str]) -> list[tuple[Path, list[str]]]:
    """Each folder's code as it stands, and with texts of its own."""
    return [(folder, [code, with_texts(code, texts)]) for (folder, texts), code in zip(folders, codes, strict=True)]


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
        yield ship_it((run, recipe, report), tmp / kind / "shipped"), texts


@pytest.fixture(scope="module")
def folders(shipped_folder, topics_csv, tmp_path_factory):
    """Every kind: one label, many labels, a number, pairs."""
    return [(shipped_folder, SHORT), *kinds_of_folders(tmp_path_factory.mktemp("kinds"), topics_csv)]


def test_the_transformers_snippet_runs_where_only_transformers_is(folders, with_transformers):
    assert missing_in(with_transformers, folders[0][0], ["distill", "onnxruntime", "onnx", "sklearn", "torch"]) == [
        "distill", "onnxruntime", "onnx", "sklearn",
    ]  # fmt: skip
    codes = [snippet(folder, "transformers alone") for folder, _ in folders]
    answered = answers_of(with_transformers, both_ways(folders, codes))
    for (folder, texts), as_it_stands, answers in zip(folders, answered[::2], answered[1::2], strict=True):
        assert len(as_it_stands) == 2
        one_by_one = Predictor(folder, format="transformers")
        for answer, text in zip(as_predictor(answers), texts, strict=True):
            assert answer == pytest.approx(one_by_one.predict([text])[0], abs=1e-5)


def test_the_onnx_snippet_runs_where_only_onnxruntime_and_tokenizers_are(folders, with_onnxruntime):
    asked = ["distill", "torch", "transformers", "onnx", "onnxruntime", "tokenizers"]
    assert missing_in(with_onnxruntime, folders[0][0], asked) == ["distill", "torch", "transformers", "onnx"]
    codes = [snippet(folder, "onnxruntime and tokenizers alone") for folder, _ in folders]
    answered = answers_of(with_onnxruntime, both_ways(folders, codes))
    for (folder, texts), as_it_stands, answers in zip(folders, answered[::2], answered[1::2], strict=True):
        assert len(as_it_stands) == 2
        for answer, expected in zip(as_predictor(answers), Predictor(folder).predict(texts), strict=True):
            assert list(answer) == list(expected)
            assert answer == pytest.approx(expected, abs=1e-6)


def test_the_predictors_snippet_runs_here(folders):
    codes = [(folder, [with_texts(snippet(folder, "distill's Predictor"), texts)]) for folder, texts in folders]
    for (folder, texts), answers in zip(folders, answers_of(Path(sys.executable), codes), strict=True):
        for answer, expected in zip(answers, Predictor(folder).predict(texts), strict=True):
            assert answer == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------------------------------------- what writes

DECODERS = ("gpt2", "llama")
ASKED = ["the goal match", "a bank and", "the score of a star"]
# What generation configs of such checkpoints say. Each changes what a tiny one writes; the first of each says nothing.
RULES = {
    "bart": [
        {},
        {"forced_bos_token_id": 14, "forced_eos_token_id": 3},
        {"no_repeat_ngram_size": 2, "min_length": 7},
    ],
    "marian": [
        {},
        {"bad_words_ids": [[0], [5, 5]], "forced_eos_token_id": [3]},
        {"eos_token_id": [3, 5], "min_length": 3},
    ],
    "t5": [
        {},
        {"repetition_penalty": 1.7, "no_repeat_ngram_size": 4},
        {"suppress_tokens": [0, 5], "begin_suppress_tokens": [8, 9, 10], "min_new_tokens": 4},
    ],
    "llama": [
        {},
        {"eos_token_id": [2, 6, 68, 69], "min_new_tokens": 3},
        {"max_new_tokens": 9, "no_repeat_ngram_size": 3},
    ],
    "gpt2": [
        {},
        {"bad_words_ids": [[0], [122, 122]], "repetition_penalty": 1.3, "eos_token_id": 0, "forced_eos_token_id": 0},
    ],
}  # fmt: skip


def build(folder: Path, family: str) -> Path:
    """A tiny checkpoint that writes, in a card's folder: in transformers, and as its fp32 graph."""
    if family in DECODERS:
        made = checkpoint.load(save_language(folder / "made", family))
    else:
        made = checkpoint.Checkpoint(build_writer(family), make_tokenizer())
        make_pairs().task.settle(made.model)
    made.save(folder / "transformers")
    export.write_settings(made, folder / "onnx")
    made.tokenizer.save_pretrained(folder / "onnx")
    export.export(made, folder / "onnx" / "model.onnx")
    return folder


def snippets_of(family: str, how: dict, frame: tuple[int, int] = (0, 0)) -> tuple[str, str]:
    """A card's snippets, of transformers and of ONNX Runtime, for a checkpoint with a generation config."""
    task = "causal-language-modelling" if family in DECODERS else "translation"
    facts = {"problem": task.replace("-", "_"), "formats": ["onnx-fp32"], "preprocessing": {"max_length": 40}}
    facts |= {"generation": how, "short_cache": False, "frame": frame}
    both = snippets.transformers_alone(task, facts), snippets.onnxruntime_alone(task, facts)
    return tuple(with_texts(code, ASKED) for code in both)


def by_generate(folder: Path, family: str, **words: object) -> list[str]:
    """What the folder's own `generate` makes of the texts, by its generation_config.json."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    kind = AutoModelForCausalLM if family in DECODERS else AutoModelForSeq2SeqLM
    model, tokenizer = (one.from_pretrained(folder / "transformers") for one in (kind, AutoTokenizer))
    rows = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in ASKED]
    return [tokenizer.decode(model.generate(**row, **words)[0], skip_special_tokens=True) for row in rows]


@pytest.mark.parametrize("family", RULES)
def test_snippets_write_what_generate_writes(family, with_onnxruntime, tmp_path, monkeypatch, capsys):
    folder, codes, expected = build(tmp_path, family), [], []
    plain = read_config(folder / "onnx")
    for rules in RULES[family]:
        how = {**plain, **rules}
        (folder / "transformers" / "generation_config.json").write_text(json.dumps(how))
        pipeline, code = snippets_of(family, how)
        codes.append(f"open('onnx/generation_config.json', 'w').write({json.dumps(how)!r})\n{code}")
        expected.append(by_generate(folder, family, **({} if "max_new_tokens" in how else {"max_new_tokens": 40})))
        if family == "llama":
            monkeypatch.chdir(folder)
            capsys.readouterr()
            exec(pipeline, {})
            found = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
            assert [one["generated_text"] for (one,) in found] == expected[-1]
    done = run_in(with_onnxruntime, folder, "\n".join(codes))
    assert done.returncode == 0, done.stderr[-2000:]
    assert [ast.literal_eval(line) for line in done.stdout.splitlines()] == expected
    assert all(texts != expected[0] for texts in expected[1:]), "a rule that changes nothing tests nothing"
    assert "scores" not in codes[0], "a checkpoint without rules has a short snippet"


@pytest.mark.parametrize(
    ("frame", "cut", "bare"), [((0, 0), "", False), ((0, 1), "[:-1]", True), ((1, 2), "[:-2]", False)]
)
def test_snippets_write_on_before_what_the_tokenizer_ends_a_text_with(frame, cut, bare):
    pipeline, code = snippets_of("gpt2", {}, frame)
    assert re.search(r"tokenizer\.encode\(text\)\.ids(\[:-\d\])?", code)[1] == (cut or None)
    assert ("add_special_tokens=False" in pipeline) == bare


def test_a_card_says_what_its_snippet_leaves_out():
    told = {"num_beams": 4, "do_sample": False, "length_penalty": 2.0, "encoder_repetition_penalty": 1.2}
    assert "of `num_beams`, `encoder_repetition_penalty`: transformers" in snippets.left_out({"generation": told})
    assert snippets.left_out({"generation": {"num_beams": 1, "do_sample": None, "max_new_tokens": 9}}) is None
