"""What an attempt tells the server, in the words of the protocol."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from dstack.domain.ports import Clock
from dstack.logs.spool import disk_full
from dstack.protocol import messages
from dstack.runner.executors.interface import Exit
from dstack.runner.saving import FinalSave
from dstack.runner.shipper import Shipper


class Reports:
    """Makes the events of one attempt. `at` is when it happened; what is told of the log is how far it is now."""

    def __init__(self, attempt_id: UUID, folder: Path, shipper: Shipper, clock: Clock) -> None:
        self._attempt_id = attempt_id
        self._folder = folder
        self._shipper = shipper
        self._clock = clock

    def accepted(self) -> messages.Accepted:
        return messages.Accepted(attempt_id=self._attempt_id, at=self._clock.now())

    def recalled(self) -> messages.Recalled:
        return messages.Recalled(attempt_id=self._attempt_id, at=self._clock.now())

    def started(self, pid: int, packages: tuple[str, ...] | None) -> messages.Started:
        return messages.Started(attempt_id=self._attempt_id, at=self._clock.now(), pid=pid, packages=packages)

    def setup_failed(self, detail: str) -> messages.SetupFailed:
        return messages.SetupFailed(
            attempt_id=self._attempt_id,
            at=self._clock.now(),
            detail=detail,
            log_length=self._shipper.length,
            log_incomplete=self._shipper.incomplete,
        )

    def exited(self, end: Exit, at: int, *, aborted: bool) -> messages.Exited:
        detail = end.detail
        if end.code != 0 and not detail and disk_full(self._folder):
            detail = f"disk full on {self._folder}"
        return messages.Exited(
            attempt_id=self._attempt_id,
            at=at,
            exit_code=end.code,
            signal=end.signal,
            oom=end.oom,
            aborted=aborted,
            log_length=self._shipper.length,
            log_incomplete=self._shipper.incomplete,
            detail=detail,
        )

    def lost(self, detail: str) -> messages.Exited:
        """How its process ended is not known."""
        return messages.Exited(attempt_id=self._attempt_id, at=self._clock.now(), detail=detail)

    def saved(
        self, exited: messages.Exited, found: FinalSave, warnings: tuple[str, ...]
    ) -> messages.Saved | messages.SaveRefused:
        if found.problem is not None:
            return self.refused(found.problem)
        return messages.Saved(
            attempt_id=self._attempt_id,
            at=self._clock.now(),
            exit=exited,
            artifacts=found.artifacts,
            log_length=self._shipper.length,
            log_incomplete=self._shipper.incomplete,
            warnings=warnings,
        )

    def refused(self, detail: str) -> messages.SaveRefused:
        return messages.SaveRefused(
            attempt_id=self._attempt_id,
            at=self._clock.now(),
            detail=detail,
            log_length=self._shipper.length,
            log_incomplete=self._shipper.incomplete,
        )
