"""A job's output on stdout: the bytes as the job wrote them, or, of several jobs at once, lines with the job's name."""

from __future__ import annotations

import os

_MAX_PARTIAL = 1 << 15


class LogOutput:
    """Writes to `fd` without a buffer of its own: what was taken from the stream has been written.

    With one job its bytes pass through untouched. With several, each line gets a prefix and is written once it is
    whole; `\\r` ends a line too, so that progress bars move.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._shared = fd == 2 or os.isatty(fd)
        self._jobs: list[str] = []
        self._partial: dict[str, bytes] = {}
        self._open: str | None = None
        """The job whose line is not ended yet."""

    def expect(self, job: str) -> None:
        """Say that `job` may write something."""
        if job not in self._jobs:
            self._jobs.append(job)

    def write(self, job: str, data: bytes | memoryview) -> None:
        """Raises BrokenPipeError when nobody reads any more."""
        self.expect(job)
        if len(self._jobs) == 1:
            self._write(job, data)
            return
        # Part of `\r\n` may still be on its way, so a `\r` at the very end does not end a line yet.
        pieces = (self._partial.pop(job, b"") + data).splitlines(keepends=True)
        if pieces and not pieces[-1].endswith(b"\n") and len(pieces[-1]) < _MAX_PARTIAL:
            self._partial[job] = pieces.pop()
        prefix = self._prefix(job)
        self._write(job, b"".join(prefix + piece for piece in pieces))

    def end(self, job: str) -> None:
        """`job` writes nothing more: show what it left without a line end."""
        rest = self._partial.pop(job, b"")
        if rest:
            self._write(job, self._prefix(job) + rest)

    def end_line(self) -> None:
        """Show what is left, and end the line that is open where something else may be written to the same place.

        A file or pipe gets the bytes of a single job and nothing else.
        """
        for job in list(self._partial):
            self.end(job)
        if self._open is not None and (len(self._jobs) > 1 or self._shared):
            self._write(self._open, b"\n")

    def _prefix(self, job: str) -> bytes:
        width = max(len(name) for name in self._jobs)
        return f"{job.ljust(width)} | ".encode()

    def _write(self, job: str, data: bytes | memoryview) -> None:
        if not data:
            return
        if self._open not in (None, job):
            data = b"\n" + bytes(data)
        self._open = None if data[-1] == 0x0A else job
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                import select

                select.select([], [self._fd], [])
