"""Writing chunks into packs: what the store has is left out, packs go first, the objects that name them after."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from dstack.sdk.blobs import Buffer
from dstack.snapshots.compression import Compressor
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import PackBuilder
from dstack.snapshots.store import SnapshotStore

PACK_TARGET: Final = 16 * 1024 * 1024
"""A pack is closed before it grows beyond this, a single larger object apart."""
PACK_CHUNKS: Final = 32_768
"""The most chunks in a pack: those of a million tiny files would make an index larger than a pack may be."""
SMALL_PACK: Final = PACK_TARGET // 8
SMALL_CHUNKS: Final = PACK_CHUNKS // 8
PENDING_BYTES: Final = 8 * 1024 * 1024
PENDING_CHUNKS: Final = 4096
UPLOADS: Final = 2
SEEN: Final = 200_000
"""Ids remembered so that a chunk is not offered twice; forgetting them costs a question, nothing else."""


def is_full(builder: PackBuilder, more: int) -> bool:
    """Whether a chunk of `more` stored bytes belongs into the next pack."""
    return not builder.empty and (len(builder) + more > PACK_TARGET or builder.chunks >= PACK_CHUNKS)


def fills_a_pack(size: int) -> bool:
    """Whether so many bytes of chunks are as much as goes into one pack, or more."""
    return size >= PACK_TARGET


def is_small(size: int, chunks: int) -> bool:
    """Whether a pack of `size` bytes leaves room in one of the usual size for several like it."""
    return size <= SMALL_PACK and chunks <= SMALL_CHUNKS


class PackWriter:
    """Takes chunks from any thread; at most UPLOADS packs are on their way while the next one fills: some 80 MiB.

    Objects (directories, links, roots) wait until every chunk before them is stored and recorded: an object that the
    catalog knows has everything that it names, whenever the process ends.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self.stored = 0
        """Bytes of the packs put so far."""
        self._store = store
        self._compressor = Compressor()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._offering = 0
        """Batches that left `_pending` and are in no pack yet."""
        self._seen: set[bytes] = set()
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        self._builder = PackBuilder()
        self._objects: dict[bytes, bytes] = {}
        self._objects_bytes = 0
        self._executor: ThreadPoolExecutor | None = None
        self._uploads: list[Future[None]] = []
        self._room = threading.BoundedSemaphore(UPLOADS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=kind is not None)

    def add(self, chunk_id: bytes, data: Buffer) -> None:
        """Offer a chunk; may wait for the store. Raises what the store raised, then or earlier."""
        with self._lock:
            if chunk_id in self._seen:
                return
            if len(self._seen) >= SEEN:
                self._seen.clear()
            self._seen.add(chunk_id)
            self._pending.append((chunk_id, bytes(data)))
            self._pending_bytes += len(data)
            if self._pending_bytes < PENDING_BYTES and len(self._pending) < PENDING_CHUNKS:
                return
            batch = self._take_pending()
            self._offering += 1
        try:
            self._fill(batch, self._store.missing([chunk_id for chunk_id, _ in batch]))
        finally:
            with self._idle:
                self._offering -= 1
                self._idle.notify_all()

    def add_object(self, object_id: bytes, data: bytes) -> None:
        """Offer an object; what it names was added before. From one thread only."""
        if object_id not in self._objects:
            self._objects[object_id] = data
            self._objects_bytes += len(data)
            if self._objects_bytes >= PENDING_BYTES:
                self.finish()

    def finish(self) -> None:
        """Store everything added so far. Raises what the store raised."""
        with self._lock:
            batch = self._take_pending()
        objects, self._objects, self._objects_bytes = self._objects, {}, 0
        missing = self._store.missing([*(chunk_id for chunk_id, _ in batch), *objects])
        self._fill(batch, missing)
        with self._idle:
            self._idle.wait_for(lambda: not self._offering)
            builder, uploads = self._take_builder(), list(self._uploads)
        for upload in uploads:
            upload.result()
        for object_id, data in objects.items():
            if object_id not in missing:
                continue
            stored, codec = self._compressor.stored(data)
            if is_full(builder, len(stored)):
                self._put(builder)
                builder = PackBuilder()
            builder.add_stored(object_id, stored, len(data), codec)
        self._put(builder)

    def _take_pending(self) -> list[tuple[bytes, bytes]]:
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        return batch

    def _take_builder(self) -> PackBuilder:
        builder, self._builder = self._builder, PackBuilder()
        return builder

    def _fill(self, batch: list[tuple[bytes, bytes]], missing: set[bytes]) -> None:
        for chunk_id, data in batch:
            if chunk_id not in missing:
                continue
            stored, codec = self._compressor.stored(data)
            full = None
            with self._lock:
                if is_full(self._builder, len(stored)):
                    full = self._take_builder()
                self._builder.add_stored(chunk_id, stored, len(data), codec)
            if full is not None:
                self._submit(full)

    def _submit(self, builder: PackBuilder) -> None:
        self._room.acquire()
        with self._lock:
            for upload in self._uploads:
                if upload.done() and upload.exception() is not None:
                    self._room.release()
                    upload.result()
            self._uploads = [upload for upload in self._uploads if not upload.done()]
            if self._executor is None:
                self._executor = ThreadPoolExecutor(UPLOADS, thread_name_prefix="dstack-pack")
            upload = self._executor.submit(self._put, builder)
            self._uploads.append(upload)
        upload.add_done_callback(lambda _: self._room.release())

    def _put(self, builder: PackBuilder) -> None:
        if builder.empty:
            return
        data, index = builder.seal()
        self._store.put(pack_key(index.pack_id), data)
        self._store.add([index])
        with self._lock:
            self.stored += len(data)
