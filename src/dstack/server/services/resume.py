"""New runs that follow an earlier one: `resume` runs what is not done, `restart` a job and all that comes after it.

The plan is made anew, by the same planner, from what was submitted then; steps and jobs are matched by name. The
earlier run is never opened again: two requests make two runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
from sqlalchemy import select

from dstack import workflows
from dstack.domain.lifecycle.run import TERMINAL
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import code_snapshots, repositories
from dstack.server.services import differences, run_values, runs, secrets
from dstack.server.services.carry import Carried, OldRun, Prior, job_name, load
from dstack.server.services.context import Context
from dstack.server.services.definitions import changed_definitions
from dstack.server.services.errors import BadRequest, CodeMissing, Conflict, NotFound, NothingToDo
from dstack.server.services.moments import NOT_ASKED, Wanted
from dstack.server.services.named import no_job, run_id_of
from dstack.server.services.repositories import RepositoryRef, find_repository
from dstack.server.services.runs import CodeRef, PythonRef, Read, Submission, Submitted
from dstack.server.services.uploads import PROVIDER as UPLOAD
from dstack.workflows import Diagnostic, RunPlan
from dstack.workflows.variables import COMMAND_LINE, GLOBAL, canonical


class Changes(msgspec.Struct, frozen=True):
    """What the caller's folder holds now: `--with-local-changes`."""

    files: dict[str, str]
    repository: RepositoryRef
    code: CodeRef | None = None
    diff: str | None = None


class Wish(msgspec.Struct, frozen=True):
    """The body of `POST …/runs/NAME/resume` and `…/resume/plan`. Unknown fields are ignored."""

    restart: bool = False
    """Start again what is named, or everything; else only what is not done."""
    job: str | None = None
    fresh: bool = False
    at: int | None = None
    """Jobs that start again begin from what they had saved by that time."""
    snapshot: str | None = None
    """Eight or more digits of the id of one: its job begins from that, and from what else it had saved by then."""
    set: tuple[str, ...] = ()
    """`NAME=VALUE` of variables."""
    args: tuple[str, ...] = ()
    """Words such as `-e NAME` that name further `values`."""
    values: dict[str, str] = {}
    environment: dict[str, str] = {}
    python: PythonRef | None = None
    changes: Changes | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    host: str | None = None

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.at, self.snapshot)


class Given(NamedTuple):
    """Names of what the submitting shell gave and nobody kept: a run that follows needs it once more.

    `values` are those that jobs were given, `shell` variables of the shell's environment that held credentials.
    """

    workflow: str
    values: list[str]
    shell: list[str]


class Planned(NamedTuple):
    """What would run: with `carried`, what would not."""

    plan: RunPlan
    carried: Carried
    code: CodeRef | None


def given(context: Context, name: str) -> Given:
    """What whoever resumes the run has to bring. Raises NotFound."""
    old = _load(context, name)
    values, _ = run_values.needed(job.spec for job in old.jobs.values())
    return Given(old.row.workflow, sorted(values), sorted(old.submission.private))


def submit(context: Context, name: str, wish: Wish, idempotency_key: str | None) -> Submitted:
    """Store the new run.

    Raises NotFound, Conflict for a run that is not over, NothingToDo, BadRequest, `workflows.Invalid`; nothing is
    stored then.
    """
    seen = runs.seen_before(context, idempotency_key)
    if seen is not None:
        return seen
    read, earlier = _prepare(context, name, wish)
    try:
        return runs.submit_read(context, read, idempotency_key, earlier)
    except CodeMissing as error:
        raise _told(error, wish, name) from None


def plan(context: Context, name: str, wish: Wish) -> Planned:
    """What `submit` would store. Raises the same."""
    read, earlier = _prepare(context, name, wish)
    planned = runs.plan_of(context, read, earlier=earlier)
    carried = context.database.read(lambda tx: earlier.carry(tx, planned, read.submission, lock=False))
    return Planned(planned, carried, read.submission.code)


def _prepare(context: Context, name: str, wish: Wish) -> tuple[Read, _Earlier]:
    old = _load(context, name)
    _check(old, wish)
    read = runs.read(context, context.database.read(lambda tx: _submission(tx, context, old, wish)))
    earlier = _Earlier(context, old, wish, Prior(old, _command(old, wish), _again(wish), wish.fresh, wish.wanted))
    if wish.set or wish.args or wish.changes:
        # By the names of the runs that made them: an expression may hold the run's name.
        for origin in sorted({job.origin_run for job in old.jobs.values()}):
            earlier.as_of[origin] = runs.plan_of(context, read, origin, earlier)
    return read, earlier


def _command(old: OldRun, wish: Wish) -> str:
    """What the caller has written, without its options."""
    if not wish.restart:
        return f"dstack resume {old.name}"
    return f"dstack restart {old.name}" if wish.job is None else f"dstack restart {old.name} {wish.job}"


def _again(wish: Wish) -> frozenset[str] | None:
    """The jobs that start again though they are done; None for all of them."""
    if not wish.restart:
        return frozenset[str]()
    return None if wish.job is None else frozenset([wish.job])


def _load(context: Context, name: str) -> OldRun:
    def read(tx: Transaction) -> OldRun:
        return load(tx, context.project_id, run_id_of(tx, context.project_id, name))

    return context.database.read(read)


def _check(old: OldRun, wish: Wish) -> None:
    """What can be said before planning."""
    if old.row.state not in TERMINAL:
        raise Conflict(
            f"run {old.name} is still {old.row.state}",
            hint=f"`dstack logs -f {old.name}` follows it; to start it anew, first `dstack stop {old.name}`, "
            f"then `{_command(old, wish)}`",
        )
    wish.wanted.check(fresh=wish.fresh)
    if not wish.restart and old.row.state == "done":
        raise _nothing_to_do(f"run {old.name} is done: there is nothing to resume", old, wish)
    if all(job.provider == UPLOAD for job in old.jobs.values()):
        raise BadRequest(f"run {old.name} was made of uploaded files: there is nothing to run")
    known = {*old.jobs, *old.steps}
    if wish.job is not None and not wish.changes and wish.job not in known:
        raise no_job(f"run {old.name}", wish.job, known)
    if not wish.changes:
        _check_variables(old, wish.set)


def _check_variables(old: OldRun, assignments: Sequence[str]) -> None:
    own = {canonical(name) for name in _of_root(old)}
    of_steps = {f"{step}.{canonical(name)}": name for step, plan in old.steps.items() for name in plan.variables}
    for text in assignments:
        name, equals, _ = text.partition("=")
        section, dot, variable = name.rpartition(".")
        wanted = f"{section}.{canonical(variable)}" if dot else canonical(name)
        if not equals or not name:
            raise BadRequest(f"`--set {text}` gives no value", hint="write --set NAME=VALUE")
        if wanted in own or wanted in of_steps or (section == GLOBAL and canonical(variable) in own):
            continue
        others = [
            f"{key.rpartition('.')[0]}.{shown}"
            for key, shown in of_steps.items()
            if not dot and key.endswith(f".{wanted}")
        ]
        near = others or difflib.get_close_matches(name, [*_of_root(old), *of_steps], 1)
        hint = f"did you mean `--set {near[0]}=…`?" if near else f"variables: {', '.join(_named(old)) or 'none'}"
        raise BadRequest(f"run {old.name} has no variable `{name}`", hint=hint)


def _of_root(old: OldRun) -> list[str]:
    plan = old.steps.get(old.row.workflow)
    return [] if plan is None else list(plan.variables)


def _named(old: OldRun) -> list[str]:
    """All that can be set, as it is typed."""
    others = {step: plan for step, plan in old.steps.items() if step != old.row.workflow}
    return [*_of_root(old), *(f"{step}.{name}" for step, plan in others.items() for name in plan.variables)]


def _submission(tx: Transaction, context: Context, old: OldRun, wish: Wish) -> Submission:
    """What was submitted then, with what is wished now. Raises Conflict for another repository."""
    stored, changes = old.submission, wish.changes
    shell = {name: value for name, value in wish.environment.items() if name in stored.private}
    python = None if stored.python is None else PythonRef(stored.python, stored.python_version)
    again = Submission(
        workflow=old.row.workflow,
        files=stored.files,
        repository=_repository(tx, context, old),
        args=_words(stored.args, wish),
        code=_code(tx, context, old),
        diff=_diff(tx, context, old),
        environment={**stored.environment, **shell},
        values=wish.values,
        python=python,
        # Tags were to be set once the run is done, which it never was.
        tags=tuple(dict.fromkeys((*(stored.tags if old.row.state != "done" else ()), *wish.tags))),
        user=wish.user,
        host=wish.host,
    )
    if changes is None:
        return again
    if find_repository(tx, context.project_id, changes.repository) != old.row.repository_id:
        raise Conflict(
            f"run {old.name} is of the repository {again.repository.name or again.repository.key}, "
            f"and this one is {changes.repository.name or changes.repository.key}",
            hint="go to the folder of that repository, or name it with --repo DIR",
        )
    return msgspec.structs.replace(
        again,
        files=changes.files,
        repository=changes.repository,
        code=changes.code,
        diff=changes.diff,
        environment=wish.environment,
        python=wish.python,
    )


def _words(before: Sequence[str], wish: Wish) -> tuple[str, ...]:
    """The words of the command line: the last that is said of a variable counts.

    Names of values stand first, as the command line puts them: behind `python -m` all words are the program's.
    """
    end = before.index("--") if "--" in before else len(before)
    return (*wish.args, *before[:end], *(f"--{text}" for text in wish.set), *before[end:])


def _repository(tx: Transaction, context: Context, old: OldRun) -> RepositoryRef:
    query = select(repositories.c.key, repositories.c.name, repositories.c.root).where(
        repositories.c.project_id == context.project_id, repositories.c.id == old.row.repository_id
    )
    key, name, _ = tx.execute(query).one()
    return RepositoryRef(key, name, old.submission.root, branch=old.row.branch, commit=old.row.commit)


def _code(tx: Transaction, context: Context, old: OldRun) -> CodeRef | None:
    manifest_id = old.row.code_manifest_id
    if manifest_id is None:
        return None
    query = select(code_snapshots.c.files, code_snapshots.c.size).where(
        code_snapshots.c.project_id == context.project_id, code_snapshots.c.manifest_id == manifest_id
    )
    files, size = tx.execute(query).first() or (0, 0)
    return CodeRef(manifest_id.hex(), old.row.code_content_id.hex(), files, size)


def _diff(tx: Transaction, context: Context, old: OldRun) -> str | None:
    try:
        return differences.of_run(tx, context.project_id, old.row.id)
    except NotFound:
        return None


def _told(error: CodeMissing, wish: Wish, name: str) -> CodeMissing | Conflict:
    """That code is missing, to whoever can send it; to others, what to do."""
    if wish.changes is not None:
        return error
    return Conflict(
        f"the code of run {name} is not in the store any more", hint="ship today's code: add --with-local-changes"
    )


@dataclass(frozen=True)
class _Earlier:
    """What planning and storing the new run ask of the old one (`runs.Earlier`)."""

    context: Context
    old: OldRun
    wish: Wish
    prior: Prior
    as_of: dict[str, RunPlan] = field(default_factory=dict[str, RunPlan])
    """The new plan as it would be in the runs of these names; empty where nothing about it can differ."""

    def pinned(
        self, workflow: str | None, tag: str | None, own: bool, ask: Callable[[], list[workflows.ReusedInput]]
    ) -> list[workflows.ReusedInput]:
        return self.prior.pinned(workflow, tag, own, ask)

    def carry(self, tx: Transaction, planned: RunPlan, submission: Submission, *, lock: bool) -> Carried:
        self._check_wish(planned)
        carried = self.prior.carry(tx, self.context, planned, lock=lock)
        left = [step for step in planned.steps if not carried.is_reused(step)]
        if not self.wish.restart and all(step.skipped for step in left):
            raise _nothing_to_do(f"everything in run {self.old.name} is done", self.old, self.wish)
        self._check_inputs(left, carried.deleted)
        self._check_values(tx, left, carried, submission)
        warnings = (
            *carried.warnings,
            *self._missing_shell(submission),
            *changed_definitions(self.old, carried, self.as_of),
        )
        return replace(carried, warnings=warnings)

    def _check_wish(self, planned: RunPlan) -> None:
        names = {step.name for step in planned.steps} | {
            job_name(step, spec) for step in planned.steps for spec in step.jobs
        }
        if self.wish.job is not None and self.wish.job not in names:
            raise NotFound(f"there is no job `{self.wish.job}` any more", hint=f"jobs: {', '.join(sorted(names)[:20])}")
        for text in self.wish.set:
            name = text.partition("=")[0]
            if not _took(planned, name):
                raise BadRequest(
                    f"`{planned.root}` has no variable `{name}`", hint=f"see: dstack run {planned.root} -h"
                )

    def _check_inputs(self, left: Sequence[workflows.PlannedStep], deleted: Collection[str]) -> None:
        for step in left:
            for item in step.inputs:
                if item.run_name in deleted:
                    raise Conflict(
                        f"`{item.path}`, an input of `{step.name}`, came from run {item.run_name}, which was deleted",
                        hint=f"run it with what there is now: dstack run {self.old.row.workflow}",
                    )

    def _check_values(
        self, tx: Transaction, left: Sequence[workflows.PlannedStep], carried: Carried, submission: Submission
    ) -> None:
        """Raise BadRequest for values and secrets that jobs need which run now, and nobody has."""
        specs = [spec for step in left for spec in step.jobs if job_name(step, spec) not in carried.reused]
        values, wanted = run_values.needed(specs)
        missing = sorted(values - submission.values.keys())
        if missing:
            raise BadRequest(
                f"not set in your shell: {', '.join(missing)}; what run {self.old.name} was given is not kept",
                hint=f"export {'it' if len(missing) == 1 else 'them'}, or give it with `-e {missing[0]}=VALUE`",
            )
        known = secrets.names(tx, self.context.project_id, self.old.row.repository_id)
        gone = sorted(wanted - set(known))
        if gone:
            raise BadRequest(
                f"there is no secret {', '.join(f'`{name}`' for name in gone)} any more",
                hint=f"add it with `dstack secrets add {gone[0]}`",
            )

    def _missing_shell(self, submission: Submission) -> list[Diagnostic]:
        if self.wish.changes is not None:
            return []
        missing = [name for name in self.old.submission.private if name not in submission.environment]
        message = f"{', '.join(missing)} of the shell that submitted {self.old.name} held a credential, and is not kept"
        hint = "export it and try again, if the jobs need it"
        return [workflows.warning(message, hint)] if missing else []


def _took(planned: RunPlan, name: str) -> bool:
    """Whether the variable has its value of the command line: a word may be the program's instead."""
    section, dot, variable = name.rpartition(".")
    wanted = canonical(variable if dot else name)
    of: Collection[Mapping[str, tuple[object, str]]] = [
        step.variables for step in planned.steps if not dot or section in (step.name, GLOBAL)
    ]
    return any(
        canonical(known) == wanted and source == COMMAND_LINE for each in of for known, (_, source) in each.items()
    )


def _nothing_to_do(message: str, old: OldRun, wish: Wish) -> Conflict:
    """An answer to `resume`; to go back is more than to have it done."""
    name = old.name
    if wish.wanted != NOT_ASKED:
        return Conflict(message, hint=f"`dstack restart {name} JOB` with the same `--at` starts JOB again from then")
    return NothingToDo(
        message,
        hint=f"`dstack restart {name}` runs all of it again, `dstack restart {name} JOB` a job and what follows it",
    )
