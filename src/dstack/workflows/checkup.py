"""Workflows held against the code they would be sent with, before anybody runs them: files that are not there."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dstack.sdk.requirement_files import LEADS_AWAY, NotText, decode
from dstack.workflows import dependencies
from dstack.workflows.binding import Budget
from dstack.workflows.context import Code
from dstack.workflows.diagnostics import Diagnostic, Invalid, Report
from dstack.workflows.inputs import Inputs, Sources
from dstack.workflows.model import ReusedInput, Workflow, Workflows
from dstack.workflows.options import Choices
from dstack.workflows.planning import Bound, Planner
from dstack.workflows.variables import Variable


@dataclass(frozen=True)
class Contents:
    """What is in files of the code: None for a link to what is not in it. `asked` becomes what else was to be read."""

    known: Mapping[str, bytes | None] = field(default_factory=dict[str, bytes | None])
    asked: dict[str, None] = field(default_factory=dict[str, None])


def check_code(workflows: Workflows, files: Collection[str], contents: Contents | None = None) -> list[Diagnostic]:
    """What the providers would say of each workflow with its values of the files, if `files` were sent.

    Of what `workflows` was loaded with nothing is said twice, and nothing of values that only a run gives. Files whose
    contents are not known are taken for empty.
    """
    if not workflows:
        return []
    checkup = _Checkup(workflows, _code(files, contents or Contents()))
    try:
        checkup.check_all()
    except Invalid:
        return []  # too much text: which a plan tells of
    known = set(map(_place, workflows.warnings))
    return [found for found in checkup.report.diagnostics() if _place(found) not in known]


def _place(diagnostic: Diagnostic) -> tuple[object, ...]:
    return diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.message


def _code(files: Collection[str], contents: Contents) -> Code:
    sent, known = frozenset(files), set(files)
    for path in files:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in known:
                break
            known.add(path)
    listed = sorted(files)

    @functools.cache
    def read_text(path: str) -> str | None:
        if path in contents.known:
            data = contents.known[path]
            if data is None:
                raise NotText(*LEADS_AWAY)
            return decode(data)
        if path not in sent and not code.leads_away(path):
            return None
        contents.asked[path] = None
        return ""

    code = Code(read_text, lambda path: path == "." or path in known, lambda: listed)
    return code


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
