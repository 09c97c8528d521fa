"""Size, parameters, score and ratios of latency, measured again and held against the claims."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from distill import anatomy
from distill import checkpoint as checkpoints
from distill.errors import DistillError
from distill.recipe import settings
from distill.shipping import claims, probe
from distill.shipping.manifest import Claim, Manifest
from distill.verification.answers import Opened
from distill.verification.finding import Finding, first_line, judge, unchecked

if TYPE_CHECKING:
    from distill.data import Splits
    from distill.engines import Engine
    from distill.evaluation import Row

log = logging.getLogger(__name__)
_LARGEST_BATCH = 1 << 18  # tokens times batch that a report may ask this machine to time
_IDS = 512


def check_sizes(manifest: Manifest, rows: Sequence[Row], opened: Opened) -> list[Finding]:
    """The bytes that an engine needs, and the parameters."""
    findings = []
    for claim in _ours(rows, manifest):
        kind, _, form = claim.name.partition(" ")
        if kind not in ("size", "parameters"):
            continue
        if form not in opened.subjects:
            findings.append(unchecked(claim.name, opened.shut[form], f"{claim.value:,.0f}"))
            continue
        subject = opened.subjects[form]
        found = subject.bytes if kind == "size" else subject.parameters
        within = f"within {claim.tolerance:,.0f}" if claim.tolerance else "exactly"
        holds = abs(found - claim.value) <= claim.tolerance
        findings.append(judge(claim.name, holds, f"{claim.value:,.0f} {claim.unit}", f"{found:,}", within))
    return findings


NOT_THE_DATA = "the data that the recipe names has another test split than the report says was scored"


def _ours(rows: Sequence[Row], manifest: Manifest) -> list[Claim]:
    """The claims with the manifest's values and this package's tolerances: a manifest can't allow itself more."""
    told = {claim.name: claim for claim in manifest.claims}
    own = claims.of_rows(rows, manifest.formats)
    return [claim.model_copy(update={"value": told[claim.name].value}) for claim in own if claim.name in told]


def check_scores(
    manifest: Manifest, rows: Sequence[Row], opened: Opened, data: Splits | None, why_not: str
) -> list[Finding]:
    """The score of each format on the recipe's own test split, where it is at hand.

    A score on data that everybody can have must be of that data: where its test split is another one, the claim fails.
    """
    from distill.evaluation import score

    findings = []
    for claim in (claim for claim in _ours(rows, manifest) if claim.name.startswith("score ")):
        form, claimed = claim.name.removeprefix("score "), f"{claim.unit} {claim.value:.4f}"
        if data is None and why_not == NOT_THE_DATA:
            findings.append(Finding(claim.name, "FAILS", claimed, why=why_not))
            continue
        if form in opened.shut or data is None:
            findings.append(unchecked(claim.name, opened.shut.get(form, why_not), claimed))
            continue
        try:
            found = score(opened.subjects[form], data).score
        except Exception as error:  # what an engine or a tokenizer raises on a stranger's files is its own
            findings.append(Finding(claim.name, "FAILS", claimed, why=f"it can't be scored ({first_line(error)})"))
            continue
        # of what is measured here: a report that says fewer examples can't allow itself more
        tolerance = claims.of_score(len(data.test), data.task.metric, found)
        holds = abs(found - claim.value) <= tolerance + 1e-9
        within = f"within {tolerance:.4f}: texts on the edge may fall otherwise on another processor"
        findings.append(judge(claim.name, holds, claimed, f"{found:.4f}", within))
    return findings


def load_data(
    recipe: settings.Recipe, manifest: Manifest, report: Mapping[str, Any], *, own: bool
) -> tuple[Splits | None, str]:
    """The recipe's data, when it is at hand and its test split is the one that was scored; else why it can't be had.

    `own` says that whoever verifies has named the data: a stranger's recipe may only name what lies here.
    """
    from distill.data import load

    sources = recipe.data.sources
    if not own:
        splits = [split for split in (recipe.data.validation, recipe.data.test) if isinstance(split, str)]
        named = [(source, [source.path, *(splits if source is sources[0] else [])]) for source in sources]
        for path in (
            path for source, paths in named if source.hub is None and source.package is None for path in paths
        ):
            if not _is_a_name(path):
                return None, f"the recipe names its data as {path!r}; say where yours is with --set data.source=…"
    try:
        data = load(
            recipe.data.labelled, task=recipe.task, names=manifest.labels, metric=recipe.metric,
            generation=recipe.generation, seed=recipe.seed,
        )  # fmt: skip
    except DistillError as error:
        return None, f"the data isn't at hand: {first_line(error)}"
    told = report["data"]
    if "test_sha256" in told:
        same = told["test_sha256"] == data.test_fingerprint
    else:
        same = told.get("sha256") == data.fingerprint
    if same:
        return data, ""
    if not own and all(source.package is not None or source.revision is not None for source in sources):
        return None, NOT_THE_DATA
    return None, "the data differs: its test split isn't the one that was scored"


def _is_a_name(path: str | None) -> bool:
    return path is not None and path == PurePath(path).name and path not in ("", ".", "..", "~") and "\\" not in path


def check_latency(
    manifest: Manifest, rows: Sequence[Row], opened: Opened, recipe: settings.Recipe, rounds: int
) -> list[Finding]:
    """Ratios of median latency, all engines interleaved in one session; slower than claimed fails, faster doesn't."""
    wanted = [claim for claim in _ours(rows, manifest) if claim.name.startswith("latency ")]
    timed = rows[0].latency
    if not wanted:
        return []
    configs = (checkpoints.read_config(subject.folder) for subject in opened.subjects.values())
    positions = (anatomy.size(config, "positions") or 0 for config in configs)
    if problem := _unreasonable(timed, max([manifest.preprocessing.max_length, *positions])):
        return [Finding(claim.name, "FAILS", f"{claim.value:.3g}", why=problem) for claim in wanted]
    timing = settings.Timing(
        batch=[spent.batch for spent in timed], tokens=timed[0].tokens, threads=timed[0].threads, rounds=rounds,
        new_tokens=timed[0].new_tokens,
    )  # fmt: skip
    words = None if timed[0].new_tokens is None else recipe.generation or settings.Generation()
    with tempfile.TemporaryDirectory(prefix="distill-verify-") as scratch:
        teachers, why_not = _teacher(recipe, manifest, Path(scratch), rows[0].params, timing.threads, wanted)
        try:
            engines = {form: subject.open(timing.threads) for form, subject in opened.subjects.items()}
            measured = _measure(rows, manifest, {**engines, **teachers}, timing, words)
        except Exception as error:  # what an engine raises on a stranger's graph is its own
            why = f"it can't be timed ({first_line(error)})"
            return [Finding(claim.name, "FAILS", f"{claim.value:.3g}", why=why) for claim in wanted]
    findings = []
    for claim in wanted:
        form, _, other = claim.name.removeprefix("latency ").partition(" / ")
        found, baseline = measured.get(claim.name), other.partition(",")[0]
        if found is None:
            why = opened.shut.get(form) or opened.shut.get(baseline) or why_not
            findings.append(unchecked(claim.name, why, f"{claim.value:.3g}"))
        else:
            limit = f"at most {claim.tolerance} times that: machines differ in their kernels"
            findings.append(
                judge(claim.name, found <= claim.value * claim.tolerance, f"{claim.value:.3g}", f"{found:.3g}", limit)
            )
    return findings


def _unreasonable(timed: Sequence[Any], longest: int) -> str | None:
    """Why what a report says was timed isn't timed here."""
    for spent in timed:
        numbers = (spent.batch, spent.tokens, spent.threads)
        if not all(isinstance(number, int) and number >= 1 for number in numbers) or spent.threads > 1024:
            return "report.json tells no sizes that can be timed"
        written = 1 if spent.new_tokens is None else spent.new_tokens
        if not isinstance(written, int) or not 1 <= written <= max(longest, _IDS):
            return "report.json tells texts of a length that isn't written here"
        if spent.tokens > longest or spent.batch * spent.tokens > _LARGEST_BATCH:
            return f"report.json tells batches of {spent.batch} by {spent.tokens} tokens, which can't be asked here"
    return (
        None
        if len({(spent.tokens, spent.new_tokens, spent.threads) for spent in timed}) == 1
        else "report.json tells mixed sizes"
    )


def _measure(
    rows: Sequence[Row], manifest: Manifest, engines: Mapping[str, Engine], timing: settings.Timing,
    words: settings.Generation | None,
) -> dict[str, float]:  # fmt: skip
    """The claims' names with the ratios found here."""
    from distill.data import Encoded
    from distill.evaluation.timing import measure_latency

    made = manifest.probe
    ids = probe.batch_of(made.seed, made.vocabulary, [_IDS], manifest.preprocessing.pad_id)["input_ids"][0]
    inputs = Encoded(ids, np.zeros_like(ids), np.array([0, _IDS]), np.zeros(1), manifest.preprocessing.pad_id, 0)
    spent = measure_latency(list(engines.values()), [inputs] * len(engines), timing, words)
    found = dict(zip(engines, spent, strict=True))
    shipped = claims.shipped_rows(rows, manifest.formats)
    again = [
        replace(row, latency=found.get(claims.TEACHER.get(row.format, ""), []))
        for row in rows
        if row.name == rows[0].name
    ]
    ours = {form: replace(row, latency=found.get(form, [])) for form, row in shipped.items()}
    return {claim.name: claim.value for claim in claims.latencies(again, ours)}


def _teacher(
    recipe: settings.Recipe, manifest: Manifest, scratch: Path, params: int, threads: int, wanted: Sequence[Claim]
) -> tuple[dict[str, Engine], str]:
    """The teacher with a head of random weights, whose latency is that of the trained one; or why it can't be had."""
    from distill import export
    from distill.engines import Torch, open_graph
    from distill.tasks import restored

    task = restored(manifest.problem, manifest.labels)
    try:
        loaded = checkpoints.load(_teacher_folder(recipe.teacher.members[0]), task, new_head=True)
        if loaded.parameters != params:
            return {}, f"the teacher at hand has {loaded.parameters:,} parameters, the report's {params:,}"
        if loaded.model.config.vocab_size < manifest.probe.vocabulary:
            return {}, "the teacher has another vocabulary, so it can't be asked the same ids"
        engines: dict[str, Engine] = {"teacher": Torch(loaded.model)}
        if any("/ teacher onnx-fp32," in claim.name for claim in wanted):
            if loaded.model.can_generate():
                loaded.model.generation_config.save_pretrained(scratch)
            engines["teacher onnx-fp32"] = open_graph(export.export(loaded, scratch / "model.onnx"), threads)
    except DistillError as error:
        return {}, f"the teacher isn't at hand: {first_line(error)}"
    return engines, ""


def _teacher_folder(choice: settings.Member) -> Path:
    """Where the teacher lies on this machine; nothing is fetched. Raises DistillError."""
    from huggingface_hub import snapshot_download

    from distill import card, gguf, packages
    from distill.errors import CheckpointError

    name, revision = choice.checkpoint, choice.revision
    if choice.card is not None:
        found = card.load_card(choice.card)
        if found.folder or (found.package and packages.is_installed(found.package.name)):
            return card.locate(found, choice.card)
        if found.hub is None:
            raise CheckpointError(card.missing_package(found))
        name, revision = found.hub.id, found.hub.revision
    elif gguf.is_gguf(name) or checkpoints.looks_like_folder(name):
        return gguf.locate(name)
    try:
        return checkpoints.locate(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name} was never fetched on this machine ({type(error).__name__})") from None
