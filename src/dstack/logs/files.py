"""A log store in plain files: `<attempt hex>.log`, and `<attempt hex>.times` beside it.

The work is synchronous (`append_now`, `read_now`, …): one append is one write into the page cache, cheaper than the
way to a thread and back. The async methods of the LogStore protocol call it directly. Safe for threads. One process
writes a folder (the server, which holds the home's lock); any may read. Nothing is synced: the runner keeps what a
power cut may take until it is acknowledged, and the host it would be lost on is usually the same.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dstack.domain import faults
from dstack.logs.times import TimeIndex
from dstack.sdk.blobs import Buffer
from dstack.sdk.logs import LogPage, StreamId, TimeMark

faults.declare("logs.append:before", "logs.append:after")
_OPEN_STREAMS = 64
_WRITABLE, _SEALED = 0o600, 0o400
"""A sealed stream is one whose file is read-only."""


@dataclass(slots=True)
class _Stream:
    fd: int
    length: int
    sealed: bool
    times_fd: int = -1
    times: TimeIndex | None = None

    def close(self) -> None:
        os.close(self.fd)
        if self.times_fd >= 0:
            os.close(self.times_fd)


class FileLogStore:
    """Streams as files below `root`, which is made when missing. Call `close` when done."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._lock = threading.Lock()
        """A handle that one thread works with is not closed by another, which needs room for its own."""
        self._open: OrderedDict[StreamId, _Stream] = OrderedDict()

    def append_now(self, stream: StreamId, offset: int, data: Buffer, times: Sequence[TimeMark] = ()) -> int:
        """See `LogStore.append`. Raises OSError when the disk is full; what was written until then is kept."""
        with self._lock:
            handle = self._writable(stream)
            skip = handle.length - offset
            if skip < 0 or skip >= len(data) or handle.sealed:
                return handle.length
            faults.point("logs.append:before")
            if times:  # before the data: after a crash between the two it comes again, and marks would be skipped
                self._times(stream, handle, create=True).append(times)
            rest = memoryview(data)[skip:]
            while rest:
                written = os.pwrite(handle.fd, rest, handle.length)
                handle.length += written
                rest = rest[written:]
            faults.point("logs.append:after")
            return handle.length

    def read_now(self, stream: StreamId, offset: int = 0, limit: int = 1 << 20) -> LogPage:
        """See `LogStore.read`."""
        with self._lock:
            handle = self._readable(stream)
            if handle is None:
                return LogPage(b"", offset, 0, False)
            data = os.pread(handle.fd, limit, offset) if offset < handle.length else b""
            return LogPage(data, offset + len(data), handle.length, handle.sealed)

    def length_now(self, stream: StreamId) -> int:
        """Bytes stored; 0 for a stream that was never written."""
        with self._lock:
            handle = self._readable(stream)
            return handle.length if handle else 0

    def offset_at_now(self, stream: StreamId, time: int) -> int:
        """See `LogStore.offset_at`."""
        with self._lock:
            handle = self._readable(stream)
            return (
                self._times(stream, handle).offset_at(time, handle.length)
                if handle and self._has_times(stream, handle)
                else 0
            )

    def time_of_now(self, stream: StreamId, offset: int) -> int | None:
        """See `LogStore.time_of`."""
        with self._lock:
            handle = self._readable(stream)
            return self._times(stream, handle).time_of(offset) if handle and self._has_times(stream, handle) else None

    def seal_now(self, stream: StreamId) -> None:
        """See `LogStore.seal`. A stream without a byte is made, so that it reads as sealed."""
        with self._lock:
            handle = self._readable(stream)
            if handle is None:
                os.close(os.open(self._path(stream, "log"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _SEALED))
                return
            os.fchmod(handle.fd, _SEALED)
            handle.sealed = True

    def delete_now(self, stream: StreamId) -> None:
        """See `LogStore.delete`."""
        with self._lock:
            handle = self._open.pop(stream, None)
            if handle is not None:
                handle.close()
            for kind in ("log", "times"):
                Path(self._path(stream, kind)).unlink(missing_ok=True)

    def close(self) -> None:
        """Close all files; the store can still be used and opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    async def append(self, stream: StreamId, offset: int, data: Buffer, times: Sequence[TimeMark] = ()) -> int:
        return self.append_now(stream, offset, data, times)

    async def read(self, stream: StreamId, *, offset: int = 0, limit: int = 1 << 20) -> LogPage:
        return self.read_now(stream, offset, limit)

    async def length(self, stream: StreamId) -> int:
        return self.length_now(stream)

    async def offset_at(self, stream: StreamId, time: int) -> int:
        return self.offset_at_now(stream, time)

    async def time_of(self, stream: StreamId, offset: int) -> int | None:
        return self.time_of_now(stream, offset)

    async def seal(self, stream: StreamId) -> None:
        self.seal_now(stream)

    async def delete(self, stream: StreamId) -> None:
        self.delete_now(stream)

    def _path(self, stream: StreamId, kind: str) -> str:
        return f"{self._root}/{stream.hex}.{kind}"

    def _writable(self, stream: StreamId) -> _Stream:
        handle = self._open.get(stream)
        return handle or self._opened(stream, os.O_RDWR | os.O_CREAT)

    def _readable(self, stream: StreamId) -> _Stream | None:
        try:
            return self._open.get(stream) or self._opened(stream, os.O_RDWR)
        except FileNotFoundError:
            return None

    def _opened(self, stream: StreamId, flags: int) -> _Stream:
        path = self._path(stream, "log")
        try:
            fd = os.open(path, flags, _WRITABLE)
        except PermissionError:  # sealed, and we are not root
            fd = os.open(path, os.O_RDONLY)
        stat = os.fstat(fd)
        handle = _Stream(fd, stat.st_size, not stat.st_mode & 0o200)
        self._open[stream] = handle
        if len(self._open) > _OPEN_STREAMS:
            self._open.popitem(last=False)[1].close()
        return handle

    def _has_times(self, stream: StreamId, handle: _Stream) -> bool:
        return handle.times is not None or os.path.exists(self._path(stream, "times"))

    def _times(self, stream: StreamId, handle: _Stream, *, create: bool = False) -> TimeIndex:
        if handle.times is None:
            flags = os.O_RDWR | os.O_CREAT if create else os.O_RDWR
            handle.times_fd = os.open(self._path(stream, "times"), flags, _WRITABLE)
            handle.times = TimeIndex(handle.times_fd)
        return handle.times
