"""Following a run through connections that are lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from dstack.cli import follow
from dstack.cli.follow import Follower
from dstack.cli.output import LogOutput
from dstack.client.api import Unreachable

RUN = {"name": "odd-cat-1", "status": "done"}
END: dict[str, Any] = {"t": "end", "run": RUN}
JOB: dict[str, Any] = {"t": "job", "job": "train", "status": "running", "attempt": 1}
BEAT: dict[str, Any] = {"t": "beat"}


class Clock:
    """Time that only waiting takes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Api:
    """Answers with one stream after the other: frames, and seconds before the next. An empty one is a failed call."""

    def __init__(self, clock: Clock, streams: Sequence[Sequence[dict[str, Any] | float]]) -> None:
        self._clock = clock
        self._streams = list(streams)

    def logs(self, name: str, **_: object) -> Any:
        stream = self._streams.pop(0)
        if not stream:
            raise Unreachable("refused")
        pieces = self._pieces(stream)
        return type("Answer", (), {"read_some": staticmethod(lambda: next(pieces, b""))})

    def drop(self) -> None:
        pass

    def _pieces(self, stream: Sequence[dict[str, Any] | float]) -> Iterator[memoryview]:
        for item in stream:
            if isinstance(item, float):
                self._clock.sleep(item)
            else:
                yield memoryview(json.dumps(item).encode() + b"\n")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def run(*streams: Sequence[dict[str, Any] | float]) -> list[str]:
        clock = Clock()
        monkeypatch.setattr(follow, "time", clock)
        follower = Follower(cast(Any, Api(clock, streams)), "odd-cat-1", LogOutput())
        assert follower.follow() == RUN
        return [line for line in capfd.readouterr().err.splitlines() if "reconnect" in line]

    return run


DOWN: list[list[dict[str, Any] | float]] = [[]] * 12


def test_each_loss_is_told_once(told: Callable[..., list[str]]) -> None:
    lines = told([JOB, 60.0, BEAT], *DOWN, [JOB, 60.0, BEAT], *DOWN, [JOB, END])

    assert lines == ["the connection was lost (refused); the run goes on, trying to reconnect"] * 2


def test_a_short_loss_is_not_told(told: Callable[..., list[str]]) -> None:
    assert told([JOB, 60.0], *DOWN[:4], [JOB, 60.0], *DOWN[:4], [JOB, END]) == []


def test_a_connection_that_breaks_at_once_is_told_once(told: Callable[..., list[str]]) -> None:
    assert len(told(*[[JOB]] * 50, [JOB, END])) == 1


def test_a_loss_is_told_behind_many_reused_jobs(told: Callable[..., list[str]]) -> None:
    reused = [{"t": "job", "job": f"j{number}", "status": "done", "reused_from": "x"} for number in range(12)]

    assert len(told([*reused, 60.0], *DOWN, [END])) == 1


def test_patience_begins_anew_with_a_connection_that_lasts(told: Callable[..., list[str]]) -> None:
    hours = [stream for _ in range(3) for stream in ([JOB, 60.0], *[[]] * 600)]

    assert len(told(*hours, [END])) == 3
    with pytest.raises(Unreachable, match="was given up"):
        told([JOB, 60.0], *[[]] * 800)
