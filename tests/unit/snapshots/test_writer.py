"""The order in which a writer with many threads stores and records."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import pytest

from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.writer import PackWriter
from tests.support.stores import RecordingStore

DATA, OBJECT = b"data" * 100, b"an object that names the data"


class SlowStore(RecordingStore):
    """Answers `missing` to the thread named "reader" only once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer = threading.Event(), threading.Event()

    def missing(self, chunk_ids: Iterable[bytes]) -> set[bytes]:
        if threading.current_thread().name == "reader":
            self.asked.set()
            assert self.answer.wait(30)
        return super().missing(chunk_ids)


def test_an_object_waits_for_data_that_another_thread_is_about_to_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.snapshots.writer.PENDING_CHUNKS", 1)
    store = SlowStore()
    with PackWriter(store) as writer:
        reader = threading.Thread(target=writer.add, args=(digest(DATA), DATA), name="reader")
        reader.start()
        assert store.asked.wait(30)
        writer.add_object(digest(OBJECT), OBJECT)
        finisher = threading.Thread(target=writer.finish)
        finisher.start()
        finisher.join(0.05)
        assert store.verbs().count("put") == 0
        store.answer.set()
        finisher.join(30)
        reader.join(30)
    assert store.missing([digest(DATA), digest(OBJECT)]) == set()
    assert store.catalog.chunks[digest(DATA)].pack_id == store.catalog.chunks[digest(OBJECT)].pack_id


def test_many_objects_are_written_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.snapshots.writer.PENDING_BYTES", 1000)
    store = RecordingStore()
    with PackWriter(store) as writer:
        for number in range(50):
            data = b"%d" % number * 100
            writer.add(digest(data), data)
            writer.add_object(digest(data + b"object"), data + b"object")
        assert store.verbs().count("put") > 5
        writer.finish()
    assert len(store.catalog.chunks) == 100


def test_a_pack_that_could_not_be_stored_fails_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it failed in another thread, and only the end notices."""
    monkeypatch.setattr("dstack.snapshots.writer.PACK_TARGET", 100)
    monkeypatch.setattr("dstack.snapshots.writer.PENDING_CHUNKS", 1)
    store = RecordingStore()
    good, calls = store.memory.put, iter(range(100))

    def put(key: str, data: object) -> bool:
        if next(calls) == 1:
            raise OSError("connection lost")
        return good(key, data)

    monkeypatch.setattr(store.memory, "put", put)

    def write() -> None:
        with PackWriter(store) as writer:
            for number in range(4):
                writer.add(digest(b"%d" % number * 90), b"%d" % number * 90)
            writer.add_object(digest(OBJECT), OBJECT)
            writer.finish()

    with pytest.raises(StoreRefused, match="connection lost"):
        write()
    assert digest(OBJECT) not in store.catalog.chunks


def test_a_pack_has_a_bound_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files of a few bytes: an index of 45 bytes for each would outgrow any pack, and memory before."""
    monkeypatch.setattr("dstack.snapshots.writer.PACK_CHUNKS", 100)
    store = RecordingStore()
    with PackWriter(store) as writer:
        for number in range(1050):
            data = b"%d" % number
            (writer.add if number % 2 else writer.add_object)(digest(data), data)
        writer.finish()
    assert len(store.catalog.chunks) == 1050
    counts = Counter(location.pack_id for location in store.catalog.chunks.values())
    assert max(counts.values()) == 100
