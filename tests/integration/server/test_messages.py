"""What runners say twice, late, out of order, or of things that never were."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from dstack.protocol import messages
from dstack.server.db.tables import artifacts, attempts, events, jobs
from tests.support.runner import FakeRunner
from tests.support.world import World

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true'], artifacts: [out]}\n"


def whole_life(runner: FakeRunner) -> list[messages.AttemptEvent]:
    key = runner.id_of("job")
    at = runner.now()
    exited = runner.exited("job", 0)
    return [
        messages.Accepted(attempt_id=key, at=at),
        messages.Started(attempt_id=key, at=at),
        runner.snapshot("job", {"out": "live"}),
        exited,
        runner.saved("job", {"out": "last"}, exited),
    ]


def begun(world: World) -> tuple[FakeRunner, str]:
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    return runner, name


def everything(world: World) -> list[object]:
    return [sorted(map(tuple, world.rows(table)), key=repr) for table in (jobs, attempts, events, artifacts)]


def test_every_message_twice_changes_nothing_and_is_answered_kindly(world: World) -> None:
    runner, name = begun(world)
    for event in whole_life(runner):
        assert runner.report(event).outcome == "applied"
        before = everything(world)
        assert runner.report(event).outcome in ("applied", "ignored")
        late = [row.late_event for row in world.rows(attempts)]
        assert world.run(name)["status"] in ("running", "done")
        if late == [None]:
            assert everything(world) == before
    assert world.states(name) == {"job": "done"}
    assert len(world.rows(artifacts)) == 2, "the live and the last snapshot, each once"
    world.check_events()


def test_a_batch_twice_changes_nothing(world: World) -> None:
    runner, name = begun(world)
    life = whole_life(runner)
    assert [answer.outcome for answer in runner.report_all(*life)] == ["applied"] * 5
    counts = [len(world.rows(table)) for table in (events, artifacts, attempts)]
    assert [answer.outcome for answer in runner.report_all(*life)] == ["ignored"] * 5
    assert [len(world.rows(table)) for table in (events, artifacts, attempts)] == counts
    assert world.run(name)["status"] == "done"
    assert world.job(name)["artifacts"][0]["content_id"] == FakeRunner.artifacts({"out": "last"})[0].content_id.hex()


@pytest.mark.parametrize("order", [[1, 0, 3, 2, 4], [4, 3, 2, 1, 0], [3, 4, 0, 1, 2]])
def test_any_order_ends_the_same(world: World, order: list[int]) -> None:
    runner, name = begun(world)
    life = whole_life(runner)
    for index in order:
        assert runner.report(life[index]).outcome in ("applied", "ignored")
    job = world.job(name)
    assert (job["status"], job["exit_code"]) == ("done", 0)
    (artifact,) = job["artifacts"]
    assert not artifact["partial"]
    assert artifact["content_id"] == FakeRunner.artifacts({"out": "last"})[0].content_id.hex()
    world.check_events()


def test_a_batch_is_folded_into_one_write_and_keeps_every_event(world: World) -> None:
    runner, name = begun(world)
    runner.report_all(*whole_life(runner))
    assert [event for event, _, _ in world.story(name)] == [
        "created", "placed", "accepted", "started", "exited", "saved",
    ]  # fmt: skip
    (attempt,) = world.rows(attempts)
    assert (attempt.state, attempt.outcome, attempt.exit_code) == ("ended", "exit-zero", 0)
    assert None not in (attempt.accepted_at, attempt.started_at, attempt.exited_at, attempt.ended_at)


def test_a_bad_event_does_not_fail_the_others(world: World) -> None:
    runner, name = begun(world)
    life = whole_life(runner)
    stranger = messages.Started(attempt_id=uuid.uuid4(), at=runner.now())
    outcomes = [answer.outcome for answer in runner.report_all(life[0], stranger, *life[1:])]
    assert outcomes == ["applied", "rejected", *["applied"] * 4]
    assert world.run(name)["status"] == "done"


def test_an_unknown_attempt_is_rejected_with_words(world: World) -> None:
    runner, _ = begun(world)
    key = uuid.uuid4()
    answer = runner.report(messages.Started(attempt_id=key, at=runner.now()))
    assert answer.outcome == "rejected"
    assert str(key) in answer.detail
    assert "not known here" in answer.detail


def test_a_message_of_an_ended_attempt_is_kept_beside_it(world: World) -> None:
    runner, name = begun(world)
    old = runner.id_of("job")
    runner.accept(old)
    runner.start(old)
    exited = runner.exited(old, 3)
    runner.register(restarted=True, running=[])
    assert world.states(name) == {"job": "failed"}
    assert runner.report(exited).outcome == "ignored"
    (attempt,) = world.rows(attempts)
    assert (attempt.late_event, attempt.late_exit_code, attempt.late_at) == ("exited", 3, world.clock.now())
    assert (attempt.state, attempt.outcome, attempt.exit_code) == ("ended", "runner-lost", None)
    job = world.job(name)
    assert (job["status"], job["reason"], job["exit_code"]) == ("failed", "runner-lost", None)


def test_a_message_of_an_older_attempt_does_not_touch_the_newer(world: World) -> None:
    runner, name = begun(world)
    old = runner.id_of("job")
    started = messages.Started(attempt_id=old, at=runner.now())
    saved = runner.saved(old, {"out": "stale"}, runner.exited(old, 9))
    runner.register(restarted=True, running=[])
    world.place()
    runner.poll()
    runner.accept("job")
    for late in (started, saved):
        assert runner.report(late).outcome == "ignored"
    assert world.states(name) == {"job": "starting"}
    assert world.rows(artifacts) == []
    first, second = sorted(world.rows(attempts), key=lambda row: row.number)
    assert (first.outcome, first.late_event, first.late_exit_code) == ("returned", "saved", 9)
    assert second.late_event is None


@pytest.mark.parametrize("end", ["saved", "refused", "aborted", "setup-failed"])
def test_a_log_that_is_not_whole_is_told_of_the_attempt(world: World, end: str) -> None:
    runner, name = begun(world)
    key, at = runner.id_of("job"), runner.now()
    exited = runner.exited("job", 0)
    events: dict[str, list[messages.AttemptEvent]] = {
        "saved": [runner.saved("job", {}, exited)],
        "refused": [exited, messages.SaveRefused(attempt_id=key, at=at, detail="no room")],
        "aborted": [runner.exited("job", 143, aborted=True)],
        "setup-failed": [messages.SetupFailed(attempt_id=key, at=at, detail="no such package")],
    }
    *first, last = events[end]
    told = msgspec.structs.replace(last, log_length=7, log_incomplete=True)
    assert {answer.outcome for answer in runner.report_all(*first, told)} == {"applied"}
    [row] = world.rows(attempts)
    assert (row.log_length, row.log_incomplete) == (7, True)
    assert world.job(name)["log_incomplete"]


@pytest.mark.parametrize(("count", "told"), [(0, []), (2, ["0", "1"]), (23, [*map(str, range(20)), "and 3 more"])])
def test_what_could_not_be_saved_is_told_of_the_job(world: World, count: int, told: list[str]) -> None:
    """A run that is done does not hide it."""
    runner, name = begun(world)
    saved = runner.saved("job", {"out": "x"}, runner.exited("job", 0))
    runner.report(msgspec.structs.replace(saved, warnings=tuple(map(str, range(count)))))
    job = world.job(name)
    assert job["status"] == "done"
    assert [text.split(",")[0] for text in job["save_warnings"]] == told


@pytest.mark.parametrize("alone", [False, True])
def test_that_the_memory_ran_out_is_kept_of_the_attempt(world: World, alone: bool) -> None:
    """`alone`: the exit itself was never told, only the end that repeats it."""
    runner, name = begun(world)
    exited = msgspec.structs.replace(runner.exited("job", 137), oom=True, signal=9)
    saved = runner.saved("job", {}, exited)
    runner.report_all(*([saved] if alone else [exited, saved]))
    [row] = world.rows(attempts)
    assert (row.oom, row.signal, row.exit_code) == (True, 9, 137)
    assert (world.job(name)["reason"], world.job_row(name, "job").signal) == ("oom", 9)


def test_the_answer_for_a_known_but_ended_attempt_is_to_kill_it(world: World) -> None:
    runner, _ = begun(world)
    old = runner.id_of("job")
    held = runner.held[old]
    runner.register(restarted=True, running=[])
    runner.held[old], runner.states[old] = held, "running"
    assert runner.poll().kill == (old,)
    for state in messages.ENDS_BY_ITSELF:
        runner.states[old] = state
        assert runner.poll() == messages.Commands(), f"{state}: it ends without being told, and would be told for ever"


def test_an_attempt_of_another_deployment_is_left_alone(world: World) -> None:
    runner, _ = begun(world)
    stranger = uuid.uuid4()
    runner.held[stranger] = msgspec.structs.replace(runner.held[runner.id_of("job")], attempt_id=stranger)
    runner.states[stranger] = "running"
    commands = runner.poll()
    assert (commands.orphaned, commands.kill) == ((stranger,), ())


def test_a_refused_event_prints_the_whole_story(world: World) -> None:
    runner, _ = begun(world)
    key = runner.id_of("job")
    runner.accept(key)
    runner.start(key)
    answer = runner.report(runner.rejected(key))
    assert answer.outcome == "rejected"
    assert answer.detail.splitlines() == [
        "the runner accepted this attempt before: the job is running",
        "story of job job, now running, attempt 1:",
        "  1: created None -> queued attempt None",
        "  3: placed queued -> assigned attempt 1",
        "  5: accepted assigned -> starting attempt 1",
        "  6: started starting -> running attempt 1",
    ]


def test_the_story_tells_also_what_came_in_the_same_batch(world: World) -> None:
    runner, _ = begun(world)
    key = runner.id_of("job")
    life = whole_life(runner)
    *_, refused = runner.report_all(life[0], life[1], runner.rejected(key))
    assert refused.outcome == "rejected"
    assert "accepted" in refused.detail
    assert "started" in refused.detail


def test_saved_without_an_exit_is_refused_and_stores_nothing(world: World) -> None:
    runner, name = begun(world)
    runner.accept("job")
    runner.start("job")
    assert runner.report(runner.saved("job", {"out": "x"})).outcome == "rejected"
    assert world.rows(artifacts) == []
    assert world.states(name) == {"job": "running"}


def test_a_runners_clock_an_hour_off_gives_no_negative_duration(world: World) -> None:
    for skew in (-3600, 3600):
        runner = world.runner(f"skewed{skew}")
        name = world.submit(ONE, "job")
        world.place()
        runner.poll()
        world.clock.advance(10)
        moved = [msgspec.structs.replace(event, at=event.at + skew * 1_000_000) for event in whole_life(runner)]
        runner.report_all(*moved)
        job = world.job(name)
        assert job["submitted_at"] <= job["started_at"] <= job["finished_at"] <= world.clock.now()
        (attempt,) = world.rows(attempts, job_id=uuid.UUID(job["id"][4:]))
        assert attempt.accepted_at <= attempt.started_at <= attempt.exited_at <= attempt.ended_at
        runner.goodbye()


def test_logs_of_an_attempt_arrive_once(world: World) -> None:
    runner, _ = begun(world)
    key = runner.id_of("job")
    logs = world.context.logs
    assert logs.append_now(key, 0, b"one\n") == 4
    assert logs.append_now(key, 0, b"one\n") == 4
    assert logs.append_now(key, 2, b"e\ntwo\n") == 8
    assert logs.append_now(key, 20, b"gap") == 8, "and tells where to go on"
    assert logs.read_now(key).data == b"one\ntwo\n"
