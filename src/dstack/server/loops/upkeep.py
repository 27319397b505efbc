"""What is kept, now and then: the rules of the project are applied, packs that nothing needs are deleted, and what was
taken out of the store long ago is forgotten."""

from __future__ import annotations

from typing import Final

from dstack.server.services import gc, removal, retention
from dstack.server.services.context import Context

RETRY: Final = 60.0
"""Seconds."""


class Upkeep:
    """When it is to be done. Not at once when a server starts: it reads much, and somebody waits for that server."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._due = context.clock.monotonic() + context.settings.upkeep_after

    def wait(self) -> float:
        """Seconds until then."""
        return max(0.0, self._due - self._context.clock.monotonic())

    def look(self) -> None:
        """Do it where it is time; where it fails, as while the store is away, again after a minute."""
        if self.wait() > 0:
            return
        self._due = self._context.clock.monotonic() + RETRY
        keep_house(self._context)
        self._due = self._context.clock.monotonic() + self._context.settings.upkeep


def keep_house(context: Context) -> int:
    """Apply the rules to snapshots and runs, delete what was condemned long enough ago, and forget what was taken out;
    how much there was to do.

    Reads first: where nothing is to go, nothing is written. Several servers may do it at once.
    """
    done = sum(retention.thin(context))
    done += sum(len(names) for names in retention.delete_expired(context))
    done += gc.forget_taken_out_long_ago(context)
    before = removal.condemned_before(context, context.database.read(lambda tx: tx.now))
    if removal.has_condemned(context, before):
        done += sum(removed.packs for removed in removal.remove_condemned(context, before))
    return done
