"""Moving a home's store to another disk.

Packs never change, so all of them are copied while the server goes on; then, with the server stopped for a moment,
those that came meanwhile. Each is read back from the disk and compared before it gets its name. Only then does the home
say that the store is there, in one rename: a move that is killed anywhere leaves the old place or the new one, and the
same command takes it up where it was. What is left at the old place is removed last.

    MoveRefused   the target cannot take the store; nothing was changed
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from dstack.domain import faults
from dstack.embedded import connector
from dstack.embedded.home import EmbeddedError, HomeLock, home_folder, open_lock, socket_path, take_lock
from dstack.embedded.launch import START_TIMEOUT
from dstack.embedded.store_place import (
    NAME,
    PACKS,
    PART,
    Mark,
    Record,
    StoreAway,
    forget_old,
    read_mark,
    read_record,
    store_folder,
    sync_folder,
    write_mark,
    write_record,
)

faults.declare(
    "move-store.begun", "move-store.pack:before", "move-store.pack:after", "move-store.copied",
    "move-store.switch:before", "move-store.switch:after", "move-store.remove",
)  # fmt: skip

TEMPORARY: Final = ".tmp-move-"
"""How unfinished copies are called; the store takes them for its own unfinished files and clears them away."""
PIECE: Final = 4 * 1024 * 1024
FEW: Final = 64 * 1024 * 1024
"""Bytes that may be left to copy when the server is stopped …"""
PASSES: Final = 5
"""… and how often that is tried for, with a job that writes faster than the disk takes it."""
SPARE: Final = 64 * 1024 * 1024
"""Bytes that are to be free beside the packs."""

Watch = Callable[[int], None]


class MoveRefused(EmbeddedError):
    """The store cannot be moved there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a move has to do. `missing` bytes are not there yet; `is_there`: all but the clearing away is done."""

    home: str
    source: Path
    target: Path
    store: str
    packs: int
    size: int
    missing: int
    is_there: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """`left` are folders at the old place that hold something that is not the store's."""

    packs: int
    size: int
    copied: int
    left: tuple[str, ...]


def plan(target: Path, home: str | None = None) -> Plan:
    """Look whether the store can go to `target`, which is made if need be. Raises MoveRefused, StoreAway."""
    home = home or home_folder()
    record = read_record(home)
    if record is None:  # no server has run here, or none of a version that moves stores
        connector.Connector(home).connect().close()
        record = read_record(home)
    source = store_folder(home)
    if record is None or not source.is_dir():
        raise StoreAway(f"the store is not at {source}", "mount its disk first")
    target = Path(os.path.abspath(target))
    real, there = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if real == there:
        return Plan(home, Path(record.old) if record.old else there, target, record.store, 0, 0, 0, is_there=True)
    for inner, outer in ((real, there), (there, real)):
        if inner.is_relative_to(outer):
            raise MoveRefused(f"{target} and the store at {source} lie within each other", "choose a folder elsewhere")
    sizes = dict(_packs(there))
    with _nothing_left_of(target):
        _look_at(target, source, record.store)
        missing = sum(size for name, size in sizes.items() if not _is_copied(real / PACKS / name, size))
        _require_room(target, missing)
    return Plan(home, there, target, record.store, len(sizes), sum(sizes.values()), missing, is_there=False)


def move(found: Plan, *, keep: bool = False, watch: Watch = lambda _: None) -> Moved:
    """Do it. `watch` is told of bytes as they are copied. Raises EmbeddedError, OSError."""
    if found.is_there:
        return Moved(0, 0, 0, _clear(found))
    try:
        copied = _copy_while_serving(found, watch)
        with _nobody_serves(found.home):
            copied += _copy_all(found, watch)
            sizes = _verify(found)
            _switch(found, keep=keep)
    except OSError as error:
        raise MoveRefused(
            f"cannot move the store to {found.target}: {error.strerror or error}",
            "it stays where it was; the same command goes on where this one ended",
        ) from error
    left = () if keep else _clear(found)
    return Moved(len(sizes), sum(sizes.values()), copied, left)


def _copy_while_serving(found: Plan, watch: Watch) -> int:
    """Until little is left for the moment in which nobody serves."""
    write_mark(found.target, Mark(found.store, "moving"))
    faults.point("move-store.begun")
    copied = 0
    for _ in range(PASSES):
        done = _copy_all(found, watch)
        copied += done
        if done <= FEW:
            break
    return copied


def _switch(found: Plan, *, keep: bool) -> None:
    write_mark(found.target, Mark(found.store, "whole"))
    faults.point("move-store.switch:before")
    write_record(found.home, Record(found.store, str(found.target), None if keep else str(found.source)))
    faults.point("move-store.switch:after")
    write_mark(found.source, Mark(found.store, "left"))


# --- looking ------------------------------------------------------------------------------------------------------


@contextmanager
def _nothing_left_of(target: Path) -> Generator[None]:
    """Where it is refused, `target` is as it was: the folder that was made for it goes."""
    was_there = os.path.lexists(target)
    try:
        yield
    except MoveRefused:
        if not was_there:
            with suppress(OSError):  # why it was refused is what is to be told
                target.rmdir()
        raise


def _look_at(target: Path, source: Path, store: str) -> None:
    """Make `target` unless it is there and empty, or an earlier move of the same store has begun to fill it.

    A new ext4 is not quite empty, nor is what a move left that was killed before it had written its mark.
    """
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        names = [name for name in os.listdir(target) if name != "lost+found" and not name.startswith(PART)]
        trial = target / f"{TEMPORARY}{os.getpid()}"
        trial.write_bytes(b"")
        trial.unlink()
    except FileNotFoundError as error:
        if target.parent.is_dir():
            raise MoveRefused(f"no folder can be made in {target.parent}", "choose another folder") from error
        raise MoveRefused(f"{target.parent} is not there", "make it, or mount its disk") from error
    except OSError as error:
        raise MoveRefused(f"{target} cannot be written: {error.strerror}", "choose another folder") from error
    mark = read_mark(target)
    if names and (mark is None or mark.store != store):
        raise MoveRefused(f"{target} is not empty", f"choose an empty folder; the store stays at {source}")


def _require_room(target: Path, missing: int) -> None:
    free = shutil.disk_usage(target).free
    if free < missing + SPARE:
        raise MoveRefused(
            f"{target} is too small: {_megabytes(missing + SPARE)} are needed there, and {_megabytes(free)} are free",
            "free some, or see what can go: dstack gc",
        )


def _megabytes(size: int) -> str:
    return f"{-(-size // 2**20):,} MiB"


def _packs(store: Path) -> Iterator[tuple[str, int]]:
    """Packs by their path below `packs`, each with its size."""
    with suppress(FileNotFoundError):
        for folder in sorted(os.listdir(store / PACKS)):
            for entry in sorted(os.scandir(store / PACKS / folder), key=lambda entry: entry.name):
                if not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        yield f"{folder}/{entry.name}", entry.stat().st_size


def _is_copied(path: Path, size: int) -> bool:
    """A copy has its name only once it was compared."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


# --- copying ------------------------------------------------------------------------------------------------------


def _copy_all(found: Plan, watch: Watch) -> int:
    """Copy what is not there yet; bytes that were."""
    copied = 0
    # A folder that is there already may be open to everybody; what the store holds is not.
    (found.target / PACKS).mkdir(mode=0o700, exist_ok=True)
    for name, size in _packs(found.source):
        target = found.target / PACKS / name
        if _is_copied(target, size):
            continue
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # it was collected meanwhile
            _copy(found.source / PACKS / name, target, watch)
            copied += size
    for folder in (found.target / PACKS).glob("*"):
        sync_folder(folder)
    for folder in (found.target / PACKS, found.target, found.target.parent):
        if folder.is_dir():
            sync_folder(folder)
    return copied


def _copy(source: Path, target: Path, watch: Watch) -> None:
    """Under another name first, and read back from the disk, not from memory. Raises MoveRefused where they differ."""
    part = target.with_name(f"{TEMPORARY}{target.name}")
    try:
        with open(source, "rb", buffering=0) as reader, open(part, "wb", buffering=0) as writer:
            read = blake3()
            while piece := reader.read(PIECE):
                read.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[writer.write(view) :]
                watch(len(piece))
            os.fsync(writer.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(writer.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if blake3().update_mmap(part).digest() != read.digest():
            raise MoveRefused(f"{target.parent} gives back other bytes than were written: its disk is not sound")
        faults.rename(part, target, "move-store.pack")
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _verify(found: Plan) -> dict[str, int]:
    """Nobody writes any more: what the old place has, the new one has, and nothing else. The packs with their sizes."""
    sizes, there = dict(_packs(found.source)), dict(_packs(found.target))
    for part in (*(found.target / PACKS).glob(f"*/{TEMPORARY}*"), *found.target.glob(f"{PART}*")):
        part.unlink()
    for name in there.keys() - sizes.keys():
        (found.target / PACKS / name).unlink()
    lacking = [name for name, size in sizes.items() if there.get(name) != size]
    if lacking:
        raise MoveRefused(f"{found.target} lacks {len(lacking)} packs after all were copied: {lacking[0]}")
    faults.point("move-store.copied")
    return sizes


@contextmanager
def _nobody_serves(home: str) -> Generator[None]:
    """Stop the server, keep everybody from starting another, and start it again if it ran. Jobs go on meanwhile."""
    path = f"{home}/server/start.lock"
    start_lock = open_lock(path)
    was_serving = False
    try:
        if not take_lock(start_lock, path, START_TIMEOUT):
            raise MoveRefused(f"a server of {home} has been starting for {START_TIMEOUT:g} s", "try again")
        was_serving = connector.stop(home)
        lock = HomeLock.acquire(home, socket=socket_path(home))
        try:
            yield
        finally:
            lock.release()
    finally:
        os.close(start_lock)
        if was_serving:
            connector.Connector(home).connect().close()


# --- clearing away ------------------------------------------------------------------------------------------------


def _clear(found: Plan) -> tuple[str, ...]:
    """Remove what is the store's own at the old place; folders that hold something else stay, and are returned."""
    record = read_record(found.home)
    if record is None or record.old is None:
        return ()
    old = Path(record.old)
    mark = read_mark(old)
    if mark is not None and mark.store == found.store:
        faults.point("move-store.remove")
        shutil.rmtree(old / PACKS, ignore_errors=True)
        (old / NAME).unlink(missing_ok=True)
    with suppress(OSError):
        old.rmdir()
    forget_old(found.home)
    return (str(old),) if old.is_dir() else ()
