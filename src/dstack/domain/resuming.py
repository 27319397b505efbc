"""Which jobs of a run its successor takes over, and which start again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Instead(StrEnum):
    """Why a job that starts again does not begin with the last snapshot."""

    ASKED = "asked"
    """It goes back to an earlier one."""
    EMPTY = "empty"
    """The later ones hold no file."""
    LOST = "lost"
    """The later ones are not whole in the store."""


@dataclass(frozen=True, slots=True)
class StepOfRun:
    """A step of the new run with the names of its jobs, and the steps of the run that it depends on."""

    name: str
    needs: tuple[str, ...]
    jobs: tuple[str, ...]


class Before(NamedTuple):
    """The jobs of the old run, by name: those that are done and may be taken over, and those that were skipped."""

    done: Collection[str]
    skipped: Collection[str] = frozenset()


def taken_over(steps: Iterable[StepOfRun], before: Before, again: Collection[str] = ()) -> frozenset[str]:
    """The jobs that need not run: done, not asked for `again` (by the name of job or step), and all that their step
    depends on is taken over too.

    `steps` come each after those that it depends on. What follows a job that starts again works on new files, so it
    starts again too, done or not: `always()` and `continue-on-failure` let it be done though what it followed was not.
    A step that was skipped, and whose dependencies are as they were, is skipped again, and holds nothing up.
    """
    found: set[str] = set()
    settled: set[str] = set()
    for step in steps:
        if not all(name in settled for name in step.needs) or step.name in again:
            continue
        mine = [job for job in step.jobs if job in before.done and job not in again]
        found.update(mine)
        if len(mine) == len(step.jobs) or all(job in before.skipped for job in step.jobs):
            settled.add(step.name)
    return frozenset(found)
