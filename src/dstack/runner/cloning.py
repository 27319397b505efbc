"""Putting a tree of the cache into a working copy: by sharing its blocks, by copying its bytes, or by hard links.

Everything is made relative to the open folder it stands in, by plain names and never through a link: what was in the
working copy before may have any. Modes, times, symbolic and hard links come along; so do holes.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Final, Protocol, TypeVar

from dstack.snapshots.below import open_writable
from dstack.snapshots.errors import RestoreFailed, RestoreStopped
from dstack.snapshots.restore import KEPT_BITS
from dstack.snapshots.scanning import shown
from dstack.snapshots.twins import Written, refusal

FICLONE: Final = 0x40049409
_BLOCK: Final = 8 << 20
"""Bytes copied between two looks at whether to stop."""
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDER: Final = _OPEN | os.O_DIRECTORY
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Stopped = Callable[[], bool]
T = TypeVar("T")


class Fill(Protocol):
    """Gives a new, empty file the bytes of another."""

    def __call__(self, source: int, target: int, size: int, stopped: Stopped, /) -> None: ...


def put_tree(source: Path, target: Path, fill: Fill | None, stopped: Stopped = lambda: False) -> int:
    """Make `target` hold what `source` holds; files in the way are replaced, others stay. `fill` None: hard links.

    Returns how many there were, everything but folders: whoever knows how many there should be compares. `stopped` is
    asked for each folder and block. Raises RestoreFailed (RestoreStopped when `stopped` says so), OSError of the source
    or of `fill`; `target` is then incomplete.
    """
    target.mkdir(parents=True, exist_ok=True)
    top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        start = os.open(source, _OPEN_FOLDER)
        try:
            copy = _Copy(top, target, fill, stopped)
            copy.folder(start, top, b"")
            return copy.files
        finally:
            os.close(start)
    finally:
        os.close(top)


def share_blocks(source: int, target: int, size: int, _: Stopped) -> None:
    """A reflink: the new file shares the blocks of the old one until either is written to."""
    import fcntl

    if size:
        fcntl.ioctl(target, FICLONE, source)


def copy_bytes(source: int, target: int, size: int, stopped: Stopped) -> None:
    """The bytes; holes stay holes where the system tells of them."""
    at = 0
    while at < size:
        start, end = _data(source, at, size)
        while start < end:
            if stopped():
                raise RestoreStopped("putting files into a working copy was stopped")
            start += _copy(source, target, start, min(_BLOCK, end - start))
        at = max(end, at + 1)
    os.ftruncate(target, size)


def obstacle(cache: Path, attempts: Path) -> str:
    """Why a file in `attempts` cannot share the blocks of one in `cache`; "" where it can."""
    if not sys.platform.startswith("linux"):
        return "only Linux shares blocks on request"
    try:
        with tempfile.TemporaryFile(dir=cache) as one, tempfile.TemporaryFile(dir=attempts) as other:
            one.write(bytes(4096))
            one.flush()
            share_blocks(one.fileno(), other.fileno(), 4096, lambda: False)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return f"{cache} and {attempts} are on different file systems"
        return f"the file system of {attempts} cannot share blocks: {error.strerror}"
    return ""


class _Copy:
    """One `put_tree`."""

    def __init__(self, top: int, target: Path, fill: Fill | None, stopped: Stopped) -> None:
        self._top = top
        self._target = target
        self._fill = fill
        self._stopped = stopped
        self._made: dict[tuple[int, int], bytes] = {}
        """Device and inode of a file with more names than one → where it was put first."""
        self._written: list[Written] = []
        """What was put into each of the folders that are open."""
        self.files = 0

    def folder(self, source: int, target: int, path: bytes) -> None:
        if self._stopped():
            raise RestoreStopped(f"putting files into {self._target} was stopped")
        with os.scandir(source) as found:
            entries = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in found]
        self._written.append(Written())
        for name, status in sorted(entries, key=itemgetter(0)):
            at = path + b"/" + name if path else name
            if stat.S_ISDIR(status.st_mode):
                self._below(source, target, name, at, status)
            elif stat.S_ISLNK(status.st_mode):
                link = os.readlink(name, dir_fd=source)
                self._new(at, target, name, lambda link=link, name=name: os.symlink(link, name, dir_fd=target))
                os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
            else:
                self._file(source, target, name, at, status)
            if not stat.S_ISDIR(status.st_mode):
                self.files += 1
            self._written[-1].add(name)
        self._written.pop()

    def _below(self, source: int, target: int, name: bytes, at: bytes, status: os.stat_result) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=target)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
                raise self._in_the_way(at) from None
            self._refuse_twin(at, target, name)
        below = os.open(name, _OPEN_FOLDER, dir_fd=source)
        try:
            made = open_writable(name, target)
            try:
                self.folder(below, made, at)
                os.fchmod(made, status.st_mode & KEPT_BITS)
                os.utime(made, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(made)
        finally:
            os.close(below)

    def _file(self, source: int, target: int, name: bytes, at: bytes, status: os.stat_result) -> None:
        first = self._made.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
        if first is not None:
            self._new(at, target, name, lambda: _link(first, self._top, name, target))
        elif self._fill is None:
            self._new(at, target, name, lambda: _link(name, source, name, target))
        else:
            self._filled(self._fill, source, target, name, at, status)
        if status.st_nlink > 1:
            self._made.setdefault((status.st_dev, status.st_ino), at)

    def _filled(self, fill: Fill, source: int, target: int, name: bytes, at: bytes, status: os.stat_result) -> None:
        old = os.open(name, _OPEN, dir_fd=source)
        try:
            new = self._new(at, target, name, lambda: os.open(name, _NEW_FILE, 0o600, dir_fd=target))
            try:
                fill(old, new, status.st_size, self._stopped)
                os.fchmod(new, status.st_mode & KEPT_BITS)
                os.utime(new, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _new(self, at: bytes, target: int, name: bytes, make: Callable[[], T]) -> T:
        """What `make` makes, in place of a file or link of that name."""
        try:
            return make()
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
                raise self._in_the_way(at) from None
            self._refuse_twin(at, target, name)
            os.unlink(name, dir_fd=target)
            return make()

    def _refuse_twin(self, at: bytes, target: int, name: bytes) -> None:
        """What stands there is to go, or to be filled: unless it was put there just now, under another name."""
        twin = self._written[-1].twin(name, target)
        if twin is not None:
            raise refusal(shown(at), twin)

    def _in_the_way(self, at: bytes) -> RestoreFailed:
        return RestoreFailed(f"{self._target / shown(at)} is in the way: the snapshot has something else there")


def _link(path: bytes, top: int, name: bytes, target: int) -> None:
    os.link(path, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)


def _data(source: int, at: int, size: int) -> tuple[int, int]:
    """Where the next bytes of a file begin and end that are no hole; (size, size) where none are left."""
    try:
        start = os.lseek(source, at, os.SEEK_DATA)
        return start, os.lseek(source, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        return at, size  # the file system does not know of holes


def _copy(source: int, target: int, at: int, length: int) -> int:
    """Copy up to `length` bytes; how many were."""
    if sys.platform.startswith("linux"):
        try:
            done = os.copy_file_range(source, target, length, at, at)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        else:
            if done:
                return done
    data = os.pread(source, length, at)
    if not data:
        raise RestoreFailed("a file of the cache of inputs is shorter than it was: remove that cache, and try again")
    return os.pwrite(target, data, at)
