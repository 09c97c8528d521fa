"""The rows: where they come from, what they mean, how they are split."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from distill.recipe.settings.base import Settings, Share, short

Labels = Literal["single_label_classification", "multi_label_classification", "regression"]


class Source(Settings):
    """Where the rows come from: one of `path`, `hub`, or `package` with `path`."""

    path: str | None = Field(
        None, description="a csv, tsv, json, jsonl, parquet, txt or conll file; or a folder a class"
    )
    package: str | None = Field(
        None, min_length=1, description="installed Python package that ships the files; `path` is inside it"
    )
    hub: str | None = Field(None, description="id of a dataset on the Hugging Face Hub")
    config: str | None = Field(None, description="configuration of the Hub dataset, such as `sst2` of GLUE")
    revision: str | None = Field(None, description="revision of the Hub dataset; pin it to make a run repeatable")
    split: str = Field("train", description="split of the Hub dataset to take for training")
    first: int | None = Field(
        None, ge=10, description="stream only so many rows of each split of the Hub dataset; the rest isn't downloaded"
    )
    row: Literal["line", "paragraph", "file"] = Field(
        "line", description="what of a txt file is a row; a blank line parts paragraphs"
    )
    encoding: str | list[str] = Field(
        "utf-8", description="how text files are encoded; of a list, the first that fits a file"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | list[str]) -> str | list[str]:
        for name in [value] if isinstance(value, str) else value:
            try:
                text = getattr(codecs.lookup(name), "_is_text_encoding", True)
            except LookupError:
                raise ValueError(f"Python knows no encoding '{name}'") from None
            if not text:
                raise ValueError(f"'{name}' is no encoding of text")
        if not value:
            raise ValueError("name an encoding, such as utf-8")
        return value

    @property
    def encodings(self) -> list[str]:
        """The encodings to try, in order."""
        return [self.encoding] if isinstance(self.encoding, str) else self.encoding

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.hub is None and self.path is None:
            raise ValueError("say where the data is: `path` (with `package` if a package ships it) or `hub`")
        if self.hub is not None and (self.path is not None or self.package is not None):
            raise ValueError("`hub` stands alone; `path` and `package` are for files on this machine")
        for word in ("config", "revision", "first"):
            if self.hub is None and getattr(self, word) is not None:
                raise ValueError(f"`{word}` belongs to `hub`")
        return self


class Mask(Settings):
    """Which tokens a masked language model has to find: dealt anew in each epoch, always the same where it is scored.

    Of ten that are chosen eight become the mask token, one another token, one stays (Devlin et al. 2019).
    """

    share: Share = Field(0.15, description="share of the tokens that are chosen; one a row at least")
    whole_words: bool = Field(False, description="choose all pieces of a word, or none")
    smoothing: float | None = Field(
        None,
        gt=0,
        le=1,
        description="choose rare tokens more often while training: a token's weight is its count in the training split "
        "to the power of minus this (Lample and Conneau 2019; DistilBERT took 0.7); all alike when not said, and "
        "always where it is scored",
    )


class WordCopies(Settings):
    """Copies of training rows with some words swapped, deleted, or replaced by words of the training split.

    Each copy is changed in one of these ways, drawn anew (Wei and Zou 2019, EDA, without its thesaurus).
    """

    copies: int = Field(1, ge=1, le=100, description="copies of each row")
    share: Share = Field(0.1, description="share of a text's words that are changed; one at least")
    ways: list[Literal["swap", "delete", "replace"]] = Field(
        ["swap", "delete", "replace"], min_length=1, description="how; each copy is changed in one way"
    )


class MaskedCopies(Settings):
    """Copies of training rows in which a masked language model has put other words in the place of some.

    A word is drawn from the likeliest ones by their probabilities (after Jiao et al. 2020, TinyBERT).
    """

    checkpoint: str = Field(description="a folder or a Hub id, with a masked-language-model head")
    revision: str | None = Field(None, description="revision of the Hub id")
    copies: int = Field(1, ge=1, le=100, description="copies of each row")
    share: Share = Field(0.15, description="share of a text's words that are replaced; one at least")


class Augment(Settings):
    """Changed copies of training rows, without labels: they are made once, and the teacher says what they are."""

    words: Annotated[WordCopies, short("copies")] | None = Field(
        None, description="copies with some words swapped, deleted or replaced"
    )
    masked_lm: Annotated[MaskedCopies, short("checkpoint")] | None = Field(
        None, description="copies in which a masked language model has replaced some words"
    )

    @model_validator(mode="after")
    def _something(self) -> Augment:
        if self.words is None and self.masked_lm is None:
            raise ValueError("say how copies are made: `words`, `masked_lm`, or both")
        return self


class Data(Settings):
    """The rows, what their columns mean, and how they are split."""

    source: Annotated[Source, short("path")] = Field(description="where the rows come from")
    further: list[Annotated[Source, short("path")]] | None = Field(
        None, min_length=1, description="more sources with the same columns, whose rows come behind those of `source`"
    )
    text: str | list[str] = Field(
        "text",
        description="the text column, or a list of two for pairs of texts; of word lists for tags, of question and "
        "context for answers. A dot leads into a column, as in `translation.en`; of a conll file a number names one",
    )
    label: str | list[str] = Field(
        "label",
        description="the label column, a list of 0/1 columns for many labels, or the column of texts to write; of tag "
        "lists, or of answers with `text` and `answer_start`; named as `text` is",
    )
    separator: str | None = Field(
        None, min_length=1, description="splits one label column into many labels, such as ';'"
    )
    problem: Labels | None = Field(
        None, description="one label, many labels or a number a row; read off the label column when not said"
    )
    classes: Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="names of the classes or tags, where the data has their numbers alone: of 0, of 1, and so on; a "
        "Hub data set brings its own",
    )
    validation: Share | str = Field(
        0.1, description="share of the rows, or the split or file, that choices are made on"
    )
    test: Share | str = Field(0.2, description="share of the rows, or the split or file, that is only ever scored")
    packed: bool | None = Field(
        None,
        description="language modelling alone: texts end to end, cut into blocks of `max_length` tokens (true when not "
        "said); false keeps a text a row",
    )
    mask: Mask | None = Field(None, description="masked language modelling alone: which tokens are to be found")
    max_length: int | None = Field(None, ge=4, description="tokens a text is cut to; the teacher's limit when not said")
    target_length: int | None = Field(
        None, ge=2, description="tokens that a text to be written is cut to; `max_length` when not said"
    )
    prefix: str | None = Field(None, description="what stands before each text, such as 'summarize: '")
    stride: int | None = Field(
        None,
        ge=0,
        description="question answering: tokens that two windows of a long context share; a third of a window when "
        "not said",
    )
    unlabelled: Annotated[Source, short("path")] | None = Field(
        None,
        description="rows without labels, in the same text columns, for `distill` steps alone: the teacher says what "
        "they are",
    )
    augment: Augment | None = Field(
        None, description="changed copies of training rows, for `distill` steps alone: the teacher says what they are"
    )
    limit: int | None = Field(None, ge=10, description="take only so many rows, each class in proportion")
    licence: str | None = Field(None, description="the data's licence, for the card of what is shipped")
    note: str | None = Field(None, description="what a user must know of this data; a run says it")

    @field_validator("text", "label", mode="before")
    @classmethod
    def _numbered(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("text")
    @classmethod
    def _one_or_two(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and len(value) not in (1, 2):
            raise ValueError("one text column, or a list of two")
        return value

    @field_validator("label")
    @classmethod
    def _one_at_least(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("name a column, or a list of them")
        return value

    @model_validator(mode="after")
    def _named_classes(self) -> Data:
        if self.classes is None:
            return self
        if isinstance(self.label, list) or self.problem == "regression":
            what = "a regression has none" if self.problem == "regression" else "0/1 columns have names of their own"
            raise ValueError(f"classes: names the classes of one label column; {what}")
        if len(set(self.classes)) < len(self.classes) or not all(name.strip() for name in self.classes):
            raise ValueError("classes: names are not blank, and each is there once")
        return self

    @property
    def text_columns(self) -> list[str]:
        """The one or two text columns, as a list."""
        return [self.text] if isinstance(self.text, str) else self.text

    @property
    def columns(self) -> list[str]:
        """All columns that are named, the text columns first."""
        return [*self.text_columns, *([self.label] if isinstance(self.label, str) else self.label)]

    @property
    def sources(self) -> list[Source]:
        """All sources of labelled rows, in order."""
        return [self.source, *(self.further or [])]

    @property
    def labelled(self) -> Data:
        """The same without the rows that nobody has labelled: all that a score depends on."""
        return self.model_copy(update={"unlabelled": None, "augment": None})
