from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from dstack.runner.executors.fake import FakeExecutor
from dstack.runner.executors.interface import Executor, Exit, Launch, Survivors, exit_of


def launch(folder: Path, *lines: str) -> Launch:
    return Launch(uuid.uuid4(), folder, folder, {}, script=lines)


def test_it_does_what_its_lines_say(tmp_path: Path) -> None:
    async def use(executor: Executor, fake: FakeExecutor) -> None:
        job = launch(tmp_path, "print one", "wait", "print two", "exit 3")
        process = executor.start(job)
        await asyncio.sleep(0)
        assert (tmp_path / "spool").read_bytes() == b"one\n"
        assert process.exit is None
        fake.processes[job.attempt_id].go()
        assert await process.wait() == Exit(3)
        assert (tmp_path / "spool").read_bytes() == b"one\ntwo\n"
        assert await executor.attach(tmp_path, job.attempt_id) is process
        await executor.sweep(job.attempt_id)
        assert fake.swept == [job.attempt_id]
        with pytest.raises(FileExistsError):
            executor.start(job)
        assert await executor.start(launch(tmp_path, "vanish")).wait() == Exit(None)
        assert (await executor.start(launch(tmp_path, "oom")).wait()).oom
        waiting = executor.start(launch(tmp_path, "ignore-term", "wait"))
        await asyncio.sleep(0)
        assert await executor.stop(waiting, 0) == Survivors(killed=1)
        assert waiting.exit == exit_of(137)

    fake = FakeExecutor()
    asyncio.run(use(fake, fake))
