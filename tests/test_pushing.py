"""Pushing what ships to the Hub, which stands at its client's edge."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest
from shipped import FILES, files_of

from distill.errors import CheckpointError, MachineError
from distill.recipe import Ship
from distill.shipping import push


class Hub:
    """The edge of huggingface_hub."""

    def __init__(self, token: str) -> None:
        assert token == "hf_secret"

    def create_repo(self, repo_id, *, private, exist_ok):
        Hub.made = (repo_id, private, exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, allow_patterns, delete_patterns):
        Hub.sent = (repo_id, Path(folder_path), set(allow_patterns))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    Hub.made = Hub.sent = None
    return Hub


def test_a_push_makes_the_repository_and_sends_what_the_manifest_names(hub, shipped_folder):
    assert push(shipped_folder, Ship(hub="acme/topics")) == "https://huggingface.co/acme/topics"
    assert hub.made == ("acme/topics", True, True)
    assert hub.sent == ("acme/topics", shipped_folder, FILES)


def test_nothing_is_pushed_where_no_repository_is_named(hub, shipped_folder):
    assert push(shipped_folder, Ship()) is None
    assert hub.made is None


def test_without_a_token_the_list_is_told_and_nothing_is_pushed(hub, shipped_folder, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with caplog.at_level(logging.INFO, logger="distill"):
        assert push(shipped_folder, Ship(hub="acme/topics", private=False)) is None
    assert hub.made is None
    for name in FILES:
        size = (shipped_folder / name).stat().st_size
        assert re.search(rf"{re.escape(name)} +{size:,} bytes", caplog.text), name
    assert "https://huggingface.co/acme/topics" in caplog.text
    assert "hf auth login" in caplog.text
    assert "public" in caplog.text


def test_a_folder_that_lost_a_file_is_not_pushed(hub, shipped_folder, tmp_path):
    copy = shutil.copytree(shipped_folder, tmp_path / "copy")
    (copy / "recipe.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is not there"):
        push(copy, Ship(hub="acme/topics"))
    assert hub.made is None


def test_a_hub_that_fails_is_one_sentence_without_the_token_and_the_folder_stays(hub, shipped_folder, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("hf_secret was refused\nwith a long story")

    monkeypatch.setattr(Hub, "upload_folder", refuse)
    with pytest.raises(MachineError) as caught:
        push(shipped_folder, Ship(hub="acme/topics"))
    assert str(caught.value).startswith("pushing to acme/topics failed (ConnectionError: … was refused); the folder is")
    assert "\n" not in str(caught.value)
    assert files_of(shipped_folder) == FILES
