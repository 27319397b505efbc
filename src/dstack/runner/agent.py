"""The agent: registers, polls, and does the difference between what the server says and what it holds."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from uuid import UUID

import msgspec

import dstack
from dstack.client.api import Api
from dstack.client.store import RemoteCatalog, SignedBlobs
from dstack.domain import faults
from dstack.domain.ports import SystemClock, SystemIds
from dstack.domain.resources import Capacity
from dstack.protocol import messages
from dstack.runner.attempt import Attempt
from dstack.runner.environments import EnvironmentManager
from dstack.runner.executors import cgroup
from dstack.runner.executors.process import ProcessExecutor
from dstack.runner.folders import clear_work, read_spec, sweep
from dstack.runner.inotify import SpoolWatch
from dstack.runner.kept import Limits
from dstack.runner.link import Link, LinkDown, Refused, connector
from dstack.runner.secrets import SecretSource
from dstack.runner.senders import EventSender, LogSender
from dstack.runner.settings import Settings
from dstack.runner.slots import Slots
from dstack.runner.threads import whole
from dstack.runner.workshop import Workshop
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.store import SnapshotStore

faults.declare("runner.identity:before", "runner.identity:after")
_log = logging.getLogger(__name__)
REAP_EVERY = 30.0


class _Identity(msgspec.Struct):
    """Chosen and written before the first registration: one that is cut off anywhere and made again is the same
    runner, not a second one that jobs would be placed on in vain."""

    runner_id: UUID
    deployment_id: UUID | None = None


class Agent:
    """One runner process; `run` returns when there is nothing left to do for a local runner, or it is told to end."""

    def __init__(
        self, settings: Settings, capacity: Capacity, home_is_lost: Callable[[], bool] = lambda: False
    ) -> None:
        self._settings = settings
        self._home_is_lost = home_is_lost
        self._capacity = capacity
        self._slots = settings.slots or capacity.cpu
        self._clock = SystemClock()
        self._link = Link(settings)
        self._incarnation = SystemIds().new(self._clock.now())
        self._attempts: dict[UUID, Attempt] = {}
        self._gone: set[UUID] = set()
        """Attempts that ended since the last poll was sent: its answer may name them as if they had never begun."""
        self._places = Slots(capacity, self._slots)
        self._events = EventSender(self._link.events, settings, self._places.waiting, self._obey)
        self._logs = LogSender(self._link.logs, settings)
        self._shop = self._workshop()
        self._missing: tuple[UUID, ...] = ()
        """What the server asked for last and this process does not hold."""
        self._registered: messages.RegisterReply | None = None
        self._stopping = asyncio.Event()
        self._kills: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """End soon; jobs go on and the next agent adopts them."""
        self._stopping.set()

    async def run(self) -> None:
        await self._adopt()
        tasks = [asyncio.create_task(job) for job in (self._events.run(), self._logs.run(), self._reap())]
        polling = asyncio.create_task(self._poll_for_ever())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((polling, stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        await self._goodbye()
        for task in (*tasks, polling, stopping):
            task.cancel()
        results = await asyncio.gather(*tasks, polling, return_exceptions=True)
        self._link.close()
        self._shop.cleaner.shutdown()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _workshop(self) -> Workshop:
        settings = self._settings
        # Short: what waits for the server is tried again by its attempt.
        api = Api(connector(settings), patience=settings.retry_last)
        groups, why = cgroup.detect()
        if groups is None:
            _log.info("no control groups (%s): a job's processes are found by session, descent and environment", why)
        store = SnapshotStore(SignedBlobs(api), RemoteCatalog(api))
        return Workshop(
            settings=settings,
            clock=self._clock,
            executor=ProcessExecutor(groups),
            environments=EnvironmentManager(
                settings.folder / "envs", limits=Limits(settings.environments_kept, settings.environments_size)
            ),
            slots=self._places,
            events=self._events,
            logs=self._logs,
            secrets=SecretSource(self._link.events, settings, self._events),
            watch=SpoolWatch(),
            store=store,
            materialiser=Materialiser(store),
        )

    # --- being known -------------------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Take up what an earlier agent of this home left: running, ended, or not begun."""
        if (self._settings.folder / "cache" / "inputs").exists():
            self._shop.inputs()  # what was cut off in it goes
        folder = self._settings.folder / "attempts"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            try:
                assignment, _ = read_spec(path)
            except (OSError, msgspec.MsgspecError) as error:
                _log.warning("%s holds no whole attempt (%s); it had not begun", path, error)
                await whole(sweep, path)
                continue
            attempt = Attempt(self._shop, assignment, self._forget)
            self._attempts[assignment.attempt_id] = attempt
            process = await self._shop.executor.attach(path, assignment.attempt_id)
            if process is None:
                await whole(clear_work, path)
                attempt.begin()
            else:
                attempt.resume(process)

    async def _register(self) -> None:
        known = self._identity()
        request = messages.RegisterRequest(
            runner_id=known.runner_id,
            incarnation=self._incarnation,
            name=self._settings.name or _host_name(),
            version=dstack.__version__,
            capacity=self._capacity,
            slots=self._slots,
            running=tuple(self._attempts),
        )
        reply = await self._link.polls.call("register", request, messages.RegisterReply)
        self._registered = reply
        self._remember(_Identity(reply.runner_id, reply.deployment_id))
        self._events.identity = (reply.runner_id, self._incarnation)
        self._logs.runner_id = reply.runner_id
        _log.info("registered as %s", reply.runner_id)

    async def _goodbye(self) -> None:
        reply = self._registered
        if reply is None or self._attempts:
            return
        message = messages.Goodbye(runner_id=reply.runner_id, incarnation=self._incarnation)
        try:
            await self._link.events.call("goodbye", message, messages.Commands, patience=2.0)
        except (LinkDown, Refused) as error:
            _log.info("no goodbye: %s", error)

    def _identity(self) -> _Identity:
        try:
            return msgspec.json.decode((self._settings.folder / "state.json").read_bytes(), type=_Identity)
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:
            _log.warning("who this runner is cannot be read (%s): it starts as a new one", error)
        made = _Identity(SystemIds().new(self._clock.now()))
        self._write_identity(made)
        return made

    def _remember(self, identity: _Identity) -> None:
        if identity != self._identity():
            self._write_identity(identity)

    def _write_identity(self, identity: _Identity) -> None:
        part = self._settings.folder / "state.part"
        part.write_bytes(msgspec.json.encode(identity))
        faults.rename(part, self._settings.folder / "state.json", "runner.identity")

    # --- polling -----------------------------------------------------------------------------------------------

    async def _poll_for_ever(self) -> None:
        """Returns only when a local runner has lost its server and holds nothing, or its home was removed."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        pause = self._settings.retry_first
        while True:
            if self._home_is_lost():
                _log.error("the home of this runner was removed: it ends with its jobs, whose files went with it")
                await asyncio.gather(*(attempt.kill() for attempt in [*self._attempts.values()]))
                return
            try:
                if self._registered is None:
                    await self._register()
                await self._poll()
                heard, pause = loop.time(), self._settings.retry_first
            except Refused as error:
                _log.error("the server refused this runner: %s", error)
                self._registered = None
                await asyncio.sleep(self._settings.retry_last)
            except LinkDown as error:
                _log.info("the server is not there: %s", error)
                if self._settings.local and not self._attempts and loop.time() - heard > self._settings.orphan_exit:
                    _log.info("nothing held and no server: ending")
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._settings.retry_last)

    async def _poll(self) -> None:
        assert self._registered is not None
        self._gone.clear()
        request = messages.PollRequest(
            runner_id=self._registered.runner_id,
            incarnation=self._incarnation,
            known=tuple(
                messages.KnownAttempt(
                    attempt_id=attempt_id, state=attempt.state, stop=attempt.stop, problem=attempt.problem
                )
                for attempt_id, attempt in self._attempts.items()
            ),
            missing=self._missing,
            wait=self._registered.heartbeat,
            inputs=() if self._shop.kept_inputs is None else self._shop.kept_inputs.cache.known(),
        )
        commands = await self._link.polls.call("poll", request, messages.Commands, patience=request.wait + 30.0)
        if commands.register:
            self._registered = None
            return
        self._missing = tuple(attempt_id for attempt_id in commands.ask if attempt_id not in self._attempts)
        self._obey(commands)

    def _obey(self, commands: messages.Commands) -> None:
        for assignment in commands.assign:
            if assignment.attempt_id not in self._attempts and assignment.attempt_id not in self._gone:
                attempt = Attempt(self._shop, assignment, self._forget)
                self._attempts[assignment.attempt_id] = attempt
                attempt.begin()
        for attempt_id in commands.recall:
            if attempt_id in self._attempts:
                self._attempts[attempt_id].recall()
        for stop in commands.stop:
            if stop.attempt_id in self._attempts:
                self._attempts[stop.attempt_id].ask_stop(stop.abort)
        for attempt_id in commands.kill:
            attempt = self._attempts.get(attempt_id)
            if attempt is not None:
                task = asyncio.create_task(attempt.kill())
                self._kills.add(task)
                task.add_done_callback(self._kills.discard)
        for attempt_id in commands.orphaned:
            _log.warning("the server does not know attempt %s: it goes on, and its result is kept aside", attempt_id)

    def _forget(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.assignment.attempt_id, None)
        self._gone.add(attempt.assignment.attempt_id)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_EVERY)
            self._shop.executor.reap()
            await self._shop.environments.kept.evict()
            if self._shop.kept_inputs is not None:
                await self._shop.kept_inputs.cache.tend()


def _host_name() -> str:
    return socket.gethostname()
