"""The HTML that pages are made of: one style, one skeleton, tables, figures. What is not marked as HTML is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

# Nothing may be fetched or executed, whatever a label or a note holds: the last defence behind the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Control characters, and those that turn the direction of the text around them.
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]+")


class Html(str):
    """Text that is markup already. Every other string is escaped on its way into a page."""

    __slots__ = ()


def clean(text: object) -> str:
    """A text on one line, of characters that can be written and shown."""
    told = str(text).encode("utf-8", "replace").decode("utf-8")
    return " ".join(_UNSPEAKABLE.sub(" ", told).split())


def shorten(text: object, most: int) -> str:
    """A clean text of at most so many characters, the last an ellipsis when something is left out."""
    told = clean(text)
    return told if len(told) <= most else told[: most - 1].rstrip() + "…"


def escape(text: object) -> Html:
    """Markup that shows a text as it is; markup itself stays."""
    return text if isinstance(text, Html) else Html(html.escape(clean(text)))


def join(parts: Iterable[object], between: str = "\n") -> Html:
    """Parts that have something to say, one behind the other."""
    return Html(between.join(escape(part) for part in parts if part))


def tag(name: str, *parts: object, **attributes: str) -> Html:
    """An element; `class_` stands for `class`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(value))}"'
        for key, value in attributes.items()
        if value
    )
    return Html(f"<{name}{told}>{join(parts)}</{name}>")


def chip(word: str, kind: str = "quiet") -> Html:
    """A small label: good, bad, warn or quiet."""
    return tag("span", word, class_=f"chip {kind}")


def table(
    head: Sequence[object], body: Sequence[Sequence[object]], *, words: Iterable[int] = (), long: Iterable[int] = (),
    classes: Sequence[str] = (), name: str = "",
) -> Html:  # fmt: skip
    """A table in a box of its own that scrolls where the page is too narrow.

    `words` are the columns (beside the first) that hold words, not figures; `long` those that may break.
    `classes` are the class of each row, `name` is what the box is called.
    """
    long = set(long)
    words = {0, *words, *long}

    def cell(kind: str, place: int, content: object) -> Html:
        named = " ".join(word for word, has in (("w", place in words), ("long", place in long)) if has)
        return tag(kind, escape(content), class_=named, scope="col" if kind == "th" else "")

    heads = tag("tr", *(cell("th", place, content) for place, content in enumerate(head)))
    rows = [
        tag("tr", *(cell("td", place, content) for place, content in enumerate(line)), class_=kind)
        for line, kind in zip(body, classes or [""] * len(body), strict=True)
    ]
    inner = tag("table", tag("thead", heads), tag("tbody", *rows))
    # focusable, so that the keyboard can scroll it
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=name or clean(head[0]) or "table")


def details(summary: str, *parts: object) -> Html:
    """What is shown on demand."""
    return tag("details", tag("summary", summary), *parts) if any(parts) else Html("")


def bullets(lines: Iterable[object]) -> Html:
    """A quiet list; nothing when there are no lines."""
    items = [tag("li", line) for line in lines]
    return tag("ul", *items, class_="say") if items else Html("")


def pairs(facts: Iterable[tuple[str, object]]) -> Html:
    """Names with what they hold; those that hold nothing are left out."""
    told = [join([tag("dt", name), tag("dd", value)]) for name, value in facts if value]
    return tag("dl", *told, class_="plain") if told else Html("")


def figure(title: str, caption: object, drawing: Html, figures: object, key: Html | str = "") -> Html:
    """A plot under its title, with its key, and its figures as a table on demand."""
    shown = tag("figcaption", tag("h3", title), caption)
    return tag("figure", shown, key, drawing, details("the figures", figures))


def grid(*figures: object) -> Html:
    """Figures side by side where there is room."""
    return tag("div", *figures, class_="grid") if any(figures) else Html("")


def section(title: str, *parts: object) -> Html:
    """A part of the page; nothing at all when it has nothing to show."""
    return tag("section", tag("h2", title), *parts) if any(parts) else Html("")


def document(title: str, body: object, *, banner: str = "") -> str:
    """A whole page, style included, that asks the network for nothing."""
    style = (files("distill.report") / "page.css").read_text(encoding="utf-8")
    shown = tag("div", banner, class_="banner", role="note") if banner else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        f"{shown}\n<main>\n{escape(body)}\n</main>\n</body>\n</html>\n"
    )
