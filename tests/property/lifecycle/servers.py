"""What the machine's runners talk to: a server as it sees one, made of the tables alone, and what it may be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hypothesis import strategies as st

from tests.property.lifecycle.model import POLICIES, RULES, Dag, Happening, Reference, StepSpec
from tests.support.ports import FakeClock


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
        rule = draw(st.sampled_from(RULES))
        steps.append(StepSpec(tuple(policies), needs, rule, draw(st.booleans()), draw(st.booleans())))
    return tuple(steps)
