from __future__ import annotations

import asyncio
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dstack.logs.files import FileLogStore
from dstack.sdk.logs import LogPage, LogStore

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


def test_a_sealed_stream_takes_nothing_more_and_answers_with_its_length_also_after_a_restart(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    store.append_now(STREAM, 0, b"all")
    store.seal_now(STREAM)
    store.close()
    again = FileLogStore(tmp_path)
    assert again.append_now(STREAM, 0, b"all") == 3
    for offset, data in ((3, b"more"), (1, b"ll and more"), (9, b"late")):
        assert again.append_now(STREAM, offset, data, [(offset, 1)]) == 3
    assert again.read_now(STREAM) == LogPage(b"all", 3, 3, True)
    again.close()


def test_a_stream_without_a_byte_is_sealed_too(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    store.seal_now(STREAM)
    assert store.read_now(STREAM) == LogPage(b"", 0, 0, True)
    assert store.append_now(STREAM, 0, b"late") == 0
    assert store.append_now(STREAM, 5, b"later") == 0
    store.close()


def test_more_streams_than_open_files_keep_their_bytes(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    streams = [uuid.UUID(int=number) for number in range(200)]
    for part in range(2):
        for stream in streams:
            store.append_now(stream, part * 2, b"%d\n" % part, [(part * 2, part)])
    assert {store.read_now(stream).data for stream in streams} == {b"0\n1\n"}
    assert {store.time_of_now(stream, 3) for stream in streams} == {1}
    store.close()


def test_threads_share_the_open_files(tmp_path: Path) -> None:
    """One reads what another writes, and each needs more files than are kept open."""
    store = FileLogStore(tmp_path)
    together = threading.Barrier(4)

    def work(number: int) -> set[bytes]:
        together.wait(30)
        found: set[bytes] = set()
        for part in range(20):
            for index in range(50):
                stream = uuid.UUID(int=number * 1000 + index)
                store.append_now(stream, 4 * part, b"%d-%d\n" % (number, part % 10), [(4 * part, part)])
                found.add(store.read_now(stream, 4 * part, 4).data)
                store.time_of_now(uuid.UUID(int=(number + 1) % 4 * 1000 + index), 0)
        return found

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(work, range(4))):
            assert found == {b"%d-%d\n" % (number, part) for part in range(10)}
    store.close()


def test_logs_are_private(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path)
    store.append_now(STREAM, 0, b"x", [(0, 1)])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store.close()
