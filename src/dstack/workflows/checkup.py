"""Workflows held against the code they would be sent with, before anybody runs them: files that are not there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dstack.workflows import dependencies
from dstack.workflows.binding import Budget
from dstack.workflows.context import Code
from dstack.workflows.diagnostics import Diagnostic, Invalid, Report
from dstack.workflows.inputs import Inputs, Sources
from dstack.workflows.model import ReusedInput, Workflow, Workflows
from dstack.workflows.options import Choices
from dstack.workflows.planning import Bound, Planner
from dstack.workflows.variables import Variable


def check_code(workflows: Workflows, files: Collection[str]) -> list[Diagnostic]:
    """What the providers would say of each workflow with its values of the files, if `files` were sent.

    Of what `workflows` was loaded with nothing is said twice, and nothing of values that only a run gives.
    """
    if not workflows:
        return []
    checkup = _Checkup(workflows, _code(files))
    try:
        checkup.check_all()
    except Invalid:
        return []  # too much text: which a plan tells of
    known = set(map(_place, workflows.warnings))
    return [found for found in checkup.report.diagnostics() if _place(found) not in known]


def _place(diagnostic: Diagnostic) -> tuple[object, ...]:
    return diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.message


def _code(files: Collection[str]) -> Code:
    known = set(files)
    for path in files:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in known:
                break
            known.add(path)
    listed = sorted(files)
    # Of a file only its being there is asked; what is in it a plan reads.
    return Code(lambda path: "" if path in known else None, lambda path: path == "." or path in known, lambda: listed)


def _nothing(*_: str | None) -> list[ReusedInput]:
    """What earlier runs made, when nobody is to be asked."""
    return []


class _Checkup(Planner):
    """Plans every workflow once, each after those that it needs. What depends on a run is left out."""

    def __init__(self, workflows: Workflows, code: Code) -> None:
        super().__init__(workflows, next(iter(workflows.values())), "run-1", code)

    def check_all(self) -> None:
        budget, unheard = Budget(), Report()
        for name, workflow in self.workflows.items():
            variables = self.workflows.variables.of(name)
            self.bound[name] = self.bind(workflow, variables, Choices(), budget, unheard)
        inputs = Inputs(Sources(_nothing, _nothing, _nothing), unheard)
        for name in dependencies.order(list(self.workflows), self.needs, lambda _: None):
            workflow = self.workflows[name]
            if self.step(workflow, inputs) is None and workflow.config is not None:
                # One that cannot be planned is told of; what it would write is known all the same.
                self.artifacts[name] = frozenset(artifact.path for artifact in workflow.config.artifacts)

    def report_missing(self, workflow: Workflow, bound: Bound) -> None:
        pass  # loading warns of variables without a value

    def report_not_given(self, workflow: Workflow, variable: Variable) -> None:
        pass

    def brought(self, bound: Bound, reused: Sequence[ReusedInput], working_dir: str) -> list[str] | None:
        # What an earlier run has made is not known here.
        if any(dependency.kind != "run" for dependency in bound.dependencies):
            return None
        return super().brought(bound, reused, working_dir)
