"""Which steps of a run will not run whatever happens, because conditions are false already."""

from __future__ import annotations

from collections.abc import Sequence

from dstack.domain import rules
from dstack.domain.lifecycle import step as step_table
from dstack.domain.lifecycle.step import Step, StepState
from dstack.workflows.model import StepPolicy

NEVER = rules.render(rules.FALSE)
"""The rule of a step whose condition is false already."""


class Forecast:
    """Steps are added in the order of the run, each after those that it needs."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._skipped: set[str] = set()

    def add(self, name: str, needs: Sequence[str], policy: StepPolicy, jobs: int) -> str:
        """Why the step will be skipped in any case; empty where it may run."""
        known = [self._steps[need] for need in needs if need in self._steps]
        step = step_table.created(jobs, known, rule=policy.rule)
        self._steps[name] = step
        absent = [need for need in needs if need in self._skipped]
        # Of a dependency that is skipped only later, one thing is known now: it will be no success.
        doomed = bool(absent) and rules.judge(rules.parse(policy.rule), success=False, failed=None) is False
        if step.state is not StepState.SKIPPED and not doomed:
            return ""
        self._skipped.add(name)
        if policy.rule == rules.SUCCESS:
            return f"`{absent[0]}`, which it depends on, will be skipped" if absent else ""
        return f"its condition is false: `{policy.condition}`"
