"""Asking a compact checkpoint: texts in, labels, entities, answers or texts out. Graphs are served without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import checkpoint as checkpoints
from distill import generation, tasks
from distill.data.batching import collate
from distill.data.readers import READERS
from distill.disk import expanded
from distill.engines import GRAPHS, Engine, graph_in, open_graph
from distill.errors import CheckpointError, DataError
from distill.safety import read_json
from distill.shipping import manifest as manifests
from distill.shipping import preprocessing

_AT_ONCE = 32


class Predictor:
    """A folder that answers texts: a shipped folder, a run's folder (whose result it takes), or a checkpoint folder.

    The smallest graph is served when there is one, then the fp32 graph, then safetensors in torch; or what `format`
    says. It may be asked from many threads at once: nothing of it changes after it was made.
    """

    def __init__(self, folder: Path | str, format: manifests.Format | None = None) -> None:  # noqa: A002 - users' word
        """Opens a folder. Raises CheckpointError when it holds nothing that answers, or not in that format."""
        self.folder = result_of(expanded(folder), format)
        self.config = checkpoints.read_config(self.folder)
        self.task = tasks.from_config(self.config).writing(generation.words_of(self.folder))
        checkpoints.inspect(self.folder)
        self.cutter = preprocessing.cutter_of(self.folder, self.config)
        self.threshold = tasks.threshold_of(self.config)
        self.engine = _engine(self.folder, format)

    def predict(self, texts: Sequence[Any]) -> list[Any]:
        """What the checkpoint says of each text.

        * Classification: a text or a pair of them; its labels with their probabilities, best first (one, any number of
          many, or a regression's number).
        * Token classification: a sentence, whose words stand between blanks, or a list of words; its entities with
          text, tag, score, start and end, counted in words.
        * Question answering: a question and a context; the answer with its score.
        * Masked language modelling: a text with masks in it; for each of them the likeliest tokens.
        * Causal language modelling: a text; how it goes on.
        * Text to text: a text; the one that is written for it.

        Raises DataError.
        """
        if isinstance(texts, str):  # else each of its letters would be asked
            raise DataError("predict: takes a list of texts, not one text")
        for text in texts:
            for part in text if isinstance(text, list | tuple) else [text]:
                if isinstance(part, str) and any("\ud800" <= sign <= "\udfff" for sign in part):
                    raise DataError(f"predict: {part[:40]!r} is no text in Unicode: it was read in another encoding")
        answers = []
        for start in range(0, len(texts), _AT_ONCE):
            encoded = READERS[self.task.name].asked(texts[start : start + _AT_ONCE], self.cutter)
            found = self.task.ask(self.engine, collate(encoded, range(len(encoded))), encoded)
            answers += self.task.answer(found, self.threshold, encoded.about)
        return answers


def result_of(folder: Path, form: str | None = None) -> Path:
    """The folder that answers for a run's folder (its last step's checkpoint) or a shipped one. Any other is itself.

    Raises CheckpointError.
    """
    if form is not None and form not in manifests.FOLDERS:
        raise CheckpointError(f"format: {form} is none of: {', '.join(manifests.FOLDERS)}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    if (folder / manifests.NAME).is_file():
        return _shipped(folder, [manifests.FOLDERS[form]] if form else ["onnx", "transformers"])
    report = folder / "report.json"
    if not report.is_file():
        if (folder / "recipe.yaml").is_file() and not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: a run that did not finish; name one of the folders in it")
        return folder
    try:
        from distill.evaluation.ledger import place_of_result

        names = [row["name"] for row in read_json(report)["rows"]]
        name = names[place_of_result([str(one) for one in names])]
    except (LookupError, TypeError):
        raise CheckpointError(f"{report}: not a report of a run; name one of the folders beside it") from None
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise CheckpointError(f"{report}: its result {str(name)[:60]!r} is no folder beside it")
    return folder / name


def formats_of(title: str, folder: Path) -> dict[str, Path]:
    """The folders that answer for one, by title: of a shipped one each that it holds, of a run its result. Raises
    CheckpointError.
    """
    if not (folder / manifests.NAME).is_file():
        return {title: result_of(folder)}
    found = [folder / name for name in ("transformers", "onnx") if (folder / name).is_dir()] or [result_of(folder)]
    return {f"{title}/{inside.name}" if len(found) > 1 else title: inside for inside in found}


def _shipped(folder: Path, inside: Sequence[str]) -> Path:
    found = next((folder / name for name in inside if (folder / name).is_dir()), None)
    if found is None:
        raise CheckpointError(f"{folder}: a shipped folder without {' or '.join(inside)}")
    return found


def _engine(folder: Path, form: str | None) -> Engine:
    graph = None if form == "transformers" else graph_in(folder, form)
    if graph is not None:
        return open_graph(graph)
    if form in GRAPHS:
        raise CheckpointError(f"{folder}: no {GRAPHS[form]} in it")
    from distill.engines import Torch

    return Torch(checkpoints.load(folder).model)
