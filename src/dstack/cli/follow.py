"""Follow a run: its output to stdout, what happens to it to stderr, until it ends or the person leaves."""

from __future__ import annotations

import os
import sys
import time

from dstack.cli.interrupts import Interrupts
from dstack.cli.output import LogOutput
from dstack.cli.render import duration, is_finished, paint, say
from dstack.client.api import ApiError, Unreachable
from dstack.client.frames import BadFrame, read_frames
from dstack.client.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.api import Api
    from dstack.client.types import Frame, Run

_PATIENCE = 3600.0
"""Seconds without any answer after which following is given up. The run does not mind."""
_REUSED = 10
"""Reused jobs that are told of one by one."""
_STEADY = 5.0
"""Seconds for which a connection must last to count as one: until then, and without output, it is as good as none."""
_QUIET = 2.0
"""Seconds before it is said why a job waits: most jobs wait for less."""


class Follower:
    """The state of following one run: what was shown so far. `follow` may be called again after an interrupt."""

    def __init__(
        self,
        api: Api,
        name: str,
        output: LogOutput,
        *,
        follow: bool = True,
        job: str | None = None,
        since: int | None = None,
        quiet: bool = False,
    ) -> None:
        self._api = api
        self._name = name
        self._output = output
        self._follow = follow
        self._job = job
        self._since = since
        self._quiet = quiet
        self._started = time.monotonic()
        self._cursor: dict[str, tuple[int, int]] = {}
        self._jobs: dict[str, Frame] = {}
        self._why: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._problem: set[str] = set()
        """Jobs of which it was said that something keeps them from saving."""
        self._attempts: set[tuple[str, int]] = set()
        """Those that were told of."""
        self._reused = 0
        self._answered: float | None = None
        """When the connection there is brought its first frame."""
        self.lines_shown = False

    def expect(self, run: Run) -> None:
        """Take up the jobs that an answer named before the stream begins."""
        for job in run.get("jobs", []):
            if not job.get("reused_from") and self._job in (None, job.get("name")):
                self._output.expect(job.get("name", ""))

    def follow(self, interrupts: Interrupts | None = None) -> Run:
        """Show everything until the run's end; the run as it ended. Raises ApiError, Unreachable, Interrupted."""
        gave_up = time.monotonic() + _PATIENCE
        pause = 0.0
        lost = False
        while True:
            shown, self._answered = dict(self._cursor), None
            try:
                run = self._stream(interrupts)
                if run is not None:
                    return run
                problem: Exception = Unreachable("the stream ended early")
            except (WireError, BadFrame, Unreachable) as error:
                problem = error
            except ApiError as error:
                if error.status < 500:
                    raise
                problem = error
            self._api.drop()
            now = time.monotonic()
            if self._cursor != shown or (self._answered is not None and now - self._answered >= _STEADY):
                gave_up, pause, lost = now + _PATIENCE, 0.0, False
            if now >= gave_up:
                raise Unreachable(f"following {self._name} was given up: {problem}")
            if pause >= 1.0 and not lost:
                lost = True
                self._tell(f"the connection was lost ({problem}); the run goes on, trying to reconnect")
            if interrupts is not None:
                interrupts.wait()
            time.sleep(pause)
            pause = min(max(0.05, pause * 2), 5.0)

    def _stream(self, interrupts: Interrupts | None) -> Run | None:
        if interrupts is not None:
            interrupts.wait()
        answer = self._api.logs(self._name, follow=self._follow, job=self._job, since=self._since, cursor=self._cursor)
        for frame, data in read_frames(answer):
            if interrupts is not None:
                interrupts.work()
            if self._answered is None:
                self._answered = time.monotonic()
            kind = frame.get("t")
            if kind == "log":
                self._on_log(frame, data)
            elif kind == "job":
                self._on_job(frame)
            elif kind == "beat":
                self._explain_waiting()
            elif kind == "end":
                self._output.end_line()
                return frame.get("run")
            if interrupts is not None:
                interrupts.wait()
        return None

    def _on_log(self, frame: Frame, data: bytes | memoryview) -> None:
        job, attempt, offset = frame.get("job", ""), frame.get("attempt", 1), frame.get("offset", 0)
        known_attempt, shown = self._cursor.get(job, (0, 0))
        if attempt < known_attempt:
            return
        if attempt > known_attempt:
            if known_attempt:
                self._tell_attempt(job, attempt)
            shown = offset
        end = offset + len(data)
        if end > shown:
            start = max(offset, shown)
            self.show_log(job, attempt, start, data[start - offset :])
            self.lines_shown = True
        self._cursor[job] = (attempt, max(end, shown))

    def show_log(self, job: str, attempt: int, offset: int, data: bytes | memoryview) -> None:
        """Show bytes of a job's output that were not shown before; they stand at `offset` of the attempt's."""
        self._output.write(job, data)

    def _on_job(self, frame: Frame) -> None:
        job = frame.get("job", "")
        if self._job not in (None, job):
            return
        self.show_job(frame)

    def show_job(self, frame: Frame) -> None:
        """Show that a job began or changed, where that says something."""
        job = frame.get("job", "")
        before, self._jobs[job] = self._jobs.get(job), frame
        if frame.get("reused_from"):
            if before is None:
                self._tell_reused(job, frame.get("reused_run") or "an earlier run")
            return
        self._output.expect(job)
        if before is not None and frame.get("attempt", 0) > before.get("attempt", 0) > 0:
            self._tell_attempt(job, frame.get("attempt", 0))  # it may never print anything
        status = frame.get("status", "")
        if status in ("waiting", "queued", "assigned"):
            self._why[job] = frame.get("why_waiting") or ""
            if time.monotonic() - self._started > _QUIET:
                self._explain_waiting()
        else:
            self._why.pop(job, None)
            self._tell_problem(job, frame, before)
        if is_finished(frame):
            self._output.end(job)
            # What happened to the only job is what happened to the run, which is said at the end.
            if len(self._jobs) > 1 and before is not None and before.get("status") != status:
                reason = frame.get("reason_text") or ""
                took = duration(frame.get("started_at"), frame.get("finished_at"))
                detail = reason if status == "failed" and reason else took
                self._say(job, f"{job}: {status}" + (f" ({detail})" if detail else ""))

    def _tell_attempt(self, job: str, attempt: int) -> None:
        if (job, attempt) not in self._attempts:
            self._attempts.add((job, attempt))
            self._say(job, f"{job}: attempt {attempt}")

    def _tell_problem(self, job: str, frame: Frame, before: Frame | None) -> None:
        """What keeps a job that runs from saving, and that nothing does any more."""
        why = frame.get("why_waiting") or ""
        if why:
            self._problem.add(job)
            self._say(job, paint(f"{job}: {why}", "yellow", sys.stderr))
        elif job in self._problem and before is not None and before.get("status") == frame.get("status"):
            self._problem.discard(job)
            self._say(job, f"{job}: saving goes on")

    def _tell_reused(self, job: str, run: str) -> None:
        self._reused += 1
        if self._reused <= _REUSED:
            self._say(job, f"{job}: reused from {run}")
        elif self._reused == _REUSED + 1:
            self._tell(f"more jobs are reused: dstack runs {self._name} shows them")

    def _explain_waiting(self) -> None:
        for job, why in self._why.items():
            if why:
                self._say(job, paint(f"{job}: {why}", "yellow", sys.stderr))

    def _say(self, about: str, text: str) -> None:
        """Tell something about a job, unless it is what was told last."""
        if self._told.get(about) != text:
            self._told[about] = text
            self._tell(text)

    def _tell(self, text: str) -> None:
        if self._quiet:
            return
        if os.isatty(1) and os.isatty(2):
            self._output.end_line()
        say(text)
