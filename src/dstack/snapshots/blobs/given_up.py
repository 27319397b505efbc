"""Files that the kernel could not write out: to call fsync again would prove nothing.

After an fsync that failed, Linux takes the pages for clean: the next one succeeds though nothing is on the disk, and
what is read may be gone as soon as memory runs short. So such a file is written anew, under another name, waited for,
and put in the place of the first. A mark beside it tells the next process; it need not survive a power cut, after
which the newest packs are read anyhow.

One whose bytes are lost stays one, also where it is deleted, until whoever repairs the store lets go of it: until then
others may be told that what it held is there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dstack.domain import faults
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import StoreRefused

faults.declare("store.anew:before", "store.anew:after")

MARK: Final = ".tmp-anew-"
"""How the names of marks begin, before that of the file."""
_LOST: Final = b"lost"
"""What a mark says of a file whose bytes are lost."""
_NAMED_BY_CONTENT: Final = re.compile(r"packs/[0-9a-f]{2}/[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class GivenUp:
    """Those below one folder. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: set[Path] = set()
        self._lost: set[Path] = set()
        """Of these, those whose bytes were seen to be lost."""

    def add(self, paths: Iterable[Path]) -> None:
        """Have these written anew, by this process or the next one."""
        for path in paths:
            with self._lock:
                self._paths.add(path)
                self._lost.discard(path)
            _write_mark(path, b"")

    def adopt(self, mark: Path) -> None:
        """Take over what another process has marked."""
        try:
            is_lost = mark.read_bytes() == _LOST
        except FileNotFoundError:
            return  # who made it is done
        except OSError:
            is_lost = True  # or may be
        path = mark.with_name(mark.name.removeprefix(MARK))
        with self._lock:
            self._paths.add(path)
            if is_lost:
                self._lost.add(path)

    def paths(self) -> list[Path]:
        with self._lock:
            return sorted(self._paths)

    def write_anew(self, path: Path) -> bool:
        """One of them; False where its bytes are lost. It stays one then, and where this raises StoreRefused."""
        with self._lock:
            was_lost = path in self._lost
        try:
            if not _write_anew(path, was_lost=was_lost):
                with self._lock:
                    self._lost.add(path)
                if not was_lost:
                    _write_mark(path, _LOST)
                return False
            _mark(path).unlink(missing_ok=True)
        except OSError as error:
            raise StoreRefused(f"cannot write {path}: {error.strerror}") from error
        with self._lock:
            self._paths.discard(path)
            self._lost.discard(path)
        return True

    def let_go(self, path: Path) -> None:
        """Nothing relies any more on what it held. One that was put again, and not taken by the disk, stays."""
        with self._lock:
            if path in self._paths - self._lost:
                return
            self._paths.discard(path)
            self._lost.discard(path)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _mark(path).unlink()


def _mark(path: Path) -> Path:
    return path.with_name(f"{MARK}{path.name}")


def _write_mark(path: Path, text: bytes) -> None:
    """What says that bytes are lost waits for the disk: the file may have gone when that is read."""
    try:
        fd = os.open(_mark(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            file.write(text)
            if text:
                os.fsync(fd)
    except OSError as error:
        _log.warning("only this process knows that the disk did not take %s: %s", path, error.strerror)


def _write_anew(path: Path, *, was_lost: bool) -> bool:
    """False where its bytes are lost; what was deleted before they were is passed over."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return not was_lost
    except OSError:
        return False
    if _NAMED_BY_CONTENT.fullmatch("/".join(path.parts[-3:])) and digest(data).hex() != path.name:
        return False
    temporary = path.with_name(f".tmp-{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        faults.rename(temporary, path, "store.anew")
    finally:
        temporary.unlink(missing_ok=True)
    return True
