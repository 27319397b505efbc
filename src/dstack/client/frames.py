"""The frame stream of a run's logs: one JSON line per frame, followed by raw bytes where it says `n`.

Log bytes are handed on as they arrive, without waiting for the end of their frame, so a long log costs one copy from
the socket to the caller whatever size the frames have.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dstack.client.types import Frame
    from dstack.client.wire import Answer

_MAX_LINE = 16 << 20


class BadFrame(Exception):
    """The stream is not made of frames; reading it again from the cursor may help."""


def read_frames(answer: Answer) -> Iterator[tuple[Frame, bytes | memoryview]]:
    """Frames in order, each with bytes that belong to it.

    A frame with `n` comes once per piece that arrives: its `offset` is that of the piece and `n` the piece's length.
    The bytes are valid until the next step. The iterator ends with the stream; only an `end` frame says that it was
    whole.
    """
    line = b""
    frame: Frame | None = None
    left = 0
    while piece := answer.read_some():
        at = 0
        while at < len(piece):
            if frame is not None and left:
                taken = piece[at : at + left]
                frame["n"] = len(taken)
                yield frame, taken
                at += len(taken)
                left -= len(taken)
                frame["offset"] = frame.get("offset", 0) + len(taken)
                continue
            # One frame's line is short: copying the rest of the piece to look for its end is what `find` costs.
            rest = bytes(piece[at : at + 4096])
            stop = rest.find(b"\n")
            if stop < 0:
                line += rest
                at += len(rest)
                if len(line) > _MAX_LINE:
                    raise BadFrame("a frame's line does not end")
                continue
            frame = _parse(line + rest[:stop])
            line = b""
            at += stop + 1
            left = frame.get("n", 0)
            if not left:
                yield frame, b""


def _parse(line: bytes) -> Frame:
    try:
        frame = json.loads(line)
    except ValueError as error:
        raise BadFrame(f"not a frame: {line[:80]!r}") from error
    if not isinstance(frame, dict) or "t" not in frame:
        raise BadFrame(f"not a frame: {line[:80]!r}")
    return frame  # pyright: ignore[reportUnknownVariableType] - the API's word for it; unknown fields are ignored
