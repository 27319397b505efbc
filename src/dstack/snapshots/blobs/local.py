"""Blobs as files below one folder: the store of embedded mode.

A blob appears under its name by a rename, whole. Whether it would survive a power cut is a question of its own:
`put` does not wait for the disk, `sync` does. What a power cut can cost is therefore a live snapshot, never a last one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from dstack.domain import faults
from dstack.sdk.blobs import Buffer, ObjectInfo, SignedRequest
from dstack.snapshots.blobs.given_up import MARK, GivenUp
from dstack.snapshots.errors import StoreGone, StoreLost, StoreRefused

faults.declare("store.put:before", "store.put:after", "store.sync:before", "store.sync:after")

TEMPORARY: Final = ".tmp-"
"""How the names of unfinished files begin; no key has a part like that."""
RECENT: Final = 600
"""Seconds; younger files of earlier processes are written out by the first `sync`. The kernel itself takes 30 s."""
STALE: Final = 86400
"""Seconds after which an unfinished file belongs to a process that is gone."""

LARGE: Final = 1024 * 1024

_create_only = threading.Lock()


class LocalBlobStore:
    """Keys are relative paths below `root`, which the first `put` makes. Safe for threads; several processes may
    share `root` as long as one key has one content.

    `is_there` tells a store that lacks a blob from one whose disk was taken away: everything raises StoreGone then, and
    nothing is made in its place.
    """

    def __init__(self, root: Path, is_there: Callable[[], bool] = lambda: True) -> None:
        self.root = root
        self._is_there = is_there
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._unsynced: set[Path] = set()
        self._given_up = GivenUp()
        self._adopted = False

    def put(self, key: str, data: Buffer | Path) -> bool:
        """Raises StoreRefused where the disk does not take it, ValueError for a key that is no plain relative path."""
        path = self._path(key)
        self._see()
        self.root.mkdir(parents=True, exist_ok=True)
        if not write_once(path, data):
            return False
        self.note(key)
        return True

    def note(self, key: str) -> None:
        """Somebody else has put `key`, as the holder of a signed request, and did not wait for the disk."""
        path = self._path(key)
        self._see()
        with self._lock:
            self._unsynced.add(path)

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            self._see()
            raise KeyError(key) from error
        try:
            left = max(0, os.fstat(fd).st_size - offset)
            return _read(fd, offset, left if length is None else min(length, left))
        finally:
            os.close(fd)

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            found = os.stat(self._path(key))
        except FileNotFoundError:
            self._see()
            return None
        return ObjectInfo(key, found.st_size, found.st_mtime_ns // 1000)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._see()
        for path in _files(self.root / prefix.rpartition("/")[0]):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(TEMPORARY) and (found := self.stat(key)):
                yield found

    def delete(self, keys: Iterable[str]) -> None:
        self._see()
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def sign(self, method: Literal["GET", "PUT"], key: str, ttl: timedelta) -> SignedRequest | None:
        """A path on this host; its holder does a PUT with `write_once`."""
        self._see()
        expires = time.time_ns() // 1000 + ttl // timedelta(microseconds=1)
        return SignedRequest(method, self._path(key).absolute().as_uri(), (), expires)

    def sync(self) -> None:
        """Wait for the disk: everything put so far, also by a process that was killed before it could.

        One at a time: who comes while another waits may need what that one took along. Raises StoreRefused; nothing
        is then taken for synced, and what the disk did not take is written anew by the next one. Raises StoreLost where
        that cannot be: all else is on the disk then.
        """
        lost: list[Path] = []
        with self._syncing:
            with self._lock:
                waiting, self._unsynced = self._unsynced, set()
            try:
                if not self._adopted:
                    waiting |= self._adopt()
                    _sync(self.root.parent)
                faults.point("store.sync:before")
                for path in self._given_up.paths():
                    if self._given_up.write_anew(path):
                        waiting.add(path)
                    else:
                        lost.append(path)
                self._sync_files(waiting.difference(lost))
                self._see()  # what is not there was passed over
                faults.point("store.sync:after")
            except BaseException:
                with self._lock:
                    self._unsynced |= waiting
                raise
            self._adopted = True
        if lost:
            raise StoreLost([path.relative_to(self.root).as_posix() for path in lost])

    def let_go(self, keys: Iterable[str]) -> None:
        """Nothing relies any more on blobs that were lost: `sync` tells of them no more."""
        for key in keys:
            self._given_up.let_go(self._path(key))

    def _sync_files(self, paths: Iterable[Path]) -> None:
        """Write files and the folders that name them (three levels: prefix, packs, root) out to the disk.

        Files that were deleted meanwhile are passed over.
        """
        in_folder: dict[Path, list[Path]] = {}
        for path in paths:
            try:
                _sync(path)
            except StoreRefused:
                self._given_up.add([path])
                raise
            for folder in islice(path.parents, 3):
                in_folder.setdefault(folder, []).append(path)
        for folder in sorted(in_folder, reverse=True):
            try:
                _sync(folder)
            except StoreRefused:
                self._given_up.add(in_folder[folder])  # which names them anew
                raise

    def _adopt(self) -> set[Path]:
        """Recent files of earlier processes, in folders that changed lately; removes what was left unfinished."""
        now = time.time()
        recent: set[Path] = set()
        for parent, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(MARK):
                    self._given_up.adopt(Path(parent, name))
            # The files of a folder that got none lately are not looked at: a large store is not read through here.
            if now - os.stat(parent).st_mtime > RECENT:
                continue
            for name in names:
                if name.startswith(MARK):
                    continue
                path = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):
                    age = now - path.stat().st_mtime
                    if not name.startswith(TEMPORARY):
                        recent.update([path] if age < RECENT else [])
                    elif age > STALE:
                        path.unlink()
        return recent

    def _see(self) -> None:
        if not self._is_there():
            raise StoreGone(
                f"the store is not at {self.root}: its disk is not mounted, or the folder was removed; "
                "mount the disk, and try again"
            )

    def _path(self, key: str) -> Path:
        if not key or "\0" in key or any(_odd(part) for part in key.split("/")):
            raise ValueError(f"`{key}` is not a key of a blob")
        return self.root / key


def write_once(path: Path, data: Buffer | Path) -> bool:
    """Make `path` with these bytes (or those of another file), whole or not at all; False if it was there.

    Raises StoreRefused, also where the folder two levels above it is gone: the store has moved, or its disk is away.
    """
    if path.exists():
        return False
    temporary = path.with_name(f"{TEMPORARY}{os.urandom(8).hex()}")
    try:
        _make_folder(path.parent)
        if isinstance(data, Path):
            _copy(data, temporary)
        else:
            with open(temporary, "xb", buffering=0) as file:
                _write(file.fileno(), memoryview(data))
                if len(data) >= LARGE and hasattr(os, "posix_fadvise"):
                    # Linux takes this as "begin to write it out": what a later `sync` waits for is then mostly done.
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with _create_only:
            if path.exists():
                temporary.unlink()
                return False
            faults.rename(temporary, path, "store.put")
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise StoreRefused(_why(path, error)) from error
    return True


def _make_folder(folder: Path) -> None:
    """Two levels at most (`packs`, `packs/ab`): a store that is not there is not made anew by whoever writes to it.

    Nobody else's to read, wherever the store's own folder lies.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        raise StoreRefused(_why(path, error)) from error
    finally:
        os.close(fd)


def _odd(part: str) -> bool:
    return part in ("", ".", "..") or part.startswith(TEMPORARY)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]  # one call reads at most 2 GiB
    done = len(data)
    while done < length and (data := os.pread(fd, length - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _copy(source: Path, target: Path) -> None:
    """Share the blocks where the file system can (btrfs, xfs), else copy them within the kernel."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        try:
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT_SHARE:
                raise
            reader.seek(0)
            writer.truncate(0)
            writer.seek(0)
            while piece := reader.read(1 << 20):
                writer.write(piece)


_CANNOT_SHARE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def _why(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full on {path.parent} ({error.strerror}): free space there"
    return f"cannot write {path}: {error.strerror}"
