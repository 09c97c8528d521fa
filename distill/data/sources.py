"""Where rows come from: the Hub, local files, a folder a class, files that an installed package ships."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import packages
from distill.disk import expanded
from distill.errors import DataError, DistillError
from distill.library import leads_out
from distill.recipe.settings import Data, Source

if TYPE_CHECKING:
    from datasets import Dataset

TAGGED = (".conll", ".conllu", ".iob", ".iob2", ".bio")  # text files with a word and its tag a line
FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", *TAGGED)
_TAG = re.compile(r"O|[BIELSUM]-\S+")
_ROWS_INSIDE = re.compile(r'\s*\{\s*(?:"[^"]*"\s*:\s*(?:"[^"]*"|[\w.+-]+)\s*,\s*)*"data"\s*:\s*\[')


def read(source: Source, beside: Path | None = None, setting: str = "data.source") -> Dataset:
    """All rows of a source. Relative paths are looked up beside the recipe, then in the working directory.

    Raises DataError.
    """
    return read_split(source.split if source.hub is not None else source.path, source, beside, setting)


def read_all(data: Data, beside: Path | None = None) -> Dataset:
    """The rows of all sources, one behind the other, with the columns that all of them have. Raises DataError."""
    first, *others = (
        reached(read(source, beside, f"data.further.{place - 1}" if place else "data.source"), data)
        for place, source in enumerate(data.sources)
    )
    if not others:
        return first
    from datasets import concatenate_datasets

    for place, rows in enumerate(others):
        missing = [name for name in first.column_names if name not in rows.column_names]
        asked = [name for name in missing if name in data.columns]
        if asked or len(missing) == len(first.column_names):
            raise DataError(
                f"data.further.{place}: has no column {(asked or missing)[0]!r}, which data.source has (it has: "
                f"{', '.join(rows.column_names)}); rename it, so that all sources have the same columns"
            )
    shared = [name for name in first.column_names if all(name in rows.column_names for rows in others)]
    head = first.select_columns(shared)
    parts = [head, *(_alike(rows, head, place) for place, rows in enumerate(others))]
    texts = [Path(source.path or "").suffix.lower() == ".txt" for source in data.sources]  # their lines may be tagged
    return concatenate_datasets([_ended(rows) if text else rows for rows, text in zip(parts, texts, strict=True)])


def reached(rows: Dataset, data: Data) -> Dataset:
    """Rows with the columns that the recipe names by dots: `translation.en` is what the dicts in `translation` hold as
    `en`, where no column has that very name.
    """
    from datasets import concatenate_datasets

    missing = [name for name in data.columns if name not in rows.column_names]
    opened = [column for column in rows.column_names if any(name.startswith(f"{column}.") for name in missing)]
    flat = rows.select_columns(opened).flatten() if opened else rows
    parts = [name for name in flat.column_names if name not in rows.column_names]
    if not parts:
        return rows
    kept = {*flat.column_names, *data.columns}
    whole = [name for name in rows.column_names if name not in opened or name in kept]
    found = flat.select_columns(parts)
    return concatenate_datasets([rows.select_columns(whole), found], axis=1) if whole else found


def _alike(rows: Dataset, head: Dataset, place: int) -> Dataset:
    """Rows with the columns of others, and their types. Raises DataError where a value is of another kind."""
    rows = rows.select_columns(head.column_names)
    if rows.features == head.features:
        return rows
    try:
        return rows.cast(head.features)
    except Exception as error:  # Arrow's own, and the library's
        raise DataError(
            f"data.further.{place}: its columns hold other kinds of values than those of data.source: "
            f"{_root_cause(error)}"
        ) from error


def read_split(name: str, source: Source, beside: Path | None, setting: str) -> Dataset:
    """One split of a source: a Hub data set's split by name, or a file or folder by path. Raises DataError."""
    if source.hub is not None:
        return _from_hub(source, name, setting)
    try:
        path = packages.find_file(source.package, name) if source.package else resolve(name, beside, setting)
        return _from_path(path, source)
    except DistillError as error:
        told = str(error)
        raise DataError(told if told.startswith(f"{setting}: ") else f"{setting}: {told}") from error


def resolve(path: str, beside: Path | None, setting: str) -> Path:
    """A path beside the recipe, else in the working directory. Raises DataError naming both when it is in neither.

    A relative path stays below the folder that it starts in: one whose `..` or links lead out is refused. A path that
    is written in full is the user's own choice.
    """
    given = expanded(path)
    folders = [None] if given.is_absolute() else [folder for folder in (beside, Path.cwd()) if folder]
    tried = [given if folder is None else folder / given for folder in folders]
    for folder, candidate in zip(folders, tried, strict=True):
        if folder is not None and (".." in given.parts or candidate.exists()) and leads_out(candidate, folder):
            raise DataError(f"{setting}: {path} leads out of {folder.resolve()}; name it by its full path")
        if candidate.exists():
            return candidate
    looked = " and ".join(dict.fromkeys(str(Path(os.path.realpath(candidate)).parent) for candidate in tried))
    raise DataError(f"{setting}: no such file or folder: {path} (looked in {looked})")


def _from_hub(source: Source, split: str, setting: str) -> Dataset:
    from datasets import load_dataset

    try:
        if source.first is not None:
            return _first_of(source, split)
        return load_dataset(source.hub, source.config, split=split, revision=source.revision)
    except Exception as error:  # the library raises a dozen kinds; each message says what failed
        raise DataError(f"{setting}: the Hub data set {source.hub} can't be loaded: {_root_cause(error)}") from error


def _first_of(source: Source, split: str) -> Dataset:
    """The first rows of a split, streamed into the library's cache and mapped from there; no more is downloaded.

    Kept under a hash of the data set's state on the Hub: whoever asks for the same rows again, streams nothing.
    """
    from datasets import Dataset, load_dataset_builder

    builder = load_dataset_builder(source.hub, source.config, revision=source.revision)
    rows = builder.as_streaming_dataset(split=split).take(source.first)
    state = "\0".join([builder.dataset_name, builder.config.name, builder.hash, split, str(source.first)])
    mark = hashlib.sha256(state.encode()).hexdigest()
    return Dataset.from_generator(_each, rows.features, gen_kwargs={"rows": rows}, fingerprint=mark)


def _each(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows


def _from_path(path: Path, source: Source) -> Dataset:
    encodings = source.encodings
    if path.is_dir():
        return _from_folder(path, encodings)
    if not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    if path.suffix.lower() not in FORMATS:
        raise DataError(
            f"{path}: not a format that is read here ({', '.join(FORMATS)}, or a folder a class); a file with a word "
            "and its tag a line can be called .conll"
        )
    encoding = "utf-8" if path.suffix.lower() == ".parquet" else _unmarked(_encoding_of(path, encodings))
    try:
        return _from_file(path, encoding, source.row)
    except Exception as error:  # the library wraps every reader's own errors
        wrong = f"can't be read as {path.suffix[1:]}: {_root_cause(error)}"
        raise DataError(f"{path}: {'holds no rows' if _is_empty(path, encoding) else wrong}") from error


def _encoding_of(path: Path, encodings: Sequence[str]) -> str:
    """The first encoding that the whole file fits. Not left to the readers: some let wrong bytes through."""
    for encoding in encodings:
        with contextlib.suppress(UnicodeError), path.open(encoding=encoding) as file:
            while file.read(1 << 20):
                pass
            return encoding
    raise _wrong_encoding(path, encodings)


def _unmarked(encoding: str) -> str:
    """The same without the mark that some editors put before the first character of UTF-8."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _is_empty(path: Path, encoding: str) -> bool:
    """Whether a text file has nothing in it, or a header only."""
    if path.suffix.lower() == ".parquet":
        return False
    with path.open(encoding=encoding, errors="replace") as file:
        return sum(1 for line in itertools.islice(file, 1000) if line.strip()) <= (path.suffix in (".csv", ".tsv"))


def _from_file(path: Path, encoding: str, row: str) -> Dataset:
    from datasets import Dataset

    where = str(path)
    match path.suffix.lower():
        case ".csv":
            return _from_columns(where, encoding, {})
        case suffix if suffix in TAGGED or (suffix == ".tsv" and _tells_tags(path, encoding)):
            return _ended(Dataset.from_text(where, encoding=encoding))
        case ".tsv":
            return _from_columns(where, encoding, {"sep": "\t", "quoting": csv.QUOTE_NONE})
        case ".json" | ".jsonl":
            if _holds_rows_inside(path, encoding):
                with contextlib.suppress(Exception):  # rows that hold `data` themselves, or what isn't JSON
                    return Dataset.from_json(where, encoding=encoding, field="data")
            return _dates_as_written(Dataset.from_json(where, encoding=encoding), path, encoding)
        case ".parquet":
            return Dataset.from_parquet(where)
        case _:
            return Dataset.from_text(where, encoding=encoding, sample_by="document" if row == "file" else row)


def are_tagged(rows: Dataset, source: Source) -> bool:
    """Whether rows that were read are lines of a word with its tag each. (No other .tsv has a tab in its text.)"""
    suffix = Path(source.path or "").suffix.lower()
    return suffix in TAGGED or (suffix == ".tsv" and any("\t" in text for text in rows[:100].get("text", [])))


def _tells_tags(path: Path, encoding: str) -> bool:
    """Whether a table's first lines are words with their tags rather than rows: one column holds `O`, `B-…` or `I-…`
    in all of them, so that there is no header either.
    """
    with path.open(encoding=encoding) as file:
        lines = [line.rstrip("\n").split("\t") for line in itertools.islice(file, 1000)]
    words = [columns for columns in lines if len(columns) > 1 and not columns[0].startswith("#")]
    tags = [all(_TAG.fullmatch(cell) for cell in column) for column in zip(*words, strict=False)]
    return any(tags)


def _ended(lines: Dataset) -> Dataset:
    """The lines of tagged words, with their last sentence ended, so that others may stand behind it."""
    from datasets import Dataset, concatenate_datasets

    if not len(lines) or not (lines[-1]["text"] or "").strip():
        return lines
    return concatenate_datasets([lines, Dataset.from_dict({"text": [""]}, features=lines.features)])


def _from_columns(where: str, encoding: str, words: dict[str, Any]) -> Dataset:
    """Every cell as the text that it is: a column's kind, guessed from its first rows, may be wrong for later ones."""
    import pandas
    from datasets import Dataset, Features, Value

    words = {**words, "encoding": encoding, "keep_default_na": False, "na_values": []}  # 'NA' and 'null' are words
    columns = pandas.read_csv(where, nrows=0, **words).columns
    return Dataset.from_csv(where, features=Features({name: Value("string") for name in columns}), **words)


def _dates_as_written(rows: Dataset, path: Path, encoding: str) -> Dataset:
    """Columns of dates, which Arrow makes of texts that look like some, as the texts that they are."""
    dates = [name for name, kind in rows.features.items() if str(getattr(kind, "dtype", "")).startswith("timestamp")]
    if not dates:
        return rows
    text = path.read_text(encoding=encoding)
    found = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.split("\n") if x.strip()]
    )
    for name in dates:
        rows = rows.remove_columns(name).add_column(name, [row.get(name) for row in found])
    return rows


def _holds_rows_inside(path: Path, encoding: str) -> bool:
    """Whether a file is one object whose `data` is the list of rows, as SQuAD's are."""
    with path.open(encoding=encoding) as file:
        return _ROWS_INSIDE.match(file.read(1 << 16)) is not None


def _from_folder(folder: Path, encodings: Sequence[str]) -> Dataset:
    """One folder a class, one text file an example. Columns: text, label, file. No link may lead out of the folder.

    Where there are text files and no folders there is no label.
    """
    from datasets import Dataset

    rows: dict[str, list[str]] = {"text": [], "label": [], "file": []}
    for kind in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))):
        files = sorted(path for path in kind.rglob("*.txt") if path.is_file())
        if not files:
            raise DataError(f"{kind}: a class without a single .txt file")
        for file in files:
            if leads_out(file, folder):
                raise DataError(f"{file}: a link that leads out of {folder}; put the file itself there")
            rows["text"].append(_decode(file, encodings))
            rows["label"].append(kind.name)
            rows["file"].append(f"{kind.name}/{file.name}")
    if not rows["label"]:
        del rows["label"]
        for file in sorted(folder.glob("*.txt")):
            if leads_out(file, folder):
                raise DataError(f"{file}: a link that leads out of {folder}; put the file itself there")
            rows["text"].append(_decode(file, encodings))
            rows["file"].append(file.name)
    if not rows["text"]:
        raise DataError(f"{folder}: holds no folders; expected one folder a class with .txt files in it")
    return Dataset.from_dict(rows)


def _decode(file: Path, encodings: Sequence[str]) -> str:
    content = file.read_bytes()
    for encoding in encodings:
        with contextlib.suppress(UnicodeError):
            return content.decode(_unmarked(encoding))
    raise _wrong_encoding(file, encodings)


def _wrong_encoding(path: Path, encodings: Sequence[str]) -> DataError:
    tried = " nor ".join(encodings)
    return DataError(
        f"{path}: not {tried} text; set data.source.encoding to what it is, such as cp1252, "
        f"or to a list to try, such as [{', '.join(dict.fromkeys((*encodings, 'cp1252')))}]"
    )


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__):
        error = error.__cause__ or error.__context__
    return error
