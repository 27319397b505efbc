"""Runs a job as a plain process of this machine: no container, the user's own rights.

The command runs under a tiny shell wrapper (`wrapper.py`) in a session of its own, output straight into
`folder/spool`; nothing of it depends on this process, which may be killed and started again. What the job started is
found by its control group where one is to be had, else by session, descent and environment (`tree.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import shutil
import signal
from pathlib import Path
from uuid import UUID

from dstack.domain import faults
from dstack.runner.executors import cgroup, tree, watch, wrapper
from dstack.runner.executors.interface import MARKER, Exit, Launch, Process, StartError, Survivors
from dstack.runner.executors.kill import Killer, Target

faults.declare("runner.spawn:before", "runner.spawn:after")
_PR_SET_CHILD_SUBREAPER = 36
_SCRIPT_ARGUMENT_LIMIT = 100_000
"""A longer script goes through a file: Linux takes at most 128 KiB in one argument."""
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class JobProcess:
    """One attempt as this executor knows it; made by `ProcessExecutor` only."""

    def __init__(self, target: Target, folder: Path, oom_before: int) -> None:
        self.target = target
        self.attempt_id = target.attempt_id
        self.folder = folder
        self.pid = target.pid
        self.exit: Exit | None = None
        self.stopping = False
        """Set by `stop`: a SIGKILL is then ours and not the kernel's."""
        self._oom_before = oom_before
        self._ended = asyncio.Event()

    async def wait(self) -> Exit:
        """Wait for the command's end; may be awaited many times."""
        await self._ended.wait()
        assert self.exit is not None
        return self.exit

    def finish(self) -> None:
        """Read the recorded end; called once the wrapper is over."""
        recorded = wrapper.read_exit(self.folder)
        end = Exit(None) if recorded is None else recorded
        if end.code != 0 and self._out_of_memory(end):
            end = Exit(end.code, end.signal, True, end.detail)
        self.exit = end
        self._ended.set()

    def _out_of_memory(self, end: Exit) -> bool:
        counted = self.target.group.oom_kills() if self.target.group else None
        if counted is not None:
            return counted > 0
        killed = end.signal == signal.SIGKILL and not self.stopping
        return killed and self._oom_before >= 0 and oom_kills_of_system() > self._oom_before


class ProcessExecutor:
    """Starts jobs as processes; one per agent, used from its asyncio loop.

    Makes this process a child subreaper, so that whatever a job leaves behind becomes a child of ours. From then on
    any child in a foreign session is taken for a job's: the agent must not start other children with `setsid`.
    `groups` None: no control groups, whatever the machine offers.
    """

    def __init__(self, groups: cgroup.Groups | None = None) -> None:
        become_subreaper()
        self._groups = groups
        self._boot_id = boot_id()
        self._bash = shutil.which("bash")
        self._processes: dict[UUID, JobProcess] = {}
        self._killer = Killer()

    def start(self, launch: Launch) -> JobProcess:
        """Start a job; one that cannot be started for its own fault comes back ended, with the reason in words.

        Raises StartError where the machine is at fault, FileExistsError when the attempt was started before.
        """
        try:
            wrapper.prepare(launch.folder)
            command = self._command(launch)
            if isinstance(command, Exit):
                return self._refused(launch, command)
            return self._spawn(launch, command)
        except ValueError as error:  # NUL in an argument, a name or a value
            return self._refused(
                launch, Exit(126, detail=f"the command or its environment cannot be passed on: {error}")
            )
        except FileExistsError:
            raise
        except OSError as error:
            (launch.folder / "exit").unlink(missing_ok=True)
            raise StartError(_explain(error, launch)) from error

    async def attach(self, folder: Path, attempt_id: UUID) -> JobProcess | None:
        """Find what an earlier agent started in `folder`: running, or ended with or without a record.

        None when nothing ever ran there; the attempt may then be started.
        """
        if not wrapper.was_launched(folder):
            return None
        record = wrapper.read_proc(folder)
        if record is None and wrapper.read_exit(folder) is None:
            record = await self._proc_of_starting(folder, attempt_id)
            if record is None:
                (folder / "exit").unlink(missing_ok=True)
                return None
        process = self._adopted(folder, attempt_id, record)
        self._processes[attempt_id] = process
        alive = record is not None and record.boot_id == self._boot_id and process.target.carries_marker()
        if not alive or not watch.on_end(process.pid, process.target.start, lambda: self._ended(process)):
            # The number may be anybody's by now: what is left of the job is found by its marker and group alone.
            process.target.watched, process.target.pid, process.target.start = False, 0, 0
            process.finish()
        else:
            self._killer.add(process.target)
        return process

    async def stop(self, process: Process, grace: float) -> Survivors:
        """SIGTERM to everything the job started, up to `grace` seconds for it, then SIGKILL until nothing is left."""
        known = self._processes.get(process.attempt_id)
        if known is None:
            return await self.sweep(process.attempt_id)
        known.stopping = True
        result = await self._killer.stop(known.target, grace)
        if not result.left:
            await known.wait()
        return result

    async def sweep(self, attempt_id: UUID) -> Survivors:
        """Kill what an ended job left behind, and forget the job. Costs two small reads when nothing was."""
        process = self._processes.pop(attempt_id, None)
        if process is None:
            return await self._killer.kill(Target(attempt_id, group=self._group_of(attempt_id)))
        target = process.target
        result = Survivors() if self._left_nothing(target) else await self._killer.kill(target)
        if target.group is not None:
            target.group.remove()
        self._killer.forget(target)
        return result

    def reap(self) -> None:
        """Collect exit statuses of orphans that became our children."""
        self._killer.reap()

    def _left_nothing(self, target: Target) -> bool:
        if not (tree.LINUX and target.child):  # elsewhere, or after a restart, orphans are not our children
            return False
        return not (target.group and target.group.populated()) and not self._killer.strangers(target)

    def _command(self, launch: Launch) -> list[str] | Exit:
        """The program and its arguments, or why it cannot run (126, 127 as a shell has it)."""
        if not os.path.isdir(launch.cwd):
            return Exit(126, detail=f"the working directory {launch.cwd} does not exist")
        if not os.access(launch.cwd, os.X_OK):
            return Exit(126, detail=f"the working directory {launch.cwd} cannot be entered: permission denied")
        if launch.argv:
            return _resolve(launch)
        shell = [self._bash, "-e", "-o", "pipefail"] if self._bash else ["/bin/sh", "-e"]
        text = "\n".join(launch.script)
        if len(text) <= _SCRIPT_ARGUMENT_LIMIT:
            return [*shell, "-c", text]
        path = launch.folder / "script"
        path.write_text(text + "\n", encoding="utf-8")
        return [*shell, str(path)]

    def _refused(self, launch: Launch, end: Exit) -> JobProcess:
        wrapper.write_exit(launch.folder, end.code or 0, end.detail)
        with open(launch.folder / "spool", "ab", opener=_private) as spool:
            spool.write(f"dstack: {end.detail}\n".encode())
        process = JobProcess(Target(launch.attempt_id, child=True), launch.folder, -1)
        process.finish()
        self._processes[launch.attempt_id] = process
        return process

    def _spawn(self, launch: Launch, command: list[str]) -> JobProcess:
        name = launch.attempt_id.hex
        group = self._groups.create(name, memory=launch.memory_events) if self._groups else None
        oom_before = oom_kills_of_system()
        environment = {**launch.env, MARKER: name}
        plain = all(key.isascii() and key.isidentifier() for key in environment)
        shell = "/bin/sh" if plain or not self._bash else self._bash  # dash drops variables it could not name itself
        faults.point("runner.spawn:before")
        pid = os.posix_spawn(
            shell,
            [
                shell, "-c", wrapper.SCRIPT, "dstack",
                str(launch.folder), f"{self._boot_id} {oom_before}", str(launch.cwd),
                group.path if group else "", group.memory if group else "",
                *command,
            ],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(launch.folder / "spool"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,  # Python ignores SIGPIPE, and ignored signals are inherited
        )  # fmt: skip
        faults.point("runner.spawn:after")
        target = Target(launch.attempt_id, pid, group=group, child=True, watched=True)
        process = JobProcess(target, launch.folder, oom_before)
        self._processes[launch.attempt_id] = process
        self._killer.add(target)
        if not watch.on_end(pid, None, lambda: self._ended(process)):
            asyncio.get_running_loop().call_soon(self._ended, process)
        return process

    def _ended(self, process: JobProcess) -> None:
        with contextlib.suppress(ChildProcessError):  # one that we found again is only our child after an exec of ours
            os.waitpid(process.pid, 0)
        self._killer.ended(process.target)
        process.finish()

    def _adopted(self, folder: Path, attempt_id: UUID, record: wrapper.ProcRecord | None) -> JobProcess:
        same_boot = record is not None and record.boot_id == self._boot_id
        if record is None or not same_boot:
            return JobProcess(Target(attempt_id), folder, -1)
        group = self._group_of(attempt_id) if record.in_cgroup else None
        target = Target(attempt_id, record.pid, record.start, group=group, watched=True)
        return JobProcess(target, folder, record.oom_kills)

    async def _proc_of_starting(self, folder: Path, attempt_id: UUID) -> wrapper.ProcRecord | None:
        """The record of a wrapper that had only just been started when the last agent died."""
        for _ in range(200):
            record = wrapper.read_proc(folder)
            if record is not None or not await self._killer.exists(Target(attempt_id)):
                return record or wrapper.read_proc(folder)
            await asyncio.sleep(0.01)
        return None

    def _group_of(self, attempt_id: UUID) -> cgroup.JobGroup | None:
        group = self._groups.of(attempt_id.hex) if self._groups else None
        return group if group and os.path.isdir(group.path) else None


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process (Linux)."""
    if tree.LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def boot_id() -> str:
    """What changes with every boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        import psutil

        return f"{psutil.boot_time():.0f}"


def oom_kills_of_system() -> int:
    """How many processes the kernel has killed for memory since boot; -1 where it does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            _, found, rest = file.read().partition(b"\noom_kill ")
    except FileNotFoundError:
        return -1
    return int(rest.split(b"\n", 1)[0]) if found else -1


def _resolve(launch: Launch) -> list[str] | Exit:
    name = launch.argv[0]
    search = launch.env.get("PATH", os.defpath)
    places = [str(launch.cwd)] if "/" in name else search.split(os.pathsep)
    present = ""
    for place in places:
        path = os.path.join(launch.cwd, place, name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return [path, *launch.argv[1:]]
            present = present or path
    if present:
        return Exit(126, detail=f"{present} is not executable; run `chmod +x` on it or name its interpreter")
    where = f"in {launch.cwd}" if "/" in name else f"on PATH ({search})"
    return Exit(127, detail=f"the program {name!r} was not found {where}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _explain(error: OSError, launch: Launch) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full on {launch.folder}: the job was not started; free some space there and run it again"
    if error.errno == errno.E2BIG:
        size = sum(len(key) + len(value) + 2 for key, value in launch.env.items())
        return f"the job's environment ({size} bytes) and arguments are longer than this system allows in all"
    return f"the job could not be started: {error.strerror} ({error.filename or launch.folder})"
