"""The label pass, over the texts whose teacher's signals are saved: on a faster engine, where that stays faithful.

Before an engine is used its logits are held against those of torch in float32 on a sample of the training rows, in the
places where a student follows its teacher: the mean KL from float32's distributions to the engine's at the training's
temperature (of many labels each is a distribution of its own; of a number the mean square, as a share of its variance),
and the share of places with the same answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.checkpoint import Checkpoint
from distill.data import Encoded, TokenBatches, collate
from distill.engines import GRAPHS, Engine, open_graph
from distill.errors import MachineError
from distill.losses import LOSSES
from distill.recipe.settings import Kept
from distill.signals import Signals, Wanted, tensors
from distill.tasks import Task
from distill.teacher.saved import Source
from distill.teacher.worth import drawn

log = logging.getLogger(__name__)
_SAMPLE, _ROWS = 8192, 32  # tokens that engines are compared on, and rows at once
_NUMBERS = 1 << 24  # logits at once
_RANGED = 256  # training texts that int8's ranges are measured on
_SECONDS = 60.0  # a pass that float32 is through with sooner is not worth a graph
_FLOAT32 = "float32"


class Live(Source, Protocol):
    """A live teacher that can be had in another precision."""

    teacher: Checkpoint

    def at(self, dtype: torch.dtype) -> Source:
        """The same in another precision."""
        ...


@dataclass(frozen=True)
class Pass:
    """What a recipe asks of the label pass: an engine and its bounds, and what they are measured by."""

    words: Kept
    temperature: float
    task: Task

    @property
    def facts(self) -> dict[str, Any]:
        """What saved signals hang on."""
        said = {name: getattr(self.words, name) for name in ("engine", "divergence", "agreement")}
        return {**said, "temperature": self.temperature}


@dataclass(frozen=True)
class Trial:
    """An engine beside torch in float32, on so many `rows`: mean `divergence` in nats, `agreement`, and how many times
    as `fast` it is.
    """

    engine: str
    rows: int
    divergence: float
    agreement: float
    fast: float

    def within(self, words: Kept) -> bool:
        """Whether it stays within the bounds; not where anything is NaN."""
        return self.divergence <= words.divergence and self.agreement >= words.agreement

    def told(self, asked: Pass) -> str:
        """All of it, in words."""
        unit = "of the variance" if asked.task.problem == "regression" else f"nats at temperature {asked.temperature:g}"
        return (
            f"{self.engine} on {self.rows:,} training rows: {self.divergence:.2g} {unit} from float32 (at most "
            f"{asked.words.divergence:g}), {self.agreement:.1%} the same answer (at least "
            f"{asked.words.agreement:.1%}), {self.fast:.1f} times as fast"
        )


@contextmanager
def labeller(source: Live, encoded: Encoded, asked: Pass, scratch: Path) -> Iterator[tuple[Source, dict[str, Any]]]:
    """What labels a split: the engine asked for where it stays within its bounds, of `auto` the fastest that does, and
    else torch in float32, which `source` is; with what was measured. Says so. Graphs lie in a folder of `scratch`.

    Raises MachineError where a graph is asked for by name and can't be made, CheckpointError where it can't be asked.
    """
    if asked.words.engine == _FLOAT32:
        yield source, {"engine": _FLOAT32, "tried": []}
        return
    with TemporaryDirectory(prefix="labels-", dir=scratch) as folder:
        reference = _Reference(source, encoded, asked)
        found: list[tuple[Trial, Source]] = []
        for name in _candidates(source, encoded, asked, reference):
            try:
                fast = reference.engine(name, Path(folder))
            except MachineError as error:
                if asked.words.engine != "auto":
                    raise MachineError(f"signals.engine: {name}: {error}; say float32, or auto") from error
                log.warning("the label pass: %s is left out: %s", name, error)
                continue
            found.append((reference.trial(name, fast), fast))
            log.info("the label pass: %s", found[-1][0].told(asked))
        fit = [pair for pair in found if pair[0].within(asked.words)]
        fit = [pair for pair in fit if asked.words.engine != "auto" or pair[0].fast > 1]
        told: dict[str, Any] = {"engine": _FLOAT32, "tried": [asdict(trial) for trial, _ in found]}
        if fit:
            trial, chosen = max(fit, key=lambda pair: pair[0].fast)
            yield chosen, told | {"engine": trial.engine}
            return
        if found:
            why = "nothing tried is within its bounds and faster" if asked.words.engine == "auto" else "out of bounds"
            log.warning("the label pass runs in float32 on torch: %s", why)
        yield source, told


def _candidates(source: Live, encoded: Encoded, asked: Pass, reference: _Reference) -> list[str]:
    """Which engines to try."""
    if asked.words.engine != "auto":
        return [asked.words.engine]
    whole = reference.seconds * encoded.work.sum() / max(1, reference.some.work.sum())
    if whole < _SECONDS:
        log.info("the label pass runs in float32 on torch: it takes about %.0f s, too few to gain from", whole)
        return []
    from distill.training import choose_dtype  # with Trainer, which reading runs and comparing them does without

    names = ["bfloat16"] if choose_dtype("auto") == torch.bfloat16 else []
    return names + (["onnx-int8", "onnx-fp32"] if source.wanted == Wanted() and source.numbers is None else [])


class Graph:
    """An ONNX graph that answers with a teacher's logits."""

    def __init__(self, source: Live, engine: Engine) -> None:
        self.model, self.wanted, self.dtype, self.engine = source.model, source.wanted, source.dtype, engine
        self.numbers = source.numbers

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The logits, where the batch is."""
        device = batch["input_ids"].device
        answers = self.engine.answer({name: values.numpy(force=True) for name, values in batch.items()})
        return Signals(torch.from_numpy(np.ascontiguousarray(answers)).to(device))


class _Reference:
    """Torch in float32 on a sample of the training rows, and engines held against it."""

    def __init__(self, source: Live, encoded: Encoded, asked: Pass) -> None:
        self.source, self.encoded, self.asked = source, encoded, asked
        self.some = drawn(encoded, _SAMPLE)
        wide = getattr(source.model.config, "vocab_size", 1) if not asked.task.head_labels else 1
        rows = TokenBatches(self.some.work, _ROWS, max(1, _NUMBERS // wide))
        self.batches = [tensors(collate(self.some, row), source.model.device) for row in rows]
        source.signals(self.batches[0])  # what is first is slow
        self.seconds = _timed(lambda: [source.signals(batch) for batch in self.batches])

    def engine(self, name: str, folder: Path) -> Source:
        """The teacher on an engine. Raises MachineError."""
        if name == "bfloat16":
            return self.source.at(torch.bfloat16)
        graph = folder / "fp32" / GRAPHS["onnx-fp32"]
        if not graph.parent.is_dir():
            _export(self.source.teacher, self.some, graph.parent)
        if name == "onnx-int8":
            graph = _rounded(graph, folder / "int8", drawn(self.encoded, rows=_RANGED))
        return Graph(self.source, open_graph(graph, threads=torch.get_num_threads()))

    def trial(self, name: str, fast: Source) -> Trial:
        """What an engine says beside float32, and how fast."""
        fast.signals(self.batches[0])
        seconds = _timed(lambda: [fast.signals(batch) for batch in self.batches])
        sums = np.zeros(3)
        numbers: list[np.ndarray] = []
        for batch in self.batches:
            theirs, mine = (self.asked.task.imitated(one.signals(batch).logits, batch) for one in (self.source, fast))
            sums += _compared(self.asked, mine.float(), theirs.float())
            if self.asked.task.problem == "regression":
                numbers.append(theirs.float().numpy(force=True))
        divergence, same = sums[1:] / max(1.0, sums[0])
        if self.asked.task.problem == "regression":
            divergence /= max(float(np.concatenate(numbers).var()), 1e-12)
        return Trial(name, len(self.some), max(float(divergence), 0.0), float(same), self.seconds / max(seconds, 1e-9))


def _compared(asked: Pass, mine: Tensor, theirs: Tensor) -> np.ndarray:
    """Sums over places: how many, divergence, how many have the same answer."""
    task, places = asked.task, len(theirs)
    if not places:
        return np.zeros(3)
    if (name := task.soft_loss("kl")) == "mse":
        found = LOSSES[name](mine, theirs).item()
    else:
        found = LOSSES[name](mine, theirs, asked.temperature).item() / asked.temperature**2
    return np.array([places, places * found, _same(task, mine, theirs)])


def _same(task: Task, mine: Tensor, theirs: Tensor) -> float:
    if task.head_labels and not task.by_token:
        return len(theirs) * task.agreement(*(one.numpy(force=True) for one in (mine, theirs)))
    return float((mine.argmax(-1) == theirs.argmax(-1)).sum())


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _export(teacher: Checkpoint, held: Encoded, folder: Path) -> None:
    """The teacher's fp32 graph, with its parity check. Raises MachineError."""
    from distill.export import write_graph

    folder.mkdir()
    write_graph(teacher, folder, held)


def _rounded(fp32: Path, folder: Path, texts: Encoded) -> Path:
    """The same in int8, its ranges measured on some texts."""
    import shutil

    from distill.quantization.calibration import calibrate
    from distill.quantization.lowering import evenly, lower

    shutil.copytree(fp32.parent, folder, ignore=shutil.ignore_patterns("*.onnx", "*.onnx.data"))
    small = folder / GRAPHS["onnx-int8"]
    lower(fp32, small, evenly(fp32, "static", calibrate(fp32, texts, seed=0)))
    return small
