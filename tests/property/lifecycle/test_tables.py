"""The bad world over the pure tables."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test

from tests.property.lifecycle.machine import Lifecycle, as_often
from tests.property.lifecycle.model import Dag
from tests.property.lifecycle.servers import InMemory


class OverTables(Lifecycle):
    def make_server(self, dag: Dag) -> InMemory:
        return InMemory(dag, self.clock)


def test_the_tables_survive_a_bad_world() -> None:
    run_state_machine_as_test(OverTables, settings=as_often(200, steps=80))
