"""After the machine has booted: are the packs that were written last really there?

Packs of live snapshots wait for no disk. A power cut may lose them, or leave them empty or full of zeros, while the
catalog, whose commits came later to the disk or not at all, still names them; and who saves the same bytes again would
be told that they are stored. So the packs of the last minute before are read and hashed once after a boot. A server
that ends in order puts them on the disk and notes so, and nothing is read. What was begun is noted until it is done:
packs that are saved meanwhile are newer, and would hide those that nobody has looked at.

    look    before anybody is served, the newest first, for some seconds: what is damaged leaves the catalog, and all
            that was saved at that time is doubted, for it may name what is damaged
    begin   beside the first requests: the rest, and where something was damaged, all of the store is repaired
    end     the server has ended in order
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select

from dstack.domain.parts import parts
from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.errors import DatabaseError
from dstack.server.db.tables import chunks, packs
from dstack.server.services.context import Context
from dstack.server.services.doubts import doubt
from dstack.server.services.errors import Conflict, ServiceError
from dstack.server.services.heal import Healer
from dstack.server.services.ledger import Ledger, Scope
from dstack.server.services.named_leases import GC, UPKEEP, held
from dstack.server.services.verify import Check
from dstack.snapshots.checking import check_pack, read_through
from dstack.snapshots.errors import SnapshotError
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.spread import Bad, Spread
from dstack.snapshots.store import Durable

WINDOW: Final = 60
"""Seconds before the newest pack; the kernel itself writes everything out within some 35."""
LOOK: Final = 5.0
"""Seconds that nobody is served for the sake of this; whoever starts a server waits for it."""
SYNC: Final = 10.0
"""Seconds that a server that ends waits for the disk; the next one waits for it."""
RETRY: Final = 15.0
"""Seconds until it is tried again, where somebody else is at work on the store."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
FORGET = declare_write("power_cut.forget")
_IN_ORDER: Final = "in-order"
_LOOKING: Final = "looking"
_REPAIRING: Final = "repairing"
_log = logging.getLogger(__name__)


class BootCheck:
    """What one server does about it, from its start to its end."""

    def __init__(self, context: Context, boot_id: Path = BOOT_ID) -> None:
        self._context = context
        self._ledger = Ledger(context)
        self._noted = context.settings.home / "server" / "boot"
        self._boot = _read(boot_id)
        self._left: list[bytes] = []
        self._bad: list[Bad] = []
        self._damaged = 0
        self._since = 0
        self._is_hurt = False
        """Whether something was damaged, also when an earlier server looked: all of the store is to be repaired."""
        self._is_done = False
        self._ending = threading.Event()

    def look(self) -> int:
        """How many packs were found damaged; 0 also where the machine has not booted, or only in order."""
        note = _Note.of(_read(self._noted))
        if not self._boot or (note.boot == self._boot and not note.is_pending):
            self._done()
            return 0
        recent, self._since = self._context.database.read(lambda tx: _recent(tx, self._context.project_id, note))
        self._left = list(recent)
        self._is_hurt = note.how == _REPAIRING
        until = self._context.clock.monotonic() + LOOK
        with Spread() as spread:
            while self._left and self._context.clock.monotonic() < until:
                self._damaged += self._is_damaged(self._left.pop(0), spread)
            if self._damaged:
                # They lie nowhere then: where one is said to lie later, somebody has saved it again.
                self._bad = [bad._replace(pack_id=None) for bad in spread.all_bad()]
                self._note_damage()
                self._forget(recent, spread)
        if not self._left and not self._is_hurt:
            self._done()
        elif not self._is_hurt:
            self._note(_LOOKING, self._since)
        return self._damaged

    def begin(self) -> None:
        """Do in the background what is left; a server that ends leaves it to the next."""
        if not self._is_done:
            threading.Thread(target=self._finish, name="dstack-boot-check", daemon=True).start()

    def finish(self) -> int:
        """Do what `look` has left; how many packs were damaged in all. Raises Conflict while others are at work."""
        with Spread() as spread:
            for bad in self._bad:
                spread.mark_bad(bad)
            damaged = self._damaged + sum(self._is_damaged(pack_id, spread) for pack_id in self._left)
            if damaged:
                self._note_damage()
            if self._is_hurt:
                self._repair(spread)
        self._done()
        return damaged

    def end(self) -> None:
        """The server has ended in order and nothing is written to the database any more: put all on the disk."""
        self._ending.set()
        if not self._boot or not self._is_done:
            return
        # The disk may take its time, and whoever wants the next server waits for this one to let go of its home.
        syncing = _Syncing(self._context)
        syncing.start()
        syncing.join(SYNC)
        if syncing.is_done:
            self._note(_IN_ORDER, self._context.clock.now())

    def _done(self) -> None:
        """The note may be lost in a power cut: the one before it has more looked at."""
        if self._boot and _read(self._noted) != self._boot:
            self._note()
        self._is_done = True

    def _note_damage(self) -> None:
        """What is damaged may be out of the catalog before the store is repaired, and is found by no look then."""
        self._is_hurt = True
        self._note(_REPAIRING, self._since)

    def _note(self, how: str = "", at: int = 0) -> None:
        """A disk that does not take it keeps no server from starting or ending."""
        text = f"{self._boot} {how} {at}" if how else self._boot
        try:
            _write(self._noted, text, durable=bool(how))
        except OSError as error:
            _log.warning("what is known of the newest packs cannot be noted for the next boot: %s", error)

    # --- what is looked at ------------------------------------------------------------------------------------------

    def _is_damaged(self, pack_id: bytes, spread: Spread) -> bool:
        rows = self._ledger.rows_of(pack_id)
        try:
            found = check_pack(pack_id, read_through(self._context.blobs, pack_key(pack_id)), rows)
        except KeyError:
            bad = dict.fromkeys(rows, "its pack is gone from the store")
        else:
            if not found.whole and not found.wrong:
                return False
            bad = found.wrong
        spread.mark_broken(pack_id)
        for chunk_id, why in bad.items():
            if chunk_id in rows:
                spread.mark_bad(Bad(chunk_id, pack_id, why))
        return True

    def _forget(self, recent: list[bytes], spread: Spread) -> None:
        """Take what is bad out of the catalog, and doubt all else that came at that time: what names the bad came
        after it. This takes as long as it takes to read the damaged packs, however large the store is."""
        _log.warning("%d packs were damaged in a power cut: what they held is stored again when saved", self._damaged)
        project = self._context.project_id
        for pack_id in recent:
            rows = list(self._ledger.rows_of(pack_id))
            self._context.database.write(FORGET, lambda tx, rows=rows: doubt(tx, project, rows))
        for part in parts(self._bad):
            where = chunks.c.project_id == project, chunks.c.chunk_id.in_([bad.id for bad in part])
            self._context.database.write(FORGET, lambda tx, where=where: tx.execute(delete(chunks).where(*where)))
        for frame in Healer(self._context, spread, None).set_aside():
            if frame["t"] == "left":
                _log.warning("pack %s is damaged and stays: %s", frame["pack"], frame["why"])

    # --- beside the first requests ------------------------------------------------------------------------------

    def _finish(self) -> None:
        while not self._ending.is_set():
            try:
                self.finish()
                return
            except Conflict:
                self._ending.wait(RETRY)
            except (DatabaseError, ServiceError, SnapshotError, OSError) as error:
                if not self._ending.is_set():
                    _log.warning(
                        "the check of the store after the boot goes on when this server starts again: %s", error
                    )
                return

    def _repair(self, spread: Spread) -> None:
        with held(self._context, GC, UPKEEP) as lease:
            for _ in Check(self._context, Scope(), spread, quick=True).frames():
                lease.keep()
            for _ in Healer(self._context, spread, lease).repair():
                lease.keep()


class _Syncing(threading.Thread):
    def __init__(self, context: Context) -> None:
        super().__init__(name="dstack-last-sync", daemon=True)
        self.is_done = False
        self._blobs = context.blobs

    def run(self) -> None:
        try:
            if isinstance(self._blobs, Durable):
                self._blobs.sync()
        except (SnapshotError, OSError) as error:
            _log.warning("the store could not be written out to the disk: %s", error)
        else:
            self.is_done = True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""  # not Linux, or never noted


def _write(path: Path, text: str, *, durable: bool) -> None:
    """In place: a full disk leaves what was noted before. With `durable` it waits for the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)
        file.truncate()
        if durable:
            os.fsync(fd)


class _Note(NamedTuple):
    """What an earlier server noted: in which boot, and since when (`at`) packs are to be looked at.

    Nothing: it looked at all, and may have been killed. `in-order`: all that was recorded before is on the disk.
    `looking`: it was not over with what was recorded since. `repairing`: nor with the repair of the store.
    """

    boot: str
    how: str
    at: int

    @classmethod
    def of(cls, text: str) -> _Note:
        """One that cannot be read says nothing."""
        match text.split():
            case [boot, how, at] if how in (_IN_ORDER, _LOOKING, _REPAIRING) and at.isdecimal():
                return cls(boot, how, int(at))
            case [boot]:
                return cls(boot, "", 0)
            case _:
                return cls("", "", 0)

    @property
    def is_pending(self) -> bool:
        return self.how in (_LOOKING, _REPAIRING)


def _recent(tx: Transaction, project_id: UUID, note: _Note) -> tuple[list[bytes], int]:
    """The packs that were recorded last, however long ago that is, from the newest on; and the time they begin at."""
    there = (packs.c.project_id == project_id, packs.c.condemned_at.is_(None))
    newest = tx.execute(select(func.max(packs.c.created_at)).where(*there)).scalar()
    since = note.at if newest is None else newest - WINDOW * SECOND
    if note.is_pending:
        since = min(since, note.at)
    elif note.how == _IN_ORDER:
        since = max(since, note.at + 1)
    recent = select(packs.c.pack_id).where(*there, packs.c.created_at >= since)
    return [bytes(row[0]) for row in tx.execute(recent.order_by(packs.c.created_at.desc()))], since
