"""What a run's jobs are given without its being stored in the clear: callers' values, and secrets by attempt.

Callers' values (`-e NAME`) come with the submission. Secrets are read when an attempt first asks for them, and kept for
it as they were: a runner that restarted masks the very same values, whatever became of the secret meanwhile. All of it
is sealed, and gone in the transaction that ends the run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

import msgspec
from sqlalchemy import and_, bindparam, delete, insert, select

from dstack.domain.credentials import holds_credential, names_credential
from dstack.domain.lifecycle import run as run_table
from dstack.protocol.messages import SecretsReply, SecretsRequest
from dstack.sdk.provider import CALLERS, JobSpec
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import attempt_secrets, attempts, jobs, run_values, runners, runs
from dstack.server.db.types import Id
from dstack.server.services import secrets
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.sealing import SealingError

PIN = declare_write("secrets.pin")
MAX_VALUES = 1000
SHELL = "shell:"
"""What names of variables of the submitting shell begin with in the table: those that hold a credential."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def needed(specs: Iterable[JobSpec]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the callers' values and of the secrets that jobs are given."""
    found = {name for spec in specs for name in spec.secrets}
    callers = frozenset(name.removeprefix(CALLERS) for name in found if name.startswith(CALLERS))
    return callers, frozenset(name for name in found if not name.startswith(CALLERS))


def check(values: Mapping[str, str]) -> None:
    """Raises BadRequest for values that no environment can hold; the text never shows one."""
    if len(values) > MAX_VALUES:
        raise BadRequest(f"more than {MAX_VALUES} values came with the run")
    for name, value in values.items():
        if _NAME.fullmatch(name) is None:
            raise BadRequest(f"`{name[:60]}` cannot name an environment variable")
        if value:  # `K=` is empty on purpose
            secrets.checked_value(name, value)


def private(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of a shell's environment that holds credentials: it is stored sealed only."""
    return {name: value for name, value in environment.items() if holds_credential(name, value)}


def of_shell(tx: Transaction, context: Context, run_id: UUID) -> dict[str, str]:
    """What `keep` sealed of the submitting shell's environment. Raises SealingError."""
    query = select(run_values.c.name, run_values.c.value).where(
        run_values.c.project_id == context.project_id, run_values.c.run_id == run_id
    )
    return {
        name.removeprefix(SHELL): context.sealer.open(sealed, _bound_value(context, run_id, name)).decode()
        for name, sealed in tx.execute(query)
        if name.startswith(SHELL)
    }


def keep(tx: Transaction, context: Context, run_id: UUID, values: Mapping[str, str]) -> None:
    """Seal what a new run's jobs need. The key was seen to before."""
    rows = [
        {
            "project_id": context.project_id, "run_id": run_id, "name": name,
            "value": context.sealer.seal(value.encode(), _bound_value(context, run_id, name)),
        }
        for name, value in values.items()
    ]  # fmt: skip
    if rows:
        tx.execute(insert(run_values), rows)


def forget(tx: Transaction, project_id: UUID, run_ids: Collection[UUID]) -> None:
    """The runs are over: nobody needs their values."""
    rows = [{"project": project_id, "run": run_id} for run_id in run_ids]
    for statement in _FORGET if rows else ():
        tx.change(statement, rows)


def left_over(tx: Transaction, project_id: UUID) -> list[UUID]:
    """Runs that are over and still have values, as a backup that was put back may bring them."""
    found: set[UUID] = set()
    for table in (run_values, attempt_secrets):
        query = (
            select(table.c.run_id)
            .distinct()
            .join(runs, and_(runs.c.project_id == table.c.project_id, runs.c.id == table.c.run_id))
            .where(table.c.project_id == project_id, runs.c.state.in_([state.value for state in run_table.TERMINAL]))
        )
        found.update(tx.execute(query).scalars())
    return sorted(found)


def hand_out(context: Context, request: SecretsRequest) -> SecretsReply:
    """What a live attempt is given, to the runner and the process of it that hold the attempt."""
    found = context.database.read(lambda tx: _attempt(tx, context, request))
    if isinstance(found, SecretsReply):
        return found
    callers, wanted = needed([found.spec])
    try:
        if not wanted:
            values = context.database.read(lambda tx: _callers_values(tx, context, found, callers))
        else:
            values = context.database.write(PIN, lambda tx: _all_values(tx, context, request, callers, wanted))
    except SealingError as error:
        return SecretsReply(problem=f"{error.message} ({error.hint})" if error.hint else error.message)
    except _Missing as error:
        return SecretsReply(problem=str(error))
    except _Over:
        return SecretsReply(over=True)
    text = {name: value.decode() for name, value in values.items()}
    return SecretsReply(values=text, masked=tuple(name for name in text if is_masked(name)))


def is_masked(name: str) -> bool:
    """Whether a value is masked in logs: secrets always, a caller's where its name looks like a credential's."""
    return not name.startswith(CALLERS) or names_credential(name.removeprefix(CALLERS))


class _Missing(Exception):
    """A value that the job needs is not there; the text is for people."""


class _Over(Exception):
    """The attempt ended meanwhile."""


class _Live(msgspec.Struct, frozen=True):
    attempt_id: UUID
    run_id: UUID
    repository_id: UUID
    spec: JobSpec


_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode


def _attempt(tx: Transaction, context: Context, request: SecretsRequest) -> _Live | SecretsReply:
    """The attempt, if it is the job's newest, lives, and belongs to the runner's process that asks."""
    query = select(runners.c.incarnation).where(
        runners.c.project_id == context.project_id, runners.c.id == request.runner_id
    )
    if tx.execute(query).scalar() != request.incarnation:
        return SecretsReply(register=True)
    row = next(iter(tx.rows(_SELECT_LIVE, {"project": context.project_id, "attempt": request.attempt_id})), None)
    if row is None or row.runner_id != request.runner_id:
        return SecretsReply(over=True)
    return _Live(row.id, row.run_id, row.repository_id, _decode_spec(row.spec))


def _all_values(
    tx: Transaction, context: Context, request: SecretsRequest, callers: Collection[str], wanted: Collection[str]
) -> dict[str, bytes]:
    """Callers' values, and the secrets as the attempt had them the first time, which may be now."""
    live = _attempt(tx, context, request)
    if isinstance(live, SecretsReply):
        raise _Over
    values = _callers_values(tx, context, live, callers)
    pinned = _pinned(tx, context, live)
    missing = sorted(name for name in wanted if name not in pinned)
    if missing:
        fresh = secrets.opened(tx, context, live.repository_id, missing)
        gone = [name for name in missing if name not in fresh]
        if gone:
            raise _Missing(f"the secret `{gone[0]}` does not exist any more; `dstack secrets add {gone[0]}` makes it")
        _pin(tx, context, live, fresh)
        pinned = _pinned(tx, context, live)  # another request may have been first (PostgreSQL)
    return values | pinned


def _pinned(tx: Transaction, context: Context, live: _Live) -> dict[str, bytes]:
    query = select(attempt_secrets.c.name, attempt_secrets.c.value).where(
        attempt_secrets.c.project_id == context.project_id,
        attempt_secrets.c.run_id == live.run_id,
        attempt_secrets.c.attempt_id == live.attempt_id,
    )
    return {
        name: context.sealer.open(sealed, _bound_secret(context, live.attempt_id, name))
        for name, sealed in tx.execute(query)
    }


def _pin(tx: Transaction, context: Context, live: _Live, values: Mapping[str, bytes]) -> None:
    rows = [
        {
            "project_id": context.project_id, "run_id": live.run_id, "attempt_id": live.attempt_id, "name": name,
            "value": context.sealer.seal(value, _bound_secret(context, live.attempt_id, name)),
        }
        for name, value in values.items()
    ]  # fmt: skip
    tx.insert_missing(attempt_secrets, rows)


def _callers_values(tx: Transaction, context: Context, live: _Live, callers: Collection[str]) -> dict[str, bytes]:
    query = select(run_values.c.name, run_values.c.value).where(
        run_values.c.project_id == context.project_id,
        run_values.c.run_id == live.run_id,
        run_values.c.name.in_(callers),
    )
    found = {
        f"{CALLERS}{name}": context.sealer.open(sealed, _bound_value(context, live.run_id, name))
        for name, sealed in tx.execute(query)
    }
    gone = sorted(name for name in callers if f"{CALLERS}{name}" not in found)
    if gone:
        raise _Missing(f"the value of `{gone[0]}`, which came with the run, is not there any more; submit it again")
    return found


def _bound_value(context: Context, run_id: UUID, name: str) -> bytes:
    return b"value\0" + context.project_id.bytes + run_id.bytes + name.encode()


def _bound_secret(context: Context, attempt_id: UUID, name: str) -> bytes:
    return b"attempt\0" + context.project_id.bytes + attempt_id.bytes + name.encode()


_SELECT_LIVE = Prepared(
    select(attempts.c.id, attempts.c.run_id, attempts.c.runner_id, jobs.c.spec, runs.c.repository_id)
    .join(jobs, and_(jobs.c.project_id == attempts.c.project_id, jobs.c.id == attempts.c.job_id))
    .join(runs, and_(runs.c.project_id == attempts.c.project_id, runs.c.id == attempts.c.run_id))
    .where(
        attempts.c.project_id == bindparam("project", type_=Id),
        attempts.c.id == bindparam("attempt", type_=Id),
        attempts.c.state != "ended",
        attempts.c.number == jobs.c.attempt,
    )
)
_FORGET = tuple(
    Prepared(
        delete(table).where(
            table.c.project_id == bindparam("project", type_=Id), table.c.run_id == bindparam("run", type_=Id)
        )
    )
    for table in (run_values, attempt_secrets)
)
