"""The files of an offline W&B run, read back: records, damage, what is no run."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pytest
import tracked

from distill.errors import DataError
from distill.tracking import offline

no_account = tracked.no_account  # fixtures; imported, they would look unused
run_folder, told = tracked.run_folder, tracked.told


def copy_of(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(offline.find(run_folder), tmp_path / "run-abcd1234.wandb"))


def test_long_records_go_over_blocks(tmp_path):
    long = bytes(range(256)) * 400  # 100 KiB: more than three blocks
    body, left, kinds = b"", offline._BLOCK - 7, iter([2, 3, 3, 4])
    start = 0
    while start < len(long):
        data = long[start : start + left - 7]
        kind = next(kinds)
        body += zlib.crc32(bytes([kind]) + data).to_bytes(4, "little") + len(data).to_bytes(2, "little")
        body += bytes([kind]) + data
        start, left = start + len(data), offline._BLOCK
    path = tmp_path / "a.wandb"
    path.write_bytes(b":W&B\xe1\xbe\x00" + body)
    assert list(offline.records(path)) == [long]


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(run_folder, tmp_path):
    path = copy_of(run_folder, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = offline.read(tmp_path)
    assert cut.exit_code is None
    assert cut.history("1-distill/loss")


@pytest.mark.parametrize("place", [200, 3000])
def test_a_flipped_byte_is_found(run_folder, tmp_path, place):
    path = copy_of(run_folder, tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        offline.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b":W&", b"PK\x03\x04 not a run", b":W&B\xe1\xbe\x01"])
def test_what_is_no_wandb_file_is_refused(tmp_path, content):
    (tmp_path / "a.wandb").write_bytes(content)
    with pytest.raises(DataError, match="not a W&B run"):
        offline.read(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="no offline W&B run in it"):
        offline.read(tmp_path)


def test_files_outside_the_run_are_not_read(told):
    for name in ("../../spool/1.jsonl", "/etc/passwd", "none.json"):
        with pytest.raises(DataError, match="holds no file"):
            told.file(name)
    with pytest.raises(DataError, match="holds no table none"):
        told.table("none")
