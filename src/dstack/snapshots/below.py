"""Opening folders below a folder one by one, so that no link can lead out, also one that is put there meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from dstack.snapshots.errors import RestoreFailed

OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_below(top: Path, folder: Path) -> int:
    """A descriptor of `folder`, which is `top` or lies in it; what is missing of both is made.

    Links that are there are followed as far as they stay within `top`. Raises RestoreFailed where they do not, or where
    a folder becomes a link meanwhile; OSError where something else is in the way.
    """
    top.mkdir(parents=True, exist_ok=True)
    real_top, real = os.path.realpath(top), os.path.realpath(folder)
    if not Path(real).is_relative_to(real_top):
        raise RestoreFailed(f"{folder} would lie outside of {top}: a link there leads to {real}")
    found = os.open(real_top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in Path(real).relative_to(real_top).parts:
        try:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=found)
            below = os.open(name, OPEN_FOLDER, dir_fd=found)
        finally:
            os.close(found)
        found = below
    return found


def open_writable(name: bytes, parent: int) -> int:
    """A descriptor of the folder `name`, in which its owner may write afterwards; never of what a link leads to."""
    try:
        found = os.open(name, OPEN_FOLDER, dir_fd=parent)
    except PermissionError:
        _let_in(name, parent)
        found = os.open(name, OPEN_FOLDER, dir_fd=parent)
    try:
        os.fchmod(found, 0o700)
    except BaseException:
        os.close(found)
        raise
    return found


def _let_in(name: bytes, parent: int) -> None:
    """Give the owner of a folder the right to open it."""
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return
    # Linux has no chmod that keeps from following links; the entry in /proc leads to what was opened and nowhere else.
    held = os.open(name, os.O_PATH | OPEN_FOLDER, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{held}", 0o700)
    finally:
        os.close(held)
