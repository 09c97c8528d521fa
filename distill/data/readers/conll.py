"""CoNLL's lines: a word and its tag, with whatever stands beside them, and a blank line between sentences."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from distill.errors import DataError
from distill.recipe import settings
from distill.tasks.token_classification import OUTSIDE, kind_of_entity

log = logging.getLogger(__name__)
# What CoNLL-U (`# text = …`, `# newpar`), MultiCoNER (`# id …`) and CoNLL-2012 (`#begin document …`) put between lines.
_COMMENT = re.compile(r"#\s+(\S+\s+=|newdoc|newpar|id)(\s|$)|#(begin|end) document")
_NO_WORD = re.compile(r"\d+[-.]\d+")  # how CoNLL-U numbers what is several words (3-4) or isn't written (8.1)
_Sentence = list[tuple[int, list[str]]]  # each line's number in the file, and its columns


def read_lines(lines: Sequence[str], data: settings.Data, split: str) -> tuple[list[tuple[str, ...]], list[list[str]]]:
    """The sentences of a text file, and their tags; says which columns they are read from.

    A recipe may name columns by number. Where it doesn't, words stand first and tags last; where the first column
    counts the words, they stand second, their tags in the first column behind them that tells entities. Raises
    DataError.
    """
    sentences, comments = _sentences(lines)
    word, tag = (_number(data, setting, split) for setting in ("text", "label"))
    counted = word is None and _are_counted(sentences, split)
    word = word or (2 if counted else 1)
    if word > 1:
        sentences = [[line for line in sentence if not _NO_WORD.fullmatch(line[1][0])] for sentence in sentences]
        sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise DataError(f"data.source: {split} holds no line with a word and its tag")
    tag = tag or (_of_entities(sentences, split) if counted else -1)
    texts, labels = [], []
    for sentence in sentences:
        found = [_pair(columns, word, tag) for _, columns in sentence]
        if None in found:
            number, beside = sentence[found.index(None)][0], f" in columns {word} and {tag}" if tag > 0 else ""
            line = f"line {number} of {split} is {lines[number - 1]!r:.60}"
            raise DataError(f"data.source: {line}, not a word and its tag{beside}")
        texts.append(tuple(one for one, _ in found))
        labels.append([other for _, other in found])
    tags = f"column {tag}" if tag > 0 else "the last"
    left_out = f"; {comments} comments are left out" if comments else ""
    log.info("%s: of its lines column %d is the word and %s its tag%s", split, word, tags, left_out)
    return texts, labels


def _sentences(lines: Sequence[str]) -> tuple[list[_Sentence], int]:
    """The lines between blank ones, without comments, and how many of those there are."""
    rows = [line.split("\t") if "\t" in line.strip() else line.split() for line in lines]
    widths = {len(columns) for line, columns in zip(lines, rows, strict=True) if not line.startswith(("# ", "#\t"))}
    found, sentence, comments = [], [], 0
    for number, (line, columns) in enumerate(zip([*lines, ""], [*rows, []], strict=True), start=1):
        if _is_comment(line, columns, widths):
            comments += 1
        elif columns and not columns[0].startswith("-DOCSTART-"):
            sentence.append((number, columns))
        elif not columns and sentence:
            found.append(sentence)
            sentence = []
    return found, comments


def _is_comment(line: str, columns: list[str], widths: set[int]) -> bool:
    """Whether a line tells something of the text: it begins with # and isn't as others are, whose word may be a #."""
    if _COMMENT.match(line):
        return True
    if not line.startswith(("# ", "#\t")):
        return False
    return len(columns) not in widths or " " in columns[-1].strip() or "://" in columns[-1]


def _are_counted(sentences: Sequence[_Sentence], split: str) -> bool:
    """Whether the first column counts each sentence's words: 1, 2, 3, … Raises DataError where it counts most alone."""
    odd = [sentence for sentence in sentences if not _is_counted(sentence)]
    if not odd or 2 * len(odd) >= len(sentences):
        return bool(sentences) and not odd
    raise DataError(
        f"data.source: the first column of {split} counts the words of most sentences, but not of the one in line "
        f"{odd[0][0][0]}; mend it, or name both columns by number, such as `text: 2` and `label: 3`"
    )


def _is_counted(sentence: _Sentence) -> bool:
    numbers = [columns[0].strip() for _, columns in sentence if not _NO_WORD.fullmatch(columns[0])]
    told = all(len(columns) > 2 for _, columns in sentence)
    return told and bool(numbers) and numbers == [str(place + 1) for place in range(len(numbers))]


def _of_entities(sentences: Sequence[_Sentence], split: str) -> int:
    """Of lines that begin with a number and a word, the column of the tags. Raises DataError where none can be told."""
    widths = {len(columns) for sentence in sentences for _, columns in sentence}
    if widths == {3}:
        return 3
    for place in range(2, min(widths)):
        tags = {columns[place].strip() for sentence in sentences for _, columns in sentence}
        if all(tag == OUTSIDE or kind_of_entity(tag) for tag in tags):
            return place + 1
    raise DataError(
        f"data.label: lines of {split} begin with a number and a word, and none of their columns tells entities (B-…, "
        "I-…, O); name the tags' by number, such as `label: 4`"
    )


def _number(data: settings.Data, setting: str, split: str) -> int | None:
    """The column that a recipe names, counted from 1; None where it names none. Raises DataError for other names."""
    named, usual = getattr(data, setting), type(data).model_fields[setting].default
    if named in (usual, [usual]):
        return None
    if isinstance(named, str) and named.isdecimal() and int(named) > 0:
        return int(named)
    raise DataError(
        f"data.{setting}: {split} is lines of words and tags, whose columns have no names: give a number, such as 2, "
        f"instead of {named!r:.60}, or leave it out"
    )


def _pair(columns: list[str], word: int, tag: int) -> tuple[str, str] | None:
    """A line's word and tag; None where it lacks one of them."""
    if len(columns) < 2 or max(word, tag) > len(columns):
        return None
    found = columns[word - 1].strip(), columns[tag - 1 if tag > 0 else tag].strip()
    return found if all(found) else None
