"""Reading files that may be written to meanwhile: a file is taken whole and unchanged, or not at all.

Whether it changed is told by its stat before and after. The kernel's file clock ticks every few milliseconds, so a
file that changed within the current tick is read only after the tick: a second change would show the same time.
Writes through a shared memory map show late or never; such a file is right in the last snapshot, once its job ended.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from dstack.domain.ports import Clock
from dstack.sdk.blobs import Buffer
from dstack.snapshots.chunking import Chunker, ChunkerParameters
from dstack.snapshots.manifests import MAX_CHUNKS, ChunkRef, pack_chunks
from dstack.snapshots.sparse import Holes, find_holes

if TYPE_CHECKING:
    from dstack.snapshots.scanning import Stat

WINDOW: Final = 4 * 1024 * 1024
PAUSES: Final = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2)
"""Seconds before each try at a file that keeps changing."""
TICK: Final = 0.01
MANY_ZEROS: Final = 1024 * 1024 * 1024
"""Bytes in holes from which a file is hashed with all processors: nothing else is to be done for it."""

_NOT_A_FILE: Final = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Tail(NamedTuple):
    """How to go on with a file that grew: everything before its last chunk need not be read again."""

    device: int
    inode: int
    size: int
    offset: int
    """Where the last chunk begins."""
    hasher: blake3
    """Of the bytes before `offset`."""
    chunks: tuple[ChunkRef, ...]
    """All chunks, the last one included."""


class Content(NamedTuple):
    """`chunks` and `holes` as in `manifests.FileEntry`."""

    digest: bytes
    chunks: bytes
    holes: tuple[int, ...]


class FileRead(NamedTuple):
    """A file as it was at `found`. `assumed`: its older part was taken as unchanged, not read."""

    found: os.stat_result | Stat
    content: Content
    assumed: bool = False
    tail: Tail | None = None


class FileGone(Exception):
    """The file was removed, or something else stands in its place: as if it had never been listed."""


class FileUnstable(Exception):
    """The file changed during every try."""


class FileReader:
    """Reads files into chunks and hands each chunk to `emit(chunk id, bytes)`, from any thread."""

    def __init__(
        self,
        parameters: ChunkerParameters,
        emit: Callable[[bytes, Buffer], None],
        *,
        live: bool,
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.minimum = parameters.minimum
        self._parameters = parameters
        self._emit = emit
        self._live = live
        self._pause = pause
        self._clock = clock
        self._settled = self._settled_before()
        self._thread = threading.local()
        self._zeros = memoryview(bytes(parameters.maximum))

    def read_small(self, folder: int, name: bytes, listed: Stat) -> FileRead:
        """A file of at most the least chunk size: one chunk. Raises FileGone, FileUnstable, OSError."""
        found: os.stat_result | Stat = listed
        for pause in PAUSES:
            if pause:
                self._pause(pause)
            self._await_tick(found)
            data, after = _read_all(folder, name, found.st_size)
            if len(data) == found.st_size and _same(found, after):
                if not data:
                    return FileRead(found, Content(blake3().digest(), b"", ()))
                chunk_id = blake3(data).digest()
                self._emit(chunk_id, data)
                return FileRead(found, Content(chunk_id, b"", ()))
            found = after
            if found.st_size > self.minimum:
                return self.read_large(folder, name, None)
        raise FileUnstable

    def read_large(
        self, folder: int, name: bytes, tail: Tail | None, known: frozenset[bytes] = frozenset()
    ) -> FileRead:
        """A file of any size. `known` chunks are in the store and not handed on.

        Raises FileGone, FileUnstable, OSError.
        """
        for pause in PAUSES:
            if pause:
                self._pause(pause)
            fd = _open(folder, name)
            try:
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    raise FileGone
                self._await_tick(before)
                usable = tail if tail is not None and self._grown(tail, before) else None
                read = self._chunk(fd, before, usable, known)
                if read is None:
                    tail = None
                    continue
                after = os.fstat(fd)
                if _same(before, after):
                    return read
                # A live snapshot may take a longer file for one that was appended to; the last one reads it again.
                if self._live and after.st_size > before.st_size:
                    return read._replace(assumed=True)
            finally:
                os.close(fd)
        raise FileUnstable

    def _grown(self, tail: Tail, found: os.stat_result) -> bool:
        return self._live and (found.st_dev, found.st_ino) == (tail.device, tail.inode) and found.st_size > tail.size

    def _await_tick(self, found: os.stat_result | Stat) -> None:
        for _ in range(3):  # a clock that was set back would have us wait for hours
            if found.st_ctime_ns < self._settled:
                return
            self._settled = self._settled_before()
            if found.st_ctime_ns >= self._settled:
                self._pause(TICK)
        self._settled = max(self._settled, found.st_ctime_ns + 1)

    def _settled_before(self) -> int:
        """Nanoseconds UTC; what changes from now on bears a later time (the kernel's file clock has 100 Hz or more)."""
        return self._clock.now() * 1000 - int(TICK * 1e9)

    def _chunk(self, fd: int, found: os.stat_result, tail: Tail | None, known: frozenset[bytes]) -> FileRead | None:
        """One pass over the file as long as `found` says; None where it was shorter, or not as `tail` has it."""
        size = found.st_size
        if size > MAX_CHUNKS * self._parameters.maximum:
            raise _too_large(size)  # before a sparse file of exabytes is looked at
        holes = find_holes(fd, found)
        hasher = tail.hasher.copy() if tail else _file_hasher(holes)
        refs = list(tail.chunks[:-1]) if tail else []
        offset = tail.offset if tail else 0
        last = None
        for window, cuts, times in self._windows(fd, offset, size, holes):
            if window is None:
                return None
            if tail is not None and offset == tail.offset and not _begins_with(window, tail.chunks[-1]):
                return None
            start = 0
            for length in cuts:
                piece = window[start : start + length]
                chunk_id = blake3(piece).digest()
                if chunk_id not in known:
                    self._emit(chunk_id, piece)
                refs += [ChunkRef(chunk_id, length)] * times
                start += length
            for _ in range(times - 1):
                hasher.update(window[:start])
            offset += start * times
            if offset == size and self._live:
                hasher.update(window[: start - cuts[-1]])
                last = hasher.copy()
                hasher.update(window[start - cuts[-1] : start])
            else:
                hasher.update(window[:start])
        if len(refs) > MAX_CHUNKS:
            raise _too_large(size)
        content = Content(hasher.digest(), pack_chunks(refs) if len(refs) > 1 else b"", holes.flat)
        going_on = None
        if last is not None:
            going_on = Tail(found.st_dev, found.st_ino, size, size - refs[-1].length, last, tuple(refs))
        return FileRead(found, content, assumed=tail is not None, tail=going_on)

    def _windows(
        self, fd: int, offset: int, size: int, holes: Holes
    ) -> Iterator[tuple[memoryview | None, list[int], int]]:
        """Successive windows of the file, the chunks at their start, and how often they come; None where it ends early.

        Whole chunks within a hole are not read: a window of zeros stands for all of them.
        """
        chunker, buffer = self._tools()
        filled = 0
        while offset < size:
            hole = holes.left(offset)
            if hole >= len(self._zeros):
                length = chunker.cut(self._zeros, final=True)[0]
                times = (hole - len(self._zeros)) // length + 1
                yield self._zeros[:length], [length], times
                offset += length * times
                filled = 0
                continue
            want = min(len(buffer) - filled, size - offset - filled)
            while want:
                got = os.preadv(fd, [buffer[filled : filled + want]], offset + filled)
                if got == 0:
                    yield None, [], 0
                    return
                filled += got
                want -= got
            cuts = chunker.cut(buffer[:filled], final=offset + filled == size)
            yield buffer[:filled], cuts, 1
            done = sum(cuts)
            buffer[: filled - done] = buffer[done:filled]
            offset += done
            filled -= done

    def _tools(self) -> tuple[Chunker, memoryview]:
        """This thread's chunker and buffer."""
        tools: tuple[Chunker, memoryview] | None = getattr(self._thread, "tools", None)
        if tools is None:
            tools = self._thread.tools = Chunker(self._parameters), memoryview(bytearray(WINDOW))
        return tools


def _file_hasher(holes: Holes) -> blake3:
    return blake3(max_threads=blake3.AUTO) if holes.total >= MANY_ZEROS else blake3()


def _too_large(size: int) -> OSError:
    return OSError(None, f"a file of {size} bytes is larger than a snapshot can hold")


def _begins_with(window: memoryview, chunk: ChunkRef) -> bool:
    return blake3(window[: chunk.length]).digest() == chunk.chunk_id


def _open(folder: int, name: bytes) -> int:
    try:
        fd = os.open(name, _OPEN_FILE, dir_fd=folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _NOT_A_FILE:
            raise FileGone from error
        raise
    return fd


def _read_all(folder: int, name: bytes, size: int) -> tuple[bytes, os.stat_result]:
    """Up to one byte more than `size`, and the stat afterwards."""
    fd = _open(folder, name)
    try:
        data = os.read(fd, size + 1)
        after = os.fstat(fd)
    except IsADirectoryError as error:
        raise FileGone from error
    finally:
        os.close(fd)
    if not stat.S_ISREG(after.st_mode):
        raise FileGone
    return data, after


def _same(before: os.stat_result | Stat, after: os.stat_result) -> bool:
    return (
        before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
        and before.st_ino == after.st_ino
        and before.st_dev == after.st_dev
    )
