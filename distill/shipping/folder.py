"""`ship`: a run's result as a folder for others. It appears whole or not at all, and nothing in it is a link."""

from __future__ import annotations

import datetime
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill import anatomy, disk, generation, tasks
from distill import checkpoint as checkpoints
from distill.engines import GRAPHS, files_of, graph_in
from distill.errors import CheckpointError
from distill.recipe import to_yaml
from distill.recipe.settings import Recipe
from distill.redaction import portable_recipe, portable_report
from distill.safety import read_json
from distill.shipping import manifest as manifests
from distill.shipping import preprocessing, probe

log = logging.getLogger(__name__)
_GENERATION = "generation_config.json"
_ENGINES = ("torch", "transformers", "onnx", "onnxruntime", "tokenizers", "numpy")


def ship(
    recipe: Recipe, report: Mapping[str, Any], run: Path, *, torch_folder: Path, graph_folder: Path | None, folder: Path
) -> Path:
    """Writes what `recipe.ship` asks for into `folder`; one that is there from an earlier try is replaced.

    `report` is report.json's content, `run` the folder with predictions.npz and report.html; `torch_folder` and
    `graph_folder` hold the last torch checkpoint and the graphs made of it. Raises CheckpointError for links and for
    what is missing, MachineError when the disk is full or read-only.
    """
    asked = recipe.ship.formats if recipe.ship else ["transformers", "onnx"]
    if "onnx" in asked and graph_folder is None:
        raise CheckpointError("ship: onnx needs the folder that a quantize step made")
    new = folder.with_name(f".{folder.name}-new")
    if new.exists() and not folder.exists():  # a try that was killed between its two renames; what is there is whole
        new.rename(folder)
    _sweep(folder)
    whole = new if folder.exists() else folder
    with disk.atomic_folder(whole) as unfinished, disk.machine_errors(f"writing {folder}"):
        _fill(unfinished, portable_recipe(recipe), report, run, asked, torch_folder, graph_folder)
    if whole != folder:
        with disk.machine_errors(f"replacing {folder}"):
            before = folder.rename(folder.with_name(f".{folder.name}-before"))
            try:
                whole.rename(folder)
            except BaseException:
                before.rename(folder)
                raise
    _sweep(folder)
    return folder


def _sweep(folder: Path) -> None:
    """Removes what a try that was killed left beside the folder."""
    for pattern in (f".{folder.name}-*", f"..{folder.name}-new-*"):  # the second is atomic_folder's, of the first
        for left in folder.parent.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _fill(
    target: Path, recipe: Recipe, full: Mapping[str, Any], run: Path, asked: list[str], torch_folder: Path,
    graph_folder: Path | None,
) -> None:  # fmt: skip
    from distill.shipping import claims
    from distill.shipping.model_card import write_card

    report = {**portable_report(full), "recipe": _as_json(recipe)}
    longest = recipe.data.max_length
    if "transformers" in asked:
        _copy_checkpoint(torch_folder, target / "transformers", ["model.safetensors"], longest)
    if "onnx" in asked:
        small = GRAPHS[f"onnx-{recipe.steps[-1].quantize.weights}"]
        graphs = [file.name for name in (small, GRAPHS["onnx-fp32"]) for file in files_of(graph_folder / name)]
        _copy_checkpoint(graph_folder, target / "onnx", graphs, longest)
    preprocessing.write_json(target / "report.json", report)
    (target / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    _copy_extras(run, target, full)
    facts = _facts(target, recipe, report, asked, torch_folder)
    rows = claims.rows_of(report)
    facts["claims"] = [claim.model_dump() for claim in [*claims.of_rows(rows, facts["formats"]), *facts["claims"]]]
    aside = {word: facts.pop(word) for word in ("typed", "mask", "generation", "short_cache", "frame")}
    told = {**facts, **aside, "extras": [path.name for path in target.iterdir()]}
    (target / "README.md").write_text(write_card(recipe, report, told), encoding="utf-8")
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    manifests.write(target, facts)
    (target / manifests.NAME).chmod(0o644)


def _copy_checkpoint(source: Path, target: Path, weights: list[str], longest: int | None) -> None:
    """Weights, config and tokenizer of one folder, each an ordinary file of its own."""
    target.mkdir()
    config = _clean_config(read_json(_plain(source / "config.json")))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        _plain(source / name)
    preprocessing.write_json(target / "config.json", config)
    preprocessing.write_tokenizer(source, target, config, longest)
    written = [source / _GENERATION] if (source / _GENERATION).is_file() else []  # what begins and ends a text
    for path in [*preprocessing.vocabularies(source), *(source / name for name in weights), *written]:
        _copy(path, target / path.name)
        for more in source.glob(f"{path.name}.data"):  # a graph's weights beside it
            _copy(more, target / more.name)


def _clean_config(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise CheckpointError("config.json: not the config of a model")
    return {word: value for word, value in config.items() if word not in ("_name_or_path", "auto_map")}


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(_plain(source), target, follow_symlinks=False)


def _plain(path: Path) -> Path:
    """The path, when no link stands in for the file or for its folder. Raises CheckpointError."""
    if path.is_symlink() or path.parent.is_symlink():
        raise CheckpointError(f"{path}: a link; only files that are really there are shipped")
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: no {path.name}, which ships")
    return path


def _copy_extras(run: Path, target: Path, report: Mapping[str, Any]) -> None:
    """The predictions, unless they are texts, and the page, when it names no place of this machine.

    Raises CheckpointError for predictions that are neither numbers nor texts.
    """
    from distill.redaction import page_without_paths

    predictions, page = run / "predictions.npz", run / "report.html"
    if predictions.exists():
        with np.load(_plain(predictions), allow_pickle=False) as held:
            kinds = {held[name].dtype.kind for name in held.files}
        if kinds == {"U"}:
            log.info("predictions.npz holds the data's texts and is not shipped")
        elif not kinds <= set("iufb"):
            raise CheckpointError(f"{predictions}: it holds more than numbers, and data doesn't ship")
        else:
            _copy(predictions, target / predictions.name)
    if page.exists():
        text = page_without_paths(_plain(page).read_text(encoding="utf-8"), report)
        places = [str(run.resolve()), *([f"{Path.home()}/"] if len(str(Path.home())) > 1 else [])]
        if any(place in text for place in places):
            log.warning("report.html names a path of this machine and is not shipped")
        else:
            (target / page.name).write_text(text, encoding="utf-8")


def _facts(
    target: Path, recipe: Recipe, report: Mapping[str, Any], asked: list[str], torch_folder: Path
) -> dict[str, Any]:
    """The manifest but for its files and the claims of the report; with the claims of the probe."""
    from distill.shipping import claims

    graph = target / "onnx" / GRAPHS["onnx-fp32"] if "onnx" in asked else None
    formats = [
        form
        for form, inside in manifests.FOLDERS.items()
        if inside in asked and (form == "transformers" or graph_in(target / inside, form))
    ]
    inside = target / ("onnx" if graph else "transformers")
    config = read_json(inside / "config.json")
    task = tasks.from_config(config)
    rule = preprocessing.contract_of(inside, config, graph, len(recipe.data.text_columns))
    settled = probe.settle(config, rule["max_length"])
    logits = _answers(target, torch_folder, settled, rule["pad_id"], formats)
    return {
        "made_by": f"distill-toolkit {report['versions'].get('distill-toolkit', 'unknown')}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "problem": task.problem,
        "labels": list(task.labels),
        "threshold": tasks.threshold_of(config) if task.chooses else None,
        "activation": task.activation,
        "formats": formats,
        "preprocessing": rule,
        "outputs": {"logits": {"dtype": "float32", "shape": task.output_shape}},
        "opset": _opset(graph),
        "engine_versions": _versions(),
        "probe": {
            **settled,
            "logits": {form: probe.rounded(found) for form, found in logits.items()},
            "tolerance": probe.tolerances(logits),
        },
        "claims": claims.of_probe(logits),
        "typed": preprocessing.typed(preprocessing.words_of(inside), config),
        "mask": preprocessing.mask_token(preprocessing.words_of(inside)),
        "generation": generation.read_config(inside) if task.writes else {},
        "frame": preprocessing.frame_of(preprocessing.open_tokenizer(inside, config)) if task.continues else (0, 0),
        "short_cache": task.generates and anatomy.is_counted_by_encoder(config),
    }


def _answers(
    target: Path, torch_folder: Path, settled: dict[str, Any], pad: int, formats: list[str]
) -> dict[str, np.ndarray]:
    """Logits of every shipped format on the probe, and torch's also where only graphs ship."""
    from distill.engines import Torch

    batch = probe.batch_of(settled["seed"], settled["vocabulary"], settled["lengths"], pad, settled.get("start"))
    engines = {"transformers": Torch(checkpoints.load(torch_folder).model)}
    engines |= {form: probe.open_format(target, form) for form in formats if form != "transformers"}
    found = {form: probe.answer(engine, batch) for form, engine in engines.items()}
    if broken := [form for form, logits in found.items() if not np.isfinite(logits).all()]:
        raise CheckpointError(f"{torch_folder}: {', '.join(broken)} answers with what is no number; it is not shipped")
    return found


def _opset(graph: Path | None) -> int | None:
    if graph is None:
        return None
    import onnx

    known = onnx.load(files_of(graph)[0], load_external_data=False).opset_import
    return next(entry.version for entry in known if entry.domain in ("", "ai.onnx"))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in _ENGINES}


def _as_json(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_none=True)
