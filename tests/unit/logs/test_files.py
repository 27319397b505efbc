from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from dstack.logs.files import FileLogStore
from dstack.sdk.logs import LogPage, LogStore, StreamSealed

STREAM = uuid.UUID(int=7)


def test_it_is_a_log_store(tmp_path: Path) -> None:
    async def use(store: LogStore) -> None:
        assert await store.append(STREAM, 0, b"one\n", [(0, 1000)]) == 4
        assert await store.append(STREAM, 2, b"e\ntwo\n") == 8
        assert await store.append(STREAM, 99, b"late") == 8
        assert await store.read(STREAM, offset=4, limit=2) == LogPage(b"tw", 6, 8, False)
        assert await store.length(STREAM) == 8
        assert await store.time_of(STREAM, 5) == 1000
        assert await store.offset_at(STREAM, 2000) == 0
        await store.seal(STREAM)
        await store.seal(STREAM)
        assert (await store.read(STREAM)).sealed
        await store.delete(STREAM)
        await store.delete(STREAM)
        assert await store.read(STREAM) == LogPage(b"", 0, 0, False)

    store = FileLogStore(tmp_path / "logs")
    asyncio.run(use(store))
    assert os.listdir(tmp_path / "logs") == []
    store.close()


def test_a_sealed_stream_answers_repeats_and_refuses_more_also_after_a_restart(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    store.append_now(STREAM, 0, b"all")
    store.seal_now(STREAM)
    store.close()
    again = FileLogStore(tmp_path)
    assert again.append_now(STREAM, 0, b"all") == 3
    with pytest.raises(StreamSealed, match="complete at 3 bytes"):
        again.append_now(STREAM, 3, b"more")
    assert again.read_now(STREAM) == LogPage(b"all", 3, 3, True)
    again.close()


def test_more_streams_than_open_files_keep_their_bytes(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    streams = [uuid.UUID(int=number) for number in range(200)]
    for part in range(2):
        for stream in streams:
            store.append_now(stream, part * 2, b"%d\n" % part, [(part * 2, part)])
    assert {store.read_now(stream).data for stream in streams} == {b"0\n1\n"}
    assert {store.time_of_now(stream, 3) for stream in streams} == {1}
    store.close()


def test_logs_are_private(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    store.append_now(STREAM, 0, b"x", [(0, 1)])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store.close()
