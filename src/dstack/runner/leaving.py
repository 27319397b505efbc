"""What becomes of an attempt's folder, and of what it held, when the attempt is over."""

from __future__ import annotations

import logging
from pathlib import Path

from dstack.protocol.messages import Assignment
from dstack.runner.folders import forget, set_aside
from dstack.runner.threads import whole
from dstack.runner.workshop import Workshop

_log = logging.getLogger(__name__)


class Leavings:
    """Of one attempt: `remove` what the server has taken, `set_aside` what it does not know."""

    def __init__(self, shop: Workshop, assignment: Assignment, folder: Path) -> None:
        self._shop = shop
        self._attempt_id = assignment.attempt_id
        self._folder = folder

    def remove(self) -> None:
        # On a busy disk a removal can wait for the file system's journal: no other job is to wait with it.
        self._shop.cleaner.submit(self._clear)

    async def set_aside(self) -> None:
        """Keep it where people find it, and where no later agent takes it for an attempt."""
        aside = self._shop.settings.folder / "orphaned" / self._attempt_id.hex
        try:
            # In a thread: of a working copy over its inputs, all that was written goes to the disk first.
            await whole(set_aside, self._folder, aside)
        except OSError as error:
            _log.error("the server does not take the end of %s, which stays there: %s", self._folder, error)
            return
        self._shop.release_inputs(self._attempt_id)
        _log.warning("the server does not take the end of attempt %s; its output is in %s", self._folder.name, aside)

    def _clear(self) -> None:
        forget(self._folder)
        self._shop.release_inputs(self._attempt_id)
