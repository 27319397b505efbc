"""Attempts of an agent without its server, its environments and its processes: each of these does what a test wants."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from dstack.domain.resources import Capacity
from dstack.protocol import messages
from dstack.runner.attempt import Attempt
from dstack.runner.executors.fake import FakeExecutor
from dstack.runner.executors.interface import Process, Survivors
from dstack.runner.settings import Settings
from dstack.runner.slots import Slots
from dstack.runner.workshop import Workshop
from dstack.sdk.provider import JobSpec
from tests.support.ports import FakeClock

ENDS = (messages.Recalled, messages.SetupFailed, messages.Saved, messages.SaveRefused)


class Server:
    """Takes every event, and answers while it is `answering`."""

    def __init__(self) -> None:
        self.events: list[messages.AttemptEvent] = []
        self.answering = True
        self.save_again_times = 0
        """How often it still says that what was saved is not in the store."""

    def send(self, event: messages.AttemptEvent, **_: object) -> asyncio.Future[messages.EventAnswer]:
        future: asyncio.Future[messages.EventAnswer] = asyncio.get_running_loop().create_future()
        self.events.append(event)
        if isinstance(event, messages.Saved) and self.save_again_times:
            self.save_again_times -= 1
            future.set_result(messages.EventAnswer(outcome="rejected", save_again=True))
        elif self.answering:
            future.set_result(messages.EventAnswer(outcome="applied"))
        return future

    def ends(self) -> list[type]:
        return [type(event) for event in self.events if isinstance(event, ENDS)]


class Logs:
    def __init__(self) -> None:
        self.log = b""

    async def send(self, chunk: messages.LogChunk) -> int:
        self.log += chunk.data
        return chunk.offset + len(chunk.data)


class Watch:
    async def grown(self, path: Path, size: int) -> int:
        return await asyncio.Event().wait()

    def forget(self, path: Path) -> None:
        pass


class Environments:
    """Sets up for ever. `kept` of the real ones is itself."""

    broken = False

    def __init__(self) -> None:
        self.held: dict[uuid.UUID, str] = {}
        self.released: list[uuid.UUID] = []
        self.kept = self

    async def prepare(self, *_: object) -> None:
        await asyncio.Event().wait()

    def hold(self, attempt_id: uuid.UUID, key: str) -> None:
        self.held[attempt_id] = key

    def packages(self, attempt_id: uuid.UUID) -> tuple[str, ...] | None:
        return ("alpha==1.0",) if attempt_id in self.held else None

    async def release(self, attempt_id: uuid.UUID) -> None:
        self.released.append(attempt_id)
        if self.broken:
            raise OSError("its lock is gone")


class SlowStops(FakeExecutor):
    """A stop goes on for as long as the test wants, also after the process has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    async def stop(self, process: Process, grace: float) -> Survivors:
        self.stops += 1
        found = await super().stop(process, grace)
        if grace:
            await asyncio.Event().wait()
        return found


class Bench:
    """One agent's workshop with one slot, and attempts in it. `gone` are those that the agent has forgotten."""

    def __init__(self, folder: Path) -> None:
        self.server, self.executor, self.environments = Server(), SlowStops(), Environments()
        self.logs = Logs()
        settings = Settings(home=folder)
        settings.folder.mkdir()
        (settings.folder / "attempts").mkdir()
        self.slots = Slots(Capacity(1, 1 << 30, ()), 1)
        self.gone: list[Attempt] = []
        materialiser = SimpleNamespace(is_quick=lambda _: True, unpack=lambda *_: None)
        self.workshop = Workshop(
            settings=settings, clock=FakeClock(), executor=self.executor,
            environments=cast(Any, self.environments), slots=self.slots, events=cast(Any, self.server),
            logs=cast(Any, self.logs), secrets=cast(Any, None), watch=cast(Any, Watch()), store=cast(Any, None),
            materialiser=cast(Any, materialiser),
        )  # fmt: skip

    def attempt(self, *commands: str, argv: tuple[str, ...] = (), code: bytes | None = None) -> Attempt:
        spec = JobSpec(name="train", argv=argv, commands=() if argv else commands or ("exit 0",))
        assignment = messages.Assignment(
            attempt_id=uuid.uuid4(), number=1, job_id=uuid.uuid4(), run_name="calm-crab-1", workflow="train",
            job_name="train", project="main", spec=spec, code=code,
        )  # fmt: skip
        return Attempt(self.workshop, assignment, self.gone.append)

    async def over(self, attempt: Attempt) -> None:
        await until(lambda: attempt in self.gone)


async def until(true: Callable[[], bool]) -> None:
    """Wait for what other tasks of the event loop bring about."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 -- what is waited for has no event of its own
            await asyncio.sleep(0)
