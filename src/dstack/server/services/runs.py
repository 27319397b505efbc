"""Runs: check and plan a submission, store it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import insert

from dstack import providers, workflows
from dstack.domain.lifecycle import run as run_table
from dstack.domain.ports import SECOND
from dstack.sdk.provider import JobSpec, Provider
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import runs, submissions
from dstack.server.services import artifacts, code_files, differences, exposure, run_names, run_values, secrets, tags
from dstack.server.services.apply import Batch
from dstack.server.services.carry import NOTHING, Carried
from dstack.server.services.catalog import keep_blobs
from dstack.server.services.context import Context
from dstack.server.services.create import hold_inputs, insert_plan
from dstack.server.services.errors import BadRequest
from dstack.server.services.facts import Facts
from dstack.server.services.repositories import RepositoryRef, ensure_repository, find_repository
from dstack.server.services.sealing import SealingError
from dstack.server.services.stored import StoredSubmission
from dstack.server.services.unsatisfiable import Fit, fail_unsatisfiable, fit

SUBMIT = declare_write("runs.submit")


class CodeRef(msgspec.Struct, frozen=True):
    manifest_id: str
    content_id: str
    files: int = 0
    size: int = 0


class PythonRef(msgspec.Struct, frozen=True):
    path: str
    version: str | None = None


class Submission(msgspec.Struct, frozen=True):
    """The body of `POST …/runs` and `…/plan`. Unknown fields are ignored."""

    workflow: str
    files: dict[str, str]
    repository: RepositoryRef
    args: tuple[str, ...] = ()
    code: CodeRef | None = None
    diff: str | None = None
    environment: dict[str, str] = {}
    values: dict[str, str] = {}
    """From the caller's shell, for `-e NAME` and `env: [NAME]`: sealed, and kept only where a job needs them."""
    python: PythonRef | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    host: str | None = None


def registry() -> Mapping[str, type[Provider]]:
    return providers.registry()


class Earlier(Protocol):
    """What a submission that follows an earlier run knows of it."""

    def pinned(
        self, workflow: str | None, tag: str | None, own: bool, ask: Callable[[], list[workflows.ReusedInput]]
    ) -> list[workflows.ReusedInput]:
        """What that run was given for a dependency on its `own` or another repository, else what `ask` says."""
        ...

    def carry(self, tx: Transaction, planned: workflows.RunPlan, submission: Submission, *, lock: bool) -> Carried:
        """What the new run takes from it; raises ServiceError where there is no sense in a new run.

        With `lock` the earlier run is there until `tx` is over, which writes.
        """
        ...


class Read(NamedTuple):
    """A submission that was read, for every plan that is made of it."""

    submission: Submission
    """Its difference from the commit, which is for people, shows no credential."""
    repository_id: UUID | None
    loaded: workflows.Workflows
    unreadable: SealingError | None
    """Why secrets cannot be opened, which matters to a run that needs one."""


def read(context: Context, submission: Submission) -> Read:
    """Raises `workflows.Invalid` with everything that is wrong with the texts.

    Credentials in files and arguments are refused before these are told of in any other diagnostic.
    """
    run_values.check(submission.values)
    repository_id = context.database.read(lambda tx: find_repository(tx, context.project_id, submission.repository))
    diff, unreadable = None, None
    try:
        telling = exposure.telling(context, repository_id, submission.values)
    except SealingError as error:
        unreadable = error  # what the difference would show is not known: nobody sees it
    else:
        telling.check(submission.files, submission.args)
        diff = telling.masked(submission.diff) if submission.diff is not None else None
    known = registry()
    loaded = workflows.load(submission.files, known, required=submission.workflow not in known)
    return Read(msgspec.structs.replace(submission, diff=diff), repository_id, loaded, unreadable)


def plan(context: Context, submission: Submission) -> workflows.RunPlan:
    """The plan of a submission, reading pinned tags and the code; raises `workflows.Invalid` with everything wrong."""
    return plan_of(context, read(context, submission))


def plan_of(context: Context, given: Read, run_name: str = "", earlier: Earlier | None = None) -> workflows.RunPlan:
    """The same of one that was read, for a run that is called `run_name`, and may follow an earlier one."""
    database, project_id = context.database, context.project_id
    submission, repository_id = given.submission, given.repository_id
    pinned = _ask if earlier is None else earlier.pinned
    code = bytes.fromhex(submission.code.manifest_id) if submission.code else None
    planned = workflows.plan(
        given.loaded,
        submission.workflow,
        submission.args,
        run_name=run_name,
        read_text=lambda path: code_files.read_text(context, code, path) if code else None,
        exists=(lambda path: artifacts.has_path(context, code, path)) if code else None,
        list_files=(lambda: artifacts.list_files(context, code)) if code else None,
        resolve_tag=lambda workflow, name: pinned(
            workflow,
            name,
            True,
            lambda: database.read(lambda tx: tags.resolve(tx, project_id, repository_id, workflow, name)),
        ),
        newest_done=lambda workflow: pinned(
            workflow,
            None,
            True,
            lambda: database.read(lambda tx: tags.newest_done(tx, project_id, repository_id, workflow)),
        ),
        elsewhere=lambda repository, workflow, name: pinned(
            workflow,
            name,
            False,
            lambda: database.read(
                lambda tx: tags.elsewhere(tx, project_id, submission.repository, repository, workflow, name)
            ),
        ),
        # What only jobs need that do not run again need not be there any more: `Earlier.carry` looks.
        secrets=database.read(lambda tx: secrets.names(tx, project_id, repository_id)) if earlier is None else None,
        values=submission.values.keys() if earlier is None else None,
    )
    if given.unreadable is not None and run_values.needed(_specs(planned))[1]:
        raise given.unreadable
    return planned


def _ask(
    workflow: str | None, tag: str | None, own: bool, ask: Callable[[], list[workflows.ReusedInput]]
) -> list[workflows.ReusedInput]:
    return ask()


def _values(submission: Submission, planned: workflows.RunPlan) -> dict[str, str]:
    """Those of the caller's values that a job is given, and what of the shell's environment is not for the clear."""
    needed, _ = run_values.needed(_specs(planned))
    given = {name: value for name, value in submission.values.items() if name in needed}
    private = run_values.private(submission.environment)
    return given | {f"{run_values.SHELL}{name}": value for name, value in private.items()}


def _specs(planned: workflows.RunPlan) -> list[JobSpec]:
    return [job for step in planned.steps for job in step.jobs]


class Submitted(NamedTuple):
    """The run's name, whether it is new (False: the key was seen before), and what its submitter should know.

    `undecided`: whether the run can run at all shows only when the first runner is there.
    """

    name: str
    new: bool
    warnings: tuple[workflows.Diagnostic, ...] = ()
    undecided: bool = False


class _Stored(NamedTuple):
    """The run, whether it is new, and what it took over."""

    name: str
    new: bool
    carried: Carried = NOTHING


def submit(context: Context, submission: Submission, idempotency_key: str | None) -> Submitted:
    """Store a run. Raises `workflows.Invalid` and then nothing is stored and no name is used."""
    seen = seen_before(context, idempotency_key)
    return seen or submit_read(context, read(context, submission), idempotency_key)


def submit_read(
    context: Context, given: Read, idempotency_key: str | None, earlier: Earlier | None = None
) -> Submitted:
    """The same of a submission that was read, which may follow an earlier run."""
    submission = given.submission
    for tag in submission.tags:
        tags.check_name(tag)
    if submission.code is not None:
        artifacts.require_code(context, bytes.fromhex(submission.code.manifest_id))
    # The name is chosen before planning, because `${{ run.name }}` may stand anywhere; a name that is taken
    # meanwhile costs one more round.
    for _ in range(100):
        name = context.database.read(lambda tx: run_names.free(tx, context))
        planned = plan_of(context, given, name, earlier)
        if _values(submission, planned):
            secrets.ensure_key(context)
        try:
            stored = context.database.write(
                SUBMIT,
                lambda tx, planned=planned, name=name: _store(
                    tx, context, submission, planned, name, idempotency_key, earlier
                ),
            )
        except run_names.KeyTaken:
            continue  # the next look finds the run that the other request made
        if stored is not None:
            return _judged(context, planned, stored)
    raise BadRequest("no free run name was found in 100 tries", hint="delete runs that are no longer needed")


def seen_before(context: Context, idempotency_key: str | None) -> Submitted | None:
    """The run that a request with this key made before."""
    if idempotency_key is None:
        return None
    seen = context.database.read(lambda tx: run_names.of_key(tx, context.project_id, idempotency_key))
    return None if seen is None else Submitted(seen, False)


def _judged(context: Context, planned: workflows.RunPlan, stored: _Stored) -> Submitted:
    """The run that was stored; where it can never run, that is said now and not after it was reported as started."""
    carried = stored.carried
    left = [step for step in planned.steps if not carried.is_reused(step)]
    names = {step.name for step in left}
    fits = fit(context, left)
    at_once = context.settings.unsatisfiable_after == 0
    begins = {step.name for step in left if not names.intersection(step.needs)}
    if at_once and fits.misfits.keys() & begins:
        fail_unsatisfiable(context)
    warnings = (*planned.warnings, *carried.warnings, *fit_warnings(fits))
    return Submitted(stored.name, stored.new, warnings, undecided=at_once and fits.unknown)


def fit_warnings(fits: Fit) -> list[workflows.Diagnostic]:
    """One warning for each step that no runner can run."""
    hint = "lower its `resources`, or add a machine that has them"
    return [
        workflows.warning(f"no runner that is online can run `{step}`: {why}", hint)
        for step, why in fits.misfits.items()
    ]


def _store(
    tx: Transaction,
    context: Context,
    submission: Submission,
    planned: workflows.RunPlan,
    name: str,
    idempotency_key: str | None,
    earlier: Earlier | None,
) -> _Stored | None:
    """The new run's name; the name of the run that `idempotency_key` made before; or None when `name` is taken."""
    project_id = context.project_id
    if idempotency_key is not None:
        seen = run_names.of_key(tx, project_id, idempotency_key)
        if seen is not None:
            return _Stored(seen, False)
    if run_names.is_taken(tx, project_id, name):
        return None
    if submission.code is not None:
        keep_blobs(tx)  # `use_code` does; whoever removes blobs locks rows of packs after that, too
    carried = NOTHING if earlier is None else earlier.carry(tx, planned, submission, lock=True)
    hold_inputs(tx, context, planned.steps, carried)
    run_id = context.ids.new(tx.now)
    row = _run_row(tx, context, submission, run_id, name)
    if not tx.insert_new(runs, {**row, "resumed_from": carried.run_id}):
        return None
    body = msgspec.msgpack.encode(_stored(submission))
    diff = differences.pack(submission.diff)
    tx.execute(insert(submissions), {"project_id": project_id, "run_id": run_id, "body": body, "diff": diff})
    if idempotency_key is not None:
        run_names.keep_key(tx, project_id, run_id, idempotency_key)
    if submission.code is not None:
        code = submission.code
        ids = {"manifest_id": bytes.fromhex(code.manifest_id), "content_id": bytes.fromhex(code.content_id)}
        artifacts.use_code(tx, context, {**ids, "files": code.files, "size": code.size})
    run_values.keep(tx, context, run_id, _values(submission, planned))
    written = insert_plan(tx, project_id, run_id, planned.steps, context.ids, carried)
    batch = Batch(tx, project_id, context.settings, context.ids)
    batch.load_runs([run_id])
    batch.runs[run_id].seq = written
    batch.run(run_id, run_table.Planned(), Facts(actor=submission.user))
    batch.roll_up(run_id)
    batch.store()
    tx.notify("place")
    tx.notify("unfit")
    return _Stored(name, True, carried)


def _stored(submission: Submission) -> StoredSubmission:
    private = run_values.private(submission.environment)
    return StoredSubmission(
        args=submission.args,
        files=submission.files,
        environment={name: value for name, value in submission.environment.items() if name not in private},
        private=tuple(private),
        python=submission.python.path if submission.python else None,
        python_version=submission.python.version if submission.python else None,
        root=submission.repository.root,
        tags=submission.tags,
    )


def _run_row(tx: Transaction, context: Context, submission: Submission, run_id: UUID, name: str) -> dict[str, Any]:
    code = submission.code
    return {
        "project_id": context.project_id,
        "id": run_id,
        "repository_id": ensure_repository(tx, context, submission.repository),
        "name": name,
        "workflow": submission.workflow,
        "state": run_table.RunState.PLANNING.value,
        "user": submission.user,
        "host": submission.host,
        "submitted_at": tx.now,
        "deadline_at": tx.now + int(context.settings.plan_deadline * SECOND),
        "code_manifest_id": bytes.fromhex(code.manifest_id) if code else None,
        "code_content_id": bytes.fromhex(code.content_id) if code else None,
        "branch": submission.repository.branch,
        "commit": submission.repository.commit,
    }
