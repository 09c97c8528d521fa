"""Progress bars in a terminal, in a file, and of several processes."""

import time

import pytest

from distill import bars
from distill.bars import bar


def go_through(rows=5, pause=0.02):
    """A piece of work with a bar."""
    for _ in bar(range(rows), title="work"):
        time.sleep(pause)


def test_short_work_leaves_nothing_in_a_file(capsys):
    go_through()
    assert capsys.readouterr().err == ""


def test_long_work_leaves_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(bars, "_SECONDS", 0.1)
    go_through(rows=50)  # a second: some ten lines, not one for every row
    shown = capsys.readouterr().err
    assert 2 <= shown.count("work") <= 20 and "/50" in shown


def test_a_terminal_sees_each_moment_of_it(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    go_through(rows=5, pause=0.15)
    assert capsys.readouterr().err.count("work") >= 5


@pytest.mark.parametrize("how", [{"shown": False}, {}])
def test_no_bar_where_it_is_not_wanted_or_drawn_by_another(how, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("RANK", "0" if how else "1")
    assert list(bar(range(3), title="work", **how)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
