"""What is said of jobs that cannot begin with their last snapshot: refused where they would begin from nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dstack.server.services.beginnings import Beginning, Row
from dstack.server.services.errors import Conflict
from dstack.server.services.moments import told
from dstack.workflows import Diagnostic, warning


@dataclass(frozen=True, slots=True)
class Losses:
    """What the jobs of a run that follows `run` lack, to be told of."""

    run: str
    command: str
    """What the caller has written to have it followed."""
    beginnings: Mapping[str, Beginning]
    """By job, of those that start again with what they had."""
    finished: Collection[str]
    """Jobs that were done: where they start again, that is not for what they lack."""
    redone: Mapping[str, Sequence[Row]] = field(default_factory=dict[str, Sequence[Row]])
    """Jobs that were done and would be reused, had the store not lost these."""

    def check(self) -> None:
        """Raise Conflict where a job would begin from nothing, or what is done run again."""
        blocked = {**self._done_again(), **self._from_nothing()}
        if not blocked:
            return
        job = next(iter(blocked))
        paths = " and ".join(f"`{row['path']}`" for row in blocked[job])
        more = f"; {len(blocked) - 1} more of its jobs lack what they saved" if len(blocked) > 1 else ""
        again = f"`dstack restart {self.run} {job}`"
        raise Conflict(
            f"what {job} of {self.run} saved in {paths} is not whole in the store any more{more}",
            hint=f"`dstack verify {self.run} --repair` looks for another copy; "
            + (
                f"{again} runs it again, and what follows it"
                if job in self.redone
                else f"{again} starts {job} without it, `{self.command} --fresh` begins without any"
            ),
        )

    def warnings(self) -> list[Diagnostic]:
        return list(self._warnings())

    def _warnings(self) -> Iterator[Diagnostic]:
        for beginning in self.beginnings.values():
            for last, older in beginning.replaced:
                yield _begins_earlier(last, older) if last["files"] else self._begins_before_it_was_empty(last, older)
        without = {job: beginning.lost for job, beginning in self.beginnings.items()} | self._done_again()
        for rows in without.values():
            for row in rows:
                yield _begins_without(row)

    def _done_again(self) -> dict[str, Sequence[Row]]:
        """Of `redone`, those that have nothing older to begin from."""
        begin = {job: self.beginnings.get(job, Beginning()) for job in self.redone}
        return {
            job: begin[job].lost or rows
            for job, rows in self.redone.items()
            if begin[job].lost or not begin[job].replaced
        }

    def _from_nothing(self) -> dict[str, Sequence[Row]]:
        return {
            job: beginning.lost
            for job, beginning in self.beginnings.items()
            if beginning.lost and job not in self.finished
        }

    def _begins_before_it_was_empty(self, last: Row, older: Row) -> Diagnostic:
        message = (
            f"the snapshot of `{last['path']}` that {last['job']} of {last['run']} would begin with holds no file: it "
            f"begins with the newest before it that does, of {told(older['at'])}"
        )
        return warning(message, f"`{self.command} --fresh` begins with nothing")


def _begins_earlier(lost: Row, older: Row) -> Diagnostic:
    message = (
        f"what {lost['job']} of {lost['run']} saved last in `{lost['path']}` is not whole in the store any more: it "
        f"begins with what it saved at {told(older['at'])}"
    )
    return warning(message, f"`dstack verify {lost['run']} --repair` looks for another copy of the last")


def _begins_without(row: Row) -> Diagnostic:
    message = (
        f"what {row['job']} of {row['run']} saved in `{row['path']}` is not whole in the store any more: it runs "
        "without"
    )
    return warning(message, "`dstack verify --all` says what else is damaged")
