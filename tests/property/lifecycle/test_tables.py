"""The bad world over the pure tables."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.lifecycle.machine import InMemory, Lifecycle
from tests.property.lifecycle.model import Dag


class OverTables(Lifecycle):
    def make_server(self, dag: Dag) -> InMemory:
        return InMemory(dag, self.clock)


def test_the_tables_survive_a_bad_world() -> None:
    run_state_machine_as_test(
        OverTables,
        settings=settings(
            max_examples=150,
            stateful_step_count=80,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
