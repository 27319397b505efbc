"""The frame stream, however the network cuts it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.client.frames import BadFrame, read_frames


class Pieces:
    """An answer whose body arrives in the given pieces, as views of a buffer that is used again."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = bytearray(1 << 17)

    def read_some(self) -> memoryview:
        piece = next(self._pieces, b"")
        self._buffer[: len(piece)] = piece
        return memoryview(self._buffer)[: len(piece)]

    def read(self) -> bytes:
        return b"".join(self._pieces)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({at % (len(stream) + 1) for at in cuts}), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges) if b > a]


frames = st.one_of(
    st.fixed_dictionaries({"t": st.sampled_from(["job", "run", "beat"]), "x": st.text(max_size=20)}),
    st.binary(max_size=300),
)


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 5000), max_size=20))
def test_frames_survive_any_cut(content: list[dict[str, str] | bytes], cuts: list[int]) -> None:
    stream, expected, logs, offset = b"", [], b"", 0
    for item in content:
        if isinstance(item, bytes):
            head = {"t": "log", "job": "a", "attempt": 1, "offset": offset, "n": len(item)}
            stream += json.dumps(head).encode() + b"\n" + item
            logs += item
            offset += len(item)
        else:
            stream += json.dumps(item).encode() + b"\n"
            expected.append(item)
    got, got_logs = [], b""
    for frame, data in read_frames(Pieces(cut(stream, cuts))):
        if frame.get("t") == "log":
            assert frame.get("offset") == len(got_logs)
            assert frame.get("n") == len(data)
            got_logs += bytes(data)
        else:
            got.append(dict(frame))
    assert got == expected
    assert got_logs == logs


def test_a_line_longer_than_any_piece_is_read() -> None:
    line = json.dumps({"t": "end", "run": {"name": "x" * 100_000}}).encode() + b"\n"
    pieces = [line[at : at + 1000] for at in range(0, len(line), 1000)]
    [(frame, data)] = list(read_frames(Pieces(pieces)))
    assert frame.get("run", {}).get("name") == "x" * 100_000
    assert data == b""


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b"3\n", b'{"x": 1}\n'])
def test_what_is_no_frame_is_said(line: bytes) -> None:
    with pytest.raises(BadFrame, match="not a frame"):
        list(read_frames(Pieces([line])))
