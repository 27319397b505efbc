"""The file log store: whatever comes twice, late, early or overlapping, the stream is what the job wrote."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dstack.logs.files import FileLogStore

STREAM = uuid.UUID(int=1)


@given(
    content=st.binary(max_size=60),
    pieces=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30),
    reopen=st.sets(st.integers(0, 29)),
)
def test_any_order_of_appends_keeps_a_prefix_and_asks_for_the_rest(
    content: bytes, pieces: list[tuple[int, int]], reopen: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FileLogStore(Path(folder))
        length = 0
        for index, (a, b) in enumerate(pieces):
            begin, end = min(a, b, len(content)), min(max(a, b), len(content))
            answer = store.append_now(STREAM, begin, content[begin:end])
            if begin <= length:
                length = max(length, end)
            assert answer == length == store.length_now(STREAM)
            if index in reopen:
                store.close()
        assert store.read_now(STREAM).data == content[:length]
        while (wanted := store.append_now(STREAM, length, content[length : length + 7])) < len(content):
            length = wanted
        assert store.read_now(STREAM, limit=1000).data == content
        store.close()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), max_size=40), st.integers(-5, 1100))
def test_nothing_before_the_offset_of_a_time_was_written_at_or_after_it(
    marks: list[tuple[int, int]], time: int
) -> None:
    marks = sorted(marks)
    with tempfile.TemporaryDirectory() as folder:
        store = FileLogStore(Path(folder))
        kept: list[tuple[int, int]] = []
        for position, mark in marks:
            store.append_now(STREAM, store.length_now(STREAM), b"x", [(position, mark)])
            if not kept or position > kept[-1][0]:
                kept.append((position, max([mark, *(each[1] for each in kept)])))
        offset = store.offset_at_now(STREAM, time)
        earlier = [position for position, mark in kept if mark < time]
        assert offset == (earlier[-1] if earlier else 0)
        for position, mark in kept:
            assert store.time_of_now(STREAM, position) == mark
        store.close()
