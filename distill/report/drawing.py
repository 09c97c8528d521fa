"""How plots are drawn: matplotlib figures, without its global state, as small SVGs that take the page's colours."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill.report.markup import Html, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

WIDTH = 344  # a phone's; on a wide page the whole drawing grows, its text too
_SIZE = 11

# Matplotlib needs colours; these stand for the page's own, so that one drawing serves light, dark and print.
INK, MUTED, RULE, PAPER = "#000a01", "#000a02", "#000a03", "#000a04"
SERIES = ("#000b01", "#000b02", "#000b03", "#000b04", "#000b05")
_PAGE = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {
    colour: f"series-{place}" for place, colour in enumerate(SERIES, 1)
}
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "distill", "text.parse_math": False, "font.size": _SIZE,
    "axes.labelsize": _SIZE, "xtick.labelsize": _SIZE, "ytick.labelsize": _SIZE, "text.color": INK,
    "axes.labelcolor": MUTED, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.grid": True,
    "grid.color": RULE, "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.facecolor": "none",
    "figure.facecolor": "none", "xtick.major.size": 3, "ytick.major.size": 0, "xtick.minor.size": 0,
    "ytick.minor.size": 0, "lines.linewidth": 1.6, "path.simplify": True,
}  # fmt: skip


@contextlib.contextmanager
def canvas(height: float, **grid: object) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of the usual width and its axes, in this package's style whatever the user's matplotlibrc says.

    `grid` goes to `Figure.subplots`.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # a name in a script that matplotlib's font lacks: the browser draws the text, with a font that has it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        drawn.get_layout_engine().set(w_pad=3 / 72, h_pad=3 / 72)
        axes = drawn.subplots(squeeze=False, **grid)
        yield drawn, list(axes.flat)


def svg(drawn: Figure, title: str, *, halo: bool = False) -> Html:
    """The drawing as inline SVG: no date, no fonts of its own, ids that no other drawing has, the page's colours.

    `halo` keeps words readable that stand on lines.
    """
    written = io.StringIO()
    drawn.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', text))
    prefix = hashlib.sha256(f"{title}{text}".encode()).hexdigest()[:8]
    # only inside the tags: what a text says stays as it is
    text = re.sub(r"<[^>]+>", lambda found: _lean(found[0], prefix, used), text)
    text = re.sub(r">\s*\n\s*<", "><", text)
    kind = ' class="halo"' if halo else ""
    head = f'<svg viewBox="0 0 {WIDTH} {_height(text)}"{kind} role="img" aria-label="{escape(title)}">'
    return Html(head + text[text.index(">") + 1 :].strip())


def _lean(tag: str, prefix: str, used: set[str]) -> str:
    """One tag without what a page doesn't need, its ids made its own, its colours the page's."""
    tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", tag)
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", tag).replace("xlink:href", "href")
    for colour, name in _PAGE.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag


def _height(text: str) -> str:
    found = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', text)
    return found[1] if found else str(WIDTH)


def log_axis(axis: Axis, low: float, high: float) -> None:
    """A logarithmic axis that is marked at 1, 2, 5, 10, … in plain figures."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    low, high = low / 1.25, high * 1.25
    marks = log_marks(low, high)
    ends = axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    ends(low, high)
    axis.set_major_locator(FixedLocator(marks))
    axis.set_major_formatter(lambda value, _: plain(value))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_marks(low: float, high: float) -> list[float]:
    """Two to six round figures between two ends, the roundest that there are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,), range(1, 10), [1 + tenth / 10 for tenth in range(90)]):
        marks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        marks = [mark for mark in marks if low <= mark <= high]
        if 2 <= len(marks) <= 6:
            return marks
    if len(marks) < 2:  # the ends are close to each other
        return [float(f"{low * (high / low) ** part:.3g}") for part in (0.25, 0.75)]
    return marks[:: math.ceil(len(marks) / 6)]


def plain(value: float) -> str:
    """A figure as people write it, without an exponent where that is short."""
    return f"{value:g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], bars: Sequence[tuple[float, float, float]] = ()
) -> list[Text]:
    """Names beside their points (x, y, name, colour), where they cover neither a point nor another name.

    `bars` (x, low, high) are avoided where there is room beside them. A name that finds no room is left out: the
    table has it.
    """
    from matplotlib.transforms import Bbox

    drawn = axes.figure
    drawn.draw_without_rendering()  # the layout decides where points are
    drawn.set_layout_engine("none")
    taken = [_square(axes, x, y, y, 6) for x, y, _, _ in points]
    lines = [_square(axes, x, low, high, 1) for x, low, high in bars]
    room = Bbox.from_extents(axes.bbox.x0, axes.bbox.y0, drawn.bbox.x1, axes.bbox.y1)
    placed = []
    for x, y, name, colour in points:
        for lenient, (across, up, side) in [(lenient, place) for lenient in (False, True) for place in _places()]:
            label = axes.annotate(
                name, (x, y), (across, up), textcoords="offset points", ha=side, va="center", color=colour,
                annotation_clip=False,
            )  # fmt: skip
            box = label.get_window_extent()
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(other) for other in (taken if lenient else taken + lines)):
                taken.append(box)
                placed.append(label)
                break
            label.remove()
    return placed


def _square(axes: Axes, x: float, low: float, high: float, margin: float) -> Bbox:
    from matplotlib.transforms import Bbox

    ends = axes.transData.transform([(x, low), (x, high)])
    margin *= axes.figure.dpi / 72
    return Bbox([ends[0] - margin, ends[1] + margin])


def _places() -> Iterator[tuple[float, float, str]]:
    for far in (0, 9, 16):
        yield from ((8, far, "left"), (8, -far, "left"), (-8, far, "right"), (-8, -far, "right"))
        yield from ((0, far + 13, "center"), (0, -far - 13, "center"))
