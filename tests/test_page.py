"""report.html: what stands in it, what can't get into it, and how it looks in a real browser."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from browser import CHROMIUM, chromium
from made_reports import LABELS, ROWS, make_report

from distill.evaluation.ledger import Ledger, Row
from distill.report import headline, markup, plots
from distill.report.page import page

HOSTILE = [
    "<script>alert(1)</script>", '" onmouseover="alert(1)', "$x^2$ & </svg></style>", "two\nlines\x00\x07",
    "\u202eturned", "lone \ud800 half",
    "体育新闻", "url(#a) #000b01 id=\"m1\"", "a very long name " * 9, "'><img src=x>",
]  # fmt: skip


class Elements(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def hostile_report() -> dict:
    report, _ = make_report(run=HOSTILE[0], labels=HOSTILE)
    report["notes"] = [*HOSTILE]
    report["data"] |= {"name": HOSTILE[1], "note": HOSTILE[2], "licence": HOSTILE[9]}
    report["teacher"] |= {"name": HOSTILE[0], "source": "javascript:alert(1)", "licence": HOSTILE[4]}
    report["machine"] = {**report["machine"], "processor": HOSTILE[0]}
    for step, training in enumerate(report["training"]):
        training["step"] = HOSTILE[step]
        for record in training["records"]:
            record["terms"] = {HOSTILE[0] + name: term for name, term in record["terms"].items()}
    report["energy"]["how"] = HOSTILE[0]
    report["expect"][0]["word"] = HOSTILE[9]
    return report


def many_labels() -> dict:
    return make_report(labels=[f"intent number {i}" for i in range(40)], n=1200)[0]


def regression() -> dict:
    report, _ = make_report()
    report["data"] |= {"problem": "regression", "labels": ["similarity"], "truncated": {}}
    for row in report["rows"]:
        row |= {"metric": "spearman", "scores": {"spearman": row["score"], "pearson": 0.8}, "by_class": {},
                "worst_class": None, "confusion": None, "calibration": None}  # fmt: skip
    report |= {"parity": {**report["parity"], "metric": "spearman"}, "expect": []}
    return report


def bare() -> dict:
    """Nothing trained, nothing timed, no energy, no graph: three rows of torch."""
    report, _ = make_report(rows=[ROWS[0], ROWS[2]])
    for row in report["rows"]:
        row |= {"latency": [], "memory_mb": None}
    return {**report, "training": [], "parity": None, "expect": [], "energy": None, "steps": [], "notes": [],
            "teacher": None, "seconds": {}}  # fmt: skip


REPORTS = {"whole": lambda: make_report()[0], "hostile": hostile_report, "many": many_labels,
           "regression": regression, "bare": bare}  # fmt: skip


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: page(make()) for name, make in REPORTS.items()}


def drawings(text: str) -> list[str]:
    return re.findall(r'<svg viewBox="[^"]*"(?: class="halo")? role="img".*?</svg>', text, flags=re.DOTALL)


def titles(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


# ---------------------------------------------------------------------------------------------- what is told


def test_the_headline_says_what_was_kept_and_saved_against_both_baselines(pages):
    text = " ".join(Elements(pages["whole"]).text)
    rows = make_report()[0]["rows"]
    assert f"keeps {100 * rows[-1]['score'] / rows[0]['score']:.1f} % of its teacher’s accuracy" in text
    assert "in 19.9 % of the size" in text  # 18,240,106 of 91,585,711 bytes
    assert "is 5.3 times as fast as the teacher as users run it" in text  # 38.2 / 7.27
    assert "is 4.5 times as fast as the teacher on the same engine" in text  # 32.8 / 7.27


def test_times_that_waited_for_other_work_are_told_to_be_rough(pages):
    report = make_report()[0]
    for timed in report["rows"][0]["latency"]:
        timed["p50_ms"] *= 6
    assert "by CPU time it is 5.3 times as fast as the teacher" in " ".join(Elements(page(report)).text)
    assert "The machine was busy" not in pages["whole"]
    for timed in report["rows"][0]["latency"]:
        timed["engine"] = "torch-cuda"  # whose work is no CPU time
    assert "The machine was busy" not in page(report)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"latency": []}, "2-quantize keeps 98.4 % of its teacher’s accuracy in 19.9 % of the size."),
        ({"retained": None}, "2-quantize has accuracy 0.957, where its teacher has 0.973, in 19.9 % of the size."),
        ({"slower": 2}, "At batch 1 it takes 2.0 times as long as the teacher as users run it (eager torch)"),
        ({"slower": 1}, "At batch 1 it is as fast as the teacher as users run it (eager torch)"),
    ],
)
def test_the_headline_fits_what_there_is(changed, told):
    rows = copy.deepcopy(make_report()[0]["rows"])
    if slower := changed.pop("slower", None):
        rows[-1]["latency"][0]["p50_ms"] = slower * rows[0]["latency"][0]["p50_ms"]
    rows[-1] |= changed
    said = headline.lead(Ledger([Row.from_dict(row) for row in rows]))
    assert said.startswith(told) or told in said
    assert said.endswith(".")


def test_the_headline_of_torch_says_that_eager_is_its_own_engine():
    rows = [Row.from_dict(row) for row in make_report(rows=[ROWS[0], ROWS[2]])[0]["rows"]]
    assert headline.lead(Ledger(rows)).endswith("(eager torch), which is also its own engine.")
    assert headline.lead(Ledger(rows[:1])) == "Only the teacher was measured: accuracy 0.973 in 91.6 MB."
    without = make_report(rows=[ROWS[0], ROWS[4]])[0]["rows"]
    assert "was not timed on the same engine" in headline.lead(Ledger([Row.from_dict(row) for row in without]))


@pytest.mark.parametrize(("p", "told"), [(0.0004, "hardly chance (paired test, p < 0.001)"), (0.3, "p = 0.300")])
def test_the_paired_test_is_said_in_words(p, told):
    rows = make_report()[0]["rows"]
    assert told in headline.sureness(Row.from_dict({**rows[-1], "p_value": p}), Row.from_dict(rows[0]))


@pytest.mark.parametrize(
    ("count", "told"),
    [(999, "999 B"), (18_240_106, "18.2 MB"), (4_900_000, "4.90 MB"), (2.5e9, "2.50 GB"), (1000, "1.00 kB")],
)
def test_sizes_are_told_as_people_write_them(count, told):
    assert headline.size(count) == told


def test_every_section_is_there_and_every_plot_has_its_table(pages):
    assert titles(pages["whole"]) == [
        "Expected", "Ledger", "What it keeps, and what it costs", "Class by class", "What is taken for what",
        "How well confidence tells", "Training", "Energy", "What was run where", "The graphs against torch",
        "Data, teacher and notes",
    ]  # fmt: skip
    figures = re.findall(r"<figure>.*?</figure>", pages["whole"], flags=re.DOTALL)
    assert len(figures) == len(drawings(pages["whole"])) == 8
    assert all("<details>" in figure and "<table>" in figure for figure in figures)


def test_what_is_missing_leaves_no_empty_frame(pages):
    assert titles(pages["bare"]) == [
        "Ledger", "What it keeps, and what it costs", "Class by class", "What is taken for what",
        "How well confidence tells", "What was run where", "Data, teacher and notes",
    ]  # fmt: skip
    assert len(re.findall(r"<figure>.*?</figure>", pages["bare"], flags=re.DOTALL)) == 5
    assert "Kept against latency" not in pages["bare"]
    assert titles(pages["regression"]) == [
        "Ledger", "What it keeps, and what it costs", "Training", "Energy", "What was run where",
        "The graphs against torch", "Data, teacher and notes",
    ]  # fmt: skip
    for text in pages.values():
        assert not re.search(r"<(section|figure|table|tbody|ul|dl|p|h2|h3|details)[^>]*>\s*</\1>", text)


def test_a_report_of_one_row_is_a_page_too():
    text = page({**bare(), "rows": bare()["rows"][:1]})
    assert "Only the teacher was measured" in text
    assert "What it keeps" not in text


def test_classes_stand_worst_first_with_teacher_result_and_examples(pages):
    rows = make_report()[0]["rows"]
    teacher, result = rows[0], rows[-1]
    part = pages["whole"].partition("<h2>Class by class</h2>")[2].partition("</section>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in re.findall(r"<tr>(.*?)</tr>", part, flags=re.DOTALL)]
    found = [[re.sub("<.*?>", "", cell) for cell in line] for line in cells if line]
    assert [line[0] for line in found] == sorted(LABELS, key=lambda label: result["by_class"][label])
    for label, examples, before, after, _ in found:
        counts = result["confusion"][LABELS.index(label)]
        assert int(examples) == sum(counts)
        assert (before, after) == (
            f"{teacher['by_class'][label]:.3f}",
            f"{counts[LABELS.index(label)] / sum(counts):.3f}",
        )


def test_of_many_classes_the_most_confused_pairs_are_a_table(pages):
    report = many_labels()
    assert "Confusion matrix" not in pages["many"]
    part = pages["many"].partition("<h2>Most confused</h2>")[2].partition("</section>")[0]
    first = re.findall(r"<td[^>]*>(.*?)</td>", part)[:4]
    counts = np.array(report["rows"][-1]["confusion"])
    np.fill_diagonal(counts, 0)
    true, taken = np.unravel_index(counts.argmax(), counts.shape)
    before = report["rows"][0]["confusion"][true][taken]
    assert first == [f"intent number {true}", f"intent number {taken}", str(before), str(counts.max())]
    assert "the other 20 classes" in pages["many"]


def test_a_heat_map_tells_each_count(pages):
    drawn = next(svg for svg in drawings(pages["whole"]) if "Confusion matrix: 2-quantize" in svg)
    told = re.findall(r"<text[^>]*>(\d+)</text>", drawn)
    counts = [count for line in make_report()[0]["rows"][-1]["confusion"] for count in line if count]
    assert sorted(map(int, told)) == sorted(counts)


def test_every_figure_of_energy_is_measured_or_estimated(pages):
    part = pages["whole"].partition("<h2>Energy</h2>")[2].partition("</section>")[0]
    heads = [re.sub("<.*?>", "", head) for head in re.findall(r"<th[^>]*>(.*?)</th>", part)]
    assert heads == ["training", "time measured", "Wh estimated", "g CO₂ (FRA) estimated", "1,000 requests", "tokens",
                     "CPU-seconds measured", "joules estimated"]  # fmt: skip
    assert "77,600 requests, against the teacher in eager torch <span" in part
    assert "<td>5.00</td>" in part  # 2.1 and 2.9 Wh together


def test_where_energy_was_measured_in_part_each_figure_says_so():
    report, _ = make_report()
    report["energy"]["training"][0]["method"] = "measured"
    part = page(report).partition("<h2>Energy</h2>")[2].partition("1,000 requests")[0]
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", part)]
    assert "2.10 measured" in cells
    assert "2.90 estimated" in cells
    assert "5.00 estimated" in cells
    assert ">Wh<" in part


def test_steps_tell_what_was_reused_and_where():
    report, _ = make_report()
    report["steps"][0] |= {"machine": {**report["machine"], "processor": "Xeon"}, "versions": {"torch": "2.12.0"}}
    part = page(report).partition("<h2>What was run where</h2>")[2].partition("</section>")[0]
    lines = re.findall(r"<tr>(.*?)</tr>", part, flags=re.DOTALL)[1:]
    assert "reused" in lines[0]
    assert "machine 1" in lines[0]
    assert all("computed" in line and ">here<" in line for line in lines[1:])
    assert "Xeon, 2 cores" in part
    assert "teacher: torch 2.12.0" in part
    assert report["steps"][0]["key"] in part


def test_a_smoke_run_says_so_on_top(pages):
    assert "Its figures mean nothing" in page({**make_report()[0], "smoke": True}).partition("<main>")[0]
    assert "mean nothing" not in pages["whole"]


def test_expectations_are_met_or_missed(pages):
    part = pages["whole"].partition("<h2>Expected</h2>")[2].partition("</section>")[0]
    assert re.findall(r'class="chip \w+">(\w+)<', part) == ["met", "missed"]
    assert "1 of 2 missed" in part


# ------------------------------------------------------------------------------------------ what can't get in


def test_nothing_that_a_user_gives_becomes_markup(pages):
    found = Elements(pages["hostile"])
    assert {tag for tag, _ in found.elements} & {"script", "img", "iframe", "a", "object", "form", "base"} == set()
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    text = "\n".join(found.text)
    assert "<script>alert(1)</script>" in text
    assert "$x^2$ & </svg></style>" in text
    assert "体育新闻" in text
    assert "two lines" in text
    assert "url(#a) #000b01 id" in text  # in a drawing too, where such words mean something outside of texts
    assert not set("\x00\x07\u202e\ud800") & set(pages["hostile"])
    pages["hostile"].encode("utf-8")


def test_nothing_is_fetched(pages):
    for text in pages.values():
        found = Elements(text)
        links = [a[key] for _, a in found.elements for key in ("src", "href", "action", "data", "srcset") if key in a]
        assert all(link.startswith(("#", "data:")) for link in links)
        assert not re.search(r"@import|url\((?!#)", text)
        assert "default-src 'none'" in text
        assert 'content="width=device-width, initial-scale=1"' in text


@pytest.mark.parametrize("told", ["a\x00b", "a\u2067b", "a\n\t b", "a\x9bb"])
def test_a_cleaned_text_is_one_line_of_what_can_be_shown(told):
    assert markup.clean(told) == "a b"


def test_what_is_not_marked_as_html_is_escaped():
    assert markup.tag("p", "<b>", markup.Html("<b>")) == "<p>&lt;b&gt;\n<b></p>"
    assert markup.tag("p", title='"<') == '<p title="&quot;&lt;"></p>'
    assert markup.shorten("abcdef", 4) == "abc…"


# ------------------------------------------------------------------------------------------------ the drawings


def test_drawings_are_small_and_whole_and_no_two_share_an_id(pages):
    for text in pages.values():
        for drawn in drawings(text):
            assert len(drawn.encode()) < 60_000
            root = xml.etree.ElementTree.fromstring(drawn)
            ids = {element.get("id") for element in root.iter()} - {None}
            tags = re.sub(r">[^<]*<", "><", drawn)
            assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', tags)) <= ids
            assert "#000" not in tags  # every colour is the page's own
        ids = [attributes["id"] for _, attributes in Elements(text).elements if "id" in attributes]
        assert len(ids) == len(set(ids)) > 3


def test_equal_reports_give_equal_bytes_in_another_process_too(pages, tmp_path):
    code = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); from made_reports import make_report;"
        "from distill.report.page import page; pathlib.Path(sys.argv[2]).write_text(page(make_report()[0]), 'utf-8');"
        "print(*[name for name in sys.modules if 'pyplot' in name])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "page.html")],
        env={**os.environ, "PYTHONHASHSEED": "5"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert (tmp_path / "page.html").read_text("utf-8") == pages["whole"]
    assert told.stdout.strip() == ""  # nothing imports matplotlib's global state


def test_a_users_matplotlibrc_changes_nothing(pages):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "font.size": 30, "text.usetex": True}):
        assert page(make_report()[0]) == pages["whole"]
    assert dict(matplotlib.rcParams) == before


def test_figures_that_are_no_numbers_are_left_out():
    report, _ = make_report()
    report["rows"][1]["score"] = float("nan")
    for record in report["training"][0]["records"][:10]:
        record["loss"] = float("nan")
    report["training"][1]["records"] = report["training"][1]["records"][:1]
    text = page(report)
    assert len(drawings(text)) == 8
    assert not any("nan" in svg.lower() for svg in drawings(text))


# -------------------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def files(pages, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_is_cut_off_and_the_console_is_silent(browser, files, name, width):
    for unfold in (False, True):
        browser.open(files[name], width=width, unfold=unfold)
        assert browser.faults() == []
    assert browser.run("document.querySelectorAll('section').length") == len(titles(files[name].read_text("utf-8")))


def test_the_check_finds_faults_where_there_are_some(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<main><p style='width: 900px'>wide</p><p id=a><b id=a></b></p><table><td style='max-width: 9px'>cell</table>"
        "<svg viewBox='0 0 50 50' class=halo><text x=40 y=20>cut</text><text x=41 y=20>off</text></svg></main>"
        "<script>console.error('said'); throw 1</script><img src='http://127.0.0.1:9/x.png'>"
    )
    browser.open(tmp_path / "bad.html", width=360)
    told = "\n".join(browser.faults())
    for fault in ("the page is", "sticks out", "cut off: cut", "on one another", "twice", "cell", "said", "exception",
                  "asked the network"):  # fmt: skip
        assert fault in told, fault


CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/\\d+/g).map(v => { v /= 255;
    return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const found = [...document.querySelectorAll('p, td, th, dd, dt, li, h1, h2, h3, span, figcaption, summary')]
    .map(e => light(getComputedStyle(e).color))
    .map(l => (Math.max(l, back) + .05) / (Math.min(l, back) + .05));
  return [back, Math.min(...found)];
})()"""


def test_light_and_dark_are_both_readable_and_are_not_the_same(browser, files, tmp_path):
    from PIL import Image

    seen = {}
    for dark in (False, True):
        browser.open(files["whole"], width=360, height=780, dark=dark)
        background, contrast = browser.run(CONTRAST)
        assert contrast >= 4.5  # WCAG AA
        assert (background < 0.05) is dark
        picture = Image.open(browser.screenshot(tmp_path / f"{dark}.png")).convert("L")
        assert picture.width == 360
        assert picture.height > 3000
        seen[dark] = np.asarray(picture)
        assert len(np.unique(seen[dark])) > 50
    assert seen[False].mean() > 200
    assert seen[True].mean() < 60


def test_it_prints(browser, files):
    browser.open(files["whole"])
    assert browser.pdf().startswith(b"%PDF")


def test_a_logarithmic_axis_has_two_to_six_marks_whatever_its_ends():
    from distill.report.drawing import log_marks

    generator = np.random.default_rng(0)
    for low in [*generator.uniform(1e-3, 1e3, 300), 2.1, 20.5, 1.0]:
        for factor in (1.5625, 1.6, 2.0, 2.3, 3.0, 9.0, 50.0, 1e3, 1e8):
            marks = log_marks(low, low * factor)
            assert 2 <= len(marks) <= 6
            assert all(0.99 * low <= mark <= 1.01 * low * factor for mark in marks)
            assert marks == sorted(marks)
    assert log_marks(0.8, 12.5) == [1, 2, 5, 10]
    assert log_marks(2.1, 4.9) == [3, 4]


def test_every_format_has_a_mark():
    assert all("<li><svg" in str(plots.format_key([name])) for name in (*plots.FORMATS, "another"))
