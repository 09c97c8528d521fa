"""A shipped folder to be verified, and how a claim of it is altered."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from shipped import MS, ship_topics

import distill.evaluation.timing
from distill import verification
from distill.evaluation.timing import Latency


@pytest.fixture(scope="module")
def original(bert, quantized, topics, topics_csv, tmp_path_factory) -> Path:
    """A shipped folder. Nothing may change it."""
    return ship_topics(tmp_path_factory.mktemp("verified"), bert, quantized, topics, topics_csv)


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy to alter."""
    return shutil.copytree(original, tmp_path / "topics")


def failing(folder: Path, **how) -> list[str]:
    findings = verification.verify(folder, **{"quick": True, **how})
    return [finding.name for finding in findings if finding.outcome == "FAILS"]


def patch_hashes(folder: Path) -> None:
    """The manifest's hashes and sizes, made to match what lies there: a careful forger's work."""
    path = folder / "manifest.json"
    told = json.loads(path.read_text())
    for name in told["files"]:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            told["files"][name] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(told))


def change_json(path: Path, change) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def change_card(folder: Path, before: str, after: str) -> None:
    text = (folder / "README.md").read_text()
    assert before in text
    (folder / "README.md").write_text(text.replace(before, after, 1))
    patch_hashes(folder)


def claim(told: dict, name: str) -> dict:
    return next(one for one in told["claims"] if one["name"] == name)


@pytest.fixture
def timed(monkeypatch):
    """Latencies as the report claims them, times a factor a format."""
    factors: dict[str, float] = {}

    def measure(engines, inputs, timing, words=None):
        assert timing.batch == [1]
        assert (timing.tokens, timing.threads) == (12, 1)
        names = ["1-distill.transformers", "2-quantize.onnx-fp32", "2-quantize.onnx-int8"]
        names += ["teacher.transformers", "teacher.onnx-fp32"]
        spent = [MS[name] * factors.get(name, 1.0) for name in names[: len(engines)]]
        found = zip(engines, spent, strict=True)
        return [[Latency(engine.name, 1, 12, 1, timing.rounds, ms, ms, ms)] for engine, ms in found]

    monkeypatch.setattr(distill.evaluation.timing, "measure_latency", measure)
    return factors
