"""An executor without processes, for tests of the agent: the job's own lines say what it does.

print TEXT     write a line to the spool
printenv NAME  write a line with the value of a variable of its environment
wait           until the test calls `FakeProcess.go`, once for each `wait`
exit CODE      end with that code (the end of the lines is `exit 0`)
ignore-term    a later stop needs the whole grace period
oom            end as the kernel's out-of-memory killer would leave it
vanish         end without a recorded exit
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from dstack.runner.executors.interface import Exit, Launch, Process, Survivors, exit_of


class FakeProcess:
    """What `FakeExecutor.start` returns."""

    def __init__(self, attempt_id: UUID, pid: int, spool: Path, env: Mapping[str, str]) -> None:
        self.attempt_id = attempt_id
        self.env = env
        self.pid = pid
        self.exit: Exit | None = None
        self.ignores_term = False
        self._spool = spool
        self._ended = asyncio.Event()
        self._go = asyncio.Semaphore(0)

    def go(self) -> None:
        """Let one `wait` line pass."""
        self._go.release()

    async def wait(self) -> Exit:
        await self._ended.wait()
        assert self.exit is not None
        return self.exit

    def finish(self, end: Exit) -> None:
        """End the process now; only the first end counts."""
        if self.exit is None:
            self.exit = end
            self._ended.set()

    async def run(self, lines: tuple[str, ...]) -> None:
        """Do what the lines say."""
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "print":
                self._print(rest)
            elif word == "printenv":
                self._print(self.env[rest])
            elif word == "wait":
                await self._go.acquire()
            elif word == "ignore-term":
                self.ignores_term = True
            else:
                self.finish(_ENDS[word] if word in _ENDS else exit_of(int(rest)))
                return
        self.finish(Exit(0))

    def _print(self, text: str) -> None:
        with open(self._spool, "ab") as spool:
            spool.write(text.encode() + b"\n")


_ENDS = {"oom": exit_of(137, oom=True), "vanish": Exit(None)}


class FakeExecutor:
    """Satisfies the Executor protocol; `attach` finds the processes of this very object, whichever agent asks."""

    def __init__(self) -> None:
        self.processes: dict[UUID, FakeProcess] = {}
        self.swept: list[UUID] = []
        self._tasks: dict[UUID, asyncio.Task[None]] = {}

    def start(self, launch: Launch) -> FakeProcess:
        if launch.attempt_id in self.processes:
            raise FileExistsError(f"attempt {launch.attempt_id.hex} was started before")
        process = FakeProcess(launch.attempt_id, 1000 + len(self.processes), launch.folder / "spool", launch.env)
        self.processes[launch.attempt_id] = process
        lines = launch.script or (" ".join(launch.argv),)
        self._tasks[launch.attempt_id] = asyncio.get_running_loop().create_task(process.run(lines))
        return process

    async def attach(self, folder: Path, attempt_id: UUID) -> FakeProcess | None:
        return self.processes.get(attempt_id)

    async def stop(self, process: Process, grace: float) -> Survivors:
        fake = self.processes[process.attempt_id]
        if fake.exit is not None:
            return Survivors()
        self._tasks[fake.attempt_id].cancel()
        if fake.ignores_term:
            await asyncio.sleep(grace)
        fake.finish(exit_of(137 if fake.ignores_term else 143))
        return Survivors(killed=int(fake.ignores_term))

    async def sweep(self, attempt_id: UUID) -> Survivors:
        self.swept.append(attempt_id)
        return Survivors()

    def reap(self) -> None:
        pass
