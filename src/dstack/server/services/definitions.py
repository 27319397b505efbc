"""What sets the definition of a job that is reused apart from what its workflow says now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import attrgetter

from dstack.sdk.provider import JobSpec
from dstack.server.services.carry import Carried, OldRun, job_name
from dstack.workflows import Diagnostic, PlannedStep, RunPlan, warning

_PARTS = {
    "commands": ("commands", "argv"),
    "python": ("python",),
    "working_dir": ("working_dir",),
    "artifacts": ("artifacts",),
    "resources": ("requirements",),
    "ports": ("ports",),
}
_SHOWN = 5


def changed_definitions(old: OldRun, carried: Carried, as_of: Mapping[str, RunPlan]) -> list[Diagnostic]:
    """A warning for the reused jobs whose definitions have changed alike: a variable may be in all of them.

    `as_of` is the new plan by the name of the run that it would be; for none of it nothing is said.
    """
    found: dict[tuple[str, str], list[str]] = {}
    steps = {origin: dict(_jobs(plan)) for origin, plan in as_of.items()}
    for name in sorted(carried.reused):
        job = carried.reused[name]
        now = steps.get(job.origin_run, {}).get(name)
        if now is None:
            continue
        step, spec = now
        changed = [*_differences(job.spec, spec), *(["inputs"] if _inputs_changed(old, step) else [])]
        if changed:
            found.setdefault((job.origin_run, ", ".join(changed)), []).append(name)
    return [_warning(old, origin, changed, names) for (origin, changed), names in found.items()]


def _warning(old: OldRun, origin: str, changed: str, names: Sequence[str]) -> Diagnostic:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    are, their, it = ("are", "their definitions", "one") if names[1:] else ("is", "its definition", "it")
    message = f"{shown}{more} {are} reused from {origin} although {their} changed: {changed}"
    hint = f"run {it} again, and what follows it, with: dstack restart {old.name} {names[0]}"
    return warning(message, hint)


def _jobs(plan: RunPlan) -> Iterator[tuple[str, tuple[PlannedStep, JobSpec]]]:
    for step in plan.steps:
        for spec in step.jobs:
            yield job_name(step, spec), (step, spec)


def _differences(before: JobSpec, now: JobSpec) -> list[str]:
    """What differs, in the words of workflow files."""
    changed = [
        word
        for word, fields in _PARTS.items()
        if any(attrgetter(field)(before) != attrgetter(field)(now) for field in fields)
    ]
    names: Collection[str] = before.environment.keys() | now.environment.keys()
    variables = sorted(name for name in names if before.environment.get(name) != now.environment.get(name))
    return [*changed, f"environment ({', '.join(variables)})"] if variables else changed


def _inputs_changed(old: OldRun, step: PlannedStep) -> bool:
    plan = old.steps.get(step.name)
    before = {(item.path, item.content_id) for item in plan.inputs} if plan is not None else set[tuple[str, bytes]]()
    return before != {(item.path, item.content_id) for item in step.inputs}
