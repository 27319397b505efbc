"""Following a run: every byte once and in order, from wherever the reader was cut."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from dstack.server.services import following, views
from tests.integration.server.test_runs import independent
from tests.support.following import Reader
from tests.support.runner import FakeRunner
from tests.support.world import World, counted

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true']}\n"
TWO = ONE + "  - {name: other, provider: bash, commands: ['true'], depends-on: [job]}\n"
BINARY = bytes(range(256)) * 3 + b"\r50%\r100%\r\n\x1b[31mred\x1b[0m" + "ü💥".encode() + b"\xff\xfe no line end"


def begun(world: World, text: str = ONE, workflow: str = "job") -> tuple[FakeRunner, str]:
    runner = world.runner(slots=4)
    name = world.submit(text, workflow)
    world.place()
    runner.take()
    return runner, name


def finished(world: World, *logs: bytes) -> str:
    """A done run whose job had `logs`, one per attempt."""
    runner = world.runner(slots=4)
    name = world.submit(ONE, "job")
    for number, data in enumerate(logs):
        world.place()
        runner.poll()
        runner.log("job", data)
        if number < len(logs) - 1:
            runner.register(restarted=True, running=[])  # not begun: it goes back, and its log stays
    runner.run("job")
    runner.goodbye()
    return name


def test_from_the_first_line_to_the_end_while_it_runs(world: World) -> None:
    async def scene() -> None:
        runner = world.runner()
        name = world.submit(TWO, "other")
        reader = Reader(world, name)
        await reader.open()
        await reader.until(lambda: reader.statuses("other") == ["waiting"])
        world.place()
        runner.take()
        await reader.until(lambda: "running" in reader.statuses("job"))
        for line in (b"one\n", b"two\n", b"three"):
            runner.log("job", line)
            await reader.until(lambda line=line: reader.logs.get("job", b"").endswith(line))
        runner.finish("job")
        await reader.until(lambda: reader.statuses("other")[-1] == "queued")
        world.place()
        runner.take()
        runner.log("other", b"last words")
        runner.finish("other", 3)
        await reader.to_end()
        assert reader.logs == {"job": b"one\ntwo\nthree", "other": b"last words"}
        assert reader.statuses("job") == ["queued", "running", "done"]
        assert reader.statuses("other")[-1] == "failed"
        assert [head["status"] for head in reader.of("run")] == ["queued", "running", "failed"]
        end = reader.heads[-1]["run"]
        assert (end["status"], end["exit_code"]) == ("failed", 3)

    asyncio.run(scene())


@pytest.mark.parametrize("follow", [False, True])
def test_opened_late_it_begins_at_the_first_line(world: World, follow: bool) -> None:
    async def scene() -> None:
        reader = Reader(world, finished(world, BINARY))
        await reader.open(follow=follow)
        await reader.to_end()
        assert reader.logs == {"job": BINARY}

    asyncio.run(scene())


def test_without_follow_a_running_run_is_shown_as_it_is(world: World) -> None:
    async def scene() -> None:
        runner, name = begun(world)
        runner.log("job", b"so far\n")
        reader = Reader(world, name)
        await reader.open(follow=False)
        await reader.to_end()
        assert reader.logs == {"job": b"so far\n"}
        assert reader.heads[-1]["run"]["status"] == "running"

    asyncio.run(scene())


def test_every_cursor_gives_the_rest(world: World) -> None:
    async def scene() -> None:
        data = b"0123456789"
        name = finished(world, data)
        for offset in range(len(data) + 2):
            reader = Reader(world, name)
            reader.cursor = {"job": (1, offset)}
            await reader.open()
            await reader.to_end()
            assert reader.logs.get("job", b"") == data[offset:]

    asyncio.run(scene())


def test_attempts_come_in_their_order_and_a_cursor_lies_in_one(world: World) -> None:
    async def scene() -> None:
        name = finished(world, b"first\n", b"second\n", b"third\n")
        reader = Reader(world, name)
        await reader.open()
        await reader.to_end()
        assert reader.logs == {"job": b"first\nsecond\nthird\n"}
        assert [(head["attempt"], head["offset"]) for head in reader.of("log")] == [(1, 0), (2, 0), (3, 0)]
        for cursor, rest in (
            ((1, 3), b"st\nsecond\nthird\n"),
            ((2, 0), b"second\nthird\n"),
            ((2, 7), b"third\n"),
            ((3, 5), b"\n"),
            ((9, 0), b""),
        ):
            reader = Reader(world, name)
            reader.cursor = {"job": cursor}
            await reader.open()
            await reader.to_end()
            assert reader.logs.get("job", b"") == rest, cursor

    asyncio.run(scene())


def test_a_retry_is_followed_live(world: World) -> None:
    async def scene() -> None:
        runner = world.runner()
        name = world.submit(ONE, "job")
        reader = Reader(world, name)
        await reader.open()
        for number in (1, 2, 3):
            world.place()
            runner.poll()
            runner.log("job", b"attempt %d\n" % number)
            await reader.until(lambda number=number: reader.logs.get("job", b"").endswith(b"%d\n" % number))
            if number < 3:
                runner.register(restarted=True, running=[])
        runner.run("job")
        await reader.to_end()
        assert reader.logs == {"job": b"attempt 1\nattempt 2\nattempt 3\n"}

    asyncio.run(scene())


def test_connections_that_are_cut_anywhere_lose_and_double_nothing(world: World) -> None:
    chance = random.Random(7)

    async def scene() -> None:
        runner, name = begun(world, independent(2), "all")
        wrote = {"w0": b"", "w1": b""}
        reader = Reader(world, name)
        await reader.open()
        for number in range(60):
            job = chance.choice(["w0", "w1"])
            line = b"%s %d\n" % (job.encode(), number)
            wrote[job] += line
            runner.log(job, line)
            if chance.random() < 0.4:
                await reader.until(lambda job=job: len(reader.logs.get(job, b"")) >= len(wrote[job]))
            if chance.random() < 0.3:
                await reader.open()
        for job in ("w0", "w1"):
            runner.finish(job)
        world.complete(runner)
        await reader.open()
        await reader.to_end()
        assert {job: reader.logs[job] for job in wrote} == wrote

    asyncio.run(scene())


def test_a_cut_at_the_very_end_still_tells_the_end(world: World) -> None:
    async def scene() -> None:
        reader = Reader(world, finished(world, b"all of it"))
        await reader.open()
        await reader.until(lambda: reader.logs.get("job") == b"all of it")
        reader.ended = False
        await reader.open()
        await reader.to_end()
        assert reader.logs == {"job": b"all of it"}
        assert reader.heads[-1]["run"]["exit_code"] == 0

    asyncio.run(scene())


def test_only_one_job_by_its_name_or_workflow(world: World) -> None:
    async def scene() -> None:
        runner, name = begun(world, independent(2), "all")
        for job in ("w0", "w1"):
            runner.log(job, job.encode())
            runner.finish(job)
        world.complete(runner)
        reader = Reader(world, name)
        await reader.open(job="w1")
        await reader.to_end()
        assert reader.logs == {"w1": b"w1"}
        assert {head["job"] for head in reader.of("job")} == {"w1"}

    asyncio.run(scene())


def test_since_leaves_out_what_was_written_before(world: World) -> None:
    async def scene() -> None:
        runner, name = begun(world)
        times: list[int] = []
        for number in range(4):
            times.append(world.clock.now())
            runner.log("job", b"line %d\n" % number)
            world.clock.advance(10)
        runner.finish("job")
        for first, since in ((0, 0), (0, times[0]), (2, times[2]), (3, times[3])):
            reader = Reader(world, name)
            await reader.open(since=since)
            await reader.to_end()
            got = reader.logs.get("job", b"")
            assert got.endswith(b"line 3\n")
            assert got.splitlines()[0] in (b"line %d" % first, b"line %d" % max(0, first - 1)), "to the mark before"
        reader = Reader(world, name)
        await reader.open(since=world.clock.now() + 10**12)
        await reader.to_end()
        assert reader.logs.get("job", b"").count(b"\n") <= 1

    asyncio.run(scene())


def test_a_large_log_comes_in_pieces(world: World) -> None:
    async def scene() -> None:
        data = random.Random(1).randbytes(5 << 20)
        reader = Reader(world, finished(world, data))
        await reader.open()
        await reader.to_end()
        assert reader.logs == {"job": data}
        assert max(head["n"] for head in reader.of("log")) <= following.PIECE

    asyncio.run(scene())


def test_a_run_of_a_thousand_jobs_is_read_by_what_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = views.job_rows

    def job_rows(*args: Any, **kwargs: Any) -> list[Any]:
        rows = plain(*args, **kwargs)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(views, "job_rows", job_rows)

    async def scene() -> None:
        runner = world.runner(slots=2)
        name = world.submit(independent(1000), "all")
        reader = Reader(world, name)
        await reader.open()
        await reader.until(lambda: len(reader.of("job")) == 1001)
        assert read == [1001]
        world.place()
        runner.take()
        await reader.until(lambda: "running" in reader.statuses("w1"))
        runner.log("w0", b"hello\n")
        await reader.until(lambda: reader.logs.get("w0") == b"hello\n")
        statements: list[str] = []
        with counted(statements):
            runner.log("w0", b"again\n")
            await reader.until(lambda: reader.logs.get("w0") == b"hello\nagain\n")
        await reader.cut()
        assert sum(read[1:]) <= 2 * 6, "six jobs were placed or taken"
        assert len(statements) <= 4, statements

    asyncio.run(scene())


def test_quiet_streams_tell_why_jobs_wait_and_beat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "QUIET", 0.01)
    monkeypatch.setattr(following, "BEAT", 0.01)

    async def scene() -> None:
        name = world.submit(TWO, "other")
        reader = Reader(world, name)
        await reader.open()
        await reader.until(lambda: len(reader.of("beat")) >= 3)
        whys = {head["job"]: head["why_waiting"] for head in reader.of("job")}
        assert "no runner is online" in whys["job"]
        assert whys["other"] == "waits for job to finish"
        assert len(reader.statuses("job")) == 2, "the same is not told twice"

        runner = world.runner()
        world.place()
        runner.take()
        await reader.until(lambda: reader.statuses("job")[-1] == "running")
        world.clock.advance(60)
        world.sweep()
        await reader.until(lambda: any(head["status_text"] == "Unreachable" for head in reader.of("job")))
        await reader.cut()

    asyncio.run(scene())


def test_a_server_that_ends_cuts_the_stream_without_an_end_frame(world: World) -> None:
    async def scene() -> None:
        _, name = begun(world)
        reader = Reader(world, name)
        await reader.open()
        await reader.until(lambda: bool(reader.statuses("job")))
        world.context.bus.publish("shutdown")
        while await reader.piece():
            pass
        assert not reader.ended

    asyncio.run(scene())


def test_readers_that_go_leave_nothing_behind(world: World) -> None:
    async def scene() -> None:
        _, name = begun(world)
        for _ in range(5):
            reader = Reader(world, name)
            await reader.open()
            await reader.piece()
            await reader.cut()
        assert world.context.bus._waiting == {}  # pyright: ignore[reportPrivateUsage]

    asyncio.run(scene())


def test_an_unknown_run_or_job_is_told_before_the_first_frame(world: World) -> None:
    from dstack.server.services.errors import NotFound

    name = world.submit(ONE, "job")

    async def scene() -> None:
        with pytest.raises(NotFound):
            await following.frames(world.context, "nobody-1", follow=True)
        with pytest.raises(NotFound, match="has no job `jbo`"):
            await following.frames(world.context, name, follow=True, job="jbo")

    asyncio.run(scene())
