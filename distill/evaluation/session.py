"""`evaluate`: checkpoints side by side on one data set, the teacher first."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill import anatomy, generation, tasks
from distill import checkpoint as checkpoints
from distill.bars import bar
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Splits, cut_alike
from distill.data.decoders import Decoder
from distill.engines import GRAPHS, Engine, Torch, answer_all, files_of, graph_in, open_graph
from distill.errors import CheckpointError
from distill.evaluation.ledger import Ledger, Row
from distill.evaluation.memory import peak_memory
from distill.evaluation.quality import Quality, measure_quality, paired_p_value
from distill.evaluation.timing import measure_latency
from distill.evaluation.writing import agreements, draw_samples, warn_of_unended, write_texts
from distill.export import as_graph
from distill.recipe import settings
from distill.teacher import Ensemble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEW_TOKENS = 32


@dataclass
class Subject:
    """One checkpoint in one format, ready to be measured: a folder, and its model when it runs in torch."""

    name: str
    format: str
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    checkpoint: Checkpoint | None = None

    @property
    def served(self) -> Path:
        """What an engine opens: the folder for torch, the graph's file for ONNX Runtime."""
        return self.folder if self.format == "transformers" else self.folder / GRAPHS[self.format]

    def open(self, threads: int = 0) -> Engine:
        """The engine that answers."""
        return open_graph(self.served, threads) if self.checkpoint is None else Torch(self.checkpoint.model)

    def encoded(self, data: Splits, split: str = "test") -> Encoded:
        """A split in this checkpoint's own tokens."""
        config = checkpoints.read_config(self.folder)
        decoder = Decoder.of(config, generation.read_config(self.folder)) if data.task.generates else None
        return data.encode(split, self.tokenizer, anatomy.size(config, "positions"), decoder)

    @property
    def threshold(self) -> float:
        """The probability from which one of many labels counts as given, as the config keeps it."""
        if self.checkpoint is not None:
            return tasks.threshold_of(self.checkpoint.model.config.to_dict())
        return tasks.threshold_of(checkpoints.read_config(self.folder))

    @property
    def parameters(self) -> int:
        """Number of parameters; of a graph, the values in its weights, without scales and zero points."""
        return self.checkpoint.parameters if self.checkpoint else sum(map(_count, files_of(self.served)))

    @property
    def bytes(self) -> int:
        """Size of the files that the engine needs."""
        return checkpoints.count_bytes(self.folder, self.weights)

    @property
    def weights(self) -> str:
        """The file that holds the weights."""
        return "model.safetensors" if self.format == "transformers" else GRAPHS[self.format]


def subjects_in(name: str, folder: Path, data: Splits | None = None) -> list[Subject]:
    """Every format that a folder holds: safetensors, fp32 graph, graph in few bits.

    Raises CheckpointError when it holds none, or its labels are not the data's.
    """
    from distill.checkpoint.tokenizers import load_tokenizer

    config = checkpoints.read_config(folder)
    checkpoints.inspect(folder)
    if data is not None:
        _require_labels(folder, config, data)
    found: list[Subject] = []
    if any(folder.glob("*.safetensors")):
        loaded = checkpoints.load(folder)
        found.append(Subject(name, "transformers", folder, loaded.tokenizer, loaded))
    graphs = [form for form in reversed(GRAPHS) if graph_in(folder, form)]
    if graphs:
        tokenizer = load_tokenizer(folder)
        found += [Subject(name, form, folder, tokenizer) for form in graphs]
    if not found:
        raise CheckpointError(f"{folder}: holds neither safetensors nor an ONNX graph")
    return found


def _require_labels(folder: Path, config: dict[str, object], data: Splits) -> None:
    tasks.from_config(config)
    if misfit := data.task.misfit(config):
        raise CheckpointError(f"{folder}: its head doesn't fit the data: {misfit}")


def score(subject: Subject, data: Splits) -> Quality:
    """The quality of one subject on the test split."""
    found = measure_quality(
        subject.open(), subject.encoded(data), data.task, threshold=subject.threshold, seed=data.seed,
        title=f"score {subject.name} {subject.format}",
    )  # fmt: skip
    warn_of_unended(f"{subject.name} ({subject.format})", found.unended, data.task)
    return found


@dataclass(frozen=True)
class Together:
    """Several teachers as one: what they score, and what they have together."""

    name: str
    number: int
    parameters: int
    bytes: int
    quality: Quality
    format: str = "transformers"


def score_together(ensemble: Ensemble, data: Splits) -> Quality:
    """The quality of several teachers as one on the test split; what they choose, they choose on validation."""
    task, threshold = data.task, data.task.threshold
    if task.chooses:
        held = ensemble.encode(data, "validation")
        threshold = task.choose_threshold(answer_all(ensemble.engine(data, "validation"), held, task), held.labels)
    engine, rows = ensemble.engine(data, "test"), ensemble.encode(data, "test")
    return measure_quality(engine, rows, task, threshold=threshold, seed=data.seed, title="score ensemble")


def make_ledger(
    subjects: Sequence[Subject], qualities: Sequence[Quality], data: Splits, timing: settings.Timing,
    together: Together | None = None,
) -> Ledger:  # fmt: skip
    """Times all subjects in one interleaved session, measures their memory, and holds each against the first; where
    that is one of several teachers, its score against what they score `together`.
    """
    encoded = [subject.encoded(data) for subject in subjects]
    timing = _settled(timing, subjects, encoded, data)
    engines = [subject.open(timing.threads) for subject in subjects]
    latencies = measure_latency(engines, encoded, timing, data.task.words if data.task.writes else None)
    teacher, labels = together.quality if together else qualities[0], encoded[0].labels
    written: list[np.ndarray | None] = [None] * len(subjects)
    if data.task.writes:
        written = write_texts(engines, qualities, encoded, data.task, timing)
    same = agreements(written, encoded, data.task)
    rows = []
    for subject, quality, latency, agreement in zip(
        bar(subjects, title="memory", leave=True), qualities, latencies, same, strict=True
    ):
        row = _row(subject, quality)
        row.agreement = agreement if quality is not qualities[0] else None
        row.latency, row.memory_mb = latency, peak_memory(subject.served)
        if quality is not teacher:
            row.retained = tasks.retained(quality.score, teacher.score, lower=data.task.lower)
            if len(quality.predictions) == len(teacher.predictions):  # not of texts that are packed into other blocks
                row.p_value = paired_p_value(quality.predictions, teacher.predictions, labels, data.task)  # as compare
        rows.append(row)
    samples = draw_samples({row.title: texts for row, texts in zip(rows, written, strict=True)}, encoded, data, timing)
    return Ledger(rows, _row(together, together.quality) if together else None, samples)


def note_of_tokens(subjects: Sequence[Subject], data: Splits) -> list[str]:
    """What whoever reads the ledger must know where the last one cuts texts otherwise than the first: nothing else."""
    (first, mine), (last, theirs) = ((one.name, one.encoded(data)) for one in (subjects[0], subjects[-1]))
    notes, medians = [], [float(np.median(rows.sequences)) for rows in (mine, theirs)]
    if medians[0] != medians[1]:
        notes.append(
            f"{medians[0]:g} tokens in a test text (median) for the {first}, {medians[1]:g} for {last}; "
            "latencies are those of as many tokens for both"
        )
    if data.task.metric == "perplexity" and not cut_alike(mine, theirs):
        notes.append(
            f"{last} cuts the test texts into {len(theirs.ids):,} tokens and the {first} into {len(mine.ids):,}, so "
            "their perplexities, which are by token, don't compare, nor does what is kept of them; bits_per_byte does "
            "(metric: bits_per_byte)"
        )
    return notes


def _settled(
    timing: settings.Timing, subjects: Sequence[Subject], encoded: Sequence[Encoded], data: Splits
) -> settings.Timing:
    """How many tokens are read and written, where the recipe doesn't say it: no more than the shortest model takes."""
    told: dict[str, int] = {}
    if timing.tokens is None:
        told["tokens"] = min(int(np.median(rows.sequences)) for rows in encoded)
    if data.task.writes:
        sizes = [anatomy.size(checkpoints.read_config(subject.folder), "positions") for subject in subjects]
        room = min((size for size in sizes if size is not None), default=None)
        written = [int(np.median(rows.targets.lengths)) for rows in encoded if rows.decoder_start is not None]
        new = max(2, timing.new_tokens or min(*(written or [_NEW_TOKENS]), data.task.words.max_new_tokens))
        told["new_tokens"] = new if room is None else min(new, room - 1)
        if room is not None and not written:  # what a decoder reads and what it writes share its positions
            told["new_tokens"] = min(new, room // 2)
            told["tokens"] = min(told.get("tokens", timing.tokens), room - told["new_tokens"])
    return timing.model_copy(update=told)


def _row(subject: Subject | Together, quality: Quality) -> Row:
    worst = quality.worst_class
    return Row(
        name=subject.name, format=subject.format, metric=quality.metric, score=quality.score,
        interval=quality.interval, n=quality.n, scores=quality.scores,
        worst_class={"name": worst[0], "score": worst[1]} if worst else None,
        params=subject.parameters, bytes=subject.bytes, scored_at_batch=quality.batch,
        by_class=quality.by_class, confusion=quality.confusion, calibration=quality.calibration,
        unended=quality.unended,
    )  # fmt: skip


def add_teacher_graph(subjects: Sequence[Subject], write: Callable[[Checkpoint], Path]) -> list[Subject]:
    """The subjects, with the first as an fp32 graph behind it where others are graphs: the same-engine baseline.

    `write` makes a folder with a checkpoint's graph. Nothing is added when the first is a graph itself or has one
    already, or when no other is a graph.
    """
    teacher, *others = subjects
    graphs = [subject for subject in others if subject.format != "transformers"]
    if teacher.checkpoint is None or not graphs or any(subject.name == teacher.name for subject in graphs):
        return list(subjects)
    return [teacher, *subjects_in(teacher.name, write(teacher.checkpoint)), *others]


def evaluate(
    checkpoints_by_name: Mapping[str, Checkpoint | Path | str],
    *,
    data: Splits,
    timing: settings.Timing | None = None,
) -> Ledger:
    """Measures checkpoints (in memory or in folders) on the test split; the first is the teacher.

    A folder gives a row for each format it holds, and a teacher in torch is measured as a graph too when others are
    graphs. Raises CheckpointError.
    """
    with tempfile.TemporaryDirectory(prefix="distill-evaluate-") as scratch:
        subjects: list[Subject] = []
        for name, given in checkpoints_by_name.items():
            if isinstance(given, Checkpoint):
                folder = given.save(Path(scratch) / name)
                subjects.append(Subject(name, "transformers", folder, given.tokenizer, given))
            else:
                subjects += subjects_in(name, Path(given), data)
        graph = Path(scratch) / "teacher-onnx"
        subjects = add_teacher_graph(subjects, lambda teacher: as_graph(teacher, data=data, folder=graph))
        qualities = [score(subject, data) for subject in subjects]
        return make_ledger(subjects, qualities, data, timing or settings.Timing())


def _count(graph: Path) -> int:
    """Weights of a graph, whatever blocks they are stored in; whole numbers are sizes and places."""
    import onnx

    aside, found = ("_scale", "_zero_point", ".scale", ".scales", ".zero_point", ".zero_points"), 0
    for file in files_of(graph):
        model = onnx.load(file, load_external_data=False).graph
        blocks = {
            node.input[1]: math.prod(one.i for one in node.attribute if one.name in ("K", "N"))
            for node in model.node
            if node.op_type == "MatMulNBits"
        }
        for held in model.initializer:
            if not held.dims or held.name.endswith(aside) or held.data_type == onnx.TensorProto.INT64:
                continue
            two = 2 if held.name.endswith(".int4") else 1  # in a byte
            found += blocks.get(held.name, math.prod(held.dims) * two)
    return found
