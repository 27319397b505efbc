"""A run's frames as JSON lines, for programs: `dstack logs --json`."""

from __future__ import annotations

import codecs

from dstack.cli.follow import Follower
from dstack.cli.render import write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from codecs import IncrementalDecoder
    from typing import Any

    from dstack.cli.interrupts import Interrupts
    from dstack.client.types import Frame, Run


class JsonFollower(Follower):
    """Shows what happens as objects: `{"t": "job", …}`, `{"t": "log", "job", "attempt", "offset", "text"}`, and
    `{"t": "end", "run": …}` last.

    `text` is what stands from byte `offset` on, as UTF-8; what is none is replaced. No character is cut in two.
    """

    def __init__(self, *things: Any, **options: Any) -> None:
        super().__init__(*things, **options)
        self._text: dict[tuple[str, int], _Text] = {}

    def follow(self, interrupts: Interrupts | None = None) -> Run:
        run = super().follow(interrupts)
        for (job, attempt), text in self._text.items():
            _write_text(job, attempt, *text.rest())
        _write({"t": "end", "run": run})
        return run

    def show_log(self, job: str, attempt: int, offset: int, data: bytes | memoryview) -> None:
        text = self._text.setdefault((job, attempt), _Text())
        _write_text(job, attempt, *text.read(offset, data))

    def show_job(self, frame: Frame) -> None:
        _write(frame)


class _Text:
    """The text of bytes that come in pieces, cut anywhere."""

    def __init__(self) -> None:
        self._decoder: IncrementalDecoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._end = 0

    def read(self, offset: int, data: bytes | memoryview) -> tuple[int, str]:
        """The text that is complete with `data`, and where it begins."""
        start = offset - len(self._decoder.getstate()[0])
        self._end = offset + len(data)
        return start, self._decoder.decode(bytes(data))

    def rest(self) -> tuple[int, str]:
        """What no further byte completes."""
        return self._end - len(self._decoder.getstate()[0]), self._decoder.decode(b"", True)


def _write_text(job: str, attempt: int, offset: int, text: str) -> None:
    if text:
        _write({"t": "log", "job": job, "attempt": attempt, "offset": offset, "text": text})


def _write(value: object) -> None:
    # At once: whoever reads may be waiting for it.
    write_json(value, indent=None)
