"""A log over its quota keeps its beginning, its end and the truth about what lies between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dstack.logs.quota import LogQuota, Ship, Skip


@given(limit=st.integers(2, 200), tail=st.integers(1, 200), growth=st.lists(st.integers(0, 90), max_size=12))
def test_head_and_tail_are_kept_and_the_gap_is_counted(limit: int, tail: int, growth: list[int]) -> None:
    quota = LogQuota(limit, tail)
    offset = size = shipped = skipped = 0
    markers = 0
    for index, grown in enumerate([*growth, 0]):
        size += grown
        ended = index == len(growth)
        while step := quota.next(offset, size, ended=ended):
            assert step.begin == offset
            assert offset < step.end <= size
            if isinstance(step, Skip):
                assert ended
                assert f"{step.end - step.begin} bytes left out".encode() in step.marker
                skipped += step.end - step.begin
                markers += 1
            else:
                assert isinstance(step, Ship)
                shipped += step.end - step.begin
            offset = step.end
        begin, end = quota.disposable(size)
        assert begin >= end or offset <= begin or ended
    assert offset == size
    assert shipped == min(size, limit)
    assert skipped == size - shipped
    assert markers == (1 if size > limit else 0)
