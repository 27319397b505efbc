"""One run in a bad world: messages get lost, doubled, late and out of order, everybody crashes, clocks jump."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle.attempt import AttemptState
from dstack.domain.lifecycle.job import Intent, JobState
from dstack.domain.reasons import Reason
from tests.property.lifecycle.agents import (
    Agent,
    Answers,
    Commands,
    Key,
    Message,
    Poll,
    Register,
    Report,
    StopRun,
    ToRunner,
    ToServer,
)
from tests.property.lifecycle.model import POLICIES, Dag, Happening, Reference, StepSpec
from tests.support.ports import FakeClock

RUNNERS = 2
PATIENCE = 60
"""Rounds without faults in which everything must have ended; each is a round trip of everybody."""
HOUR = 3600.0


class Server(Protocol):
    """Where decisions are stored. `state` is what the reference says of it."""

    state: Reference

    def apply(self, batch: Sequence[Happening]) -> list[str]: ...
    def stop(self, abort: bool) -> str: ...
    def crash(self) -> None: ...
    def check(self) -> None: ...


class InMemory:
    """The tables alone."""

    def __init__(self, dag: Dag, clock: FakeClock) -> None:
        self.state = Reference(dag)
        self._clock = clock

    def apply(self, batch: Sequence[Happening]) -> list[str]:
        return self.state.apply(batch, self._clock.now())

    def stop(self, abort: bool) -> str:
        return self.state.stop(abort, self._clock.now())

    def crash(self) -> None:
        """Nothing but the answers under way is lost: the machine sees to those."""

    def check(self) -> None:
        self.state.check()


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    """Two to four steps of one or two jobs."""
    steps: list[StepSpec] = []
    for number in range(draw(st.integers(2, 4))):
        policies = draw(st.lists(st.sampled_from(POLICIES), min_size=1, max_size=2))
        needs = draw(st.frozensets(st.integers(0, number - 1), max_size=2)) if number else frozenset[int]()
        steps.append(StepSpec(tuple(policies), needs))
    return tuple(steps)


class Lifecycle(RuleBasedStateMachine):
    """The world. Subclasses say what the server is made of."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.network: list[Message] = []
        self.agents = [Agent(number, incarnation=number + 1) for number in range(RUNNERS)]
        self.registered = [agent.incarnation for agent in self.agents]
        self.incarnations = RUNNERS
        self.past: tuple[Any, ...] = ()
        self.moves = 0
        self.calm = 0
        """Moves before anybody gives up or asks to stop: without it, few runs would get anywhere."""

    def make_server(self, dag: Dag) -> Server:
        raise NotImplementedError

    @initialize(dag=dags(), calm=st.integers(0, 100))
    def submit(self, dag: Dag, calm: int) -> None:
        self.server = self.make_server(dag)
        self.calm = calm
        self.past = self._snapshot()

    # --- the server ------------------------------------------------------------------------------------------------

    def _queued(self) -> list[int]:
        return [index for index, job in enumerate(self.server.state.jobs) if job.state is JobState.QUEUED]

    @precondition(lambda self: self._queued())
    @rule(data=st.data(), count=st.integers(1, 3))
    def place(self, data: st.DataObject, count: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self._queued()), unique=True, max_size=count, min_size=1))
        runner = data.draw(st.integers(0, RUNNERS - 1))
        self.server.apply([Happening(index, job_table.Placed(), runner) for index in chosen])

    @rule(runner=st.integers(0, RUNNERS - 1), preempted=st.booleans())
    def lose_runner(self, runner: int, preempted: bool) -> None:
        """Silent for too long, as far as the server can tell; the runner may well live."""
        self._lose(self.server.state.live_on(runner), preempted)

    def _lose(self, keys: Sequence[Key], preempted: bool = False) -> None:
        batch: list[Happening] = []
        for index, number in keys:
            assigned = self.server.state.jobs[index].state is JobState.ASSIGNED
            event = job_table.Returned(number) if assigned else job_table.Lost(number, preempted)
            batch.append(Happening(index, event))
        assert set(self.server.apply(batch)) <= {"applied"}, "an attempt that is live can be lost"

    @precondition(lambda self: self._live())
    @rule(data=st.data())
    def deadline(self, data: st.DataObject) -> None:
        """The deadline of the state that an attempt is in passes."""
        index, number = data.draw(st.sampled_from(self._live()))
        if self.moves <= self.calm and self.server.state.jobs[index].state is JobState.STARTING:
            return  # it would end the job for good
        event = {
            JobState.ASSIGNED: job_table.Returned(number),
            JobState.STARTING: job_table.SetupFailed(number, timeout=True),
            JobState.RUNNING: job_table.TimeLimit(number),
            JobState.SAVING: job_table.SaveFailed(number),
        }[self.server.state.jobs[index].state]
        self.server.apply([Happening(index, event)])

    def _live(self) -> list[Key]:
        return [key for runner in range(RUNNERS) for key in self.server.state.live_on(runner)]

    @precondition(lambda self: self.moves > self.calm and self._queued())
    @rule(data=st.data())
    def give_up_waiting(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self._queued()))
        assert self.server.apply([Happening(index, job_table.Unsatisfiable())]) == ["applied"]

    @rule()
    def crash_server(self) -> None:
        """What it had committed stays; what it was about to answer is gone."""
        self.network = [message for message in self.network if not isinstance(message, ToRunner)]
        self.server.crash()

    def _receive(self, message: ToServer) -> None:
        match message:
            case Report(runner, incarnation, events):
                answers = self.server.apply([Happening(index, event) for index, event in events])
                assert "rejected" not in answers, f"an honest runner was refused: {events} {answers}"
                self.network.append(Answers(runner, incarnation, events))
            case Register(runner, incarnation, holds):
                changed = self.registered[runner] != incarnation
                self.registered[runner] = incarnation
                if changed:
                    self._lose([key for key in self.server.state.live_on(runner) if key not in holds])
            case Poll(runner, incarnation, known):
                if self.registered[runner] != incarnation:
                    self.network.append(Commands(runner, incarnation, register=True))
                else:
                    self.network.append(self._commands(runner, incarnation, known))
            case StopRun(abort):
                self.server.stop(abort)

    def _commands(self, runner: int, incarnation: int, known: frozenset[Key]) -> Commands:
        state = self.server.state
        live = frozenset(state.live_on(runner))
        assigned = frozenset(key for key in live if state.attempts[key].state is AttemptState.ASSIGNED)
        asked = {key: state.jobs[key[0]].intent for key in live}
        overtime = frozenset(
            key
            for key in live
            if state.jobs[key[0]].state is JobState.RUNNING and state.jobs[key[0]].outcome is Reason.TIMEOUT
        )
        stopped = frozenset(key for key in live if asked[key] is not Intent.NONE)
        abort = frozenset(key for key in live if asked[key] is Intent.ABORT)
        return Commands(
            runner, incarnation, assign=assigned - known, recall=assigned & stopped,
            stop=(stopped | overtime) - abort, abort=abort, kill=known - live,
        )  # fmt: skip

    # --- the network -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.network)
    @rule(data=st.data(), fate=st.sampled_from(["deliver", "deliver", "deliver", "double", "lose"]))
    def transmit(self, data: st.DataObject, fate: str) -> None:
        """Any message, so they overtake each other; what is never drawn is late for ever."""
        place = data.draw(st.integers(0, len(self.network) - 1))
        message = self.network[place] if fate == "double" else self.network.pop(place)
        if fate != "lose":
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        note(f"delivered: {message}")
        if isinstance(message, ToServer):
            self._receive(message)
            return
        agent = self.agents[message.runner]
        agent.take(message)
        if isinstance(message, Commands) and message.register and message.incarnation == agent.incarnation:
            self._register(agent)

    def _register(self, agent: Agent) -> None:
        self.network.append(Register(agent.number, agent.incarnation, agent.known()))

    # --- runners and people ----------------------------------------------------------------------------------------

    @rule(runner=st.integers(0, RUNNERS - 1), count=st.integers(0, 4))
    def talk(self, runner: int, count: int) -> None:
        """A poll, and a report of the first `count` things not answered yet: one batch, which folds."""
        agent = self.agents[runner]
        self.network.append(Poll(runner, agent.incarnation, agent.known()))
        if agent.outbox[:count]:
            self.network.append(Report(runner, agent.incarnation, tuple(agent.outbox[:count])))

    @rule(runner=st.integers(0, RUNNERS - 1))
    def converse(self, runner: int) -> None:
        """The same, with the answers, while the network is well."""
        self.talk(runner, len(self.agents[runner].outbox))
        talk = [message for message in self.network[-2:] if isinstance(message, (Poll, Report))]
        for message in reversed(talk):
            self.network.remove(message)
            self._deliver(message)
            self._deliver(self.network.pop())

    def _busy(self) -> list[tuple[Agent, Key]]:
        phases = ("assigned", "starting", "running", "saving")
        return [(agent, key) for agent in self.agents for key in agent.in_phase(*phases)]

    @precondition(lambda self: self._busy())
    @rule(data=st.data(), bad=st.integers(0, 3).map(lambda drawn: drawn == 3), oom=st.booleans())
    def work(self, data: st.DataObject, bad: bool, oom: bool) -> None:
        """An attempt takes its next step, in one of the ways in which it can."""
        agent, key = data.draw(st.sampled_from(self._busy()))
        match agent.held[key].phase:
            case "assigned":
                (agent.reject if bad else agent.accept)(key)
            case "starting":
                (agent.fail_setup if bad else agent.start)(key)
            case "running":
                agent.exit(key, data.draw(st.sampled_from([1, 137, None])) if bad else 0, oom)
            case _:
                agent.save(key, refused=bad)

    @rule(data=st.data())
    def moment_of_peace(self, data: st.DataObject) -> None:
        self.good_times(data, 1)

    @rule(data=st.data(), rounds=st.integers(1, 3))
    def good_times(self, data: st.DataObject, rounds: int) -> None:
        """Nothing goes wrong for a while, though jobs may fail."""
        for _ in range(rounds):
            self.clock.advance(60.0)
            for place, index in enumerate(self._queued()):
                self.server.apply([Happening(index, job_table.Placed(), place % RUNNERS)])
            for agent in self.agents:
                self.converse(agent.number)
            for agent, key in self._busy():
                if agent.held[key].phase == "running":
                    agent.exit(key, data.draw(st.sampled_from([0, 0, 0, 1])), oom=False)
                else:
                    self._go_on(agent, key)

    def _go_on(self, agent: Agent, key: Key) -> None:
        match agent.held[key].phase:
            case "assigned":
                agent.accept(key)
            case "starting":
                agent.start(key)
            case "running":
                agent.exit(key, 0, oom=False)
            case _:
                agent.save(key, refused=False)

    @rule(runner=st.integers(0, RUNNERS - 1), keep=st.booleans())
    def crash_runner(self, runner: int, keep: bool) -> None:
        """The agent starts anew, beside its processes or on an empty disk; what was on its connections is gone."""
        self.incarnations += 1
        agent = self.agents[runner]
        agent.restart(self.incarnations, keep)
        self._register(agent)

    @precondition(lambda self: self.moves > self.calm)
    @rule(abort=st.booleans(), crash=st.booleans())
    def ask_stop(self, abort: bool, crash: bool) -> None:
        """A CLI that dies after it asked leaves its request on the way; one that lives asks until it is heard."""
        self.network.append(StopRun(abort))
        if not crash:
            self._deliver(self.network.pop())

    @rule(seconds=st.sampled_from([1.0, 60.0, HOUR, -1.0, -HOUR]))
    def move_clock(self, seconds: float) -> None:
        self.clock.step(seconds)

    # --- what must hold --------------------------------------------------------------------------------------------

    def _snapshot(self) -> tuple[Any, ...]:
        state = self.server.state
        return (list(state.jobs), dict(state.attempts), state.run)

    @invariant()
    def holds(self) -> None:
        if not self.past:
            return
        self.moves += 1
        self.server.check()
        state = self.server.state
        jobs, attempts, run = self.past
        for before, after in zip(jobs, state.jobs, strict=True):
            _only_forward(before, after)
        for key, before in attempts.items():
            after = state.attempts[key]
            assert _rank(before.state) <= _rank(after.state), "an attempt only moves forward"
            assert before.state is not AttemptState.ENDED or after == before, "an ended attempt never changes"
        assert run.state not in run_table.TERMINAL or state.run == run, "a finished run is never re-opened"
        for index, job in enumerate(state.jobs):
            if job.state in (JobState.SAVING, JobState.DONE) and job.attempt:
                runner = self.agents[state.runner_of[index, job.attempt]]
                assert runner.truth[index, job.attempt].exit_code == job.exit_code, "the true result is recorded"
        self.past = self._snapshot()

    def teardown(self) -> None:
        """Once faults stop, everything ends within a bounded number of rounds."""
        if not self.past:
            return
        for _ in range(PATIENCE):
            if self.server.state.over:
                break
            self._quiet_round()
            self.holds()
        assert self.server.state.over, f"still open after {PATIENCE} quiet rounds: {self.server.state.jobs}"
        assert all(job.state in job_table.TERMINAL for job in self.server.state.jobs)
        for agent in self.agents:
            self.converse(agent.number)
            self.converse(agent.number)
            assert not agent.known(), "a runner holds nothing once the run is over"

    def _quiet_round(self) -> None:
        self.clock.advance(HOUR)
        for agent in self.agents:
            for owner, key in self._busy():
                if owner is agent:
                    self._go_on(agent, key)
            self.talk(agent.number, len(agent.outbox))
        while self.network:
            self._deliver(self.network.pop(0))
        for place, index in enumerate(self._queued()):
            self.server.apply([Happening(index, job_table.Placed(), place % RUNNERS)])


def _only_forward(before: job_table.Job, after: job_table.Job) -> None:
    if before.state in job_table.TERMINAL:
        assert after == before, "a job that ended never changes"
    assert after.attempt >= before.attempt, "an attempt's number is never used again"
    if before.outcome is Reason.EXIT_ZERO or before.intent is not Intent.NONE:
        assert after.attempt == before.attempt, "neither success nor a stop is followed by another attempt"
        assert after.state is not JobState.QUEUED
    if after.attempt == before.attempt and after.state is not JobState.QUEUED:
        assert list(JobState).index(after.state) >= list(JobState).index(before.state), "it goes back to queued only"


def _rank(state: AttemptState) -> int:
    return list(AttemptState).index(state)
