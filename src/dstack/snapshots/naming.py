"""Files that get their names when they are whole: whoever is killed before leaves what stood there.

Where the system makes files without a name (Linux, on most file systems) nothing else is left; elsewhere a file whose
name begins with `.dstack-`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_UNNAMED: Final = getattr(os, "O_TMPFILE", 0)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

SeeTwin = Callable[[], None]
"""Called where something stands at the name and is about to be replaced; raises where it must not be."""


class Naming:
    """How it is done in one place; tried there once."""

    def __init__(self) -> None:
        self._is_unnamed: bool | None = None

    def open(self, folder: int) -> Unnamed:
        """A new file in the open `folder`. Raises OSError."""
        if self._is_unnamed is None:
            self._is_unnamed = _can_name(folder)
        return Unnamed(folder, None if self._is_unnamed else _free_name())


class Unnamed:
    """A file that has no name of its own yet, or one that is in nobody's way."""

    def __init__(self, folder: int, name: bytes | None) -> None:
        self._folder = folder
        if name is None:
            self.fd = os.open(b".", os.O_WRONLY | _UNNAMED | os.O_CLOEXEC, 0o600, dir_fd=folder)
        else:
            self.fd = os.open(name, _NEW, 0o600, dir_fd=folder)
        self._name = name

    def end(self, name: bytes, see_twin: SeeTwin) -> None:
        """Give it its name, in place of what stands there. Raises OSError where that is a folder."""
        if self._name is None:
            try:
                _link(self.fd, name, self._folder)
                return
            except FileExistsError:
                see_twin()
            part = _free_name()
            _link(self.fd, part, self._folder)
            self._name = part
        elif _stands(name, self._folder):
            see_twin()
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._name = None

    def close(self) -> None:
        """Without `end`, it goes."""
        os.close(self.fd)
        if self._name is not None:
            with suppress(OSError):  # what kept it from its name is told
                os.unlink(self._name, dir_fd=self._folder)


def put(name: bytes, folder: int, make: Callable[[bytes], None], see_twin: SeeTwin) -> None:
    """Have a link at `name`, which `make` makes whole, in place of what stands there; raises as `Unnamed.end`."""
    try:
        make(name)
    except FileExistsError:
        see_twin()
        part = _free_name()
        make(part)
        try:
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):  # two names of one file: a rename between these does nothing
                os.unlink(part, dir_fd=folder)


def _stands(name: bytes, folder: int) -> bool:
    """Whether there is anything at `name`."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _can_name(folder: int) -> bool:
    """Whether a file can be made there without a name and be named afterwards, which also takes `/proc`."""
    if not _UNNAMED:
        return False
    try:
        part = Unnamed(folder, None)
    except OSError:
        return False  # a file with a name is tried next, and what is wrong then is told
    try:
        name = _free_name()
        _link(part.fd, name, folder)
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    finally:
        part.close()
    return True


def _link(fd: int, name: bytes, folder: int) -> None:
    os.link(b"/proc/self/fd/%d" % fd, name, dst_dir_fd=folder, follow_symlinks=True)


def _free_name() -> bytes:
    return b".dstack-" + os.urandom(8).hex().encode()
