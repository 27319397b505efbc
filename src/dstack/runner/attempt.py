"""One attempt on this machine, from the assignment to the last acknowledged byte."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from dstack.domain import faults
from dstack.logs.masking import NOTHING
from dstack.protocol import messages
from dstack.protocol.messages import Assignment
from dstack.runner.environments import SetupError
from dstack.runner.executors.interface import Process, StartError
from dstack.runner.folders import LAYERS, append_to, disk_words, folder_of, read_environment, read_spec, write_spec
from dstack.runner.leaving import Leavings
from dstack.runner.metrics import MetricsReader
from dstack.runner.reports import Reports
from dstack.runner.saving import ArtifactSaver
from dstack.runner.secrets import NO_SECRETS, Secrets, of_shell, telling_names
from dstack.runner.setup import set_up
from dstack.runner.shipper import Shipper, cancelled
from dstack.runner.working_copy import laid_again
from dstack.runner.workshop import Workshop
from dstack.snapshots.errors import SnapshotError

faults.declare(
    "runner.started",
    "runner.exited",
    "runner.saved",
)
_log = logging.getLogger(__name__)
_INTERRUPTED = ("recalled", "stopping", "killed")
"""States of an attempt whose course was cut off, and which now ends by itself."""


class Ended(Protocol):
    def __call__(self, attempt: Attempt, /) -> None: ...


class Attempt:
    """`state` is what the next poll tells the server; `stop` the intent that was taken up."""

    def __init__(self, workshop: Workshop, assignment: Assignment, ended: Ended) -> None:
        self.assignment = assignment
        self.state = "assigned"
        self.stop = ""
        self._shop = workshop
        self._ended = ended
        self._folder = folder_of(workshop.settings, assignment.attempt_id)
        self._process: Process | None = None
        self._shipping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[object] | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        """Whether the task runs: cancelled before, it would end without a word."""
        self._left = False
        """The agent ends before its process: what that uses stays."""
        self._secrets = NO_SECRETS
        self._of_shell = NOTHING
        self._shipper = Shipper(
            assignment.attempt_id,
            self._folder,
            workshop.logs,
            workshop.watch,
            workshop.clock,
            workshop.settings.log_limit,
        )
        self._leavings = Leavings(workshop, assignment, self._folder)
        self._reports = Reports(assignment.attempt_id, self._folder, self._shipper, workshop.clock)
        self._saver = ArtifactSaver(workshop, assignment, self._folder, self._send)
        self._metrics = MetricsReader(
            assignment.attempt_id,
            self._folder,
            assignment.spec.working_dir,
            workshop.clock,
            workshop.settings.metrics_interval,
            self._send,
        )

    @property
    def problem(self) -> str:
        """What keeps its artifacts from being saved now, for people; nothing secret."""
        return self._secrets.words(self._saver.problem)

    # --- what the agent calls ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Run it from the start."""
        self._task = asyncio.create_task(self._guarded(self._run))

    def resume(self, process: Process) -> None:
        """Go on with a process that an earlier agent started, running or ended."""
        self.state = "running"
        self._process = process
        self._shop.slots.adopt(self.assignment.attempt_id, self.assignment.spec.requirements, self._gpus())
        environment = read_environment(self._folder)
        if environment is not None:
            self._shop.environments.kept.hold(self.assignment.attempt_id, environment)
        if (self._folder / LAYERS).exists():
            self._shop.inputs().hold(self.assignment.attempt_id, self._folder)
        self._task = asyncio.create_task(self._guarded(self._resumed))

    def recall(self) -> None:
        """Give it back if it has not begun."""
        if self.state == "assigned":
            self._interrupt("recalled")

    def ask_stop(self, abort: bool) -> None:
        """Stop (save what is there) or abort (save nothing more)."""
        asked = "abort" if abort else "stop"
        if self.stop in (asked, "abort"):
            return
        self.stop = asked
        self._take_up_stop()

    def _take_up_stop(self) -> None:
        if self.state == "starting":
            self._interrupt("stopping")
        elif self.state == "running" and self._process is not None:
            grace = 0.0 if self.stop == "abort" else self._shop.settings.stop_grace or self.assignment.stop_grace
            self._ending = asyncio.create_task(self._stop_process(self._process, grace, self._ending))
        elif self.state == "saving" and self.stop == "abort":
            self._saver.abandon()

    async def kill(self) -> None:
        """The server has moved on without this attempt: end it and report nothing."""
        if self.state in messages.ENDS_BY_ITSELF:
            return
        self._interrupt("killed")
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _interrupt(self, state: str) -> None:
        """Let it end as `state` says. Once: a second cancel would interrupt the end itself."""
        self.state = state
        if self._begun and self._task is not None:
            self._task.cancel()

    # --- its course --------------------------------------------------------------------------------------------

    async def _guarded(self, course: Callable[[], Awaitable[None]]) -> None:
        self._begun = True
        try:
            try:
                if self.state in _INTERRUPTED:
                    raise asyncio.CancelledError
                await course()
            except asyncio.CancelledError:
                await self._cancelled()
        except Exception as error:  # noqa: BLE001 - see below
            # A bug of ours: the job's owner hears of it, and the other attempts go on.
            _log.exception("attempt %s failed inside the runner", self.assignment.attempt_id)
            await self._failed(f"the runner failed: {type(error).__name__}: {error}")
        finally:
            self._shop.slots.release(self.assignment.attempt_id)
            try:
                if not self._left:
                    await self._shop.environments.kept.release(self.assignment.attempt_id)
            except OSError as error:
                _log.warning("attempt %s: its environment is not cleared away: %s", self.assignment.attempt_id, error)
            finally:
                self._ended(self)

    async def _run(self) -> None:
        assignment = self.assignment
        share = await self._shop.slots.take(assignment.attempt_id, assignment.spec.requirements)
        self.state = "starting"
        try:
            write_spec(self._folder, assignment, share.gpus)
            self._shipper.prepare()
            self._send(self._reports.accepted(), patient=True)
            self._process = await self._start(share.gpus)
        except (SetupError, StartError, SnapshotError) as error:
            await self._setup_failed(str(error), said=error.said if isinstance(error, SetupError) else "")
            return
        except TimeoutError:
            await self._setup_failed(f"it was not set up within {assignment.setup_deadline:g} s")
            return
        except OSError as error:
            await self._setup_failed(disk_words(error, self._folder))
            return
        faults.point("runner.started")
        self.state = "running"
        self._send(self._reports.started(self._process.pid, self._packages()), patient=True)
        if self.stop:
            self._take_up_stop()
        await self._attend(self._process)

    async def _start(self, gpus: tuple[int, ...]) -> Process:
        """Lay the working copy out, make the environment, start the process."""
        async with asyncio.timeout(self.assignment.setup_deadline):
            await self._mask_shell()
            launch = await set_up(self._shop, self.assignment, self._folder, gpus)
            if self.assignment.mask_set:
                self._keep(await self._shop.secrets.fetch(self.assignment.attempt_id))
        self._metrics.prepare()
        process = self._shop.executor.start(replace(launch, env=self._secrets.fill(launch.env)))
        self._saver.begin()
        return process

    async def _resumed(self) -> None:
        assert self._process is not None
        await self._mask_shell()
        if self.assignment.mask_set:
            # Before anything of the job is read, its metrics included.
            self._keep(await self._shop.secrets.fetch_again(self.assignment.attempt_id))
        await self._begin_saving()
        self._send(self._reports.accepted())
        self._send(self._reports.started(self._process.pid, self._packages()))
        await self._attend(self._process)

    async def _begin_saving(self) -> None:
        """A working copy that lay over its inputs does so no more after a boot, or in this agent's sight."""
        pid = 0 if self._process is None or self._process.exit is not None else self._process.pid
        try:
            wrong = await laid_again(self._shop, self.assignment.attempt_id, self._folder, pid)
        except OSError as error:
            then = "; tried again when the job has ended" if pid else ""
            self._say(f"no artifacts can be saved now: {error}{then}")
            self._saver.withhold(str(error))
            return
        if wrong:
            self._say(wrong)
        self._saver.begin()

    async def _mask_shell(self) -> None:
        """Before the set-up: it may print the address of a package index."""
        given = self.assignment.environment
        self._of_shell = await of_shell({name: given[name] for name in self.assignment.private if name in given})
        if self._of_shell:
            self._keep(NO_SECRETS)

    def _keep(self, secrets: Secrets) -> None:
        """From here on nothing leaves unmasked."""
        self._secrets = secrets = secrets.also(self._of_shell)
        if secrets.withheld:
            self._shipper.withhold()
        else:
            self._shipper.mask_with(secrets.wanted)

    async def _attend(self, process: Process) -> None:
        """From a started process to the end of the attempt."""
        self._metrics.begin()
        if process.exit is None:
            self._shipping = asyncio.create_task(self._shipper.run())
            await process.wait()
        at = self._shop.clock.now()
        await self._stops()
        assert process.exit is not None
        await self._shop.executor.sweep(self.assignment.attempt_id)
        self._shop.slots.release(self.assignment.attempt_id)
        faults.point("runner.exited")
        if self.stop == "abort":
            await self._finish_log()
            self.state = "ending"
            await self._report_end(self._reports.exited(process.exit, at, aborted=True))
            return
        exited = self._reports.exited(process.exit, at, aborted=False)
        self.state = "saving"
        self._send(exited, patient=True)
        await self._save(exited)

    async def _save(self, exited: messages.Exited) -> None:
        if self._saver.withheld:
            await self._begin_saving()  # none of its processes is left, so its layers can be mounted here
        saved = await self._saver.final()
        warnings = (*saved.warnings, *await self._telling_names())
        for warning in warnings:
            self._say(warning)
        await self._finish_log()
        while True:
            faults.point("runner.saved")
            self.state = "ending"
            if not await self._report_end(self._reports.saved(exited, saved, warnings)):
                return
            # The report took so long to arrive that the store has collected what nobody referred to yet.
            self.state = "saving"
            saved = await self._saver.final()

    async def _telling_names(self) -> list[str]:
        if not self._secrets.wanted:
            return []
        spec = self.assignment.spec
        return await asyncio.to_thread(
            telling_names, self._folder / "work" / spec.working_dir, spec.artifacts, self._secrets
        )

    async def _finish_log(self) -> None:
        await cancelled(self._shipping)
        self._shipping = None  # what it had in hand, megabytes of a log, would stay until the collector comes by
        self._metrics.finish()
        await self._shipper.finish()

    # --- its ends ----------------------------------------------------------------------------------------------

    async def _cancelled(self) -> None:
        """Recalled, stopped while starting, or killed: whichever `state` and `stop` say."""
        if self.state == "recalled":
            await self._send(self._reports.recalled())
        elif self.state == "stopping":
            await self._end_process()
            await self._setup_failed("it was stopped before its process started")
            return
        elif self.state == "killed":
            await self._end_process()
        else:
            # The agent itself ends: the process goes on, and the next agent adopts it.
            self._left = True
            await cancelled(self._shipping)
            self._metrics.stop()
            self._saver.stop()
            return
        self._leavings.remove()

    async def _setup_failed(self, detail: str, said: str = "") -> None:
        self._say(said or detail)
        await self._finish_log()
        await self._give_up(detail)

    async def _give_up(self, detail: str) -> None:
        self.state = "ending"
        await self._send(self._reports.setup_failed(detail))
        self._leavings.remove()

    async def _failed(self, detail: str) -> None:
        """End after a defect of ours with the event that the state allows: another would be refused, and nothing would
        ever end the job."""
        before = self.state
        await self._end_process()
        if before not in ("running", "saving"):
            await self._give_up(detail)
            return
        self.state = "ending"
        if before == "running":
            self._send(self._reports.lost(detail))
        await self._send(self._reports.refused(detail))
        self._leavings.remove()

    async def _end_process(self) -> None:
        await cancelled(self._shipping)
        self._metrics.stop()
        await asyncio.to_thread(self._saver.stop)
        if self._process is not None:
            await self._shop.executor.stop(self._process, 0.0)
            await self._shop.executor.sweep(self.assignment.attempt_id)

    async def _stop_process(self, process: Process, grace: float, before: asyncio.Task[object] | None) -> None:
        if before is not None:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        await self._shop.executor.stop(process, grace)

    async def _stops(self) -> None:
        """Wait until the last stop is through: an abort takes the place of a stop under way."""
        while self._ending is not None and not self._ending.done():
            await asyncio.wait((self._ending,))
        if self._ending is not None:
            self._ending.result()

    # --- small things ------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        """A line of our own in the job's log; a full disk, most likely, is told by the event in any case."""
        try:
            append_to(self._folder / "spool", f"dstack: {text}\n".encode())
        except OSError as error:
            said = self._secrets.words(text)
            _log.warning("attempt %s: its log lacks %r: %s", self.assignment.attempt_id, said, error)

    def _gpus(self) -> tuple[int, ...]:
        return read_spec(self._folder)[1]

    def _send(self, event: messages.AttemptEvent, *, patient: bool = False) -> asyncio.Future[messages.EventAnswer]:
        return self._shop.events.send(self._secrets.masked(event), patient=patient)

    def _packages(self) -> tuple[str, ...] | None:
        return self._shop.environments.kept.packages(self.assignment.attempt_id)

    async def _report_end(self, event: messages.AttemptEvent) -> bool:
        """Send the last event; what the server has taken need not be kept, what it does not know is.

        True where it asks for the artifacts to be saved again: then nothing has ended.
        """
        answer = await self._send(event)
        if answer.save_again:
            return True
        if answer.outcome != "rejected":
            self._leavings.remove()
            return False
        await self._leavings.set_aside()
        return False
