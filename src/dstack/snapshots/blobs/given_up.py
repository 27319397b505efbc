"""Files that the kernel could not write out: to call fsync again would prove nothing.

After an fsync that failed, Linux takes the pages for clean: the next one succeeds though nothing is on the disk, and
what is read may be gone as soon as memory runs short. So such a file is written anew, under another name, waited for,
and put in the place of the first. A mark beside it tells the next process; it need not survive a power cut, after
which the newest packs are read anyhow.
"""

from __future__ import annotations

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
_NAMED_BY_CONTENT: Final = re.compile(r"packs/[0-9a-f]{2}/[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class GivenUp:
    """Those below one folder. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: set[Path] = set()

    def add(self, paths: Iterable[Path]) -> None:
        """Have these written anew, by this process or the next one."""
        for path in paths:
            with self._lock:
                self._paths.add(path)
            try:
                _mark(path).touch(mode=0o600)
            except OSError as error:
                _log.warning("only this process knows that %s is to be written anew: %s", path, error.strerror)

    def adopt(self, mark: Path) -> None:
        """Take over what another process has marked."""
        with self._lock:
            self._paths.add(mark.with_name(mark.name.removeprefix(MARK)))

    def paths(self) -> list[Path]:
        with self._lock:
            return sorted(self._paths)

    def write_anew(self, path: Path) -> bool:
        """One of them; False where its bytes are lost. It stays one then, and where this raises StoreRefused."""
        try:
            if not _write_anew(path):
                return False
            _mark(path).unlink(missing_ok=True)
        except OSError as error:
            raise StoreRefused(f"cannot write {path}: {error.strerror}") from error
        with self._lock:
            self._paths.discard(path)
        return True


def _mark(path: Path) -> Path:
    return path.with_name(f"{MARK}{path.name}")


def _write_anew(path: Path) -> bool:
    """False where its bytes are lost; what was deleted meanwhile is passed over."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return True
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
