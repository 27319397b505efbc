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

_WINDOW = 4096
_MAX_LINE = 256 << 20
"""Bytes. The last frame holds a run with all of its jobs; ten thousand of them are some 10 MB."""


class BadFrame(Exception):
    """The stream is not made of frames; reading it again from the cursor may help."""


def read_frames(answer: Answer) -> Iterator[tuple[Frame, bytes | memoryview]]:
    """Frames in order, each with bytes that belong to it.

    A frame with `n` comes once per piece that arrives: its `offset` is that of the piece and `n` the piece's length.
    The bytes are valid until the next step. The iterator ends with the stream; only an `end` frame says that it was
    whole.
    """
    line = bytearray()
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
            # A memoryview cannot be searched; most lines are short, so a small window is copied, not the whole piece.
            window = bytes(piece[at : at + _WINDOW])
            stop = window.find(b"\n")
            if stop < 0:
                line += window
                at += len(window)
                if len(line) > _MAX_LINE:
                    raise BadFrame("a frame's line does not end")
                continue
            frame = _parse(bytes(line + window[:stop]))
            line.clear()
            at += stop + 1
            left = frame.get("n", 0)
            if not left:
                yield frame, b""


def _parse(line: bytes) -> Frame:
    try:
        frame: Frame = json.loads(line)
        if "t" in frame:
            return frame
    except (ValueError, TypeError):
        pass
    raise BadFrame(f"not a frame: {line[:80]!r}")
