"""Which steps of a run will not run whatever happens, because conditions are false already."""

from __future__ import annotations

from collections.abc import Sequence

from dstack.domain import rules

NEVER = rules.render(rules.FALSE)
"""The rule of a step whose condition is false already."""


class Forecast:
    """Steps are added in the order of the run, each after those that it needs.

    What is skipped from the start is over for those that depend on it, as the step's table has it. Of a step that is
    skipped only later, one thing is known now: it will be no success.
    """

    def __init__(self) -> None:
        self._over: set[str] = set()
        """Skipped from the start."""
        self._skipped: set[str] = set()
        """Skipped, then or later."""

    def add(self, name: str, needs: Sequence[str], rule: str, condition: str) -> str:
        """Why the step will be skipped in any case; empty where it may run."""
        absent = next((need for need in needs if need in self._skipped), None)
        if rule == rules.SUCCESS and absent is None:
            return ""
        over = self._over.issuperset(needs)
        if rules.verdict(rule, over=over, need_failed=False, need_skipped=absent is not None) is False:
            self._over.add(name)
        elif absent is None or rules.judge(rules.parse(rule), success=False, failed=None) is not False:
            return ""
        self._skipped.add(name)
        if rule == rules.SUCCESS:
            return f"`{absent}`, which it depends on, will be skipped"
        return f"its condition is false: `{condition}`"
