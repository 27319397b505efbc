"""Large snapshots that are kept unpacked on this machine, for the next job that needs them.

`root/<entry>/tree/<place>` is what a snapshot holds, at the place where jobs have it: so a whole working copy can be
laid over `tree` (`runner.overlay`). `entry.json` in it says how large it is and, by its time, when it was last used. An
entry is made aside and renamed when it is whole, its bytes compared with their BLAKE3 as they came out of the store.
Nothing writes to it from then on: jobs get clones, copies, or an overlay, never a hard link.

What nobody uses goes, the longest unused first, when a new one needs the room or the disk is nearly full; one that an
attempt works on never does. A power cut may leave a renamed entry without all its bytes, so one that is not known to be
on the disk is not taken over by the next boot.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from dstack.domain import faults
from dstack.domain.ports import Clock
from dstack.runner.cloning import put_tree
from dstack.runner.executors.process import boot_id
from dstack.runner.folders import remove
from dstack.runner.threads import stoppable, whole
from dstack.snapshots.errors import RestoreFailed, RestoreStopped
from dstack.snapshots.restore import Restored, restore
from dstack.snapshots.store import SnapshotStore

faults.declare("input-complete:before", "input-complete:after", "input-removed:before", "input-removed:after")

_log = logging.getLogger(__name__)
TREE: Final = "tree"
TOLD: Final = 64
"""Snapshots of which the server is told that they are here."""
_FACTS: Final = "entry.json"
_SYNCED: Final = "synced"
_PART: Final = "part-"
_GONE: Final = "gone-"
_PER_FILE: Final = 4096
"""What a file takes beside its bytes."""
_SHARE: Final = 5
"""The cache never takes more than this part of the disk …"""
_SPARE: Final = 20
"""… and leaves this part of it free, or less."""


class Wanted(NamedTuple):
    """A snapshot at the place (relative to the working copy) where a job has it."""

    manifest_id: bytes
    place: str

    @property
    def key(self) -> str:
        return f"{self.manifest_id.hex()}-{hashlib.sha256(os.fsencode(self.place)).hexdigest()[:16]}"


class Disk(NamedTuple):
    """Bytes of the file system that the cache lies on."""

    total: int
    free: int


class Limits(NamedTuple):
    """The most that is kept, and what is left free of the disk in any case, in bytes."""

    size: int
    spare: int


def disk_of(folder: Path) -> Disk:
    found = shutil.disk_usage(folder)
    return Disk(found.total, found.free)


@dataclass(slots=True)
class Entry:
    """One that is whole. `used_at` in microseconds UTC, `size` in bytes."""

    key: str
    place: str
    size: int
    used_at: int


class InputCache:
    """For one agent: its home's lock sees to it that there is no other. `root` is made when missing."""

    def __init__(
        self,
        root: Path,
        store: SnapshotStore,
        limits: Limits,
        clock: Clock,
        disk: Callable[[Path], Disk],
    ) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = root
        self._store = store
        self._limits = limits
        self._clock = clock
        self._disk = disk
        self._held: dict[UUID, set[str]] = {}
        """What each attempt works on, or is about to."""
        self._filling: dict[str, int] = {}
        """Bytes that entries will have which are being made."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._unsynced: set[str] = set()
        self._rubbish: list[Path] = []
        """What is to be removed yet, beside the entries."""
        self._removing = asyncio.Lock()
        self._entries = {entry.key: entry for entry in self._found()}

    # --- who uses what -----------------------------------------------------------------------------------------

    async def obtain(self, attempt_id: UUID, wanted: Wanted, size: Restored) -> Path | None:
        """The `tree` of the entry, made if need be, and kept until the attempt lets go of it.

        None where it does not fit, or cannot be made: the files are then to be put where they are needed. Two that
        want the same one make it once. Raises RestoreStopped, DamagedStore, and what the store's catalog raises.
        """
        async with self._locked(wanted.key):
            held = self._held.setdefault(attempt_id, set())
            if wanted.key in self._entries and not (self.root / wanted.key / _FACTS).exists():
                del self._entries[wanted.key]  # a person has cleared the cache
            if wanted.key not in self._entries:
                if not await self._make_room(wanted.key, size.size + _PER_FILE * size.files):
                    return None
                try:
                    await self._fill(attempt_id, wanted)
                except (RestoreFailed, OSError) as error:
                    if isinstance(error, RestoreStopped):
                        raise
                    _log.warning("snapshot %s is not kept for other jobs: %s", wanted.manifest_id.hex(), error)
                    return None
                finally:
                    self._filling.pop(wanted.key, None)
            self._use(self._entries[wanted.key])
            held.add(wanted.key)
        return self.root / wanted.key / TREE

    def hold(self, attempt_id: UUID, wanted: Iterable[Wanted]) -> None:
        """An attempt of an earlier agent works on these."""
        self._held.setdefault(attempt_id, set()).update(one.key for one in wanted)

    def release(self, attempt_id: UUID) -> None:
        """The attempt needs nothing of the cache any more."""
        self._held.pop(attempt_id, None)

    def known(self) -> tuple[bytes, ...]:
        """Ids of the snapshots that are here: of those that were used last, at most TOLD."""
        newest = sorted(self._entries.values(), key=lambda entry: -entry.used_at)[:TOLD]
        return tuple(dict.fromkeys(bytes.fromhex(entry.key.partition("-")[0]) for entry in newest))

    # --- what goes ---------------------------------------------------------------------------------------------

    async def tend(self) -> list[str]:
        """What is to be done now and then: note what is on the disk by now, and give room back where that is scarce.

        Returns the entries that went. What cannot be done is told in the log and tried again the next time.
        """
        try:
            for key in sorted(self._unsynced):
                # Once: after one that failed, a second sync succeeds and proves nothing (snapshots/blobs/given_up.py).
                self._unsynced.discard(key)
                if key in self._entries:
                    await whole(_to_disk, self.root / key)
            await self._remove_rubbish()
            return await self._evict(self._excess(0))
        except OSError as error:
            _log.warning("the cache of inputs cannot be looked after: %s", error)
            return []

    async def _make_room(self, key: str, size: int) -> bool:
        """Whether there is room for an entry of `size` bytes, which is then reserved."""
        if self._excess(size) > 0:
            await self._remove_rubbish()  # before any entry goes for the room that it takes
        excess = self._excess(size)
        if sum(entry.size for entry in self._entries.values() if entry.key not in self._in_use()) < excess:
            return False
        self._filling[key] = size
        await self._evict(excess)
        return True

    def _excess(self, more: int) -> int:
        """Bytes that must go for `more` to come."""
        disk = self._disk(self.root)
        kept = sum(entry.size for entry in self._entries.values()) + sum(self._filling.values())
        over = kept + more - min(self._limits.size, disk.total // _SHARE)
        spare = min(disk.total // _SPARE, self._limits.spare)
        return max(over, sum(self._filling.values()) + more + spare - disk.free)

    async def _evict(self, excess: int) -> list[str]:
        gone = surplus(self._entries.values(), self._in_use(), excess)
        for key in gone:
            del self._entries[key]
        # All of them at once, and cut off or not: what has no entry any more is in nobody's way from then on.
        await whole(self._put_aside, gone)
        await self._remove_rubbish()
        return gone

    def _in_use(self) -> set[str]:
        return {*self._filling, *(key for keys in list(self._held.values()) for key in keys)}

    def _put_aside(self, names: Iterable[str]) -> None:
        """Make them rubbish, under names that nothing else will have."""
        for name in names:
            aside = self.root / (name if name.startswith(_GONE) else f"{_GONE}{uuid4().hex}")
            try:
                if aside.name != name:
                    faults.rename(self.root / name, aside, "input-removed")
                self._rubbish.append(aside)
                _log.info("removed %s from the cache of inputs: nothing uses it, or it is not whole", name)
            except OSError as error:
                _log.warning("%s cannot be removed from the cache of inputs: %s", name, error)

    async def _remove_rubbish(self) -> None:
        """In a thread: it may be many files, and the agent has to go on telling the server that it lives."""
        async with self._removing:
            for path in [*self._rubbish]:
                try:
                    await whole(remove, path)
                    self._rubbish.remove(path)
                except OSError as error:
                    _log.warning("%s cannot be removed: %s", path, error)

    # --- how one comes about -----------------------------------------------------------------------------------

    async def _fill(self, attempt_id: UUID, wanted: Wanted) -> None:
        part = self.root / f"{_PART}{wanted.key}"
        other = self._elsewhere(wanted)
        held = self._held.setdefault(attempt_id, set())
        borrowed = set[str]() if other is None else {other.key} - held
        held |= borrowed  # nobody is to remove it while its files are listed
        try:
            made = await stoppable(partial(self._unpack, wanted, part, other))
            size = made.size + _PER_FILE * made.files
            entry = Entry(wanted.key, wanted.place, size, self._clock.now())
            facts = {"place": wanted.place, "size": size, "boot_id": boot_id()}
            (part / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
            faults.rename(part, self.root / wanted.key, "input-complete")
        except BaseException:
            await whole(remove, part)
            raise
        finally:
            held -= borrowed
        self._entries[wanted.key] = entry
        self._unsynced.add(wanted.key)
        _log.info("snapshot %s is kept for other jobs: %d bytes", wanted.manifest_id.hex(), size)

    def _unpack(self, wanted: Wanted, part: Path, other: Entry | None, stopped: Callable[[], bool]) -> Restored:
        remove(part)
        target = part / TREE / wanted.place
        target.mkdir(parents=True)
        if other is not None:
            # The same files at another place: further names for them, all of them in the cache.
            root = self._store.root(wanted.manifest_id)
            files = put_tree(self.root / other.key / TREE / other.place, target, None, stopped)
            if files == root.files:
                return Restored(root.files, root.size)
            _log.warning("%s in the cache of inputs lacks files: remove it", other.key)
            remove(part)
            target.mkdir(parents=True)
        return restore(self._store, wanted.manifest_id, target, stopped=stopped)

    def _elsewhere(self, wanted: Wanted) -> Entry | None:
        start = f"{wanted.manifest_id.hex()}-"
        return next((entry for key, entry in list(self._entries.items()) if key.startswith(start)), None)

    def _use(self, entry: Entry) -> None:
        entry.used_at = self._clock.now()
        os.utime(self.root / entry.key / _FACTS, ns=(entry.used_at * 1000, entry.used_at * 1000))

    @contextlib.asynccontextmanager
    async def _locked(self, key: str) -> AsyncGenerator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

    def _found(self) -> list[Entry]:
        """What an earlier agent left; what is not whole, or may not be on the disk, is rubbish."""
        found: list[Entry] = []
        for path in sorted(self.root.iterdir()):
            entry = _look(path)
            if entry is None:
                self._put_aside([path.name])
            else:
                found.append(entry)
                if not (path / _SYNCED).exists():
                    self._unsynced.add(entry.key)
        return found


def surplus(entries: Iterable[Entry], in_use: set[str], excess: int) -> list[str]:
    """The longest unused of those that are not in use, until `excess` bytes are gone."""
    gone: list[str] = []
    for entry in sorted(entries, key=lambda entry: entry.used_at):
        if excess <= 0:
            break
        if entry.key not in in_use:
            gone.append(entry.key)
            excess -= entry.size
    return gone


def _look(path: Path) -> Entry | None:
    if path.name.startswith((_PART, _GONE)):
        return None
    try:
        facts = json.loads((path / _FACTS).read_bytes())
        used_at = (path / _FACTS).stat().st_mtime_ns // 1000
        if facts["boot_id"] != boot_id() and not (path / _SYNCED).exists():
            return None
        return Entry(path.name, str(facts["place"]), int(facts["size"]), used_at)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _to_disk(entry: Path) -> None:
    """Wait until the entry would survive a power cut, and note that it does. Raises OSError, and does not note it."""
    fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not sys.platform.startswith("linux"):
            os.sync()
        elif (failed := _syncfs(fd)) != 0:
            raise OSError(failed, os.strerror(failed), str(entry))
    finally:
        os.close(fd)
    (entry / _SYNCED).touch()


def _syncfs(fd: int) -> int:
    """Linux's system call of that name; its errno, or 0."""
    library = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if library.syncfs(fd) != 0 else 0
