"""A job's spool file, read by offset while the job appends to it; ranges that are no longer needed are punched out.

Offsets are those of the raw output and never shift: a punched range reads as zeros and takes no space.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


class Spool:
    """Reader of one spool file; the file is opened at the first read and may not exist before the job starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._punched = 0
        self._can_punch = sys.platform == "linux"

    def size(self) -> int:
        """Bytes written so far; 0 while there is no file."""
        return os.fstat(self._fd).st_size if self._open() else 0

    def read(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`, never past what is written; empty when there is nothing new."""
        return os.pread(self._fd, limit, offset) if self._open() else b""

    def punch(self, upto: int, *, step: int = 1) -> None:
        """Free the bytes before `upto`, once `step` bytes can go; does nothing where the file system cannot."""
        if not self._can_punch or upto - self._punched < step or not self._open():
            return
        if _fallocate(self._fd, _PUNCH_HOLE_KEEP_SIZE, self._punched, upto - self._punched) == 0:
            self._punched = upto
            return
        error = ctypes.get_errno()
        if error not in _UNSUPPORTED:
            raise OSError(error, os.strerror(error), str(self.path))
        self._can_punch = False

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> bool:
        if self._fd < 0:
            try:
                self._fd = os.open(self.path, os.O_RDWR)
            except FileNotFoundError:
                return False
        return True


def disk_full(folder: Path, reserve: int = 64 * 1024) -> bool:
    """Whether fewer than `reserve` bytes are free for us where `folder` lies: a job's write has then likely failed."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize < reserve


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
