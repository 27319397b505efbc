"""Runners and the network between them and the server, as small as they can be and as bad as they may get."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle.job import AttemptEvent, Exited

Key = tuple[int, int]
"""(job, attempt number)"""


# --- messages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """Runner → server: what happened to attempts, in order, not answered yet."""

    runner: int
    incarnation: int
    events: tuple[tuple[int, AttemptEvent], ...]


@dataclass(frozen=True)
class Answers:
    """Server → runner: these were taken; they need not be told again."""

    runner: int
    incarnation: int
    events: tuple[tuple[int, AttemptEvent], ...]


@dataclass(frozen=True)
class Register:
    runner: int
    incarnation: int
    holds: frozenset[Key]


@dataclass(frozen=True)
class Poll:
    runner: int
    incarnation: int
    known: frozenset[Key]
    missing: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Commands:
    """Server → runner: the difference between what it knows and what should be."""

    runner: int
    incarnation: int
    assign: frozenset[Key] = frozenset()
    recall: frozenset[Key] = frozenset()
    stop: frozenset[Key] = frozenset()
    abort: frozenset[Key] = frozenset()
    kill: frozenset[Key] = frozenset()
    ask: frozenset[Key] = frozenset()
    register: bool = False


@dataclass(frozen=True)
class StopRun:
    """CLI → server."""

    abort: bool


ToServer = Report | Register | Poll | StopRun
ToRunner = Answers | Commands
Message = ToServer | ToRunner


# --- runners -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """An attempt as its runner sees it."""

    phase: str = "assigned"
    """assigned, starting, running, saving, over"""
    stop: str = ""
    exit: Exited | None = None


@dataclass
class Agent:
    """An honest runner: it tells what happened, again and again until answered, and obeys the server."""

    number: int
    incarnation: int
    held: dict[Key, Held] = field(default_factory=dict[Key, Held])
    outbox: list[tuple[int, AttemptEvent]] = field(default_factory=list[tuple[int, AttemptEvent]])
    seen: set[Key] = field(default_factory=set[Key])
    truth: dict[Key, Exited] = field(default_factory=dict[Key, Exited])
    """How processes really ended."""
    saved: set[Key] = field(default_factory=set[Key])
    """Whose artifacts really are in the store."""
    missing: frozenset[Key] = frozenset()
    """What the server asked for last and it does not hold."""

    def take(self, message: ToRunner) -> None:
        if message.incarnation != self.incarnation:
            return  # its connection died with the process before
        if isinstance(message, Answers):
            self.outbox = [event for event in self.outbox if event not in message.events]
            return
        self.missing = message.ask - self.known()
        for key in message.assign - self.seen:
            self.seen.add(key)
            self.held[key] = Held()
        for key in message.recall:
            if key not in self.seen or key in self.in_phase("assigned"):
                self.seen.add(key)
                self.held.pop(key, None)
                self._tell(key, job_table.Returned(key[1], recalled=True))
        for key in message.stop | message.abort:
            if key in self.held and self.held[key].phase in ("starting", "running"):
                self.held[key] = replace(self.held[key], stop="abort" if key in message.abort else "stop")
        for key in message.kill:
            self.held.pop(key, None)
            self.outbox = [(job, event) for job, event in self.outbox if (job, event.attempt) != key]

    def _tell(self, key: Key, event: AttemptEvent) -> None:
        self.outbox.append((key[0], event))

    def known(self) -> frozenset[Key]:
        """Attempts that it holds, or has something to tell of."""
        telling = {(job, event.attempt) for job, event in self.outbox}
        return frozenset(key for key, held in self.held.items() if held.phase != "over" or key in telling)

    def in_phase(self, *phases: str) -> list[Key]:
        return sorted(key for key, held in self.held.items() if held.phase in phases)

    def accept(self, key: Key) -> None:
        self.held[key] = replace(self.held[key], phase="starting")
        self._tell(key, job_table.Accepted(key[1]))

    def reject(self, key: Key) -> None:
        self._over(key, job_table.Rejected(key[1]))

    def start(self, key: Key) -> None:
        self.held[key] = replace(self.held[key], phase="running")
        self._tell(key, job_table.Started(key[1]))

    def fail_setup(self, key: Key) -> None:
        self._over(key, job_table.SetupFailed(key[1]))

    def exit(self, key: Key, code: int | None, oom: bool) -> None:
        """The process ends by itself, or by the stop that reached it."""
        held = self.held[key]
        told = Exited(key[1], 143 if held.stop else code, oom and not held.stop, aborted=held.stop == "abort")
        self.truth[key] = told
        self._tell(key, told)
        if told.aborted:
            self.held[key] = replace(held, phase="over")
        else:
            self.held[key] = replace(held, phase="saving", exit=told)

    def save(self, key: Key, refused: bool) -> None:
        told = self.held[key].exit
        if not refused:
            self.saved.add(key)
        self._over(key, job_table.SaveFailed(key[1], told) if refused else job_table.Saved(key[1], told))

    def _over(self, key: Key, event: AttemptEvent) -> None:
        self._tell(key, event)
        self.held[key] = replace(self.held[key], phase="over")

    def forget(self, key: Key) -> None:
        """A fault of its own: the attempt is gone, and nobody is told."""
        self.held.pop(key, None)
        self.outbox = [(job, event) for job, event in self.outbox if (job, event.attempt) != key]

    def restart(self, incarnation: int, keep: bool) -> None:
        """A new process of the agent, that finds its folders again (`keep`) or an empty disk."""
        self.incarnation = incarnation
        self.missing = frozenset()
        if not keep:
            self.held.clear()
            self.outbox.clear()
