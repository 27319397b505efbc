"""Stopping leaves nothing behind: daemons, other sessions, deaf processes, crowds (F21)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dstack.runner.executors import cgroup, tree
from dstack.runner.executors.interface import Exit, Launch, Survivors
from dstack.runner.executors.process import JobProcess, ProcessExecutor
from tests.support.jobs import make_launch, processes_of, spool, until, until_spool

NAP = f"0.05{os.getpid()}"
"""Seconds, and a name by which a process without any environment is recognised."""


def in_loop(
    launch: Launch, groups: cgroup.Groups | None, act: Callable[[ProcessExecutor, JobProcess], Awaitable[None]]
) -> None:
    async def main() -> None:
        executor = ProcessExecutor(groups)
        await act(executor, executor.start(launch))
        await executor.sweep(launch.attempt_id)
        assert processes_of(launch.attempt_id) == []

    asyncio.run(main())


def test_a_job_that_listens_gets_its_grace(tmp_path: Path, groups: cgroup.Groups | None) -> None:
    launch = make_launch(tmp_path, "trap 'sleep 0.2; echo saved; exit 7' TERM", "echo up; while :; do sleep 0.01; done")

    async def act(executor: ProcessExecutor, process: JobProcess) -> None:
        await until_spool(launch)
        begin = time.monotonic()
        assert await executor.stop(process, 20) == Survivors()
        assert time.monotonic() - begin < 5
        assert process.exit == Exit(7)
        assert spool(launch).endswith(b"saved\n")

    in_loop(launch, groups, act)


def test_a_stop_at_the_very_start_lets_nothing_run_on(tmp_path: Path, groups: cgroup.Groups | None) -> None:
    launch = make_launch(tmp_path, "sleep 1000")

    async def act(executor: ProcessExecutor, process: JobProcess) -> None:
        await executor.stop(process, 20)
        assert process.exit == Exit(143, signal.SIGTERM)

    in_loop(launch, groups, act)


TOLD = """
import signal, subprocess, sys, time
told = 0
def handle(*_):
    global told
    told += 1
deaf = [subprocess.Popen(["sh", "-c", f"trap '' TERM; while [ ! -e go ]; do sleep 0.01; done; sleep {pause}"])
        for pause in (0.1, 0.2, 0.3)]
signal.signal(signal.SIGTERM, handle)
print("up", flush=True)
while not told:
    time.sleep(0.01)
open("go", "w").close()
for process in deaf:
    process.wait()
clean_up = subprocess.run(["sh", "-c", "sleep 0.3 && echo saved"])
print("told", told, flush=True)
"""


def test_a_job_is_told_once_and_its_clean_up_is_left_in_peace(tmp_path: Path, groups: cgroup.Groups | None) -> None:
    launch = make_launch(tmp_path, argv=("python3", "-c", TOLD))

    async def act(executor: ProcessExecutor, process: JobProcess) -> None:
        await until_spool(launch)
        assert await executor.stop(process, 60) == Survivors()
        assert spool(launch).endswith(b"saved\ntold 1\n")
        assert process.exit == Exit(0)

    in_loop(launch, groups, act)


PYTHON_DAEMON = """python3 - <<'END'
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        while True:
            if os.fork() == 0:
                time.sleep(0.05)
                os._exit(0)
            time.sleep(0.02)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
    os._exit(0)
END
"""


@pytest.mark.parametrize(
    "script",
    [
        ("trap '' TERM", "echo up", "while :; do sleep 0.1; done"),
        (
            "(trap '' TERM; setsid sleep 1000 & )",
            "(trap '' TERM; exec setsid setsid sleep 1000) &",
            "echo up",
            "sleep 1000",
        ),
        (PYTHON_DAEMON, "echo up", "sleep 1000"),
        (f"(env -i setsid sh -c 'trap \"\" TERM; while :; do /bin/sleep {NAP}; done' &)", "echo up", "sleep 1000"),
        ("sleep 1000 & kill -STOP $!", "echo up", "kill -STOP $$"),
    ],
    ids=["deaf", "other sessions", "forking daemon", "no environment", "held"],
)
def test_nothing_survives(tmp_path: Path, groups: cgroup.Groups | None, script: tuple[str, ...]) -> None:
    launch = make_launch(tmp_path, *script)

    async def act(executor: ProcessExecutor, process: JobProcess) -> None:
        await until_spool(launch)
        others = set(tree.snapshot())
        begin = time.monotonic()
        result = await executor.stop(process, 0.3)
        assert result.left == ()
        assert time.monotonic() - begin < 0.3 + 5
        assert process.exit is not None
        await executor.sweep(launch.attempt_id)
        gone = others - set(tree.snapshot())
        assert process.pid in gone

    in_loop(launch, groups, act)
    assert not [pid for pid in tree.snapshot() if NAP.encode() in tree.command(pid)]


def test_a_crowd_of_thousands_is_gone_in_time(tmp_path: Path, groups: cgroup.Groups | None) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in range(2000):
    if os.fork() == 0:
        if number % 3 == 0:
            os.setsid()
        signal.pause()
        os._exit(0)
print("up", flush=True)
signal.pause()
while True: signal.pause()
"""
    launch = make_launch(tmp_path, argv=("python3", "-c", code))

    async def act(executor: ProcessExecutor, process: JobProcess) -> None:
        await until_spool(launch)
        begin = time.monotonic()
        result = await executor.stop(process, 0.5)
        assert time.monotonic() - begin < 0.5 + 5
        assert result.left == ()
        assert result.killed >= 2001

    in_loop(launch, groups, act)


def test_leftovers_are_swept_and_nobody_else_is_touched(tmp_path: Path, groups: cgroup.Groups | None) -> None:
    async def main() -> None:
        executor = ProcessExecutor(groups)
        other = make_launch(tmp_path, "setsid sleep 1000 & env -i setsid /bin/sleep 1000 & echo up", "wait")
        bystander = executor.start(other)
        await until_spool(other)
        launch = make_launch(tmp_path, "(setsid sleep 1000 &)", "sleep 1000 &", "disown")
        assert await executor.start(launch).wait() == Exit(0)
        await until(lambda: len(processes_of(launch.attempt_id)) == 2)
        assert (await executor.sweep(launch.attempt_id)).killed == 2
        assert processes_of(launch.attempt_id) == []
        assert bystander.exit is None
        await until(lambda: len(processes_of(other.attempt_id)) >= 3)
        await executor.stop(bystander, 0.5)
        await executor.sweep(other.attempt_id)
        assert processes_of(other.attempt_id) == []

    asyncio.run(main())


def test_an_orphan_without_a_name_lives_until_the_last_job_that_may_own_it(tmp_path: Path) -> None:
    async def main() -> None:
        executor = ProcessExecutor(None)
        wait_for_up = "while [ ! -e up ]; do sleep 0.01; done"
        first = make_launch(tmp_path, f"(env -i setsid /bin/sh -c '>up; exec /bin/sleep 9{NAP}' &)", wait_for_up)
        second = make_launch(tmp_path, "sleep 1000")
        long = executor.start(second)
        await executor.start(first).wait()
        await executor.sweep(first.attempt_id)
        assert len([pid for pid in tree.snapshot() if NAP.encode() in tree.command(pid)]) == 1
        await executor.stop(long, 5)
        assert (await executor.sweep(second.attempt_id)).left == ()
        assert not [pid for pid in tree.snapshot() if NAP.encode() in tree.command(pid)]

    asyncio.run(main())


def test_jobs_of_an_agent_within_a_job_are_the_jobs(tmp_path: Path) -> None:
    async def main() -> None:
        executor = ProcessExecutor(None)
        inner = f"(DSTACK_ATTEMPT_ID={'f' * 32} setsid sleep 1000 &)"
        launch = make_launch(tmp_path, inner, "echo up", "sleep 1000")
        process = executor.start(launch)
        await until_spool(launch)
        await until(lambda: len(processes_of(uuid.UUID("f" * 32))) == 1)
        other = make_launch(tmp_path, "true")
        await executor.start(other).wait()
        await executor.sweep(other.attempt_id)
        assert len(processes_of(uuid.UUID("f" * 32))) == 1, "its job still runs"
        await executor.stop(process, 5)
        await executor.sweep(launch.attempt_id)
        assert processes_of(uuid.UUID("f" * 32)) == []

    asyncio.run(main())


def test_orphans_that_end_by_themselves_are_reaped(tmp_path: Path) -> None:
    async def main() -> None:
        executor = ProcessExecutor(None)
        before = _zombies()
        launch = make_launch(tmp_path, "for i in 1 2 3 4 5; do (setsid sleep 0.5 &); done", "echo up", "sleep 1000")
        process = executor.start(launch)
        await until_spool(launch)
        await until(lambda: len(_zombies() - before) == 5)
        executor.reap()
        assert _zombies() <= before
        await executor.stop(process, 5)
        await executor.sweep(launch.attempt_id)
        assert _zombies() <= before

    asyncio.run(main())


def _zombies() -> set[int]:
    return {pid for pid, entry in tree.snapshot().items() if entry.zombie and entry.parent == os.getpid()}
