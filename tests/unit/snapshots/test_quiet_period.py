"""When a live snapshot is due."""

from __future__ import annotations

import pytest

from dstack.snapshots.live import QuietPeriod


@pytest.fixture
def schedule() -> QuietPeriod:
    return QuietPeriod(100.0, quiet=2.0, max_interval=30.0, rescan=60.0)


def test_nothing_is_due_while_nothing_changes(schedule: QuietPeriod) -> None:
    assert not any(schedule.due(100.0 + second) for second in range(60))


def test_after_a_quiet_period(schedule: QuietPeriod) -> None:
    schedule.changed(110.0)
    assert not schedule.due(111.9)
    schedule.changed(111.9)
    assert not schedule.due(113.8)
    assert schedule.due(113.9)
    schedule.taken(113.9)
    assert not schedule.due(150.0)


def test_now_and_then_when_writes_never_pause(schedule: QuietPeriod) -> None:
    taken: list[float] = []
    for tenth in range(1000):
        now = 110.0 + tenth / 10
        schedule.changed(now)
        if schedule.due(now):
            taken.append(now)
            schedule.taken(now)
    assert taken == pytest.approx([140.0, 170.1, 200.2], abs=0.2)


def test_looks_again_without_being_told(schedule: QuietPeriod) -> None:
    assert schedule.due(160.0)
    schedule.taken(160.0)
    assert not schedule.due(219.9)
    assert schedule.due(220.0)


def test_a_walk_that_takes_long_is_followed_by_a_rest(schedule: QuietPeriod) -> None:
    """Folders of very many files: what is written all the time may not cost a processor."""
    schedule.changed(110.0)
    schedule.taken(112.0)
    schedule.ended(112.5, 0.5)
    schedule.changed(113.0)
    assert not schedule.due(117.4)
    assert schedule.due(117.5)
    schedule.taken(117.5)
    schedule.ended(117.5, 0.001)
    schedule.changed(117.6)
    assert schedule.due(119.6)


def test_the_rest_has_an_end(schedule: QuietPeriod) -> None:
    schedule.taken(110.0)
    schedule.ended(130.0, 20.0)
    schedule.changed(131.0)
    assert not schedule.due(159.9)
    assert schedule.due(160.0)
