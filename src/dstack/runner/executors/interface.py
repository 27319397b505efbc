"""What an executor is: it starts one attempt's command, tells how it ended, and leaves nothing of it behind."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID

MARKER = "DSTACK_ATTEMPT_ID"
"""Environment variable (hex of the attempt id) by which a job's processes are found again."""


class StartError(Exception):
    """The machine, not the job, is why nothing was started (disk full, no process left). The text is for people."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start. Exactly one of `argv` (that program, no shell) and `script` (lines of one bash script) is given.

    `folder` is the attempt's own and exists; the executor writes `spool`, `proc`, `exit` and `script` in it.
    `env` is the job's whole environment; the executor adds only `MARKER`.
    """

    attempt_id: UUID
    folder: Path
    cwd: Path
    env: Mapping[str, str] = field(repr=False)
    argv: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    memory_events: bool = False
    """Count OOM kills of this very job where that costs extra (hybrid control groups: 0.2 ms)."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended. `code` None: the process is gone and nobody recorded how (`unknown-exit`).

    `signal` is set where `code` is 128+n: the two cannot be told apart. `oom`: the kernel killed it for memory.
    `detail` says in words what dstack itself knows, such as that the program does not exist.
    """

    code: int | None
    signal: int | None = None
    oom: bool = False
    detail: str = ""

    def sentence(self) -> str:
        """The end in words: `exit code 3`, `signal 9 SIGKILL (or exit code 137), out of memory`."""
        if self.detail:
            return self.detail
        if self.code is None:
            return "the process is gone and its exit code was not recorded"
        if self.signal is None:
            return f"exit code {self.code}"
        text = f"signal {self.signal} {signal_name(self.signal)} (or exit code {self.code})"
        return f"{text}, out of memory" if self.oom else text


def exit_of(code: int | None, *, oom: bool = False, detail: str = "") -> Exit:
    """The Exit for a shell's status: 128+n is told as signal n too, where n is a signal of this system."""
    number = code - 128 if code is not None and code > 128 else 0
    return Exit(code, number if number in _SIGNALS else None, oom, detail)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; the number as text for one without a name (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


_SIGNALS = frozenset(int(number) for number in signal.valid_signals())


class Process(Protocol):
    """One started attempt."""

    @property
    def attempt_id(self) -> UUID: ...

    @property
    def pid(self) -> int:
        """Process id of the wrapper, 0 when nothing was started."""
        ...

    @property
    def exit(self) -> Exit | None:
        """None while it runs."""
        ...

    async def wait(self) -> Exit:
        """Wait for the command's end (not for processes it left behind); may be awaited many times."""
        ...


class Executor(Protocol):
    """Calls come from one asyncio loop. After `start` or `attach`, `sweep` is due once the process has ended."""

    def start(self, launch: Launch) -> Process:
        """Start; a program or folder that does not exist gives an already ended process. Raises StartError."""
        ...

    async def attach(self, folder: Path, attempt_id: UUID) -> Process | None:
        """Find what an earlier agent started in `folder`, running or ended; None when nothing ever ran there."""
        ...

    async def stop(self, process: Process, grace: float) -> Survivors:
        """SIGTERM to everything the job started, up to `grace` seconds, then SIGKILL until nothing is left."""
        ...

    async def sweep(self, attempt_id: UUID) -> Survivors:
        """Kill what an ended job left behind."""
        ...

    def reap(self) -> None:
        """Collect exit statuses of orphans this agent has adopted; call it now and then while jobs run."""
        ...


@dataclass(frozen=True, slots=True)
class Survivors:
    """What a stop or sweep did: `killed` by SIGKILL, and `left`: pids that would not die (state D, another user)."""

    killed: int = 0
    left: tuple[int, ...] = field(default=())
