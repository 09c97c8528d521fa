"""Paths that recipes, packages and cards name: each stays in its own folder, or is refused."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hostile import change

from distill import checkpoint, library, packages
from distill.card import Card, load_card, locate
from distill.data import sources
from distill.errors import CheckpointError, DataError, DistillError, RecipeError
from distill.recipe.settings import Source

# ------------------------------------------------------------------------------------------- paths: data of a recipe


def csv_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("text,label\na,b\n")
    return folder / "rows.csv"


def test_a_relative_path_stays_below_the_recipes_folder(tmp_path, monkeypatch):
    beside, here = tmp_path / "recipes", tmp_path / "here"
    inner, outer = csv_in(beside / "data"), csv_in(tmp_path / "secret")
    here.mkdir()
    monkeypatch.chdir(here)
    assert sources.resolve("data/rows.csv", beside, "data.source") == inner
    assert sources.resolve("data/../data/rows.csv", beside, "data.source").samefile(inner)
    assert sources.resolve(str(outer), beside, "data.source") == outer  # written in full: the user's own choice
    for name in ("../secret/rows.csv", "data/../../secret/rows.csv", "../secret", "../no/such/file"):
        with pytest.raises(DataError) as caught:
            sources.resolve(name, beside, "data.source")
        assert str(caught.value) == f"data.source: {name} leads out of {beside}; name it by its full path"


def test_a_link_that_leads_out_of_the_recipes_folder_is_refused(tmp_path, monkeypatch):
    beside = tmp_path / "recipes"
    inner, outer = csv_in(beside / "data"), csv_in(tmp_path / "secret")
    monkeypatch.chdir(beside)
    (beside / "link.csv").symlink_to(outer)
    (beside / "folder").symlink_to(outer.parent)
    (beside / "inside.csv").symlink_to(inner)
    (beside / "round.csv").symlink_to(beside / "round.csv")
    assert sources.resolve("inside.csv", beside, "data.test").samefile(inner)
    for name in ("link.csv", "folder", "folder/rows.csv"):
        with pytest.raises(DataError, match=f"data.test: {name} leads out of .*; name it by its full path"):
            sources.resolve(name, beside, "data.test")
    with pytest.raises(DataError, match=r"no such file|leads out"):
        sources.resolve("round.csv", beside, "data.test")


def test_a_recipe_in_a_linked_folder_finds_what_is_beside_it(tmp_path, monkeypatch):
    csv_in(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    assert sources.resolve("rows.csv", tmp_path / "link", "data.source").is_file()


def test_a_folder_a_class_follows_no_link_out_of_it(tmp_path):
    data = tmp_path / "data"
    for kind in ("a", "b"):
        (data / kind).mkdir(parents=True)
        (data / kind / "1.txt").write_text("words")
    (data / "b" / "2.txt").symlink_to(data / "a" / "1.txt")
    assert len(sources.read(Source(path=str(data)))) == 3
    (tmp_path / "secret.txt").write_text("secret")
    (data / "a" / "2.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"a/2.txt: a link that leads out of .*data; put the file itself there"):
        sources.read(Source(path=str(data)))


def test_a_class_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    for kind in ("data/a", "elsewhere"):
        (tmp_path / kind).mkdir(parents=True)
        (tmp_path / kind / "1.txt").write_text("words")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"a link that leads out of|without a single .txt file"):
        sources.read(Source(path=str(tmp_path / "data")))


def test_a_pipe_is_no_data(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"rows.csv: neither a file nor a folder"):
        sources.read(Source(path=str(tmp_path / "rows.csv")))


# --------------------------------------------------------------------------------------------------- paths: packages


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed distribution `some-data` with its list of files; the folder is its site-packages."""
    site = tmp_path / "site"
    csv_in(site / "some_data" / "sub")
    csv_in(site / "other")
    info = site / "some_data-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n")
    (info / "RECORD").write_text("some_data/sub/rows.csv,,\nsome_data/link.csv,,\nsome_data/out/rows.csv,,\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return site


def test_a_package_gives_its_own_files_only(package, tmp_path):
    csv_in(tmp_path / "secret")
    assert packages.find_file("some-data", "some_data/sub/rows.csv").is_file()
    assert packages.find_file("some-data", "some_data").is_dir()
    for path in (
        "other/rows.csv",
        "other",
        "../secret/rows.csv",
        "some_data/../other/rows.csv",
        str(package / "other"),
    ):
        with pytest.raises(DistillError) as caught:
            packages.find_file("some-data", path)
        assert str(caught.value) == f"the package some-data 1.0 ships no {path}"


def test_a_link_in_a_package_does_not_lead_out_of_it(package, tmp_path):
    outer = csv_in(tmp_path / "secret")
    (package / "some_data" / "link.csv").symlink_to(outer)
    (package / "some_data" / "out").symlink_to(outer.parent)
    for path in ("some_data/link.csv", "some_data/out/rows.csv", "some_data/out"):
        with pytest.raises(DistillError, match=f"{path} is a link that leads out of the package"):
            packages.find_file("some-data", path)
    with pytest.raises(DataError, match=r"data.source: .* is a link that leads out of the package"):
        sources.read(Source(package="some-data", path="some_data/link.csv"))


# ------------------------------------------------------------------------------------------------------ paths: cards


FACTS = {
    "family": "encoder", "model_type": "bert", "layers": 4, "hidden_size": 32, "parameters": 1, "source": "here",
    "licence": "MIT", "folder": "teacher", "sha256": {"config.json": "0" * 64, "model.safetensors": "0" * 64},
}  # fmt: skip


@pytest.fixture
def card(tmp_path, body):
    """Writes a card, beside which a checkpoint lies in `teacher`; the hashes are the checkpoint's."""
    home = tmp_path / "cards"
    shutil.copytree(body, home / "teacher")
    hashes = {name: checkpoint.sha256(body / name) for name in FACTS["sha256"]}

    def write(**facts: object) -> Path:
        (home / "mine.yaml").write_text(json.dumps({**FACTS, "sha256": hashes, **facts}))
        return home / "mine.yaml"

    return write


def test_a_cards_folder_is_found_beside_it_wherever_one_works(card, tmp_path, monkeypatch):
    path = card()
    monkeypatch.chdir(tmp_path)
    assert locate(load_card(str(path)), "mine") == path.parent / "teacher"
    assert locate(load_card("cards/mine.yaml"), "mine").samefile(path.parent / "teacher")


@pytest.mark.parametrize(
    "name", ["/etc", "../teacher", "teacher/../../x", "~/teacher", "..", "C:\\x", "\\\\host\\x", ""]
)
def test_a_card_names_no_folder_outside_its_own(card, name):
    with pytest.raises(RecipeError, match="folder: a card names a folder beside itself or below"):
        load_card(str(card(folder=name)))


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/passwd", "a/../../b", "..\\b", "~/b"])
def test_a_card_hashes_no_file_outside_its_checkpoint(card, name):
    with pytest.raises(RecipeError, match="a card lists files that are in the checkpoint's folder"):
        load_card(str(card(sha256={**FACTS["sha256"], name: "0" * 64})))


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_a_cards_links_do_not_lead_out_of_its_folder(card, tmp_path, body, linked):
    path = card()
    if linked == "folder":
        shutil.rmtree(path.parent / "teacher")
        (path.parent / "teacher").symlink_to(body)
    else:
        (path.parent / "teacher" / "config.json").unlink()
        (path.parent / "teacher" / "config.json").symlink_to(body / "config.json")
    with pytest.raises(CheckpointError, match=r"card mine: .* is a link that leads out of .*; put the files"):
        locate(load_card(str(path)), "mine")


def test_a_card_of_a_hostile_checkpoint_is_refused_though_its_hashes_fit(card, tmp_path):
    folder = card().parent / "teacher"
    change(folder / "config.json", num_hidden_layers=10**9)
    hashes = {name: checkpoint.sha256(folder / name) for name in FACTS["sha256"]}
    with pytest.raises(CheckpointError, match="num_hidden_layers is 1000000000"):
        locate(load_card(str(card(sha256=hashes))), "mine")


def test_a_card_claims_no_billion_layers(card):
    for key in ("layers", "hidden_size"):
        with pytest.raises(RecipeError, match=f"{key}: .*less than or equal to"):
            load_card(str(card(**{key: 10**9})))


def test_a_card_made_in_python_is_looked_for_where_one_works(card, monkeypatch):
    path = card()
    monkeypatch.chdir(path.parent)
    assert locate(Card(**json.loads(path.read_text())), "mine").samefile(path.parent / "teacher")


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["../recipes/quickstart", "..", ".", "quickstart/../quickstart", "quickstart\x00"])
def test_a_shipped_name_is_one_of_the_list_and_nothing_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RecipeError, ValueError)) as caught:
        library.find("recipes", name)
    assert isinstance(caught.value, RecipeError)


def test_what_leads_out(tmp_path):
    (tmp_path / "a").mkdir()
    assert not library.leads_out(tmp_path / "a" / "x", tmp_path / "a")
    assert not library.leads_out(tmp_path / "a", tmp_path / "a")
    assert library.leads_out(tmp_path / "a" / ".." / "b", tmp_path / "a")
    assert library.leads_out(tmp_path / "ab", tmp_path / "a")
    (tmp_path / "a" / "one").symlink_to("two")
    (tmp_path / "a" / "two").symlink_to("one")
    assert isinstance(library.leads_out(tmp_path / "a" / "one", tmp_path / "a"), bool)
