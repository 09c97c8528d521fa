"""Token classification's rows: a list of words and as many tags, or lines of a word and its tag."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.data.encoding import Encoded, Ragged, Sheet, encodings_of
from distill.data.readers import classes
from distill.data.readers.conll import read_lines
from distill.data.readers.reader import Cutter, refuse_idle, require_column, short
from distill.data.rows import Rows
from distill.data.words import Words, by_word, first_tokens, joined, targets_of
from distill.errors import DataError
from distill.recipe import settings
from distill.tasks import Task, TokenClassification, choose_metric
from distill.tasks.token_classification import NO_TAG, kind_of_entity, name_entities

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
Tags = list[Any]
_LINES = ["text"]  # the columns of a text file, whose rows are lines


class TokenReader:
    """A column of word lists and one of tag lists; or a text file with a word and its tag a line, a blank line between
    sentences, and any other columns left out (CoNLL).
    """

    apart = True

    def read(
        self, raw: Mapping[str, Dataset], data: settings.Data, known: Sequence[str] | None, metric: str | None
    ) -> tuple[dict[str, Rows], TokenClassification]:
        """Tags in the checkpoint's own order where they fit it, else sorted. Raises DataError."""
        refuse_idle(data, "token-classification", ("separator", "problem", "stride"))
        found = {name: _from_lines(rows, data, name) or _from_columns(rows, data, name) for name, rows in raw.items()}
        if data.classes is not None:
            found = {
                name: (texts, list(classes.called(tags, data.classes, name, whole=False)))
                for name, (texts, tags) in found.items()
            }
        names = _order(found, known, data.classes)
        task = TokenClassification("token_classification", tuple(names), _metric(names, metric))
        return {name: Rows(texts, _coded(tags, names, name)) for name, (texts, tags) in found.items()}, task

    def kinds(self, rows: Rows, task: Task) -> list[Hashable]:
        """The rarest kind of entity, or tag, of each row."""
        names = [kind_of_entity(label) or label for label in task.labels]
        present = [{names[tag] for tag in tags if tag != NO_TAG} for tags in rows.labels]
        counts = Counter(kind for kinds in present for kind in kinds)
        return [min(kinds, key=lambda kind: (counts[kind], kind), default="") for kinds in present]

    def texts(self, rows: Rows) -> Sequence[Sequence[str]]:
        """The words as a text."""
        return [(joined(words),) for words in rows.texts]

    def require_enough(self, train: Rows, task: Task) -> None:
        """One tag alone teaches nothing. Raises DataError."""
        found = {tag for tags in train.labels for tag in tags} - {NO_TAG}
        if len(found) < 2:
            only = ", ".join(task.labels[tag] for tag in found) or "none"
            raise DataError(f"data.label: the training split has one tag only ({only}); it takes two")

    def notes(self, splits: Mapping[str, Rows], task: Task) -> list[str]:
        """The tags; how many words there are; tags that a split lacks."""
        notes = [f"labels: {short(task.labels)}"]
        words = ", ".join(f"{sum(map(len, rows.labels))} {name}" for name, rows in splits.items())
        notes.append(f"{words} words")
        if untold := sum(tag == NO_TAG for rows in splits.values() for tags in rows.labels for tag in tags):
            notes.append(f"{untold} words have no tag (−1 or −100): they are read, and neither learned nor scored")
        if not name_entities(task.labels):
            notes.append(f"the tags tell no entities (B-…, I-…, O), so the score is {task.metric} by word")
        for name, rows in splits.items():
            found = {tag for tags in rows.labels for tag in tags}
            absent = [label for place, label in enumerate(task.labels) if place not in found]
            if absent:
                notes.append(f"{name} holds no word of: {short(absent)}")
        return notes

    def unlabelled(self, rows: Dataset, data: settings.Data) -> Sequence[tuple[str, ...]]:
        """Word lists, or sentences whose words are what stands between blanks. Raises DataError."""
        column = data.text_columns[0]
        column = "text" if rows.column_names == _LINES else column
        require_column(rows, column, "data.text", "data.unlabelled")
        found = [tuple(text.split() if isinstance(text, str) else text or ()) for text in rows[column]]
        for place, words in enumerate(found):
            if odd := [word for word in words if not isinstance(word, str)]:
                raise DataError(f"data.text: row {place} of data.unlabelled holds {odd[0]!r:.60}, not a word")
        return found

    def unknown(self, texts: Sequence[tuple[str, ...]], task: Task) -> list[Any]:
        """No tag for any word."""
        return [[NO_TAG] * len(words) for words in texts]

    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, words: settings.Data, title: str
    ) -> Encoded:
        """The words as one text, cut to `longest` tokens, each word's tag at its first token."""
        texts = [(joined(row),) for row in rows.texts]
        chunks = encodings_of(texts, tokenizer, title, truncation=True, max_length=longest)
        sheet, about, targets, dropped = _written((one for chunk in chunks for one in chunk), rows)
        tags = [_without(row, places) for row, places in zip(rows.labels, dropped, strict=True)]
        if number := sum(map(len, dropped)):
            log.info("%s: the tokenizer makes nothing of %d words; they are neither learned nor scored", title, number)
        labels = by_word(tags, NO_TAG)
        return sheet.encoded(labels, tokenizer, about=about, targets=Ragged.of(targets))

    def asked(self, texts: Sequence[Any], cutter: Cutter) -> Encoded:
        """Sentences, whose words are what stands between blanks, or lists of words."""
        rows = [tuple(text.split()) if isinstance(text, str) else tuple(text) for text in texts]
        for given, words in zip(texts, rows, strict=True):
            if not words or not all(isinstance(word, str) for word in words):
                raise DataError(f"predict: takes sentences, or lists of words, with a word at least; not {given!r:.60}")
        encodings = cutter.tokenizer.encode_batch([joined(words) for words in rows])
        nothing = [[NO_TAG] * len(words) for words in rows]
        sheet, about, *_ = _written(iter(encodings), Rows(rows, nothing))
        return sheet.laid_out(by_word(nothing, NO_TAG), cutter.pad, typed=cutter.typed, about=about)


def _written(encodings: Iterator[Encoding], rows: Rows) -> tuple[Sheet, list[Words], list[np.ndarray], list[list[int]]]:
    """The tokens, the words and their targets; and of each row that isn't cut the words that have no token."""
    sheet, about, targets, dropped = Sheet(), [], [], []
    for encoding, words, tags in zip(encodings, rows.texts, rows.labels, strict=True):
        sheet.add(encoding)
        first = first_tokens(words, encoding)
        about.append(Words(words, first))
        targets.append(targets_of(first, tags, len(encoding.ids)))
        dropped.append([] if encoding.overflowing else np.flatnonzero(first < 0).tolist())
    return sheet, about, targets, dropped


def _without(tags: Tags, places: list[int]) -> Tags:
    """A row's tags, with none at some places."""
    if not places:
        return tags
    found = list(tags)
    for place in places:
        found[place] = NO_TAG
    return found


def _from_columns(rows: Dataset, data: settings.Data, split: str) -> tuple[list[tuple[str, ...]], list[Tags]]:
    """Words and tags of two columns of lists. Raises DataError for what isn't, or isn't as long as the other."""
    if isinstance(data.label, list) or len(data.text_columns) != 1:
        raise DataError("data: token-classification takes one `text` column of word lists and one `label` column")
    (column,) = data.text_columns
    require_column(rows, column, "data.text", split)
    require_column(rows, data.label, "data.label", split)
    texts, labels = list(rows[column]), classes.named(rows, data.label, whole=False)
    for place, (words, tags) in enumerate(zip(texts, labels, strict=True)):
        where = f"row {place} of {split}"
        for setting, name, value in (("data.text", column, words), ("data.label", data.label, tags)):
            if not isinstance(value, list):
                form = "nothing" if value is None else f"a {type(value).__name__}"
                raise DataError(f"{setting}: {where} holds {form} in column '{name}', not a list with an entry a word")
        if not words:
            raise DataError(f"data.text: {where} holds no words in column '{column}'; leave such rows out")
        if odd := [word for word in words if not isinstance(word, str)]:
            raise DataError(f"data.text: {where} holds {odd[0]!r} among its words in column '{column}', not a text")
        if len(words) != len(tags):
            raise DataError(f"data.label: {where} has {len(words)} words but {len(tags)} tags ({short(words)})")
        if None in tags or any(isinstance(tag, dict | list) for tag in tags):
            raise DataError(f"data.label: {where} has a word without a tag in column '{data.label}'")
    return [tuple(words) for words in texts], [[_marked(tag) for tag in tags] for tags in labels]


def _marked(tag: Any) -> Any:
    """A tag, or NO_TAG for the numbers that say so."""
    return NO_TAG if classes.plain(tag) in classes.UNMARKED else tag


def _from_lines(rows: Dataset, data: settings.Data, split: str) -> tuple[list[tuple[str, ...]], list[Tags]] | None:
    """Sentences of a text file; None where the rows are no lines. Raises DataError for a line without a tag."""
    lines = list(rows["text"]) if rows.column_names == _LINES else [None]
    return read_lines(lines, data, split) if all(isinstance(line, str) for line in lines) else None


def _order(
    found: Mapping[str, tuple[Any, list[Tags]]], known: Sequence[str] | None, given: Sequence[str] | None
) -> list[str]:
    """The tags in the order of the logits: the checkpoint's own where the data's fit into them, else those that the
    recipe gives, else sorted.

    A tag that training lacks is one of them where training knows its kind of entity, as of I-city it may know B-city.
    """
    tags = {
        name: {classes.plain(tag) for row in rows for tag in row if tag != NO_TAG} for name, (_, rows) in found.items()
    }
    every = set().union(*tags.values())
    if known is not None and all(classes.index_of(tag, known) is not None for tag in every):
        return list(known)
    kinds = {kind_of_entity(str(tag)) for tag in tags["train"]} - {None}
    wanted = tags["train"] | {tag for tag in every if kind_of_entity(str(tag)) in kinds}
    names = [str(tag) for tag in sorted(wanted, key=lambda tag: (isinstance(tag, str), tag))]
    if len(names) < 2:
        raise DataError(f"data.label: the training split has one tag only ({', '.join(names) or 'none'}); it takes two")
    return names if given is None else list(given)


def _coded(tags: list[Tags], names: Sequence[str], split: str) -> list[list[int]]:
    """Tags to their places among the names. Raises DataError for one that is none of them."""
    table = {tag: classes.index_of(classes.plain(tag), names) for row in tags for tag in row}
    table[NO_TAG] = NO_TAG
    unknown = [tag for tag, place in table.items() if place is None]
    if unknown:
        raise DataError(
            f"data.label: {split} has the tag {unknown[0]!r}, which is none of the known ones: "
            f"{classes.listed(names)}; leave such rows out, or show the tag in training too"
        )
    return [[table[tag] for tag in row] for row in tags]


def _metric(names: Sequence[str], asked: str | None) -> str:
    if name_entities(names):
        return choose_metric("token_classification", asked)
    if asked == "entity_f1":
        raise DataError(f"metric: entity_f1 needs tags that tell entities (B-…, I-…, O); these are {short(names)}")
    return choose_metric("token_classification", asked or "accuracy")
