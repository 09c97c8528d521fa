"""The store: a piece is made once, is what its entry says, and is safe from others at the same time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from distill.errors import MachineError
from distill.store import Store, default_folder, name_of

FACTS = {"start": "abc", "seed": 1}


def writing(text: str = "weights", told: dict | None = None, calls: list | None = None):
    """A maker of one file, and a note of every call."""

    def make(files: Path, workshop: Path) -> dict:
        if calls is not None:
            calls.append(sorted(path.name for path in workshop.iterdir()))
        (files / "part").mkdir(parents=True)
        (files / "model.bin").write_text(text)
        (files / "part" / "more.txt").write_text("more")
        return told or {"note": text}

    return make


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_piece_is_made_once_and_linked_wherever_it_is_asked_for(store, tmp_path):
    calls: list = []
    first = store.piece("distill", FACTS, writing(calls=calls), tmp_path / "one")
    second = store.piece("distill", FACTS, writing("other", calls=calls), tmp_path / "two")
    assert len(calls) == 1
    assert (first.reused, second.reused) == (False, True)
    assert second.told == {"note": "weights"} and second.facts == FACTS
    assert content(tmp_path / "one") == content(tmp_path / "two") == {"model.bin": "weights", "part/more.txt": "more"}
    assert (tmp_path / "one" / "model.bin").samefile(first.folder / "model.bin")  # a link, not a copy
    assert not os.access(first.folder / "model.bin", os.W_OK) or os.geteuid() == 0
    assert (first.folder / "model.bin").stat().st_mode & 0o222 == 0


def test_other_facts_are_another_piece(store, tmp_path):
    store.piece("distill", FACTS, writing(), tmp_path / "one")
    other = store.piece("distill", {**FACTS, "seed": 2}, writing("second"), tmp_path / "two")
    kind = store.piece("finetune", FACTS, writing("third"), tmp_path / "three")
    assert not other.reused and not kind.reused
    assert len({name_of("distill", FACTS), other.name, kind.name}) == 3
    assert name_of("distill", {"seed": 1, "start": "abc"}) == name_of("distill", FACTS)  # whatever their order


def test_a_piece_may_have_no_files(store):
    assert store.piece("score", FACTS, lambda *_: {"score": 0.5}).told == {"score": 0.5}
    assert store.piece("score", FACTS, lambda *_: pytest.fail("made twice")).reused


@pytest.mark.parametrize("file", ["model.bin", "part/more.txt", "entry.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_piece_is_made_again_and_said(store, tmp_path, caplog, file, how):
    made = store.piece("distill", FACTS, writing(), tmp_path / "one")
    path = made.folder / file
    held = path.read_bytes()
    path.chmod(0o644)
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(held[:-1] if how == "cut" else bytes([held[0] ^ 1]) + held[1:])
    again = store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert not again.reused
    assert "is damaged" in caplog.text and file in caplog.text
    assert content(tmp_path / "one") == {"model.bin": "weights", "part/more.txt": "more"}
    assert store.piece("distill", FACTS, writing(), tmp_path / "two").reused


def test_a_piece_that_cannot_be_read_just_now_is_kept(store, tmp_path, monkeypatch):
    made = store.piece("distill", FACTS, writing(), tmp_path / "one")

    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("distill.store.sha256", fail)
        with pytest.raises(MachineError, match=r"reading the store .*input/output error"):
            store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert made.folder.is_dir() and store.piece("distill", FACTS, writing(), tmp_path / "one").reused


def test_a_maker_that_fails_leaves_nothing_but_what_it_can_go_on_from(store, tmp_path):
    def half(files: Path, workshop: Path) -> dict:
        files.mkdir()
        (files / "model.bin").write_text("half")
        (workshop / "checkpoint-3").mkdir()
        raise MachineError("disk full")

    with pytest.raises(MachineError, match="disk full"):
        store.piece("distill", FACTS, half, tmp_path / "one")
    assert not (tmp_path / "one").exists()
    assert store.pieces() == [] and store.unfinished() == [name_of("distill", FACTS)]
    calls: list = []
    assert not store.piece("distill", FACTS, writing(calls=calls), tmp_path / "one").reused
    assert calls == [["checkpoint-3"]]
    assert store.unfinished() == []


def test_a_maker_that_fails_at_once_leaves_no_trace(store, tmp_path):
    def fail(*_: Path) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.piece("distill", FACTS, fail, tmp_path / "one")
    assert store.unfinished() == [] and store.pieces() == []


def _die(folder: Path) -> None:
    def make(files: Path, workshop: Path) -> dict:
        files.mkdir()
        (files / "model.bin").write_text("half")
        (workshop / "kept").write_text("kept")
        os._exit(9)

    Store(folder).piece("distill", FACTS, make)


def test_a_maker_that_was_killed_is_followed_by_one_that_goes_on(store, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(store.folder,))
    process.start()
    process.join()
    assert process.exitcode == 9
    calls: list = []
    made = store.piece("distill", FACTS, writing(calls=calls), tmp_path / "one")
    assert not made.reused and calls == [["kept"]]
    assert content(tmp_path / "one")["model.bin"] == "weights"


def _count(folder: Path, place: Path, number: int) -> None:
    def make(files: Path, _: Path) -> dict:
        import time

        with (place / "calls").open("a") as file:
            file.write(f"{number}\n")
        time.sleep(0.3)
        files.mkdir()
        (files / "model.bin").write_text("weights")
        return {}

    Store(folder).piece("distill", FACTS, make, place / f"run-{number}")


def test_processes_that_want_the_same_piece_wait_for_the_first(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(store.folder, tmp_path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert all((tmp_path / f"run-{number}" / "model.bin").read_text() == "weights" for number in range(3))


def test_what_is_pruned_stays_in_the_run_folders(store, tmp_path):
    made = store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert store.drop(made.name)
    assert store.pieces() == [] and not made.folder.exists()
    assert content(tmp_path / "one") == {"model.bin": "weights", "part/more.txt": "more"}
    assert not store.piece("distill", FACTS, writing(), tmp_path / "one").reused


def test_what_is_in_use_is_not_pruned(store, tmp_path):
    made = store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert not store.is_busy(made.name)
    with FileLock(store.folder / "locks" / f"{made.name}.lock"):
        assert store.is_busy(made.name)
        assert not store.drop(made.name)
    assert store.find(made.name) is not None


def test_a_link_folder_is_replaced_whole(store, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "old.txt").write_text("old")
    store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert content(tmp_path / "one") == {"model.bin": "weights", "part/more.txt": "more"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_link_to_a_folder_makes_way(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one").symlink_to(tmp_path / "elsewhere")
    store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert content(tmp_path / "one") == {"model.bin": "weights", "part/more.txt": "more"}
    assert not (tmp_path / "one").is_symlink() and not list((tmp_path / "elsewhere").iterdir())


def test_files_are_copied_where_there_are_no_links(store, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    made = store.piece("distill", FACTS, writing(), tmp_path / "one")
    assert content(tmp_path / "one")["model.bin"] == "weights"
    assert not (tmp_path / "one" / "model.bin").samefile(made.folder / "model.bin")


@pytest.mark.parametrize("number", [28, 30, 13])
def test_a_disk_that_fails_is_the_machines_fault_in_one_line(store, tmp_path, monkeypatch, number):
    def full(path: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(MachineError, match=os.strerror(number).lower()):
        store.piece("distill", FACTS, writing(), tmp_path / "one")
    monkeypatch.undo()
    assert store.pieces() == [] and not (tmp_path / "one").exists()
    assert not store.piece("distill", FACTS, writing(), tmp_path / "one").reused


@pytest.mark.parametrize("number", [28, 30, 13])
def test_a_lock_that_cannot_be_made_is_the_machines_fault_in_one_line(store, tmp_path, monkeypatch, number):
    store.piece("distill", FACTS, writing())
    open_ = os.open

    def full(path: object, *given: int, **words: int) -> int:
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number))
        return open_(path, *given, **words)

    name = name_of("distill", FACTS)
    monkeypatch.setattr(os, "open", full)
    for work in (lambda: store.piece("distill", FACTS, writing()), lambda: store.drop(name)):
        with pytest.raises(MachineError, match=os.strerror(number).lower()):
            work()
    assert not store.is_busy(name)


def test_a_store_that_cannot_be_written_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((MachineError, NotADirectoryError)) as caught:
        Store(tmp_path / "file" / "store").piece("distill", FACTS, writing())
    assert "file" in str(caught.value)


def test_an_entry_of_another_piece_is_no_piece(store, tmp_path):
    made = store.piece("distill", FACTS, writing(), tmp_path / "one")
    stolen = store.folder / name_of("distill", {"other": 1})
    shutil.copytree(made.folder, stolen)
    entry = json.loads((stolen / "entry.json").read_text())
    (stolen / "entry.json").chmod(0o644)
    (stolen / "entry.json").write_text(json.dumps({**entry, "name": stolen.name}))
    assert store.find(stolen.name) is None


def test_the_store_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    monkeypatch.delenv("DISTILL_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder().name == "store" and default_folder().parent.name == "distill"
