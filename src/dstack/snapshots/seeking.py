"""A stored file as a file object: what is read of it is fetched, chunk by chunk, and nothing else."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from dstack.snapshots.errors import BadManifest
from dstack.snapshots.manifests import ChunkRef, FileEntry, file_chunks
from dstack.snapshots.store import SnapshotStore

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

AHEAD: Final = 8 * 1024 * 1024
"""Bytes that are fetched at once where a file is read from front to back."""
KEPT: Final = 16 * 1024 * 1024
"""Bytes of chunks kept, those that were just fetched apart."""


class StoredFile(io.RawIOBase):
    """`entry` of the snapshot `manifest_id`, read-only and seekable. Every chunk is verified; for one thread.

    Reading raises MissingChunk, CorruptChunk, BadManifest.
    """

    def __init__(self, store: SnapshotStore, manifest_id: bytes, entry: FileEntry) -> None:
        super().__init__()
        self.name = os.fsdecode(entry.name)
        self.size = entry.size
        self._store = store
        self._manifest_id = manifest_id
        self._chunks: list[ChunkRef] = list(file_chunks(entry))
        self._starts = list(accumulate((chunk.length for chunk in self._chunks), initial=0))
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._position = 0
        self._next = -1
        """The chunk after the last one that was read: who asks for it reads from front to back."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        match whence:
            case os.SEEK_SET:
                target = offset
            case os.SEEK_CUR:
                target = self._position + offset
            case os.SEEK_END:
                target = self.size + offset
            case _:
                raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        if target < 0:
            raise OSError(22, f"a position before the file's beginning: {target}")
        self._position = target
        return target

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill as much of `buffer` as the file has from here."""
        self._check_open()
        with memoryview(buffer) as whole, whole.cast("B") as view:
            end = min(self._position + len(view), self.size)
            done = 0
            while self._position < end:
                index = bisect_right(self._starts, self._position) - 1
                last = bisect_right(self._starts, end - 1) - 1
                data = self._chunk(index, last)
                start = self._position - self._starts[index]
                piece = memoryview(data)[start : start + end - self._position]
                view[done : done + len(piece)] = piece
                done += len(piece)
                self._position += len(piece)
        return done

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _chunk(self, index: int, last: int) -> bytes:
        """The bytes of a chunk; those up to `last` are wanted next."""
        chunk = self._chunks[index]
        if chunk.chunk_id not in self._kept:
            self._fetch(self._wanted(index, last))
        self._next = index + 1
        self._kept.move_to_end(chunk.chunk_id)
        data = self._kept[chunk.chunk_id]
        if len(data) != chunk.length:
            raise BadManifest(self._manifest_id, f"chunk {chunk.chunk_id.hex()} is not as long as it says")
        return data

    def _wanted(self, index: int, last: int) -> list[ChunkRef]:
        """What to fetch with chunk `index`: what is asked for, and what comes after it where that is the habit."""
        wanted: list[ChunkRef] = []
        size = 0
        for at in range(index, len(self._chunks)):
            chunk = self._chunks[at]
            if wanted and (size + chunk.length > AHEAD or (at > last and index != self._next)):
                break
            wanted.append(chunk)
            size += chunk.length
        return wanted

    def _fetch(self, wanted: list[ChunkRef]) -> None:
        lengths = {chunk.chunk_id: chunk.length for chunk in wanted if chunk.chunk_id not in self._kept}
        while self._kept and self._kept_bytes + sum(lengths.values()) > KEPT:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
        for chunk_id, data in self._store.read_chunks(lengths):
            self._kept[chunk_id] = bytes(data)
            self._kept_bytes += len(data)
