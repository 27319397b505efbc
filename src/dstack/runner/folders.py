"""An attempt's folder: where it is, and the spec by which a restarted agent knows of it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import msgspec

from dstack.domain import faults
from dstack.logs.spool import disk_full
from dstack.protocol import messages
from dstack.protocol.messages import Assignment
from dstack.runner.settings import Settings
from dstack.snapshots.statcache import SavedSnapshot

faults.declare(
    "runner.spec:before",
    "runner.spec:after",
    "runner.forget:before",
    "runner.forget:after",
    "runner.orphaned:before",
    "runner.orphaned:after",
)

_log = logging.getLogger(__name__)
LAYERS = "layers"
"""In the folder of an attempt whose working copy lies over something (`runner.overlay`)."""


def append_to(spool: Path, data: bytes) -> None:
    """Say something of our own in a job's log, which only its owner may read."""
    fd = os.open(spool, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(fd, "ab") as file:
        file.write(data)


class _Spec(msgspec.Struct, frozen=True):
    assignment: Assignment
    gpus: tuple[int, ...]


def folder_of(settings: Settings, attempt_id: UUID) -> Path:
    return settings.folder / "attempts" / attempt_id.hex


def write_spec(folder: Path, assignment: Assignment, gpus: tuple[int, ...]) -> None:
    """Make the attempt's folder: from here on a restarted agent knows of it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = folder / "spec.part"
    part.write_bytes(msgspec.msgpack.encode(_Spec(assignment, gpus)))
    faults.rename(part, folder / "spec.msgpack", "runner.spec")


def read_spec(folder: Path) -> tuple[Assignment, tuple[int, ...]]:
    """Raises OSError or msgspec.MsgspecError when the folder holds no whole spec."""
    found = msgspec.msgpack.decode((folder / "spec.msgpack").read_bytes(), type=_Spec)
    return found.assignment, found.gpus


def write_environment(folder: Path, key: str) -> None:
    """Which of the kept Python environments the attempt works in, for the next agent."""
    (folder / "environment").write_text(key, encoding="utf-8")


def read_environment(folder: Path) -> str | None:
    """None for an attempt that works in none of them."""
    try:
        return (folder / "environment").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def forget(folder: Path) -> None:
    """Remove an attempt's folder. The spec goes first: without one it is swept by the next agent, never begun again."""
    faults.point("runner.forget:before")
    (folder / "spec.msgpack").unlink(missing_ok=True)
    faults.point("runner.forget:after")
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove an attempt's folder that has no spec."""
    if _is_bare(folder):
        _try_to_remove(folder)


def clear_work(folder: Path) -> None:
    """Remove the working copy of an attempt, which is made anew."""
    if _is_bare(folder):
        _try_to_remove(folder / "work")
        _try_to_remove(folder / LAYERS)


def set_aside(folder: Path, aside: Path) -> None:
    """Keep for people what an attempt wrote; of a working copy that lay over its inputs, that without the inputs."""
    if os.path.lexists(folder / LAYERS):
        from dstack.runner import overlay

        overlay.uncover(folder)
    aside.parent.mkdir(mode=0o700, exist_ok=True)
    faults.rename(folder, aside, "runner.orphaned")


def remove(folder: Path) -> None:
    """Remove a folder, if it is there, also where folders in it have been made read-only. Raises OSError."""
    if not os.path.lexists(folder):
        return
    try:
        shutil.rmtree(folder)
    except PermissionError:
        os.chmod(folder, 0o700)
        for parent, names, _ in os.walk(folder):
            for name in names:
                if not os.path.islink(os.path.join(parent, name)):
                    os.chmod(os.path.join(parent, name), 0o700)
        shutil.rmtree(folder)


def _try_to_remove(folder: Path) -> None:
    try:
        remove(folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # the rest of it, whatever one file has
        if os.path.lexists(folder):
            _log.warning("%s cannot be removed: %s", folder, error)


def _is_bare(folder: Path) -> bool:
    """Whether nothing is mounted on the working copy (any more). What the job wrote in one that was goes as well.

    That goes first: unmounting waits until all of it is on the disk, and it has no use any more.
    """
    if not os.path.lexists(folder / LAYERS):
        return True
    from dstack.runner import overlay

    _try_to_remove(folder / overlay.UPPER)
    try:
        overlay.unmount(folder)
    except OSError as error:
        _log.warning("%s stays: what is mounted in it cannot be taken away: %s", folder, error)
        return False
    return True


def disk_words(error: OSError, folder: Path) -> str:
    """What failed with a file, for people: that the disk is full where that is so, else the file and why."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or disk_full(folder.parent):
        return f"disk full on {folder}"
    return f"{error.filename or folder}: {error.strerror or error}"


def artifacts_of(found: Mapping[str, SavedSnapshot]) -> tuple[messages.SavedArtifact, ...]:
    return tuple(
        messages.SavedArtifact(
            path=path,
            manifest_id=snapshot.manifest_id,
            content_id=snapshot.content_id,
            files=snapshot.files,
            size=snapshot.size,
            stored=snapshot.stored,
        )
        for path, snapshot in found.items()
    )
