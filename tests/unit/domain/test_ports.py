"""Ids and clocks."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.ports import Clock, Ids, SystemClock, SystemIds, format_id


@given(st.integers(min_value=0, max_value=(2**48 - 1) * 1000))
def test_ids_are_uuid_version_7_of_their_millisecond(now: int) -> None:
    value = SystemIds().new(now)
    assert (value.version, value.variant) == (7, RFC_4122)
    assert value.int >> 80 == now // 1000


def test_ids_of_one_moment_differ_and_of_later_ones_sort_later() -> None:
    ids: Ids = SystemIds()
    moment = 1_700_000_000_000_000
    assert len({ids.new(moment) for _ in range(1000)}) == 1000
    assert ids.new(moment) < ids.new(moment + 1000) < ids.new(moment + 2_000_000)


def test_every_random_bit_is_used() -> None:
    ones = zeros = 0
    for _ in range(200):
        value = SystemIds().new(0).int
        ones |= value
        zeros |= ~value
    varying = ones & zeros & (2**128 - 1)
    assert varying == (0xFFF << 64) | (2**62 - 1)


def test_system_clock_counts_microseconds() -> None:
    clock: Clock = SystemClock()
    assert clock.now() > 1_700_000_000_000_000
    assert clock.monotonic() <= clock.monotonic()


def test_ids_at_the_api() -> None:
    assert format_id("run", UUID(int=0x0193)) == "run_00000000000000000000000000000193"


def test_ids_of_one_process_rise_within_a_millisecond_and_while_the_clock_is_set_back() -> None:
    ids = SystemIds()
    moment = 1_700_000_000_000_000
    made = [ids.new(moment - step // 100 * 3_600_000_000) for step in range(1000)]
    assert made == sorted(set(made))
    assert all((value.version, value.variant) == (7, RFC_4122) for value in made)
    assert ids.new(moment + 1000).int >> 80 == moment // 1000 + 1, "and follow the clock again"
