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
