"""Plans and validation as the API shows them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dstack import workflows
from dstack.domain.placement import describe
from dstack.sdk.provider import JobSpec, PythonEnv
from dstack.server.services.runs import fit_warnings, registry
from dstack.server.services.unsatisfiable import Fit


def validate(files: Mapping[str, str]) -> dict[str, Any]:
    """Everything wrong with the texts, and the workflows that could be read."""
    try:
        loaded = workflows.load(files, registry())
    except workflows.Invalid as error:
        return {"diagnostics": list(error.diagnostics), "workflows": []}
    return {
        "diagnostics": list(loaded.warnings),
        "workflows": [
            {
                "name": item.name,
                "provider": item.provider,
                "file": item.file,
                "line": item.line,
                "help": item.help,
                "variables": {
                    variable.name: {"value": variable.value, "source": variable.source}
                    for variable in loaded.variables.of(item.name).values()
                },
            }
            for item in loaded.values()
        ],
    }


def view(plan: workflows.RunPlan, fits: Fit | None = None) -> dict[str, Any]:
    """The plan: what runs, what is reused and from where, on what, with which values; `fits`: on which no runner."""
    fits = fits or Fit({})
    steps: list[dict[str, Any]] = []
    reused: dict[tuple[str, str | None], dict[str, Any]] = {}
    for step in plan.steps:
        for item in step.inputs:
            key = (item.workflow, item.tag)
            reused.setdefault(
                key,
                {
                    "name": item.workflow, "workflow": item.workflow, "provider": None, "action": "reuse",
                    "from": item.run_name, "tag": item.tag, "needs": [], "requirements": "", "environment": "",
                    "commands": [], "artifacts": [], "variables": {}, "misfit": None,
                },
            )["artifacts"].append(item.path)  # fmt: skip
    for step in plan.steps:
        first = step.jobs[0]
        steps.append(
            {
                "name": step.name, "workflow": step.workflow, "provider": step.provider, "action": "run",
                "from": None, "tag": None, "needs": [*step.needs, *_reused_names(step)],
                "requirements": describe(first.requirements), "environment": _environment(first.python),
                "commands": _commands(first), "artifacts": list(first.artifacts), "misfit": fits.misfits.get(step.name),
                "variables": {
                    name: {"value": value, "source": source} for name, (value, source) in step.variables.items()
                },
            }
        )  # fmt: skip
    warnings = [*plan.warnings, *fit_warnings(fits)]
    return {"workflow": plan.root, "steps": [*reused.values(), *steps], "warnings": warnings}


def _reused_names(step: workflows.PlannedStep) -> list[str]:
    return list(dict.fromkeys(f"{item.workflow}:{item.tag}" if item.tag else item.workflow for item in step.inputs))


def _commands(spec: JobSpec) -> list[str]:
    if spec.argv:
        return [shlex.join(spec.argv)]
    return list(spec.commands)


def _environment(python: PythonEnv | None) -> str:
    if python is None:
        return "none"
    version = f"python {python.version}" if python.version else "the shell's python"
    return f"{version} with {', '.join(python.requirements)}" if python.requirements else version
