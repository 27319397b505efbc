"""The metrics that a job writes into files: those of `dstack.log`, and `metrics.jsonl` in its working directory."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import dstack.sdk.injob
from dstack.domain.ports import Clock
from dstack.logs.metric_lines import MAX_LINE, Source, parse, place_of
from dstack.protocol import messages

_log = logging.getLogger(__name__)
FILE: Final = "metrics.jsonl"
PIECE = 1 << 20
MAX_POINTS = 5_000
"""Of one event."""


def job_environment(folder: Path, pythonpath: str) -> dict[str, str]:
    """What lets a job log metrics: `import dstack` works in any environment, behind whatever else is on its path."""
    shim = str(Path(dstack.sdk.injob.__file__).parent)
    return {
        "DSTACK_METRICS": str(folder / FILE),
        "PYTHONPATH": f"{pythonpath}{os.pathsep}{shim}" if pythonpath else shim,
    }


@dataclass(slots=True)
class _File:
    path: Path
    source: Source
    offset: int = 0
    """Up to here it was read. A new agent reads from the start: points that are stored already stay as they are."""
    inode: int = 0


class MetricsReader:
    """`prepare` before the job starts, `begin` once it runs (or is found running), then `finish`, or `stop`.

    Looks at the files every `interval` seconds: metrics are a sampling, and a busy job writes thousands of lines.
    `report` takes events, in the agent's thread.
    """

    def __init__(
        self,
        attempt_id: UUID,
        folder: Path,
        working_dir: str,
        clock: Clock,
        interval: float,
        report: Callable[[messages.AttemptEvent], object],
    ) -> None:
        self._attempt_id = attempt_id
        self._clock = clock
        self._interval = interval
        self._report = report
        self._logged = _File(folder / FILE, Source.REPORTED)
        self._written = _File(folder / "work" / working_dir / FILE, Source.WRITTEN)
        self._brought = folder / "metrics.brought"
        self._timer: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """Remember how long a `metrics.jsonl` is that comes with the code or an input: it is not of this run."""
        size, inode = _size(self._written.path)
        if size:
            self._brought.write_text(f"{size} {inode}")

    def begin(self) -> None:
        """Report what the job writes, as it writes it."""
        try:
            size, inode = self._brought.read_text().split()
            self._written.offset, self._written.inode = int(size), int(inode)
        except (FileNotFoundError, ValueError):
            pass  # nothing was brought
        self._again()

    def finish(self) -> None:
        """Report the rest, a last line without its end included."""
        self.stop()
        self._read(ended=True)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def _look(self) -> None:
        self._read(ended=False)
        self._again()

    def _read(self, *, ended: bool) -> None:
        for file in (self._logged, self._written):
            points: list[messages.MetricPoint] = []
            for point in self._points(file, ended=ended):
                points.append(point)
                if len(points) == MAX_POINTS:
                    self._send(points)
                    points = []
            if points:
                self._send(points)

    def _send(self, points: list[messages.MetricPoint]) -> None:
        now = self._clock.now()
        self._report(messages.MetricsLogged(attempt_id=self._attempt_id, at=now, points=tuple(points)))

    def _points(self, file: _File, *, ended: bool) -> Iterator[messages.MetricPoint]:
        now = self._clock.now()
        for offset, line in _new_lines(file, ended=ended):
            found = parse(line)
            if found is not None:
                for name, value in found.values.items():
                    seq = place_of(file.source, offset)
                    yield messages.MetricPoint(seq, name, found.step, found.at or now, value)


def _new_lines(file: _File, *, ended: bool) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of what was added since the last call; all of it again where the file was written anew."""
    size, inode = _size(file.path)
    if size == file.offset and inode == file.inode:
        return
    if inode != file.inode or size < file.offset:
        file.offset, file.inode = 0, inode
    try:
        with open(file.path, "rb") as opened:
            opened.seek(file.offset)
            while line := opened.readline(MAX_LINE):
                if not line.endswith(b"\n") and not ended and len(line) < MAX_LINE:
                    break
                yield file.offset, line
                file.offset += len(line)
    except OSError as error:
        _log.warning("metrics of %s are not read: %s", file.path, error)


def _size(path: Path) -> tuple[int, int]:
    """(bytes, inode), (0, 0) where there is no regular file."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    # Not through links: what a job points at elsewhere is not its working copy.
    return (found.st_size, found.st_ino) if (found.st_mode & 0o170000) == 0o100000 else (0, 0)
