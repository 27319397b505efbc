"""A workflow's name and the words of the command line → the plan of a run. Pure: what it must ask is handed in."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import posixpath
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dstack.sdk.provider import JobSpec, PlanError, Provider
from dstack.sdk.scalars import Scalar, plain
from dstack.workflows import adhoc, conditions, dependencies, options, patterns, policies
from dstack.workflows.binding import Budget, Filled, Scope, fill
from dstack.workflows.checking import Override, Subject, blame, check
from dstack.workflows.conditions import StepRule
from dstack.workflows.context import Code, Context, Exists, ListFiles, ReadText
from dstack.workflows.delivery import Delivery, Known
from dstack.workflows.dependencies import KEYS, Dependency, once
from dstack.workflows.diagnostics import Invalid, Report
from dstack.workflows.forecast import NEVER, Forecast
from dstack.workflows.inputs import Elsewhere, Inputs, NewestDone, ResolveTag, Sources
from dstack.workflows.model import PlannedStep, ReusedInput, RunPlan, StepPolicy, Workflow, Workflows
from dstack.workflows.nodes import expression_position
from dstack.workflows.options import Choices
from dstack.workflows.outputs import warn_of_files
from dstack.workflows.patterns import Exclude
from dstack.workflows.provider_names import OWN, ProviderNames, parse
from dstack.workflows.secrets import name_of
from dstack.workflows.variables import Variable, canonical, environment


def plan(
    workflows: Workflows,
    name: str,
    args: Sequence[str],
    *,
    run_name: str,
    read_text: ReadText,
    resolve_tag: ResolveTag,
    newest_done: NewestDone,
    exists: Exists | None = None,
    list_files: ListFiles | None = None,
    elsewhere: Elsewhere | None = None,
    secrets: Collection[str] | None = None,
    values: Collection[str] | None = None,
) -> RunPlan:
    """The plan of `dstack run NAME ARGS…`; raises Invalid with all that is wrong.

    `read_text` reads a file of the code that is shipped (and raises NotText), `exists` says whether a path is in it
    (None: not known), and `list_files` lists it. `resolve_tag(workflow or None, tag)` says what a tag points at,
    `newest_done(workflow)` what its newest successful run made, and `elsewhere(repository, workflow or None, tag or
    None)` either of another repository; they raise UnknownTag. `secrets` are the names of the repository's secrets,
    `values` those of the caller's values that were submitted; neither is checked where it is None.
    """
    _check_text([name, *args])
    code = Code(functools.cache(read_text), exists, list_files)
    sources = Sources(resolve_tag, newest_done, elsewhere)
    known = Known(secrets, values)
    if name in workflows:
        return _plan(workflows, name, list(args), run_name, code, sources, known)
    if name not in workflows.providers:
        raise _unknown(workflows, name)
    made = adhoc.expand(workflows, name, args)
    try:
        found = _plan(made.workflows, name, made.args, run_name, code, sources, known)
    except Invalid as error:
        raise Invalid(made.told(error.diagnostics)) from None
    return dataclasses.replace(found, warnings=tuple(made.told(found.warnings)))


def _plan(
    workflows: Workflows, name: str, args: list[str], run_name: str, code: Code, sources: Sources, known: Known
) -> RunPlan:
    planner = Planner(workflows, workflows[name], run_name, code)
    members = planner.settle(args)
    report = planner.report
    planner.delivery = Delivery(known, report)
    inputs = Inputs(sources, report)
    steps = [step for member in members if (step := planner.step(member, inputs)) is not None]
    report.check()
    return RunPlan(name, tuple(steps), tuple(report.diagnostics()))


def _unknown(workflows: Workflows, name: str) -> Invalid:
    report = Report()
    reference = parse(name)
    if reference.foreign and reference.name in workflows.providers:
        report.argument(name, f"{reference.foreign}: `{name}`", f"write `dstack run {reference.name}`")
    elif name in workflows.own_providers:
        report.argument(name, f"{OWN}: `{name}`", "run what it would run with `dstack run bash -c COMMAND`")
    else:
        near = report.near(name, [*workflows, *workflows.providers])
        hint = near or "known: " + (", ".join(list(workflows)[:20]) or "none")
        report.argument(name, f"there is no workflow `{name}`", hint)
    return Invalid(report.diagnostics())


def _check_text(args: Sequence[str]) -> None:
    """What is no text cannot reach a job: neither its arguments nor its environment nor a database take it."""
    report = Report()
    for argument in args:
        readable = argument.encode(errors="replace").decode()
        if readable != argument:
            report.argument(readable, "not valid Unicode text", "check the encoding of the terminal")
        elif "\0" in argument:
            report.argument(argument, "an argument must not hold a zero byte")
    report.check()


@dataclass(frozen=True, slots=True)
class Bound:
    """A workflow with the values of this run."""

    filled: Filled
    scope: Scope
    variables: Mapping[str, Variable]
    dependencies: tuple[Dependency, ...]
    overrides: Sequence[Override]


@dataclass(frozen=True, slots=True)
class _Values:
    """One set of variables in the forms that steps need; shared by all workflows that see the same."""

    typed: Mapping[str, Scalar]
    shown: Mapping[str, tuple[Scalar, str]]
    environment: Mapping[str, str]


class Planner:
    def __init__(self, workflows: Workflows, root: Workflow, run_name: str, code: Code) -> None:
        self.workflows = workflows
        self.root = root
        self.run_name = run_name
        self.report = Report()
        self.code = code
        self.delivery = Delivery(Known(), self.report)
        self.forecast = Forecast()
        self.choices = Choices()
        self.bound: dict[str, Bound] = {}
        self.values: dict[int, _Values] = {}
        self.providers: dict[str, Provider] = {}
        self.artifacts: dict[str, frozenset[str]] = {}
        """Of the workflows whose step is made."""

    @functools.cached_property
    def excludes(self) -> Sequence[Exclude]:
        """Patterns of what the code of this run was sent without."""
        own = [patterns.read(self.workflows[name].source, self.workflows[name].node) for name in self.bound]
        return [*self.workflows.excludes, *itertools.chain.from_iterable(own)]

    def settle(self, args: list[str]) -> list[Workflow]:
        """The workflows of the run in order, bound to the values that `args` choose.

        Which workflows belong to a run may depend on values, and which values an option sets on the workflows: so
        the words are read for the run as the files have it, and again while their values lead to more workflows.
        """
        members = dependencies.order([self.root.name], self._declared_needs, lambda _: None)
        while True:
            report = Report()
            chosen = options.read(args, self.root, self.workflows, [self.workflows[name] for name in members], report)
            reached = self._bind_all(chosen, report)
            more = reached.keys() - members
            if not more:
                break
            members.extend(sorted(more))
        self.report, self.choices, self.bound = report, chosen, reached
        return [self.workflows[name] for name in dependencies.order([self.root.name], self.needs, self._tell_cycle)]

    def _declared_needs(self, name: str) -> list[str]:
        return [needed for needed in _run_needs(self.workflows[name].dependencies) if needed in self.workflows]

    def needs(self, name: str) -> list[str]:
        return [needed for needed in _run_needs(self.bound[name].dependencies) if needed in self.bound]

    def _tell_cycle(self, cycle: list[str]) -> None:
        last = cycle[-2]
        closing = next(d for d in self.bound[last].dependencies if d.kind == "run" and d.workflow == cycle[-1])
        message = f"workflows depend on each other: {' → '.join(cycle)}"
        closing.tell(self.workflows[last].source, message, "remove one of these dependencies", self.report)

    def _bind_all(self, choices: Choices, report: Report) -> dict[str, Bound]:
        """Everything that the root reaches with the values of `choices`."""
        budget = Budget()
        everywhere = {**self.workflows.variables.everywhere, **choices.everywhere}
        bound: dict[str, Bound] = {}
        waiting = [self.root.name]
        while waiting:
            name = waiting.pop()
            if name in bound:
                continue
            own = {**self.workflows.variables.sections.get(name, {}), **choices.sections.get(name, {})}
            variables = {**everywhere, **own} if own else everywhere
            bound[name] = self.bind(self.workflows[name], variables, choices, budget, report)
            waiting.extend(needed for needed in _run_needs(bound[name].dependencies) if needed in self.workflows)
        return bound

    def bind(
        self,
        workflow: Workflow,
        variables: Mapping[str, Variable],
        choices: Choices,
        budget: Budget,
        report: Report,
    ) -> Bound:
        scope = Scope(variables, self.run_name, shlex.join(choices.args))
        filled = fill(workflow.source, workflow.node, scope, budget, report)
        needs = workflow.dependencies
        given = choices.dependencies() if workflow is self.root else {}
        if given or any(workflow.node.entries[key].dynamic for key in KEYS if key in workflow.node.entries):
            kept = KEYS.keys() - given.keys()
            needs = dependencies.read(workflow.source, workflow.node, filled.data, filled.unknown(), report, kept)
            needs = once(itertools.chain(needs, *(dependencies.given(*item, report) for item in given.items())))
        if workflow is not self.root or not choices.options:
            return Bound(filled, scope, variables, needs, ())
        data, overrides = options.override(filled.data, choices.options)
        return Bound(Filled(data, filled.missing), scope, variables, needs, overrides)

    def step(self, workflow: Workflow, inputs: Inputs) -> PlannedStep | None:
        """The step of one workflow; None after reporting what is wrong."""
        bound = self.bound[workflow.name]
        self.report_missing(workflow, bound)
        needs = tuple(dict.fromkeys(_run_needs(bound.dependencies)))
        for dependency in bound.dependencies:
            if dependency.kind == "run" and dependency.workflow not in self.workflows:
                near = self.report.near(str(dependency.workflow), self.workflows)
                hint = near or "known: " + ", ".join(itertools.islice(self.workflows, 10))
                message = f"there is no workflow `{dependency.workflow}`"
                dependency.tell(workflow.source, message, hint, self.report)
        place = workflow.node.entries.get("if")
        rule = conditions.read(workflow.source, place, bound.scope.lookup, self.report)
        # A step that will not run needs none of what it would have got.
        reused = inputs.of(workflow, bound.dependencies) if rule.rule != NEVER else ()
        values = self._values(workflow, bound.variables)
        name, jobs, stated = self._jobs(workflow, bound, values, reused, rule)
        if jobs is None:
            return None
        policies.warn(workflow, stated, len(jobs), self.report)
        skipped = self.forecast.add(workflow.name, needs, stated.rule, stated.condition)
        # A condition of what could not be read says nothing.
        if skipped and workflow is self.root and place is not None and not self.report.errors:
            message = f"`{workflow.name}` will be skipped: {skipped}"
            self.report.warning(workflow.source, place.at, message, "what it depends on runs all the same")
        self.artifacts[workflow.name] = frozenset(path for job in jobs for path in job.artifacts)
        self._warn_of_shared_paths(workflow, bound, reused)
        return PlannedStep(workflow.name, workflow.name, name, needs, reused, values.shown, jobs, stated, skipped)

    def _warn_of_shared_paths(self, workflow: Workflow, bound: Bound, reused: Sequence[ReusedInput]) -> None:
        """What steps of this run will write is not known yet, so that two of one path may or may not differ."""
        brought = {item.path: f"run {item.run_name}" for item in reused}
        for dependency in bound.dependencies:
            if dependency.kind != "run" or dependency.workflow is None:
                continue
            for path in sorted(self.artifacts.get(dependency.workflow, ())):
                other = brought.setdefault(path, f"`{dependency.workflow}`")
                if other != f"`{dependency.workflow}`":
                    message = f"`{dependency.workflow}` and {other} both bring `{path}`"
                    hint = "the job is set up only if no file of one differs from the other's"
                    dependency.tell(workflow.source, message, hint, self.report, "warning")

    def report_missing(self, workflow: Workflow, bound: Bound) -> None:
        for missing in bound.filled.missing_names():
            name = missing.name.name
            if canonical(name) in bound.variables:
                continue  # it is declared without a value, which is told there
            at = expression_position(workflow.source, missing.node, missing.name.ordinal, missing.name.offset)
            near = self.report.near(name, [variable.name for variable in bound.variables.values()])
            hint = near or f"run with `--{name} VALUE`, or set it in .dstack/variables.yaml"
            self.report.error(workflow.source, at, f"the variable `{name}` has no value", hint)

    def _values(self, workflow: Workflow, variables: Mapping[str, Variable]) -> _Values:
        # Kept by identity: `bound` holds the mappings for as long as this planner lives.
        found = self.values.get(id(variables))
        if found is None:
            for variable in variables.values():
                if not variable.given:
                    self.report_not_given(workflow, variable)
            given = [variable for variable in variables.values() if variable.given]
            typed = {variable.name: plain(variable.value) for variable in given}
            shown = {variable.name: (plain(variable.value), variable.source) for variable in given}
            found = self.values[id(variables)] = _Values(typed, shown, environment(variables))
        return found

    def report_not_given(self, workflow: Workflow, variable: Variable) -> None:
        declared = self.workflows.variables
        own = canonical(variable.name) in declared.sections.get(workflow.name, {})
        option = f"{workflow.name}.{variable.name}" if own and workflow is not self.root else variable.name
        about = f" ({variable.declaration.help})" if variable.declaration.help else ""
        hint = f"run with `--{option} VALUE`{about}, or give it a `default`"
        assert declared.source is not None
        self.report.error(declared.source, variable.at, f"the variable `{variable.name}` has no value", hint)

    def _jobs(
        self, workflow: Workflow, bound: Bound, values: _Values, reused: Sequence[ReusedInput], rule: StepRule
    ) -> tuple[str, tuple[JobSpec, ...] | None, StepPolicy]:
        """The name of the provider, the jobs that it plans, and their policy."""
        nothing = StepPolicy()
        unknown = bound.filled.unknown()
        data: dict[str, Any] = bound.filled.data
        name = workflow.provider
        place = workflow.node.entries.get("provider")
        if place is not None and (place.dynamic or name not in self.workflows.providers):
            names = ProviderNames(self.workflows.providers, self.workflows.own_providers, self.report)
            found = names.read(workflow.source, workflow.node, data, unknown)
            if found.why:
                self.report.error(workflow.source, place.at, found.why, found.hint)
            name = found.name
        if not name:
            return name, None, nothing
        data = {**data, "provider": name}
        subject = Subject(workflow.source, workflow.node, data, unknown, bound.variables, bound.overrides)
        provider = self.providers.get(name)
        if provider is None:
            provider = self.providers[name] = self.workflows.providers[name]()
        config = workflow.config
        if config is None or bound.overrides:
            config = check(provider.Config, subject, self.report)
        if config is None or unknown:
            return name, None, nothing
        args = self.choices.args if workflow is self.root and "run.args" not in workflow.uses else ()
        brought = self.brought(bound, reused, getattr(config, "working_dir", "."))
        context = Context(
            self.run_name,
            workflow.name,
            values.typed,
            tuple(args),
            self.code,
            brought,
            self.excludes,
            subject,
            self.report,
        )
        try:
            jobs = provider.plan(config, context)
        except PlanError as error:
            for each in (error, *error.others):
                blame(subject, each.at, str(each), each.hint, self.report)
            return name, None, nothing
        warn_of_files(subject, getattr(config, "artifacts", ()), self.report)
        planned = [_with_variables(job, values.environment) for job in jobs]
        given = self.delivery.give(subject, planned, uses_secrets=any(map(name_of, workflow.uses)))
        return name, given, policies.policy(rule, config)

    def brought(self, bound: Bound, reused: Sequence[ReusedInput], working_dir: str) -> list[str] | None:
        """The folders that dependencies bring, from the root of the code; None where a step of them has no plan."""
        needed = _run_needs(bound.dependencies)
        if any(name not in self.artifacts for name in needed):
            return None
        folders = [item.path for item in reused] + [path for name in needed for path in self.artifacts[name]]
        return [posixpath.normpath(posixpath.join(working_dir, folder)) for folder in folders]


def _run_needs(needed: Sequence[Dependency]) -> list[str]:
    """The workflows that go first in the same run."""
    return [dependency.workflow for dependency in needed if dependency.kind == "run" and dependency.workflow]


def _with_variables(job: JobSpec, variables: Mapping[str, str]) -> JobSpec:
    """The workflow's own environment wins over its variables, in whose values a `$` is just that."""
    if not variables:
        return job
    literal = {name: value.replace("$", "$$") for name, value in variables.items()}
    return msgspec.structs.replace(job, environment={**literal, **job.environment})
