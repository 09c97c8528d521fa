"""Question answering's rows: a question, the context that answers it, and the answers with their place in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.data.encoding import Encoded, Ragged, Sheet, encodings_of
from distill.data.readers.reader import Cutter, refuse_idle, require_column, texts_of
from distill.data.rows import Alike, Rows
from distill.data.windows import Passage, Windows, span_targets, windows_of
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import QuestionAnswering, Task, choose_metric
from distill.tasks.answers import Numbers, laid_out
from distill.tasks.question_answering import SIDES

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Answers = list[list[Any]]  # [text, first character] of each; none where the context doesn't answer


class AnswerReader:
    """Two text columns, question and context, and one of answers as SQuAD has them: `text` and `answer_start`, lists of
    both or a list of pairs of them. SQuAD's own files, articles with paragraphs with questions, are read as well.
    """

    apart = False

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], QuestionAnswering]:
        """Every answer held against its context. Raises DataError."""
        refuse_idle(data, "question-answering", ("separator", "problem", "classes"))
        if len(data.text_columns) != 2 or isinstance(data.label, list):
            raise DataError("data: question-answering takes `text: [question, context]` and one `label` of answers")
        found = {}
        for name, rows in raw.items():
            texts, values = _from_articles(rows) or _from_columns(rows, data, name)
            _require_whole(texts, data, name)
            labels = [
                _answers(value, texts[place][1], f"data.label: row {place} of {name}")
                for place, value in enumerate(values)
            ]
            found[name] = Rows(texts, labels)
        return found, QuestionAnswering("question_answering", SIDES, choose_metric("question_answering", metric))

    def kinds(self, rows: Rows, task: Task) -> list[Hashable]:
        """Whether there is an answer."""
        return [bool(answers) for answers in rows.labels]

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """The contexts: all questions on one stay together."""
        return [(context,) for _, context in rows.texts]

    def require_enough(self, train: Rows, task: Task) -> None:
        """Without a single answer nothing is learned. Raises DataError."""
        if not any(train.labels):
            raise DataError("data.label: no question of the training split has an answer")

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """How many questions have no answer."""
        none = {name: sum(not answers for answers in rows.labels) for name, rows in splits.items()}
        if not any(none.values()):
            return ["every question has an answer in its context"]
        told = ", ".join(f"{number} {name}" for name, number in none.items())
        return [f"questions without an answer in their context: {told}; when to give none is chosen on validation"]

    def unlabelled(self, rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
        """Questions with their contexts. Raises DataError for an empty one."""
        texts = texts_of(rows, data.text_columns, "data.text", "data.unlabelled")
        _require_whole(texts, data, "data.unlabelled")
        return texts

    def unknown(self, texts: Sequence[tuple[str, ...]], task: Task) -> Alike:
        """Neither an answer nor none."""
        return Alike(None, len(texts))

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """Questions with their contexts, in windows of `longest` tokens at most."""
        chunks = encodings_of(rows.texts, tokenizer, title)
        windows = (windows_of(one, longest, words.stride) for chunk in chunks for one in chunk)
        sheet, more, targets = _written(windows, rows)
        numbers = [Numbers(context) for _, context in rows.texts]
        right = [
            [number.of(text) for text, _ in answers or ()] for number, answers in zip(numbers, rows.labels, strict=True)
        ]
        return sheet.encoded(laid_out(right), tokenizer, targets=Ragged.of(targets), **more)

    def asked(self, texts: Sequence[Any], cutter: Cutter) -> Encoded:
        """Pairs of a question and the context that may answer it."""
        for given in texts:
            pair = isinstance(given, tuple | list) and len(given) == 2
            if not pair or not all(isinstance(text, str) and text.strip() for text in given):
                raise DataError(f"predict: takes pairs of a question and a context, not {given!r:.60}")
        rows = Rows([tuple(given) for given in texts], [[] for _ in texts])
        encodings = cutter.tokenizer.encode_batch([tuple(given) for given in texts])
        sheet, more, _ = _written((windows_of(one, cutter.longest, cutter.stride) for one in encodings), rows)
        return sheet.laid_out(laid_out([[] for _ in texts]), cutter.pad, typed=cutter.typed, **more)


def _written(windows: Iterable[Windows], rows: Rows) -> tuple[Sheet, dict[str, Any], list[Any]]:
    """The sheet, what `Encoded` is told beside it, and the targets; the first right answer is what is trained,
    and nothing where it isn't known.
    """
    sheet, about, lengths, targets = Sheet(), [], [], []
    for found, (_, context), answers in zip(windows, rows.texts, rows.labels, strict=True):
        sheet.write(found.ids, found.types, cut=found.cut)
        about.append(Passage(context, found.places))
        lengths.append(found.lengths)
        span = None
        if answers:
            text, start = answers[0]
            start += len(text) - len(text.lstrip())
            span = (start, start + len(text.strip()))
        targets.append(span_targets(found, span) if answers is not None else np.zeros(len(found.ids), dtype=np.int32))
    return sheet, {"about": about, "windows": Ragged.of(lengths)}, targets


def _require_whole(texts: Iterable[tuple[str, ...]], data: settings.Data, split: str) -> None:
    """Raises DataError for an empty question or context."""
    for place, row in enumerate(texts):
        for what, text in zip(data.text_columns, row, strict=True):
            if not text.strip():
                raise DataError(f"data.text: row {place} of {split} holds an empty {what}; leave such rows out")


def _from_columns(rows: Dataset, data: settings.Data, split: str) -> tuple[list[tuple[str, ...]], list[Any]]:
    require_column(rows, data.label, "data.label", split)
    return texts_of(rows, data.text_columns, "data.text", split), list(rows[data.label])


def _from_articles(rows: Dataset) -> tuple[list[tuple[str, ...]], list[Any]] | None:
    """SQuAD's own file, whose one row holds articles; None for rows of any other form."""
    if "data" not in rows.column_names and "paragraphs" not in rows.column_names:
        return None
    articles = rows.to_list() if "paragraphs" in rows.column_names else [a for row in rows for a in row["data"]]
    try:
        found = [
            (asked["question"], paragraph["context"], asked.get("answers") or [])
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"data.source: its articles are not those of a SQuAD file (no {error})") from None
    return [(question, context) for question, context, _ in found], [answers for *_, answers in found]


def _answers(value: Any, context: str, where: str) -> Answers:
    """The answers of a row, each where it says in the context. Raises DataError."""
    pairs = [] if value is None else value
    if isinstance(value, Mapping):
        texts, starts = ([] if one is None else one for one in (value.get("text"), value.get("answer_start")))
        if isinstance(texts, str) and isinstance(starts, int):
            texts, starts = [texts], [starts]
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"{where} has answers without as many of `text` as of `answer_start`")
        pairs = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(pairs, list) or not all(isinstance(one, Mapping) for one in pairs):
        raise DataError(f"{where} holds {value!r:.60}, not answers with `text` and `answer_start`")
    found: Answers = []
    for one in pairs:
        text, start = one.get("text"), one.get("answer_start")
        if not isinstance(text, str) or not isinstance(start, int):
            raise DataError(f"{where} has an answer without `text` or `answer_start`: {dict(one)!r:.60}")
        if not text.strip():  # some data sets say so that there is none
            continue
        if start < 0 or context[start : start + len(text)] != text:
            there = context.find(text)
            hint = f"; it stands at {there}" if there >= 0 else "; it stands nowhere in it"
            raise DataError(f"{where}: its answer {text!r:.60} is not in its context at answer_start {start}{hint}")
        found.append([text, start])
    return found
