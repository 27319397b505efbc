"""The agent dies, the job does not; the next agent finds it, whatever became of it (F3, F4)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from dstack.runner.executors import cgroup, wrapper
from dstack.runner.executors.interface import Exit
from dstack.runner.executors.process import ProcessExecutor
from tests.support.jobs import make_launch, processes_of, until, until_spool

AGENT = """
import asyncio, os, sys, uuid
from pathlib import Path
from dstack.runner.executors import cgroup
from dstack.runner.executors.interface import Launch
from dstack.runner.executors.process import ProcessExecutor

async def main():
    folder, script, grouped = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
    executor = ProcessExecutor(cgroup.detect()[0] if grouped else None)
    environment = {"PATH": os.environ["PATH"]}
    executor.start(Launch(uuid.UUID(folder.name), folder, folder, environment, script=(script,)))
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Agent:
    """A small agent in a process of its own, with one job."""

    def __init__(self, folder: Path, script: str, groups: cgroup.Groups | None) -> None:
        arguments = (str(folder), script, "1" if groups else "0")
        self._process = subprocess.Popen([sys.executable, "-c", AGENT, *arguments], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def wait_for(path: Path, text: bytes) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and text in path.read_bytes()):
        assert time.monotonic() < deadline, f"{text!r} did not come up in {path}"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / uuid.uuid4().hex
    path.mkdir()
    return path


def test_a_job_outlives_its_agent_and_is_found_again(folder: Path, groups: cgroup.Groups | None) -> None:
    script = f"echo one; while [ ! -e {folder}/go ]; do sleep 0.01; done; (setsid sleep 1000 &); echo two; exit 5"
    agent = Agent(folder, script, groups)
    wait_for(folder / "spool", b"one")
    agent.kill()

    async def next_agent() -> None:
        executor = ProcessExecutor(groups)
        attempt = uuid.UUID(folder.name)
        process = await executor.attach(folder, attempt)
        assert process is not None
        assert process.exit is None
        (folder / "go").touch()
        assert await process.wait() == Exit(5)
        assert (folder / "spool").read_bytes() == b"one\ntwo\n"
        assert (await executor.sweep(attempt)).killed == 1
        assert processes_of(attempt) == []

    asyncio.run(next_agent())


def test_an_end_between_two_agents_is_read_from_its_record(folder: Path, groups: cgroup.Groups | None) -> None:
    agent = Agent(folder, f"while [ ! -e {folder}/go ]; do sleep 0.01; done; echo end; exit 9", groups)
    wait_for(folder / "proc", b"(sh)")
    agent.kill()
    (folder / "go").touch()
    wait_for(folder / "exit", b"exit 9")

    async def next_agent() -> None:
        executor = ProcessExecutor(groups)
        process = await executor.attach(folder, uuid.UUID(folder.name))
        assert process is not None
        assert await process.wait() == Exit(9)
        assert (folder / "spool").read_bytes() == b"end\n"
        assert (await executor.sweep(process.attempt_id)).left == ()

    asyncio.run(next_agent())


def test_the_next_agent_can_stop_it(folder: Path, groups: cgroup.Groups | None) -> None:
    agent = Agent(folder, "trap '' TERM; (setsid sleep 1000 &); echo up; while :; do sleep 0.1; done", groups)
    wait_for(folder / "spool", b"up")
    agent.kill()

    async def next_agent() -> None:
        executor = ProcessExecutor(groups)
        process = await executor.attach(folder, uuid.UUID(folder.name))
        assert process is not None
        result = await executor.stop(process, 0.3)
        assert result.left == ()
        assert process.exit == Exit(137, signal.SIGKILL)
        assert processes_of(process.attempt_id) == []
        await executor.sweep(process.attempt_id)

    asyncio.run(next_agent())


def test_a_killed_wrapper_is_an_unknown_exit_and_its_job_is_ended(tmp_path: Path, groups: cgroup.Groups | None) -> None:
    async def main() -> None:
        executor = ProcessExecutor(groups)
        launch = make_launch(tmp_path, "echo up", "sleep 1000")
        process = executor.start(launch)
        await until_spool(launch)
        os.kill(process.pid, signal.SIGKILL)
        assert await process.wait() == Exit(None)
        assert (await executor.sweep(launch.attempt_id)).killed >= 1
        assert processes_of(launch.attempt_id) == []

    asyncio.run(main())


def test_a_recycled_pid_is_not_taken_for_the_job(tmp_path: Path) -> None:
    async def main() -> None:
        executor = ProcessExecutor(None)
        launch = make_launch(tmp_path, "sleep 1000")
        process = executor.start(launch)
        await until(lambda: wrapper.read_proc(launch.folder) is not None)
        record = (launch.folder / "proc").read_text()
        # The same number in another job's folder: another start time, or another boot, or another marker.
        for change in (
            lambda text: text,
            lambda text: text.replace(record.split(" ")[0], "another-boot"),
            lambda text: text.replace(f" {process.target.start or _start(launch.folder)} ", " 17 "),
        ):
            other = make_launch(tmp_path, "true")
            wrapper.prepare(other.folder)
            (other.folder / "proc").write_text(change(record))
            found = await executor.attach(other.folder, other.attempt_id)
            assert found is not None
            assert found.exit == Exit(None)
            await executor.stop(found, 0.1)
            await executor.sweep(other.attempt_id)
            assert process.exit is None
        await executor.stop(process, 5)
        await executor.sweep(launch.attempt_id)

    asyncio.run(main())


def test_an_attempt_that_never_ran_may_be_started(tmp_path: Path) -> None:
    async def main() -> None:
        executor = ProcessExecutor(None)
        launch = make_launch(tmp_path, "echo once")
        assert await executor.attach(launch.folder, launch.attempt_id) is None
        wrapper.prepare(launch.folder)  # an agent that was killed just before it could start the wrapper
        assert await executor.attach(launch.folder, launch.attempt_id) is None
        assert await executor.start(launch).wait() == Exit(0)
        await executor.sweep(launch.attempt_id)

    asyncio.run(main())


def test_words_of_a_refusal_outlive_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        launch = make_launch(tmp_path, argv=("nosuchprogram",))
        first = ProcessExecutor(None).start(launch)
        again = await ProcessExecutor(None).attach(launch.folder, launch.attempt_id)
        assert again is not None
        assert again.exit == first.exit
        assert again.exit is not None
        assert "not found" in again.exit.sentence()

    asyncio.run(main())


def _start(folder: Path) -> int:
    record = wrapper.read_proc(folder)
    assert record is not None
    return record.start
