"""A log's way from the spool to the server: whatever is cut off where, each byte arrives once and in its place."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dstack.logs.masking import MaskSet
from dstack.logs.spool import Spool
from dstack.protocol.messages import STREAM_OVER, LogChunk
from dstack.runner.shipper import Shipper, cancelled
from tests.support.ports import FakeClock

ATTEMPT = UUID(int=1)


class Server:
    """Takes chunks as the real one does: by offset, idempotently. While it is `away`, nobody gets an answer."""

    def __init__(self) -> None:
        self.log = b""
        self.away = False
        self.over = False
        self.asked = asyncio.Event()
        self.back = asyncio.Event()

    async def send(self, chunk: LogChunk) -> int:
        self.asked.set()
        if self.away:
            await self.back.wait()
        if self.over:
            return STREAM_OVER
        if chunk.offset <= len(self.log):
            self.log += chunk.data[len(self.log) - chunk.offset :]
        return len(self.log)


class Grown:
    """Says at once when the spool is longer, and never otherwise."""

    async def grown(self, path: Path, size: int) -> int:
        if size_of(path) <= size:
            await asyncio.Event().wait()
        return size_of(path)

    def forget(self, path: Path) -> None:
        pass


def write(folder: Path, data: bytes) -> None:
    """What the job writes."""
    with open(folder / "spool", "ab") as spool:
        spool.write(data)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def shipper(folder: Path, server: Server) -> Shipper:
    sender: Any = server
    watch: Any = Grown()
    return Shipper(ATTEMPT, folder, sender, watch, FakeClock(), 1 << 30)


async def begun(folder: Path, server: Server) -> tuple[Shipper, asyncio.Task[None]]:
    """A shipment of one line that the server is away for."""
    server.away = True
    write(folder, b"first\n")
    made = shipper(folder, server)
    task = asyncio.create_task(made.run())
    await server.asked.wait()
    return made, task


def test_what_was_under_way_when_the_job_ended_is_sent(tmp_path: Path) -> None:
    """The job ends, and with it the following of its log, while a piece waits for an answer."""

    async def check() -> bytes:
        server = Server()
        made, task = await begun(tmp_path, server)
        await cancelled(task)
        write(tmp_path, b"second\nthird")
        server.away = False
        await made.finish()
        assert made.length == len(server.log)
        assert not made.incomplete
        return server.log

    assert asyncio.run(check()) == b"first\nsecond\nthird"


def test_the_next_agent_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    """Killed with a piece on its way, which may have arrived or not."""

    async def check(arrived: bytes) -> bytes:
        server = Server()
        _, task = await begun(tmp_path, server)
        await cancelled(task)
        server.log, server.away = arrived, False
        write(tmp_path, b"second\n")
        await shipper(tmp_path, server).finish()
        return server.log

    for arrived in (b"", b"fir", b"first\n"):
        for name in ("spool", "shipped"):
            (tmp_path / name).unlink(missing_ok=True)
        assert asyncio.run(check(arrived)) == b"first\nsecond\n"


def test_a_stream_that_is_over_is_left_at_that(tmp_path: Path) -> None:
    async def check() -> None:
        server = Server()
        write(tmp_path, b"first\n")
        made = shipper(tmp_path, server)
        following = asyncio.create_task(made.run())
        await server.asked.wait()
        server.over = True
        write(tmp_path, b"second\n")
        following.cancel()
        await made.finish()
        assert (made.incomplete, made.length, server.log) == (True, 6, b"first\n")

    asyncio.run(check())


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The spool cannot be read while the list is not empty; each try takes one away."""
    monkeypatch.setattr("dstack.runner.shipper.RETRY", 0.0)
    left: list[bool] = []
    plain = Spool.read

    def read(spool: Spool, offset: int, limit: int) -> bytes:
        if left:
            left.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(spool, offset, limit)

    monkeypatch.setattr(Spool, "read", read)
    return left


def test_what_goes_wrong_while_the_job_lives_is_told_once_and_tried_again(
    tmp_path: Path, unreadable: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        server = Server()
        write(tmp_path, b"first\n")
        unreadable.extend([True] * 5)
        made = shipper(tmp_path, server)
        following = asyncio.create_task(made.run())
        await server.asked.wait()
        await cancelled(following)
        await made.finish()
        assert (server.log, made.incomplete) == (b"first\n", False)

    asyncio.run(check())
    assert [record.message for record in caplog.records] == [
        f"attempt {ATTEMPT}: its log cannot be sent, and is tried again: OSError: [Errno 5] Input/output error"
    ]


def test_what_never_goes_right_makes_the_log_incomplete_and_fails_nothing(
    tmp_path: Path, unreadable: list[bool]
) -> None:
    async def check() -> None:
        server = Server()
        write(tmp_path, b"first\n")
        unreadable.extend([True] * 100)
        made = shipper(tmp_path, server)
        await made.finish()
        assert (server.log, made.length, made.incomplete) == (b"", 0, True)

    asyncio.run(check())


def test_room_that_cannot_be_given_back_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def punch(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Spool, "punch", punch)
    monkeypatch.setattr("dstack.runner.shipper.PUNCH_STEP", 1)

    async def check() -> None:
        server = Server()
        write(tmp_path, b"first\n")
        made = shipper(tmp_path, server)
        await made.finish()
        assert (server.log, made.incomplete) == (b"first\n", False)

    asyncio.run(check())


def test_where_it_was_prepared_a_disk_without_room_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has room already can be written over; nothing can be made."""
    plain = os.open

    def full(path: Path, flags: int, *more: int) -> int:
        if flags & os.O_CREAT and not os.path.exists(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path, flags, *more)

    async def place(prepared: bool) -> int:
        server = Server()
        write(tmp_path, b"first\n")
        made = shipper(tmp_path, server)
        if prepared:
            made.prepare()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", full)
            await made.finish()
            write(tmp_path, b"second\n")
            await made.finish()
        assert server.log == b"first\nsecond\n"
        return shipper(tmp_path, server).length

    assert asyncio.run(place(prepared=False)) == 0
    (tmp_path / "spool").unlink()
    assert asyncio.run(place(prepared=True)) == 6, "before the last piece, as ever"


def test_a_full_disk_stops_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far it was sent cannot be written down; it is sent all the same."""
    plain = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def check() -> bytes:
        server = Server()
        write(tmp_path, b"first\n")
        monkeypatch.setattr(os, "pwrite", full)
        made = shipper(tmp_path, server)
        await made.finish()
        monkeypatch.setattr(os, "pwrite", plain)
        write(tmp_path, b"second\n")
        await shipper(tmp_path, server).finish()
        return server.log

    assert asyncio.run(check()) == b"first\nsecond\n"


SECRET = b"hf_abcdefghijkl"


def test_a_secret_never_leaves_whatever_the_writes_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.runner.shipper.PIECE", 5)

    async def check() -> bytes:
        server = Server()
        write(tmp_path, b"a " + SECRET + b" b " + base64.b64encode(SECRET) + b"\nend " + SECRET[:6])
        made = shipper(tmp_path, server)
        made.mask_with(MaskSet.of([SECRET]))
        await made.finish()
        return server.log

    assert asyncio.run(check()) == b"a *** b ***\nend " + SECRET[:6]


def test_the_next_agent_goes_on_within_a_secret(tmp_path: Path) -> None:
    """Killed with half a secret read, or with its mask sent and the rest of it not yet written."""

    async def check(cut: int, arrived: bool) -> bytes:
        server = Server()
        text = b"token " + SECRET + SECRET[:4] + b" and " + SECRET + b"\n"
        write(tmp_path, text[:cut])
        made = shipper(tmp_path, server)
        made.mask_with(MaskSet.of([SECRET, SECRET + SECRET[:4]]))
        server.away = not arrived
        task = asyncio.create_task(made.run())
        for _ in range(20):
            await asyncio.sleep(0)
        await cancelled(task)
        server.away = False
        write(tmp_path, text[cut:])
        again = shipper(tmp_path, server)
        again.mask_with(MaskSet.of([SECRET, SECRET + SECRET[:4]]))
        await again.finish()
        return server.log

    for cut in range(60):
        for arrived in (False, True):
            for name in ("spool", "shipped"):
                (tmp_path / name).unlink(missing_ok=True)
            assert asyncio.run(check(cut, arrived)) == b"token *** and ***\n"


def test_a_cut_in_a_log_over_its_quota_cuts_no_secret(tmp_path: Path) -> None:
    async def check(limit: int) -> bytes:
        server = Server()
        sender: Any = server
        watch: Any = Grown()
        write(tmp_path, (SECRET + b".") * 40)
        made = Shipper(ATTEMPT, tmp_path, sender, watch, FakeClock(), limit)
        made.mask_with(MaskSet.of([SECRET]))
        await made.finish()
        return server.log

    for limit in range(100, 132):
        for name in ("spool", "shipped"):
            (tmp_path / name).unlink(missing_ok=True)
        head, _, tail = asyncio.run(check(limit)).partition(b"\n[dstack:")
        rest = tail.partition(b"]\n")[2]
        for part in (head, rest):
            assert not part.replace(b"***", b"").strip(b".")
        assert b"***" in head


def test_a_withheld_log_stays_where_it_is(tmp_path: Path) -> None:
    async def check() -> bytes:
        server = Server()
        write(tmp_path, SECRET)
        made = shipper(tmp_path, server)
        made.withhold()
        await made.run()
        await made.finish()
        assert made.incomplete
        return server.log

    assert asyncio.run(check()) == b""
