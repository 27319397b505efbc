"""The shapes of plans and of checked workflows, as the API answers with them. Imported for type checking only.

As tolerant as those of `dstack.client.types`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from dstack.client.types import Diagnostic


class PlannedVariable(TypedDict, total=False):
    value: Any
    source: str


class DeclaredVariable(PlannedVariable, total=False):
    required: bool
    type: str | None
    choices: list[Any]
    min: float | None
    max: float | None
    help: str


class PlannedRetry(TypedDict, total=False):
    on: list[str]
    max: int
    backoff: float


class PlannedPolicy(TypedDict, total=False):
    condition: str | None
    timeout: float | None
    retry: PlannedRetry | None
    fail_fast: bool
    continue_on_failure: bool


class PlannedReuse(TypedDict("PlannedReuse", {"from": str})):
    """A job that is done in the run `from`."""

    job: str


class PlannedBegin(TypedDict("PlannedBegin", {"from": str})):
    """A snapshot that a job begins with: of the folder `path`, taken in the run `from`."""

    job: str
    path: str
    attempt: int
    at: int
    manifest_id: str
    files: int
    size: int
    instead: str | None
    """Why it is not the last one."""


PlannedStep = TypedDict(
    "PlannedStep",
    {
        "name": str,
        "workflow": str,
        "provider": str,
        "action": str,
        "from": str | None,
        "tag": str | None,
        "needs": list[str],
        "requirements": str,
        "environment": str,
        "commands": list[str],
        "artifacts": list[str],
        "variables": dict[str, PlannedVariable],
        "misfit": str | None,
        "why": str | None,
        "jobs": int,
        "env": dict[str, str],
        "policy": PlannedPolicy | None,
        "reused": list[PlannedReuse],
        "begins": list[PlannedBegin],
    },
    total=False,
)


class PlannedCode(TypedDict, total=False):
    content_id: str
    files: int
    size: int
    sent: int
    """Bytes that the server did not have; added by the command line."""


class Plan(TypedDict, total=False):
    workflow: str
    steps: list[PlannedStep]
    code: PlannedCode | None
    warnings: list[Diagnostic]


class WorkflowInfo(TypedDict, total=False):
    name: str
    provider: str
    file: str
    line: int
    help: str
    variables: dict[str, DeclaredVariable]


class DescribedOption(TypedDict):
    option: str
    help: str


class Described(TypedDict, total=False):
    """What a workflow or provider takes; `usage` of a provider alone."""

    usage: str | None
    options: list[DescribedOption]


class Validation(TypedDict, total=False):
    diagnostics: list[Diagnostic]
    workflows: list[WorkflowInfo]
    providers: list[str]
    reads: list[str]
    """Files of the code that a plan would read beyond those of which it was told what is in them."""
    described: Described | None
