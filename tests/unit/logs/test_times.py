from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.logs.times import MarkRecorder, TimeIndex


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "times", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_marks_come_at_most_every_tenth_of_a_second() -> None:
    recorder = MarkRecorder()
    assert recorder.mark(0, 1_000_000) == ((0, 1_000_000),)
    assert recorder.mark(10, 1_099_999) == ()
    assert recorder.mark(20, 1_100_000) == ((20, 1_100_000),)
    assert recorder.mark(30, 500_000) == ((30, 500_000),), "a clock set back is worth a mark"


def test_a_reopened_index_knows_its_marks_and_skips_those_that_come_again(fd: int) -> None:
    TimeIndex(fd).append([(0, 100), (10, 200)])
    index = TimeIndex(fd)
    index.append([(0, 100), (10, 200), (20, 300)])
    assert os.fstat(fd).st_size == 48
    assert [index.offset_at(time, 30) for time in (50, 100, 101, 200, 250, 300, 999)] == [0, 0, 0, 0, 10, 10, 20]
    assert [index.time_of(offset) for offset in (0, 9, 10, 25)] == [100, 100, 200, 300]


def test_a_silence_before_the_time_asked_for_leaves_nothing_of_its_mark(fd: int) -> None:
    index = TimeIndex(fd)
    index.append([(0, 1_000_000), (10, 9_000_000)])
    assert [index.offset_at(time, 25) for time in (1_200_000, 1_200_001, 9_000_000, 9_200_000, 9_200_001)] == [
        0, 10, 10, 10, 25,
    ]  # fmt: skip


def test_times_never_fall_and_a_torn_record_is_overwritten(fd: int) -> None:
    TimeIndex(fd).append([(0, 500)])
    os.pwrite(fd, b"torn", 16)
    index = TimeIndex(fd)
    index.append([(10, 400), (20, 600)])
    assert [index.time_of(offset) for offset in (0, 10, 20)] == [500, 500, 600]


def test_an_empty_index_tells_nothing(fd: int) -> None:
    index = TimeIndex(fd)
    assert index.time_of(5) is None
    assert index.offset_at(5, 30) == 0
