"""One run in a bad world: messages get lost, doubled, late and out of order, everybody crashes, clocks jump."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
from tests.property.lifecycle.model import Dag, Happening
from tests.property.lifecycle.servers import Server, dags
from tests.support.ports import FakeClock

RUNNERS = 2
PATIENCE = 60
"""Rounds without faults in which everything must have ended; each is a round trip of everybody."""
HOUR = 3600.0
WHICH = st.integers(0, RUNNERS - 1)
"""A runner."""
ACTIONS = (
    *("good_times", "work", "transmit") * 3,
    *("talk", "converse", "place") * 2,
    *("crash_runner", "crash_server", "lose_runner", "forget_attempt"),
    *("deadline", "give_up_waiting", "ask_stop", "move_clock"),
)
"""What may happen next, with weights: rules of their own would be drawn evenly, and few runs would get anywhere."""


def as_often(max_examples: int, steps: int) -> settings:
    """The same examples every time. They are not shrunk, which takes minutes: a failure is told at full length."""
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


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

    @initialize(dag=dags(), calm=st.integers(0, 60))
    def submit(self, dag: Dag, calm: int) -> None:
        self.server = self.make_server(dag)
        self.calm = calm
        self.past = self._snapshot()

    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def happen(self, data: st.DataObject, action: str) -> None:
        """One thing happens, where it can."""
        getattr(self, action)(data)

    # --- the server ------------------------------------------------------------------------------------------------

    def _queued(self) -> list[int]:
        return [index for index, job in enumerate(self.server.state.jobs) if job.state is JobState.QUEUED]

    def place(self, data: st.DataObject) -> None:
        if not self._queued():
            return
        chosen = data.draw(st.lists(st.sampled_from(self._queued()), unique=True, max_size=3, min_size=1))
        runner = data.draw(WHICH)
        self.server.apply([Happening(index, job_table.Placed(), runner) for index in chosen])

    def lose_runner(self, data: st.DataObject) -> None:
        """Silent for too long, as far as the server can tell; the runner may well live."""
        self._lose(self.server.state.live_on(data.draw(WHICH)), data.draw(st.booleans()))

    def _lose(self, keys: Sequence[Key], preempted: bool = False) -> None:
        batch: list[Happening] = []
        for index, number in keys:
            assigned = self.server.state.jobs[index].state is JobState.ASSIGNED
            event = job_table.Returned(number) if assigned else job_table.Lost(number, preempted)
            batch.append(Happening(index, event))
        assert set(self.server.apply(batch)) <= {"applied"}, "an attempt that is live can be lost"

    def deadline(self, data: st.DataObject) -> None:
        """The deadline of the state that an attempt is in passes."""
        if not self._live():
            return
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

    def give_up_waiting(self, data: st.DataObject) -> None:
        if self.moves <= self.calm or not self._queued():
            return
        index = data.draw(st.sampled_from(self._queued()))
        assert self.server.apply([Happening(index, job_table.Unsatisfiable())]) == ["applied"]

    def crash_server(self, data: st.DataObject) -> None:
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
            case Poll(runner, incarnation, known, missing):
                if self.registered[runner] != incarnation:
                    self.network.append(Commands(runner, incarnation, register=True))
                else:
                    self._end_missing(runner, known, missing)
                    self.network.append(self._commands(runner, incarnation, known))
            case StopRun(abort):
                self.server.stop(abort)

    def _end_missing(self, runner: int, known: frozenset[Key], missing: frozenset[Key]) -> None:
        """However old or doubled the poll is: what it calls missing is gone for good."""
        live = [key for key in self._unnamed(runner, known) if key in missing]
        agent = self.agents[runner]
        assert not agent.known().intersection(live), "an attempt that its runner holds is never lost by a poll"
        self._lose(live)

    def _unnamed(self, runner: int, known: frozenset[Key]) -> list[Key]:
        """What the runner has accepted and did not name."""
        state = self.server.state
        live = [key for key in state.live_on(runner) if key not in known]
        return [key for key in live if state.attempts[key].state is not AttemptState.ASSIGNED]

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
            ask=frozenset(self._unnamed(runner, known)),
        )  # fmt: skip

    # --- the network -----------------------------------------------------------------------------------------------

    def transmit(self, data: st.DataObject) -> None:
        """Any message, so they overtake each other; what is never drawn is late for ever."""
        if not self.network:
            return
        fate = data.draw(st.sampled_from(["deliver", "deliver", "deliver", "double", "lose"]))
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

    def talk(self, data: st.DataObject) -> None:
        self._talk(self.agents[data.draw(WHICH)], data.draw(st.integers(0, 4)))

    def _talk(self, agent: Agent, count: int) -> None:
        """A poll, and a report of the first `count` things not answered yet: one batch, which folds."""
        runner = agent.number
        self.network.append(Poll(runner, agent.incarnation, agent.known(), agent.missing))
        if agent.outbox[:count]:
            self.network.append(Report(runner, agent.incarnation, tuple(agent.outbox[:count])))

    def converse(self, data: st.DataObject) -> None:
        self._converse(self.agents[data.draw(WHICH)])

    def _converse(self, agent: Agent) -> None:
        """The same, with the answers, while the network is well."""
        self._talk(agent, len(agent.outbox))
        talk = [message for message in self.network[-2:] if isinstance(message, (Poll, Report))]
        for message in reversed(talk):
            self.network.remove(message)
            self._deliver(message)
            self._deliver(self.network.pop())

    def _busy(self) -> list[tuple[Agent, Key]]:
        phases = ("assigned", "starting", "running", "saving")
        return [(agent, key) for agent in self.agents for key in agent.in_phase(*phases)]

    def work(self, data: st.DataObject) -> None:
        """An attempt takes its next step, in one of the ways in which it can."""
        if not self._busy():
            return
        bad, oom = data.draw(st.integers(0, 3)) == 3, data.draw(st.booleans())
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

    def good_times(self, data: st.DataObject) -> None:
        """Nothing goes wrong for a moment, though jobs may fail."""
        self.clock.advance(60.0)
        for place, index in enumerate(self._queued()):
            self.server.apply([Happening(index, job_table.Placed(), place % RUNNERS)])
        for agent in self.agents:
            self._converse(agent)
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

    def crash_runner(self, data: st.DataObject) -> None:
        """The agent starts anew, beside its processes or on an empty disk; what was on its connections is gone."""
        self.incarnations += 1
        agent = self.agents[data.draw(WHICH)]
        agent.restart(self.incarnations, keep=data.draw(st.booleans()))
        self._register(agent)

    def forget_attempt(self, data: st.DataObject) -> None:
        """A runner loses what it had begun, its folder or its report, and goes on.

        What the server has not heard of yet is handed out again instead.
        """
        begun = [(agent, key) for agent in self.agents for key in sorted(agent.known())]
        held = [(agent, key) for agent, key in begun if key in self._unnamed(agent.number, frozenset())]
        if self.moves > self.calm and held:
            agent, key = data.draw(st.sampled_from(held))
            agent.forget(key)

    def ask_stop(self, data: st.DataObject) -> None:
        """A CLI that dies after it asked leaves its request on the way; one that lives asks until it is heard."""
        if self.moves <= self.calm:
            return
        self.network.append(StopRun(abort=data.draw(st.booleans())))
        if data.draw(st.booleans()):
            self._deliver(self.network.pop())

    def move_clock(self, data: st.DataObject) -> None:
        self.clock.step(data.draw(st.sampled_from([1.0, 60.0, HOUR, -1.0, -HOUR])))

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
                assert job.state is JobState.SAVING or (index, job.attempt) in runner.saved, "done means saved"
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
            self._converse(agent)
            self._converse(agent)
            assert not agent.known(), "a runner holds nothing once the run is over"

    def _quiet_round(self) -> None:
        self.clock.advance(HOUR)
        for agent in self.agents:
            for owner, key in self._busy():
                if owner is agent:
                    self._go_on(agent, key)
            self._talk(agent, len(agent.outbox))
        while self.network:
            self._deliver(self.network.pop(0))
        for place, index in enumerate(self._queued()):
            self.server.apply([Happening(index, job_table.Placed(), place % RUNNERS)])


def _only_forward(before: job_table.Job, after: job_table.Job) -> None:
    if before.state in job_table.TERMINAL:
        assert after == before, "a job that ended never changes"
    assert after.attempt >= before.attempt, "an attempt's number is never used again"
    exited = before.state is JobState.SAVING or before.state in job_table.TERMINAL
    if before.intent is not Intent.NONE and not exited and after.state in job_table.TERMINAL:
        assert after.state is JobState.STOPPED, "a stop asked before the exit outranks it"
    if before.state is after.state is JobState.SAVING:
        assert (before.outcome, before.exit_code) == (after.outcome, after.exit_code), "the exit fixed the outcome"
    if before.outcome is Reason.EXIT_ZERO or before.intent is not Intent.NONE:
        assert after.attempt == before.attempt, "neither success nor a stop is followed by another attempt"
        assert after.state is not JobState.QUEUED
    if after.attempt == before.attempt and after.state is not JobState.QUEUED:
        assert list(JobState).index(after.state) >= list(JobState).index(before.state), "it goes back to queued only"


def _rank(state: AttemptState) -> int:
    return list(AttemptState).index(state)
