"""What is said of jobs that are to go back to what they had saved by a time, or to one of their snapshots."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dstack.server.services.beginnings import Beginning, Snapshots
from dstack.server.services.errors import BadRequest, Conflict
from dstack.server.services.moments import Moment, told
from dstack.workflows import Diagnostic, warning


class _Lack(NamedTuple):
    jobs: Sequence[str]
    message: str


@dataclass(frozen=True, slots=True)
class GoingBack:
    """How the jobs of a run that follows `run` go back to `moment`, if it is one."""

    run: str
    listed: str
    """What shows its snapshots."""
    moment: Moment
    snapshots: Snapshots
    beginnings: Mapping[str, Beginning]
    """By job, of those that start again."""
    reused: Collection[str]
    done: Collection[str]
    asked: Collection[str]
    """Jobs that were named."""

    def check(self) -> None:
        """Raise BadRequest or Conflict where that cannot be had."""
        if self.moment.named:
            self._check_named()
        elif self.moment.at is not None and self.beginnings:
            self._check_time(self.moment.at)

    def _check_named(self) -> None:
        named, which = self.moment.named, f"snapshot {self.moment.text}"
        jobs = list(dict.fromkeys(row["job"] for row in named))
        if not named[0]["files"]:
            raise BadRequest(f"{which} of {self.run} holds no file", hint="`--fresh` begins with nothing")
        if not self.snapshots.is_whole(named[0]):
            raise Conflict(
                f"{which} of {self.run} is not whole in the store any more",
                hint=f"`dstack verify {self.run} --repair` looks for another copy; {self.listed}",
            )
        if any(self._begins_with(row["job"], row["path"], row["manifest_id"]) for row in named):
            return
        if jobs[0] in self.reused:
            again = f"`dstack restart {self.run} {jobs[0]} --at {self.moment.text}`"
            raise Conflict(
                f"{which} is of {jobs[0]} of {self.run}, which is done and is reused",
                hint=f"{again} starts {jobs[0]} again with it, and what follows it",
            )
        raise Conflict(
            f"{which} is of `{named[0]['path']}` of {jobs[0]} of {self.run}, which is no artifact of a job that runs",
            hint="--plan shows what runs",
        )

    def _begins_with(self, job: str, path: str, manifest_id: bytes) -> bool:
        rows = self.beginnings.get(job, Beginning()).rows
        return any((row["path"], row["manifest_id"]) == (path, manifest_id) for row in rows)

    def _check_time(self, at: int) -> None:
        wanted = [job for job in self.beginnings if job in self.asked] or list(self.beginnings)
        if any(self._had(job) for job in wanted):
            return
        lack = next(self._lacking([job for job in wanted if self.snapshots.has_saved(job)] or wanted, at))
        raise Conflict(lack.message, hint=f"{self.listed}; `--fresh` begins with nothing")

    def _had(self, job: str) -> bool:
        return bool(self.beginnings[job].rows or self.beginnings[job].lost)

    def _lacking(self, jobs: Sequence[str], at: int) -> Iterator[_Lack]:
        """Why these begin with nothing: those first that had saved what holds no file."""
        empty = [job for job in jobs if self.snapshots.had_saved(job)]
        if empty:
            yield _Lack(empty, f"what {_named(empty)} of {self.run} had saved by {told(at)} holds no file")
        none = [job for job in jobs if job not in empty]
        if none:
            yield _Lack(none, f"{_named(none)} of {self.run} had not saved anything by {told(at)}")

    def warnings(self) -> Sequence[Diagnostic]:
        at = self.moment.at
        if at is None:
            return ()
        found: list[Diagnostic] = []
        without = [
            job
            for job in self.beginnings
            if (job not in self.done or job in self.asked) and self.snapshots.has_saved(job) and not self._had(job)
        ]
        for lack in self._lacking(without, at):
            begins = "they begin" if len(lack.jobs) > 1 else "it begins"
            found.append(warning(f"{lack.message}: {begins} with nothing", self.listed))
        later = [job for job in sorted(self.reused) if self.snapshots.is_later(job, at)]
        if later:
            are, ended = ("are", "are reused as they ended") if len(later) > 1 else ("is", "is reused as it ended")
            message = f"{_named(later)} of {self.run} {are} done, and {ended}, not as of {told(at)}"
            hint = f"`dstack restart {self.run} JOB` with the same `--at` starts JOB again from then"
            found.append(warning(message, hint))
        return found


def _named(jobs: Sequence[str]) -> str:
    """`a`, `a and b`, `a and 2 more jobs`."""
    if len(jobs) > 2:
        return f"{jobs[0]} and {len(jobs) - 1} more jobs"
    return " and ".join(jobs)
