"""One attempt's log on its way from the spool to the server: masked, by offset, resumable after a restart.

A log never fails its job. What goes wrong here is told in the runner's log, once, and tried again while the job lives;
what never went right makes the log incomplete, which its job shows.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
from pathlib import Path
from uuid import UUID

from dstack.domain import faults
from dstack.domain.ports import Clock
from dstack.logs.masking import NOTHING, Masker, MaskSet
from dstack.logs.quota import LogQuota, Ship, Skip
from dstack.logs.spool import Spool
from dstack.logs.times import MarkRecorder
from dstack.protocol.messages import LogChunk
from dstack.runner.inotify import SpoolWatch
from dstack.runner.senders import LogSender

_log = logging.getLogger(__name__)
faults.declare("runner.ship:before", "runner.ship:after")
PIECE = 4 << 20
PUNCH_STEP = 4 << 20
RETRY = 1.0
"""Seconds between two tries after something went wrong."""
LAST_TRIES = 3
"""Tries at the end of a job, when nothing new will come."""
_STATE = struct.Struct("<QQQ")
"""Raw offset up to which bytes were fed, shipped offset, and how much the mask covers beyond."""


class Shipper:
    """Call `run` while the job lives and `finish` once it is over; before, `prepare`, and `mask_with` where the job has
    secrets."""

    def __init__(
        self, attempt_id: UUID, folder: Path, sender: LogSender, watch: SpoolWatch, clock: Clock, limit: int
    ) -> None:
        self._attempt_id = attempt_id
        self._path = folder / "spool"
        self._state_path = folder / "shipped"
        self._spool = Spool(self._path)
        self._sender = sender
        self._watch = watch
        self._clock = clock
        self._quota = LogQuota(limit)
        self._marks = MarkRecorder()
        self._raw, self._shipped, covered = self._load()
        self._unsent = b""
        """Read and not acknowledged yet, from the shipped offset on: kept when `run` is cancelled meanwhile."""
        self._punched = 0
        self._masker = Masker(NOTHING, covered=covered)
        self.incomplete = False
        """The server does not take this stream, it cannot be read, or it is withheld: what is shipped so far is all
        there will be."""
        self._trouble = ""

    @property
    def length(self) -> int:
        """Bytes shipped and acknowledged."""
        return self._shipped

    def prepare(self) -> None:
        """Take the place on the disk that the state needs, while there is some: a full one is then no trouble here."""
        if not self._state_path.exists():
            self._write(bytes(_STATE.size))

    def mask_with(self, wanted: MaskSet) -> None:
        """Let nothing of `wanted` leave. Every shipper of one attempt is given the same set: its output goes on."""
        self._masker = Masker(wanted, covered=self._masker.covered)

    def withhold(self) -> None:
        """Ship nothing (more): what would have to be masked cannot be known."""
        self.incomplete = True

    async def run(self) -> None:
        """Ship what the job writes, as it writes it; ends when cancelled."""
        while not self.incomplete:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 -- whatever it is, the job goes on and this is tried again
                self._tell(error)
                await asyncio.sleep(RETRY)

    async def finish(self) -> None:
        """Ship the rest, held-back bytes included; returns once it is acknowledged, or given up (`incomplete`)."""
        for left in reversed(range(LAST_TRIES)):
            try:
                while not self.incomplete and await self._ship(self._spool.size(), ended=True):
                    pass
                await self._send(self._masker.flush())
                break
            except Exception as error:  # noqa: BLE001 -- as above
                self._tell(error)
                if left:
                    await asyncio.sleep(RETRY)
                else:
                    self.incomplete = True
        self._watch.forget(self._path)
        self._spool.close()

    async def _follow(self) -> None:
        while not self.incomplete:
            size = await self._watch.grown(self._path, self._raw)
            if not await self._ship(size, ended=False):
                # Between head and tail of the quota: nothing is shipped before the end.
                begin, end = self._quota.disposable(size)
                if begin < end:
                    self._punch(end, step=PUNCH_STEP)
                await self._watch.grown(self._path, size)
            self._trouble = ""

    def _tell(self, error: Exception) -> None:
        """Once for each thing that goes wrong, however often it does."""
        trouble = f"{type(error).__name__}: {error}"
        if trouble != self._trouble:
            self._trouble = trouble
            kept = None if isinstance(error, OSError) else error
            _log.warning(
                "attempt %s: its log cannot be sent, and is tried again: %s", self._attempt_id, trouble, exc_info=kept
            )

    def _punch(self, upto: int, *, step: int = 1) -> None:
        """Give room back; what cannot be given back is only room."""
        try:
            self._spool.punch(upto, step=step)
        except OSError as error:
            _log.warning("attempt %s: the room of what was sent is not given back: %s", self._attempt_id, error)

    async def _ship(self, size: int, *, ended: bool) -> bool:
        """Ship up to one piece; False when there is nothing to ship now."""
        await self._send(b"")
        step = self._quota.next(self._raw, size, ended=ended)
        if step is None:
            return False
        if isinstance(step, Skip):
            await self._skip(step)
            return True
        return await self._piece(step)

    async def _piece(self, step: Ship) -> bool:
        data = self._spool.read(step.begin, min(PIECE, step.end - step.begin))
        if not data:
            return False
        self._save()
        masked = self._masker.feed(data)
        self._raw = step.begin + len(data)
        faults.point("runner.ship:before")
        await self._send(masked)
        faults.point("runner.ship:after")
        done = self._raw - self._masker.held
        if done - self._punched >= PUNCH_STEP:
            # What is punched out cannot be read again, so no restart may begin before it.
            if self._save():
                self._punch(done)
            self._punched = done
        return True

    async def _skip(self, step: Skip) -> None:
        self._save()
        self._masker.discard()
        window_begin = max(step.begin, step.end - self._masker.longest)
        window = self._spool.read(window_begin, 2 * self._masker.longest)
        self._raw = window_begin + self._masker.safe_cut(window, step.end - window_begin)
        await self._send(step.marker)

    async def _send(self, data: bytes) -> None:
        """Send what is unsent, and `data` after it, until the server has all of it."""
        self._unsent += data
        while self._unsent and not self.incomplete:
            times = self._marks.mark(self._shipped, self._clock.now())
            chunk = LogChunk(attempt_id=self._attempt_id, offset=self._shipped, data=self._unsent, times=times)
            wanted = await self._sender.send(chunk)
            if wanted < self._shipped:  # STREAM_OVER too
                self.incomplete = True
            else:
                self._unsent = self._unsent[wanted - self._shipped :]
                self._shipped = wanted

    def _save(self) -> bool:
        """Persisted before each piece: a restart ships it again from here, and the server skips what it has.

        False where the disk is full: a restart then begins at the place before, and more comes twice.
        """
        try:
            self._write(_STATE.pack(self._raw - self._masker.held, self._shipped, self._masker.covered))
        except OSError as error:
            _log.warning("attempt %s: how far its log was sent is not written down: %s", self._attempt_id, error)
            return False
        return True

    def _write(self, state: bytes) -> None:
        fd = os.open(self._state_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(fd, state, 0) != len(state):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._state_path))
        finally:
            os.close(fd)

    def _load(self) -> tuple[int, int, int]:
        try:
            return _STATE.unpack(self._state_path.read_bytes())
        except (FileNotFoundError, struct.error):
            return 0, 0, 0


async def cancelled(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it is over."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
