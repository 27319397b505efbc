from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstack.logs.spool import Spool, disk_full


def test_reads_what_was_written_and_never_past_the_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert (spool.size(), spool.read(0, 10)) == (0, b"")
    (tmp_path / "spool").write_bytes(b"hello world")
    assert spool.size() == 11
    assert spool.read(6, 100) == b"world"
    assert spool.read(11, 100) == b""
    spool.close()
    assert spool.read(0, 5) == b"hello"
    spool.close()


def test_punched_ranges_are_gone_from_the_disk_and_offsets_stay(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(b"s" * (1 << 20) + b"tail")
    spool = Spool(path)
    before = os.stat(path).st_blocks
    spool.punch(100, step=4096)
    assert spool.read(0, 3) == b"sss"
    spool.punch((1 << 20) - 7, step=4096)
    assert spool.read(0, 100) == b"\0" * 100
    assert spool.read((1 << 20) - 7, 100) == b"s" * 7 + b"tail"
    assert spool.size() == (1 << 20) + 4
    assert os.stat(path).st_blocks < before
    spool.close()


def test_a_full_disk_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disk_full(tmp_path)
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((real.f_bsize, real.f_frsize, real.f_blocks, 5, 1, *tuple(real)[5:10]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert disk_full(tmp_path)
