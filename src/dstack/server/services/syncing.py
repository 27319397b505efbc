"""Before a reference that is to last is recorded: everything that the catalog names would survive a power cut."""

from __future__ import annotations

import logging

from dstack.server.services.context import Context
from dstack.server.services.errors import Conflict
from dstack.server.services.heal import Healer
from dstack.server.services.named_leases import GC, UPKEEP, held
from dstack.snapshots.errors import BadPack, StoreLost, StoreRefused
from dstack.snapshots.packs import id_of
from dstack.snapshots.spread import Spread
from dstack.snapshots.store import Durable

_log = logging.getLogger(__name__)


def sync_store(context: Context) -> None:
    """Wait for the disk. Raises StoreRefused.

    A pack that the disk did not take, and that is not in memory any more either, is put aside at once, and what it held
    leaves the catalog: nobody could save anything for good before, and whoever saves it again stores it again.
    """
    if not isinstance(context.blobs, Durable):
        return
    try:
        context.blobs.sync()
    except StoreLost as lost:
        try:
            _put_aside(context, lost)
        except Conflict as conflict:
            _log.warning("%s; not now: %s", lost, conflict)
            raise lost from None
        raise StoreRefused(
            f"the disk did not take {lost.keys[0]}, which a save relied on: it was put aside; save again"
        ) from lost


def _put_aside(context: Context, lost: StoreLost) -> None:
    """Raises Conflict while others are at work on the store."""
    _log.error("%s", lost)
    with held(context, GC, UPKEEP) as lease, Spread() as spread:
        for key in lost.keys:
            try:
                spread.mark_broken(id_of(key))
            except BadPack:
                continue  # what a repair has put aside before
        for _ in Healer(context, spread, lease).repair():
            lease.keep()
