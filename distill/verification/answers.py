"""Whether each shipped format opens, answers the probe as it did, and agrees with the others."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill import checkpoint as checkpoints
from distill.engines import GRAPHS
from distill.errors import CheckpointError
from distill.safety import read_json
from distill.shipping import manifest as manifests
from distill.shipping import preprocessing, probe
from distill.shipping.manifest import Manifest
from distill.verification.finding import Finding, first_line, judge, unchecked

if TYPE_CHECKING:
    from distill.evaluation import Subject

log = logging.getLogger(__name__)
_PATIENCE = 60  # seconds


@dataclass
class Opened:
    """The formats that open, and why the others don't."""

    subjects: dict[str, Subject] = field(default_factory=dict)
    shut: dict[str, str] = field(default_factory=dict)


def open_formats(folder: Path, manifest: Manifest, spoilt: set[str]) -> tuple[Opened, list[Finding]]:
    """Loads every format with stock transformers or ONNX Runtime; what is not the file of the manifest is left shut."""
    opened, findings = Opened(), []
    for inside in dict.fromkeys(manifests.FOLDERS[form] for form in manifest.formats):
        forms = [form for form in manifest.formats if manifests.FOLDERS[form] == inside]
        bad = sorted(name for name in spoilt if name.startswith(f"{inside}/"))
        if bad:
            why = f"{bad[0]} is not the file that the manifest names, so it is not opened"
            opened.shut |= dict.fromkeys(forms, why)
            continue
        try:
            opened.subjects |= _open(folder / inside, forms)
        except Exception as error:  # a stranger's files can make three libraries raise whatever they like
            why = first_line(error)
            opened.shut |= dict.fromkeys(forms, f"it can't be opened ({why})")
            findings.append(Finding(f"{inside} opens", "FAILS", why=why))
            continue
        told = "stock transformers loads it" if inside == "transformers" else "ONNX Runtime and tokenizers open it"
        findings.append(Finding(f"{inside} opens", "holds", ", ".join(forms), told))
        findings.append(_preprocessing(folder / inside, manifest))
    return opened, findings


def _open(folder: Path, forms: list[str]) -> dict[str, Subject]:
    from distill.evaluation import subjects_in

    checkpoints.inspect(folder)
    _try_tokenizer(folder / "tokenizer.json")
    preprocessing.open_tokenizer(folder, read_json(folder / "config.json"))
    subjects = {subject.format: subject for subject in subjects_in("shipped", folder)}
    for form in forms:
        if form in GRAPHS:
            subjects[form].open(1)
    return {form: subjects[form] for form in forms}


def _try_tokenizer(path: Path) -> None:
    """Lets another process cut texts first, and ends it when it takes too long."""
    script = Path(__file__).with_name("trial.py")
    try:
        done = subprocess.run(
            [sys.executable, str(script), str(path)], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path.name}: it did not cut five short texts within {_PATIENCE} seconds") from None
    if done.returncode != 0:
        told = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1][:200]
        raise CheckpointError(f"{path.name}: not a tokenizer that works ({told})")


def _preprocessing(folder: Path, manifest: Manifest) -> Finding:
    graph = folder / GRAPHS["onnx-fp32"] if folder.name == "onnx" else None
    config, claimed = read_json(folder / "config.json"), manifest.preprocessing.model_dump()
    found = preprocessing.contract_of(folder, config, graph, claimed["texts"])
    for word, value in claimed.items():
        if word in ("inputs", "pair") and (graph is None or word == "pair"):
            continue
        if found.get(word) != value:
            return Finding(f"preprocessing {folder.name}, {word}", "FAILS", str(value), str(found.get(word)), "exactly")
    told = f"texts are cut to {claimed['max_length']} tokens, padded with {claimed['pad_token']}"
    return Finding(f"preprocessing {folder.name}", "holds", told, "the same in its tokenizer", "exactly")


def check_probe(folder: Path, manifest: Manifest, opened: Opened) -> list[Finding]:
    """Each format's logits on the made-up ids against the recorded ones, then the graphs against torch."""
    words = manifest.probe
    pad = manifest.preprocessing.pad_id
    batch = probe.batch_of(words.seed, words.vocabulary, words.lengths, pad, words.start)
    recorded = {form: np.array(logits, dtype=np.float64) for form, logits in words.logits.items()}
    findings: list[Finding] = []
    measured: dict[str, np.ndarray] = {}
    for form in manifest.formats:
        if form not in recorded:
            findings.append(Finding(f"probe {form}", "FAILS", why="the manifest records no logits of it"))
            continue
        if form in opened.shut:
            findings.append(unchecked(f"probe {form}", opened.shut[form]))
            continue
        try:
            measured[form] = probe.answer(opened.subjects[form].open(), batch)
        except Exception as error:  # what an engine raises on a stranger's graph is its own
            findings.append(Finding(f"probe {form}", "FAILS", why=f"it doesn't answer ({first_line(error)})"))
    close = _tolerances(recorded)
    for form, logits in measured.items():
        findings.append(_close(f"probe {form}", probe.distance(logits, recorded[form]), close[form], recorded[form]))
    return findings + _parity(manifest, measured, recorded, close)


def _tolerances(recorded: dict[str, np.ndarray]) -> dict[str, float]:
    """This package's own, whatever the manifest allows itself."""
    try:
        return probe.tolerances(recorded)
    except (KeyError, ValueError):
        return dict.fromkeys(recorded, probe.CLOSE)


def _close(name: str, found: float, tolerance: float, recorded: np.ndarray) -> Finding:
    claimed = f"logits of {len(recorded)} rows of made-up ids"
    return judge(name, found <= tolerance, claimed, f"within {found:.2g}", f"at most {tolerance:.2g} apart")


def _parity(
    manifest: Manifest, measured: dict[str, np.ndarray], recorded: dict[str, np.ndarray], close: dict[str, float]
) -> list[Finding]:
    """Torch as it answers here, or as it was recorded where only graphs ship."""
    expected = measured.get("transformers", recorded.get("transformers"))
    claimed = {claim.name: claim for claim in manifest.claims}
    findings = []
    for form in (form for form in manifest.formats if form != "transformers"):
        name = f"parity {form}"
        if name not in claimed:
            findings.append(Finding(name, "FAILS", why="the manifest says nothing of it"))
        elif form not in measured or expected is None:
            findings.append(unchecked(name, "it didn't answer", f"{claimed[name].value:.2g}"))
        else:
            found, value = probe.distance(measured[form], expected), claimed[name].value
            recorded_value = probe.distance(recorded[form], recorded["transformers"])
            if abs(value - recorded_value) > 1e-5:
                why = f"the manifest claims {value:.3g}, its own logits are {recorded_value:.3g} apart"
                findings.append(Finding(name, "FAILS", why=why))
                continue
            told = f"within {value:.2g} of torch"
            findings.append(
                judge(name, found <= value + close[form], told, f"{found:.2g}", f"at most {close[form]:.2g} more")
            )
    return findings
