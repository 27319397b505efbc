"""`dstack run --plan`: what would run, what would be reused and from where."""

from __future__ import annotations

import sys

from dstack.cli.render import diagnostics_text, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.api import Api
    from dstack.client.types import Plan, PlannedStep, Submission


def show_plan(api: Api, submission: Submission, *, as_json: bool) -> int:
    """Ask for the plan and show it; nothing runs."""
    plan = api.plan(submission)
    if as_json:
        write_json([plan])
    else:
        sys.stderr.write(diagnostics_text(plan.get("warnings", [])))
        sys.stdout.write(plan_text(plan))
        sys.stdout.flush()
    return 0


def plan_text(plan: Plan) -> str:
    return "\n".join(_step_text(step) for step in plan.get("steps", []))


def _needs(step: PlannedStep) -> str:
    misfit = step.get("misfit")
    return step.get("requirements", "") + (f"; no runner has that: {misfit}" if misfit else "")


def _step_text(step: PlannedStep) -> str:
    name, tag = step.get("name", ""), step.get("tag")
    if step.get("action") == "reuse":
        return f"{name}: reuse from {step.get('from')}" + (f" (tag {tag})" if tag else "") + "\n"
    facts = [
        ("provider", step.get("provider", "")),
        ("after", ", ".join(step.get("needs", []))),
        ("needs", _needs(step)),
        ("python", step.get("environment", "")),
        ("artifacts", ", ".join(step.get("artifacts", []))),
    ]
    lines = [f"{name}: run"] + [f"  {title:<10} {value}" for title, value in facts if value]
    for variable, about in step.get("variables", {}).items():
        lines.append(f"  {'variable':<10} {variable} = {about.get('value')}  ({about.get('source', '')})")
    for command in step.get("commands", []):
        lines += [f"  {'$' if at == 0 else ' ':<10} {line}" for at, line in enumerate(command.splitlines())]
    return "\n".join(lines) + "\n"
