"""What a job is given in secret: in its environment and nowhere else, and in nothing that leaves."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dstack.protocol import messages
from dstack.runner.attempt import Attempt
from dstack.runner.environments import SetupError
from dstack.runner.executors.interface import Launch
from dstack.runner.folders import folder_of, read_spec, write_spec
from dstack.runner.link import LinkDown, Refused
from dstack.runner.secrets import NO_SECRETS, WITHHELD, Secrets, SecretSource, telling_names
from dstack.runner.settings import Settings
from dstack.sdk.provider import JobSpec, secret_marker
from tests.support.attempts import Bench, until

VALUE = "hf_s3cret-value"
GIVEN = messages.SecretsReply(values={"TOKEN": VALUE, "env:SEED": "plain seed"}, masked=("TOKEN",))
ATTEMPT = uuid.UUID(int=1)
Answer = messages.SecretsReply | Exception


class Channel:
    """Answers in turn, and for ever as the last time."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[messages.SecretsRequest] = []

    async def call(self, route: str, message: messages.SecretsRequest, reply: type) -> messages.SecretsReply:
        assert (route, reply) == ("secrets", messages.SecretsReply)
        self.asked.append(message)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def source(channel: Channel, folder: Path, events: Any = None) -> SecretSource:
    settings = Settings(home=folder, retry_first=0.0, retry_last=0.0)
    known: Any = events or SimpleNamespace(identity=(uuid.UUID(int=2), uuid.UUID(int=3)))
    return SecretSource(cast(Any, channel), settings, known)


@pytest.fixture
def given(tmp_path: Path) -> Secrets:
    return asyncio.run(source(Channel(GIVEN), tmp_path).fetch(ATTEMPT))


class TestSource:
    def test_a_password_within_an_address_is_masked_by_itself(self, tmp_path: Path) -> None:
        """The name of the variable says nothing; of a secret, a program may print the password alone."""
        values = {"env:DATABASE_URL": "postgres://me:p%40ss-word@host/db", "STORE": "s3://user:hunter2-s3@host"}
        reply = messages.SecretsReply(values=values, masked=("STORE",))
        found = asyncio.run(source(Channel(reply), tmp_path).fetch(ATTEMPT))
        text = f"{values['env:DATABASE_URL']} p@ss-word me host {values['STORE']} hunter2-s3"
        assert found.words(text) == "postgres://me:***@host/db *** me host *** ***"

    def test_asks_until_there_is_an_answer_for_this_process(self, tmp_path: Path) -> None:
        channel = Channel(LinkDown("away"), messages.SecretsReply(register=True), LinkDown("away"), GIVEN)
        found = asyncio.run(source(channel, tmp_path).fetch(ATTEMPT))
        assert found.values == GIVEN.values
        assert len(channel.asked) == 4
        assert channel.asked[0] == messages.SecretsRequest(
            runner_id=uuid.UUID(int=2), incarnation=uuid.UUID(int=3), attempt_id=ATTEMPT
        )

    def test_waits_for_the_registration(self, tmp_path: Path) -> None:
        events = SimpleNamespace(identity=None)

        async def course() -> None:
            channel = Channel(GIVEN)
            fetching = asyncio.create_task(source(channel, tmp_path, events).fetch(ATTEMPT))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not channel.asked
            events.identity = (uuid.UUID(int=2), uuid.UUID(int=3))
            await fetching

        asyncio.run(course())

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (messages.SecretsReply(problem="the key is lost"), "the key is lost"),
            (messages.SecretsReply(over=True), "moved on"),
            (Refused("no such route"), "no such route"),
        ],
    )
    def test_a_job_without_its_secrets_does_not_start(self, tmp_path: Path, answer: Answer, words: str) -> None:
        with pytest.raises(SetupError, match=words):
            asyncio.run(source(Channel(answer), tmp_path).fetch(ATTEMPT))

    def test_a_running_job_waits_for_a_key_that_is_put_back(self, tmp_path: Path) -> None:
        problem = messages.SecretsReply(problem="the key is lost")
        found = asyncio.run(source(Channel(problem, problem, GIVEN), tmp_path).fetch_again(ATTEMPT))
        assert found.values == GIVEN.values

    def test_a_running_job_goes_on_without_a_word_where_they_cannot_be_had(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert asyncio.run(source(Channel(messages.SecretsReply(over=True)), tmp_path).fetch_again(ATTEMPT)) is WITHHELD
        monkeypatch.setattr("dstack.runner.secrets.PATIENCE", -1.0)
        problem = messages.SecretsReply(problem="the key is lost")
        assert asyncio.run(source(Channel(problem), tmp_path).fetch_again(ATTEMPT)) is WITHHELD


class TestMasks:
    def test_markers_are_filled_wherever_they_stand(self, given: Secrets) -> None:
        marker = secret_marker("TOKEN")
        filled = given.fill({"A": marker, "B": f"x{marker}y{secret_marker('env:SEED')}", "C": "plain"})
        assert filled == {"A": VALUE, "B": f"x{VALUE}yplain seed", "C": "plain"}

    def test_no_value_is_shown_by_accident(self, given: Secrets) -> None:
        launch = Launch(ATTEMPT, Path("/x"), Path("/x"), env={"A": VALUE})
        assert not any(VALUE in repr(thing) for thing in (given, GIVEN, launch))

    def test_events(self, given: Secrets) -> None:
        point = messages.MetricPoint(seq=1, name=f"loss of {VALUE}", step=1, at=1, value=0.5)
        exited = messages.Exited(attempt_id=ATTEMPT, at=1, exit_code=127, detail=f"no program {VALUE}")
        events = [
            exited,
            messages.SetupFailed(attempt_id=ATTEMPT, at=1, detail=f"no folder {VALUE}"),
            messages.SaveRefused(attempt_id=ATTEMPT, at=1, detail=VALUE),
            messages.Rejected(attempt_id=ATTEMPT, at=1, detail=VALUE),
            messages.Saved(attempt_id=ATTEMPT, at=1, exit=exited, warnings=(f"look at {VALUE}", "fine")),
            messages.MetricsLogged(attempt_id=ATTEMPT, at=1, points=(point,)),
            messages.Started(attempt_id=ATTEMPT, at=1, packages=(f"alpha @ https://example.org/{VALUE}",)),
        ]
        for event in events:
            shown = given.masked(event)
            assert VALUE.encode() not in messages.encode(shown)
            assert type(shown) is type(event)
            assert NO_SECRETS.masked(event) is event
            assert VALUE.encode() not in messages.encode(WITHHELD.masked(event))
        assert cast(Any, given.masked(exited)).detail == "no program ***"

    def test_names_of_artifacts(self, given: Secrets, tmp_path: Path) -> None:
        for name in ("a", f"run-{VALUE}.txt", f"deep/{VALUE}/file", "deep/b"):
            path = tmp_path / "out" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "clean").mkdir()
        (warning,) = telling_names(tmp_path, ["out", "clean", "missing"], given)
        assert "artifact out" in warning
        assert "run-***.txt" in warning
        assert "deep/***" in warning
        assert VALUE not in warning
        assert telling_names(tmp_path, ["out"], NO_SECRETS) == []
        (tmp_path / "out" / os.fsdecode(b"\xff\x1b" + VALUE.encode())).write_text("")
        (warning,) = telling_names(tmp_path, ["out"], given)
        assert r"\xff\x1b***" in warning, "as any text may have it"


class Given:
    """The secrets of every attempt, once the test lets them go."""

    def __init__(self, secrets: Secrets) -> None:
        self.secrets = secrets
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def fetch(self, attempt_id: uuid.UUID) -> Secrets:
        self.asked.set()
        if self.error is not None:
            raise self.error
        return self.secrets

    async def fetch_again(self, attempt_id: uuid.UUID) -> Secrets:
        self.asked.set()
        await self.open.wait()
        return self.secrets


def secret_attempt(bench: Bench, given: Given, *commands: str) -> Attempt:
    bench.workshop.secrets = cast(Any, given)
    plain = bench.attempt(*commands).assignment
    spec = msgspec.structs.replace(
        plain.spec, environment={"TOKEN": secret_marker("TOKEN")}, secrets=("TOKEN",), artifacts=()
    )
    return Attempt(
        bench.workshop, msgspec.structs.replace(plain, spec=spec, mask_set=True), cast(Any, bench.gone.append)
    )


def holding(folder: Path, value: str) -> set[str]:
    """The names of the files below `folder` that hold `value`."""
    return {path.name for path in folder.rglob("*") if path.is_file() and value.encode() in path.read_bytes()}


class TestAttempt:
    def test_the_value_is_in_the_jobs_environment_and_its_spool_only(self, bench: Bench, given: Secrets) -> None:
        async def course() -> None:
            attempt = secret_attempt(bench, Given(given), "printenv TOKEN", "wait", "exit 3")
            attempt.begin()
            await until(lambda: attempt.state == "running")
            process = bench.executor.processes[attempt.assignment.attempt_id]
            assert process.env["TOKEN"] == VALUE
            folder = folder_of(bench.workshop.settings, process.attempt_id)
            await until((folder / "spool").exists)
            assert holding(bench.workshop.settings.home, VALUE) == {"spool"}
            assert read_spec(folder)[0].spec.environment == {"TOKEN": secret_marker("TOKEN")}
            process.go()
            await bench.over(attempt)
            assert bench.logs.log == b"***\n"

        asyncio.run(course())
        bench.workshop.cleaner.shutdown()
        assert holding(bench.workshop.settings.home, VALUE) == set()

    def test_without_them_the_job_does_not_start(self, bench: Bench, given: Secrets) -> None:
        async def course() -> None:
            source = Given(given)
            source.error = SetupError("the key is lost")
            attempt = secret_attempt(bench, source)
            attempt.begin()
            await bench.over(attempt)
            assert bench.server.ends() == [messages.SetupFailed]
            assert b"the key is lost" in bench.logs.log
            assert not bench.executor.processes

        asyncio.run(course())

    def adopted(self, bench: Bench, source: Given, check: Callable[[Attempt], Any]) -> None:
        """A job that an earlier agent started and that has ended, its output not yet sent."""

        async def course() -> None:
            attempt = secret_attempt(bench, source)
            key = attempt.assignment.attempt_id
            folder = folder_of(bench.workshop.settings, key)
            write_spec(folder, attempt.assignment, ())
            (folder / "spool").write_text(f"token {VALUE}\n")
            (folder / "metrics.jsonl").write_text(f'{{"{VALUE}": 1.0}}\n')
            process = bench.executor.start(Launch(key, folder, folder, env={"TOKEN": VALUE}, script=("exit 0",)))
            await process.wait()
            attempt.resume(process)
            await check(attempt)

        asyncio.run(course())

    def test_a_restarted_agent_sends_nothing_before_it_has_them(self, bench: Bench, given: Secrets) -> None:
        source = Given(given)

        async def check(attempt: Attempt) -> None:
            await source.asked.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not bench.server.events
            assert bench.logs.log == b""
            source.open.set()
            await bench.over(attempt)
            assert bench.logs.log == b"token ***\n"
            assert VALUE not in repr(bench.server.events)
            assert "***" in repr(bench.server.events)

        self.adopted(bench, source, check)

    def test_where_they_cannot_be_had_the_log_stays_and_the_result_is_told(self, bench: Bench) -> None:
        source = Given(WITHHELD)
        source.open.set()

        async def check(attempt: Attempt) -> None:
            await bench.over(attempt)
            assert bench.logs.log == b""
            saved = bench.server.events[-1]
            assert isinstance(saved, messages.Saved)
            assert saved.log_incomplete
            assert VALUE not in repr(bench.server.events)

        self.adopted(bench, source, check)


def test_a_spec_of_an_older_agent_has_no_secrets() -> None:
    assert not messages.Assignment(
        attempt_id=ATTEMPT, number=1, job_id=ATTEMPT, run_name="a", workflow="a", job_name="a", project="main",
        spec=JobSpec(),
    ).mask_set  # fmt: skip
