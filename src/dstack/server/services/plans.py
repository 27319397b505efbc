"""Plans and validation as the API shows them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from dstack import workflows
from dstack.domain.placement import describe
from dstack.sdk.provider import CALLERS, MARKER, JobSpec, PythonEnv
from dstack.sdk.scalars import plain, text_of
from dstack.server.services.assignments import variable_name
from dstack.server.services.carry import NOTHING, Carried, job_name
from dstack.server.services.runs import CodeRef, fit_warnings, registry
from dstack.server.services.unsatisfiable import Fit
from dstack.workflows import options
from dstack.workflows.variables import Variable


def validate(
    files: Mapping[str, str],
    describe: str | None = None,
    code: Sequence[str] | None = None,
    contents: Mapping[str, bytes | None] | None = None,
) -> dict[str, Any]:
    """Everything wrong with the texts, and the workflows that could be read; `providers` are what runs without one.

    `describe` names a workflow or provider whose options are told of, too; `code` are the paths of the files that would
    be sent along, which the workflows are then held against, and `contents` what is in some of them (None: a link to
    what is not in the code). `reads` tells what else a plan would read.
    """
    providers = registry()
    answer: dict[str, Any] = {
        "diagnostics": [],
        "workflows": [],
        "providers": list(providers),
        "reads": [],
        "described": None,
    }
    kind = describe
    try:
        loaded = workflows.load(files, providers)
    except workflows.Invalid as error:
        answer["diagnostics"] = list(error.diagnostics)
    else:
        answer.update(_view(loaded))
        if code is not None:
            held = workflows.Contents(contents or {})
            answer["diagnostics"] += workflows.check_code(loaded, code, held)
            answer["reads"] = list(held.asked)
        if describe is not None and describe in loaded:
            kind = loaded[describe].provider
    if kind is not None and kind in providers:
        form = providers[kind].command_line if kind == describe else None
        answer["described"] = {
            "usage": form.usage if form is not None else None,
            "options": [{"option": option, "help": about} for option, about in options.describe(providers[kind])],
        }
    return answer


def _view(loaded: workflows.Workflows) -> dict[str, Any]:
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
                    variable.name: _variable(variable) for variable in loaded.variables.of(item.name).values()
                },
            }
            for item in loaded.values()
        ],
    }


def _variable(variable: Variable) -> dict[str, Any]:
    declared = variable.declaration
    return {
        "value": plain(variable.value), "source": variable.source, "required": not variable.given,
        "type": declared.type, "choices": [plain(choice) for choice in declared.choices],
        "min": declared.min, "max": declared.max, "help": declared.help,
    }  # fmt: skip


def view(
    plan: workflows.RunPlan, fits: Fit | None = None, code: CodeRef | None = None, carried: Carried = NOTHING
) -> dict[str, Any]:
    """The plan: what runs, what is reused and from where, what is skipped, on what, with which values.

    `fits` says what no runner can run, `code` what is sent along, `carried` what an earlier run has done already.
    """
    fits = fits or Fit({})
    reused: dict[tuple[str, str | None], dict[str, Any]] = {}
    for step in plan.steps:
        for item in step.inputs:
            reused.setdefault((item.workflow, item.tag), _reused(item))["artifacts"].append(item.path)
    steps = [_carried(_step(step, fits.misfits.get(step.name)), step, carried) for step in plan.steps]
    return {
        "workflow": plan.root,
        "steps": [*reused.values(), *steps],
        "code": None if code is None else {"content_id": code.content_id, "files": code.files, "size": code.size},
        "warnings": [*plan.warnings, *carried.warnings, *fit_warnings(fits)],
    }


def _carried(shown: dict[str, Any], step: workflows.PlannedStep, carried: Carried) -> dict[str, Any]:
    """The step with what its jobs take from an earlier run, if it follows one."""
    if carried.run_id is None:
        return shown
    names = [job_name(step, spec) for spec in step.jobs]
    reused = [{"job": name, "from": carried.reused[name].origin_run} for name in names if name in carried.reused]
    begins = [
        {
            "job": name, "path": row["path"], "from": carried.run, "attempt": row["attempt"], "at": row["at"],
            "manifest_id": row["manifest_id"].hex(), "files": row["files"], "size": row["size"],
            "instead": row.get("instead") or None,
        }
        for name in names if name not in carried.reused
        for row in carried.saved.get(name, ())
    ]  # fmt: skip
    if len(reused) == len(names):
        shown = {**shown, "action": "reuse", "from": reused[0]["from"], "why": None, "misfit": None, "policy": None}
    return {**shown, "reused": reused, "begins": begins}


def _reused(item: workflows.ReusedInput) -> dict[str, Any]:
    return {
        "name": item.workflow, "workflow": item.workflow, "provider": None, "action": "reuse", "why": None,
        "from": item.run_name, "tag": item.tag, "needs": [], "jobs": 0, "requirements": "", "environment": "",
        "env": {}, "commands": [], "artifacts": [], "variables": {}, "misfit": None, "policy": None,
    }  # fmt: skip


def _step(step: workflows.PlannedStep, misfit: str | None) -> dict[str, Any]:
    first = step.jobs[0]
    return {
        "name": step.name, "workflow": step.workflow, "provider": step.provider,
        "action": "skip" if step.skipped else "run", "why": step.skipped or None,
        "from": None, "tag": None, "needs": [*step.needs, *_reused_names(step)], "jobs": len(step.jobs),
        "requirements": describe(first.requirements), "environment": _environment(first.python),
        "env": _env(step, first), "commands": _commands(first), "artifacts": list(first.artifacts),
        "variables": {name: {"value": value, "source": source} for name, (value, source) in step.variables.items()},
        "misfit": None if step.skipped else misfit, "policy": _policy(step.policy),
    }  # fmt: skip


def _policy(policy: workflows.StepPolicy) -> dict[str, Any]:
    retry = {"on": sorted(policy.retry_on), "max": policy.retry_max, "backoff": policy.backoff}
    return {
        "condition": policy.condition or None, "timeout": policy.timeout, "retry": retry if policy.retry_max else None,
        "fail_fast": policy.fail_fast, "continue_on_failure": policy.continue_on_failure,
    }  # fmt: skip


def _env(step: workflows.PlannedStep, spec: JobSpec) -> dict[str, str]:
    """The workflow's own environment; in place of what never shows, where it comes from."""
    variables = {variable_name(name): text_of(value) for name, (value, _) in step.variables.items()}
    own = {name: value for name, value in spec.environment.items() if variables.get(name) != value}
    return {name: MARKER.sub(_origin, value) for name, value in own.items()}


def _origin(marker: re.Match[str]) -> str:
    name = marker[1]
    return f"${name.removeprefix(CALLERS)} of your shell" if name.startswith(CALLERS) else f"${{{{ secrets.{name} }}}}"


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
