"""What a workflow says about when its jobs run, how long and how often: its keys → the policy of its step."""

from __future__ import annotations

from typing import Any

from dstack.workflows.conditions import StepRule
from dstack.workflows.diagnostics import Report
from dstack.workflows.model import StepPolicy, Workflow

_FAIL_FAST = ("fail-fast", "fail_fast")


def policy(rule: StepRule, config: Any) -> StepPolicy:
    """The policy that a checked workflow states; a `Config` without these keys states none."""
    retry = getattr(config, "retry", None)
    attempts = {} if retry is None else {"retry_on": retry.on, "retry_max": retry.max, "backoff": retry.backoff}
    return StepPolicy(
        rule=rule.rule,
        condition=rule.condition,
        fail_fast=getattr(config, "fail_fast", False),
        continue_on_failure=getattr(config, "continue_on_failure", False),
        timeout=getattr(config, "timeout", None),
        **attempts,
    )


def warn(workflow: Workflow, stated: StepPolicy, jobs: int, report: Report) -> None:
    """Tell of what has no effect here: `fail-fast` where a step has one job, and so no siblings to stop."""
    if stated.fail_fast and jobs == 1:
        key = next((workflow.node.keys[name] for name in _FAIL_FAST if name in workflow.node.keys), workflow.node)
        message = f"`fail-fast` stops the other jobs of a step, and `{workflow.name}` has one"
        report.warning(workflow.source, key.at, message, "remove it; what depends on a failed step is skipped anyway")
