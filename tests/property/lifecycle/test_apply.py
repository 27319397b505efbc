"""The bad world over real rows: `services.apply` on SQLite and on PostgreSQL, step by step beside the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis.stateful import run_state_machine_as_test

from dstack.domain.lifecycle import job as job_table
from dstack.domain.reasons import Reason
from dstack.server.db.engine import Database, Transaction
from dstack.server.services.apply import StaleRow
from tests.property.lifecycle.machine import Lifecycle, as_often
from tests.property.lifecycle.model import PLAIN, Dag, Happening, StepSpec
from tests.property.lifecycle.stored import Stored
from tests.support.ports import FakeClock, FakeIds

ONE_JOB: Dag = (StepSpec((PLAIN,)),)
CHAIN: Dag = (
    StepSpec((PLAIN, PLAIN)),
    StepSpec((PLAIN,), frozenset({0})),
    StepSpec((PLAIN,), frozenset({1})),
)


def test_rows_survive_a_bad_world(database: Database, ids: FakeIds) -> None:
    class OverRows(Lifecycle):
        def make_server(self, dag: Dag) -> Stored:
            return Stored(dag, database, self.clock, ids)

    run_state_machine_as_test(OverRows, settings=as_often(20, steps=50))


@pytest.fixture
def one(database: Database, clock: FakeClock, ids: FakeIds) -> Stored:
    return Stored(ONE_JOB, database, clock, ids)


@pytest.fixture
def chain(database: Database, clock: FakeClock, ids: FakeIds) -> Stored:
    return Stored(CHAIN, database, clock, ids)


def happenings(job: int, *made: job_table.JobEvent) -> list[Happening]:
    return [Happening(job, event) for event in made]


def whole_life(number: int, code: int = 0) -> tuple[job_table.AttemptEvent, ...]:
    return (
        job_table.Accepted(number),
        job_table.Started(number),
        job_table.Exited(number, code),
        job_table.Saved(number, job_table.Exited(number, code)),
    )


def test_a_whole_life_in_one_batch_keeps_every_event(one: Stored) -> None:
    one.apply([Happening(0, job_table.Placed(), runner=0)])
    assert one.apply(happenings(0, *whole_life(1))) == ["applied"] * 4
    one.check()
    assert [told.event for told in one.state.story if told.kind == "job"] == [
        "placed", "accepted", "started", "exited", "saved",
    ]  # fmt: skip
    assert one.state.run.state == "done"


def test_a_batch_told_twice_changes_nothing_and_is_answered(one: Stored) -> None:
    one.apply([Happening(0, job_table.Placed(), runner=0)])
    one.apply(happenings(0, *whole_life(1)))
    story = list(one.state.story)
    assert one.apply(happenings(0, *whole_life(1))) == ["ignored"] * 4
    one.check()
    assert one.state.story == story


def test_a_bad_event_does_not_fail_the_others_of_its_batch(chain: Stored) -> None:
    chain.apply([Happening(index, job_table.Placed(), runner=index) for index in (0, 1)])
    mixed = [*happenings(0, job_table.Accepted(7)), *happenings(1, *whole_life(1))]
    assert chain.apply(mixed) == ["rejected", "applied", "applied", "applied", "applied"]
    chain.check()


def test_a_refusal_tells_the_jobs_whole_story(one: Stored) -> None:
    one.apply([Happening(0, job_table.Placed(), runner=0)])
    one.apply(happenings(0, job_table.Accepted(1), job_table.Started(1)))

    def contradict(tx: Transaction) -> str:
        batch = one.batch(tx)
        batch.load_jobs(one.jobs)
        answer = batch.job(one.jobs[0], job_table.Rejected(1))
        assert answer.outcome == "rejected"
        return answer.detail

    story = one.write(contradict)
    assert "the runner accepted this attempt before" in story
    words = ("placed queued -> assigned", "accepted assigned -> starting", "started starting -> running")
    assert [word for word in words if word in story] == list(words)


def test_a_failure_skips_all_that_follows_in_one_batch(chain: Stored) -> None:
    chain.apply([Happening(index, job_table.Placed(), runner=index) for index in (0, 1)])
    chain.apply(happenings(0, *whole_life(1, code=3)))
    assert [job.state for job in chain.state.jobs] == ["failed", "assigned", "skipped", "skipped"]
    assert chain.state.run.state == "running", "the rest finishes"
    chain.apply(happenings(1, *whole_life(1)))
    chain.check()
    assert chain.state.run.state == "failed"


def test_success_of_the_last_dependency_queues_what_follows(chain: Stored) -> None:
    chain.apply([Happening(index, job_table.Placed(), runner=0) for index in (0, 1)])
    chain.apply(happenings(0, *whole_life(1)))
    assert chain.state.jobs[2].state == "waiting"
    chain.apply(happenings(1, *whole_life(1)))
    chain.check()
    assert [job.state for job in chain.state.jobs] == ["done", "done", "queued", "waiting"]


def test_a_batch_on_rows_that_changed_meanwhile_writes_nothing(one: Stored) -> None:
    def overtaken(tx: Transaction) -> None:
        late, early = one.batch(tx), one.batch(tx)
        for batch in (late, early):
            batch.load_jobs(one.jobs)
        early.job(one.jobs[0], job_table.Unsatisfiable())
        early.store()
        late.job(one.jobs[0], job_table.StopAsked())
        late.store()

    with pytest.raises(StaleRow):
        one.write(overtaken)
    one.check()  # the reference heard of neither


def test_a_late_result_is_kept_beside_its_attempt(database: Database, clock: FakeClock, ids: FakeIds) -> None:
    retried = replace(PLAIN, retry_on=frozenset({Reason.RUNNER_LOST}), retry_max=3)
    one = Stored((StepSpec((retried,)),), database, clock, ids)
    one.apply([Happening(0, job_table.Placed(), runner=0)])
    one.apply(happenings(0, job_table.Started(1), job_table.Lost(1)))
    clock.advance(10)
    one.apply([Happening(0, job_table.Placed(), runner=1)])
    assert one.apply(happenings(0, job_table.Exited(1, 0))) == ["ignored"]
    one.check()
    assert one.state.late == {(0, 1): "exited"}
    assert (one.state.jobs[0].state, one.state.jobs[0].attempt) == ("assigned", 2)
