"""The artifact folders of one attempt: captured while its job runs, saved whole once that has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dstack.client.api import ApiError, Unreachable
from dstack.protocol import messages
from dstack.protocol.messages import Assignment
from dstack.runner.folders import artifacts_of, disk_words
from dstack.runner.workshop import Workshop
from dstack.snapshots.errors import CaptureFailed, SnapshotError
from dstack.snapshots.live import LiveCapture, Patience
from dstack.snapshots.statcache import SavedSnapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinalSave:
    """What the last save gave. `problem` says why nothing was saved; None where all is in the store."""

    artifacts: tuple[messages.SavedArtifact, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str | None = None


class ArtifactSaver:
    """`begin` when the job has started, then `final` or `stop`. `report` takes events, in the agent's thread."""

    def __init__(
        self,
        shop: Workshop,
        assignment: Assignment,
        folder: Path,
        report: Callable[[messages.AttemptEvent], asyncio.Future[messages.EventAnswer]],
    ) -> None:
        self._shop = shop
        self._assignment = assignment
        self._folder = folder
        self._root = folder / "work" / assignment.spec.working_dir
        self._report = report
        self._capture: LiveCapture | None = None
        self._abandoned = asyncio.Event()
        self.problem = ""
        """What keeps it from saving now, for people; empty where nothing does."""
        self.withheld = ""
        """Why nothing may be saved, though the job goes on."""

    def withhold(self, why: str) -> None:
        """Save nothing until `begin`: the folders are out of sight, and would be saved as if they were empty."""
        self.withheld = why
        self.problem = f"takes no snapshots now: {why}" if self._assignment.spec.artifacts else ""

    def begin(self) -> None:
        """Take snapshots while the job writes; does nothing for a job without artifacts."""
        self.withheld = self.problem = ""
        if not self._assignment.spec.artifacts:
            return
        loop = asyncio.get_running_loop()

        def taken(found: Mapping[str, SavedSnapshot]) -> None:
            event = messages.SnapshotTaken(
                attempt_id=self._assignment.attempt_id, at=self._shop.clock.now(), artifacts=artifacts_of(found)
            )
            loop.call_soon_threadsafe(self._tell, event)

        self._capture = LiveCapture(
            self._root,
            self._assignment.spec.artifacts,
            self._shop.store,
            taken,
            self._paused,
            quiet=self._shop.settings.quiet_period,
            max_interval=self._shop.settings.max_interval,
            retry=self._shop.settings.save_retry,
            clock=self._shop.clock,
        )
        if self._abandoned.is_set():
            self._capture.abandon()
        self._capture.start()

    def _tell(self, event: messages.AttemptEvent) -> None:
        def heard(answer: asyncio.Future[messages.EventAnswer]) -> None:
            if not answer.cancelled() and answer.result().save_again and self._capture is not None:
                self._capture.again()

        self._report(event).add_done_callback(heard)

    def _paused(self, error: Exception | None) -> None:
        told = "" if error is None else self._words(error)
        if told != self.problem:
            _log.info("attempt %s: %s", self._assignment.attempt_id, told or "snapshots go on")
        self.problem = f"takes no snapshots now: {told}" if told else ""

    def _words(self, error: Exception) -> str:
        """What a person can do something about; empty for a server that is away, which hears of nothing meanwhile."""
        if isinstance(error, Unreachable):
            return ""
        if isinstance(error, OSError):
            return disk_words(error, self._folder)
        text = str(error)
        return text if text.startswith("disk full") else f"store unavailable: {text}"

    def stop(self) -> None:
        """Take no more snapshots; waits for the one that is being taken."""
        if self._capture is not None:
            self._capture.stop()

    def abandon(self) -> None:
        """Let `final` end as soon as it can, with nothing saved for good."""
        self._abandoned.set()
        if self._capture is not None:
            self._capture.abandon()

    async def final(self) -> FinalSave:
        """The last snapshot of each artifact folder; tried until the save deadline where the store refuses."""
        if self._capture is None:
            return FinalSave(problem=self.withheld if self.withheld and self._assignment.spec.artifacts else None)
        loop = asyncio.get_running_loop()
        # The reason is to be told before the server gives up on its own account.
        end = loop.time() + self._assignment.save_deadline - self._shop.settings.save_retry
        removed = self._remake_folders()
        patience = Patience(self._shop.settings.save_retry)
        while True:
            try:
                found = await asyncio.to_thread(self._capture.final)
            except CaptureFailed as error:
                return FinalSave(problem=str(error))  # no use to wait: nothing changes what the job left
            except (SnapshotError, ApiError, Unreachable, OSError) as error:
                # A server that is away says nothing about the store: it is asked again sooner.
                pause = self._shop.settings.retry_last if isinstance(error, Unreachable) else patience.refused()
                words = self._words(error)
                if loop.time() >= end:
                    return FinalSave(problem=words or str(error))
                self.problem = f"finishing: {words}" if words else ""
                _log.warning("attempt %s: artifacts wait for the store: %s", self._assignment.attempt_id, error)
                await self._pause(min(pause, max(0.0, end - loop.time())))
                continue
            self.problem = ""
            warnings = tuple(warning for path, snapshot in found.items() for warning in snapshot.warnings_below(path))
            return FinalSave(artifacts_of(found), removed + warnings)

    async def _pause(self, seconds: float) -> None:
        """Until it is time to try again, or it is abandoned."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._abandoned.wait(), seconds)

    def _remake_folders(self) -> tuple[str, ...]:
        """A job may remove its artifact folder: it then saved nothing, and is told so."""
        warnings: list[str] = []
        for path in self._assignment.spec.artifacts:
            if os.path.lexists(self._root / path):
                continue
            try:
                (self._root / path).mkdir(parents=True)
            except (FileExistsError, NotADirectoryError, PermissionError):
                pass  # a file is in the way, or a folder that may not be read, as saving says
            else:
                warnings.append(f"the job removed its artifact folder {path}: it is saved as empty")
        return tuple(warnings)
