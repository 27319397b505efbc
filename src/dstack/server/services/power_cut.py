"""After the machine has booted: are the packs that were written last really there?

Packs of live snapshots wait for no disk. A power cut may lose them, or leave them empty or full of zeros, while the
catalog, whose commits came later to the disk or not at all, still names them; and who saves the same bytes again would
be told that they are stored. So the packs of the last minutes before are read and hashed once after every boot, before
anybody is served, and what is damaged is forgotten, as `dstack verify --repair` does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import func, select

from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import packs
from dstack.server.services.context import Context
from dstack.server.services.heal import Healer
from dstack.server.services.ledger import Ledger, Scope
from dstack.server.services.verify import Check
from dstack.snapshots.checking import check_pack
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.spread import Bad, Spread

WINDOW: Final = 600
"""Seconds before the newest pack; the kernel itself writes everything out within some 30."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger(__name__)


def check_after_boot(context: Context, boot_id: Path = BOOT_ID) -> int:
    """How many packs were found damaged; 0 also where the machine has not booted since this was last asked."""
    noted = context.settings.home / "server" / "boot"
    boot = _read(boot_id)
    if not boot or boot == _read(noted):
        return 0
    recent = context.database.read(lambda tx: _recent(tx, context.project_id))
    damaged = _forget_damaged(context, recent) if recent else 0
    noted.write_text(boot, encoding="ascii")
    return damaged


def _forget_damaged(context: Context, recent: list[bytes]) -> int:
    with Spread() as spread:
        damaged = sum(1 for pack_id in recent if _is_damaged(context, pack_id, spread))
        if damaged:
            _log.warning("%d packs were lost in a power cut: what they held is stored again when it is saved", damaged)
            for _ in Check(context, Scope(), spread, quick=True).frames():
                pass
            for _ in Healer(context, spread).repair():
                pass
        return damaged


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""  # not Linux, or never noted


def _recent(tx: Transaction, project_id: UUID) -> list[bytes]:
    """The packs that were recorded last, however long ago that is."""
    newest = tx.execute(select(func.max(packs.c.created_at)).where(packs.c.project_id == project_id)).scalar()
    if newest is None:
        return []
    recent = (packs.c.project_id == project_id, packs.c.created_at >= newest - WINDOW * SECOND)
    return [bytes(row[0]) for row in tx.execute(select(packs.c.pack_id).where(*recent))]


def _is_damaged(context: Context, pack_id: bytes, spread: Spread) -> bool:
    rows = Ledger(context).rows_of(pack_id)
    try:
        found = check_pack(pack_id, context.blobs.get(pack_key(pack_id)), rows)
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
