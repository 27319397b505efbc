"""What loading and planning make: workflows, and the plan of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dstack.domain.reasons import Reason
from dstack.domain.rules import SUCCESS
from dstack.sdk.provider import JobSpec, Provider
from dstack.sdk.scalars import Scalar
from dstack.workflows.dependencies import Dependency
from dstack.workflows.diagnostics import Diagnostic, Source
from dstack.workflows.nodes import MapNode
from dstack.workflows.patterns import Exclude
from dstack.workflows.variables import Variables


@dataclass(frozen=True, slots=True, eq=False)
class Workflow:
    """A named entry of a workflows file. `line` counts from 1."""

    name: str
    provider: str
    """Its name; of one that is not built in, and so cannot run yet, as the file has it."""
    help: str
    file: str
    line: int
    source: Source = field(repr=False)
    node: MapNode = field(repr=False)
    config: Any = field(repr=False)
    """The checked keys, where they hold no expression; else None: they are checked when a run gives values."""
    dependencies: tuple[Dependency, ...] = field(repr=False)
    """Filled in with the values of the variables file."""
    uses: frozenset[str] = field(repr=False)
    """Canonical names of its expressions."""


class Workflows(Mapping[str, Workflow]):
    """The workflows of a repository by name, in the order of the files."""

    def __init__(
        self,
        workflows: Sequence[Workflow],
        variables: Variables,
        providers: Mapping[str, type[Provider]],
        warnings: Sequence[Diagnostic],
        own_providers: Collection[str] = (),
        excludes: Sequence[Exclude] = (),
    ) -> None:
        self._workflows = {workflow.name: workflow for workflow in workflows}
        self.variables = variables
        self.providers = providers
        self.warnings = tuple(warnings)
        self.own_providers = own_providers
        """Names of `.dstack/providers.yaml`."""
        self.excludes = excludes
        """Of the root of workflow files."""

    def __getitem__(self, name: str) -> Workflow:
        return self._workflows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._workflows

    def __iter__(self) -> Iterator[str]:
        return iter(self._workflows)

    def __len__(self) -> int:
        return len(self._workflows)


@dataclass(frozen=True, slots=True)
class ReusedInput:
    """An artifact of an earlier run, to put at `path` before a job starts."""

    path: str
    manifest_id: bytes
    content_id: bytes
    run_name: str
    job_name: str
    workflow: str
    tag: str | None
    partial: bool = False
    warning: str = ""
    """What whoever depends on it should know."""


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """What a workflow says about when its jobs run, how long, and how often.

    `rule` is a rule of `dstack.domain.rules` with its variables filled in, `condition` what the file says. `timeout` is
    seconds per attempt; `backoff` seconds before the first retry.
    """

    rule: str = SUCCESS
    condition: str = ""
    fail_fast: bool = False
    continue_on_failure: bool = False
    timeout: float | None = None
    retry_on: frozenset[Reason] = frozenset()
    retry_max: int = 0
    backoff: float = 1.0


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One workflow of a run: its jobs, the steps that go first, the earlier artifacts that it gets.

    `variables` are (value, source) by name; the source is a line of a file or `command line`.
    """

    name: str
    workflow: str
    provider: str
    needs: tuple[str, ...]
    inputs: tuple[ReusedInput, ...]
    variables: Mapping[str, tuple[Scalar, str]]
    jobs: tuple[JobSpec, ...]
    policy: StepPolicy = StepPolicy()
    skipped: str = ""
    """Why it will not run whatever happens; empty for a step that may."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The steps of a run, each after those that it needs."""

    root: str
    steps: tuple[PlannedStep, ...]
    warnings: tuple[Diagnostic, ...] = ()
