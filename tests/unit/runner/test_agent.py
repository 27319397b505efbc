"""What an agent does with an answer that was true when it was written."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from dstack.domain.resources import Capacity
from dstack.protocol import messages
from dstack.runner.agent import Agent
from dstack.runner.attempt import Attempt
from dstack.runner.settings import Settings
from dstack.sdk.provider import JobSpec


class Polls:
    """The line for polls: before each answer comes, `meanwhile` happens."""

    def __init__(self) -> None:
        self.answers: list[messages.Commands] = []
        self.known: list[dict[uuid.UUID, str]] = []
        self.missing: list[tuple[uuid.UUID, ...]] = []
        self.meanwhile = lambda: None

    async def call(self, route: str, message: messages.PollRequest, *_: object, **__: object) -> messages.Commands:
        self.missing.append(message.missing)
        self.known.append({item.attempt_id: item.state for item in message.known})
        self.meanwhile()
        return self.answers.pop(0)

    def close(self) -> None:
        pass


def assignment() -> messages.Assignment:
    return messages.Assignment(
        attempt_id=uuid.uuid4(), number=1, job_id=uuid.uuid4(), run_name="calm-crab-1", workflow="train",
        job_name="train", project="main", spec=JobSpec(name="train", commands=("true",)),
    )  # fmt: skip


def registered(home: Path) -> tuple[Any, Polls]:
    agent: Any = Agent(Settings(home=home), Capacity(1, 1 << 30, ()))
    agent._registered = messages.RegisterReply(
        runner_id=uuid.uuid4(), deployment_id=uuid.uuid4(), epoch=1, heartbeat=1.0
    )
    agent._link.polls = polls = Polls()
    return agent, polls


def test_an_answer_older_than_the_end_of_an_attempt_does_not_begin_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Attempt] = []
    monkeypatch.setattr(Attempt, "begin", lambda attempt: begun.append(attempt))  # noqa: PLW0108 -- becomes a method

    async def course() -> None:
        agent, polls = registered(tmp_path)
        first, second = assignment(), assignment()
        polls.answers = [messages.Commands(assign=(first,)), messages.Commands(assign=(first, second))]

        await agent._poll()
        assert [attempt.assignment for attempt in begun] == [first]
        # While the server writes its answer, which still calls the first one new, that one's end is acknowledged.
        begun[0].state = "ending"
        polls.meanwhile = lambda: agent._forget(begun[0])
        await agent._poll()
        assert [attempt.assignment for attempt in begun] == [first, second]
        assert polls.known == [{}, {first.attempt_id: "ending"}], "or the server would hand it out again at once"

        # An answer to a later question counts: this server lost the end (it was put back to an earlier state).
        polls.meanwhile = lambda: None
        polls.answers = [messages.Commands(assign=(first,))]
        await agent._poll()
        assert [attempt.assignment for attempt in begun] == [first, second, first]

    asyncio.run(course())


def test_of_what_the_server_asks_for_it_names_what_it_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attempt, "begin", lambda _: None)

    async def course() -> None:
        agent, polls = registered(tmp_path)
        held, gone = assignment(), uuid.uuid4()
        ask = (held.attempt_id, gone)
        polls.answers = [messages.Commands(assign=(held,)), messages.Commands(ask=ask), *[messages.Commands()] * 2]
        for _ in range(4):
            await agent._poll()
        assert polls.missing == [(), (), (gone,), ()]

    asyncio.run(course())
