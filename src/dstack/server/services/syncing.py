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
from dstack.snapshots.store import Durable, Losing

_log = logging.getLogger(__name__)


def sync_store(context: Context) -> None:
    """Wait for the disk. Raises StoreRefused.

    A pack that the disk did not take, and that is not in memory any more either, is put aside at once, and what it held
    leaves the catalog: nobody could save anything for good before, and whoever saves it again stores it again. It stays
    lost, so that this goes on to raise StoreLost, until the repair is over, in whichever process.
    """
    if not isinstance(context.blobs, Durable):
        return
    try:
        context.blobs.sync()
    except StoreLost as lost:
        _log.error("%s", lost)
        found = _packs(context, lost)
        if not found:
            return  # all else is on the disk
        try:
            _put_aside(context, found)
        except Conflict as conflict:
            raise StoreLost(list(found), f"{conflict}: wait for its end") from None
        raise StoreRefused(
            f"the disk did not take {next(iter(found))}, which a save relied on: it was put aside; save again"
        ) from lost


def _packs(context: Context, lost: StoreLost) -> dict[str, bytes]:
    """The packs among what is lost, by their keys.

    The rest goes: a repair has put it aside before, and nobody needs it.
    """
    found: dict[str, bytes] = {}
    for key in lost.keys:
        try:
            found[key] = id_of(key)
        except BadPack:
            if isinstance(context.blobs, Losing):
                context.blobs.let_go([key])
            context.blobs.delete([key])
    return found


def _put_aside(context: Context, lost: dict[str, bytes]) -> None:
    """Raises Conflict while others are at work on the store, StoreLost where one cannot be put aside."""
    stays: dict[str, str] = {}
    with held(context, GC, UPKEEP) as lease, Spread() as spread:
        for pack_id in lost.values():
            spread.mark_broken(pack_id)
        for frame in Healer(context, spread, lease).repair():
            lease.keep()
            match frame["t"]:
                case "left":
                    stays[frame["pack"]] = frame["why"]
                case "done":
                    pass
                case _:
                    _log.warning("the repair of the store: %s", frame)
    for key, pack_id in lost.items():
        if why := stays.get(pack_id.hex()):
            raise StoreLost([key], why)
