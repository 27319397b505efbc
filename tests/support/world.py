"""A server in the test's own process, on a real database, with fake time and runners that do as they are told.

    world.runner(slots=2)
    name = world.submit(WORKFLOWS, "train")
    world.complete()
    assert world.run(name)["status"] == "done"

On PostgreSQL too "now" is the fake clock's: what it decides is then the same on both databases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Table, select

from dstack.server.app import build_context
from dstack.server.db.engine import Backend, Transaction
from dstack.server.db.tables import events, jobs, runs
from dstack.server.loops.sweep import sweep
from dstack.server.services import runs as run_service
from dstack.server.services import stopping, tags, views
from dstack.server.services.apply import Answer
from dstack.server.services.catalog import DatabaseCatalog
from dstack.server.services.context import Context
from dstack.server.services.place import place
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.runs import CodeRef, Submission
from dstack.server.services.unsatisfiable import fail_unsatisfiable
from dstack.server.settings import Settings
from dstack.snapshots.interfaces import ChunkEntry, PackIndex
from tests.support.ports import FakeClock
from tests.support.runner import FakeRunner

T = TypeVar("T")

REPOSITORY = "git:example.org/ada/digits:."
CODE = "c0de" * 16
"""The manifest id of the code that `know_code` makes known."""


class World:
    """`context` is what services take; everything else is short for what tests do most."""

    def __init__(self, url: str, home: Path, **settings: Any) -> None:
        self.clock = FakeClock()
        # A test says itself when jobs are placed, unless it is about reports that place.
        settings = {"place_on_report": False, **settings}
        self.settings = Settings(home=home, database_url=url, local_runner=False, **settings)
        self.context: Context = build_context(self.settings, clock=self.clock)
        database = self.context.database
        database._backend = _OnTime(database._backend, self.clock)  # pyright: ignore[reportPrivateUsage]

    def close(self) -> None:
        self.context.database.close()
        self.context.logs.close()

    # --- people ------------------------------------------------------------------------------------------------

    def submission(
        self,
        workflows: str,
        workflow: str,
        *args: str,
        tags: Sequence[str] = (),
        variables: str | None = None,
        repository: str = REPOSITORY,
        aliases: Sequence[str] = (),
        remote: str | None = None,
        code: CodeRef | None = None,
        user: str | None = "ada",
        values: Mapping[str, str] | None = None,
    ) -> Submission:
        files = {".dstack/workflows.yaml": workflows}
        if variables is not None:
            files[".dstack/variables.yaml"] = variables
        return Submission(
            workflow=workflow,
            files=files,
            repository=RepositoryRef(key=repository, name="digits", remote=remote, aliases=tuple(aliases)),
            args=args,
            code=code,
            tags=tuple(tags),
            user=user,
            values=dict(values or {}),
        )

    def submit(self, workflows: str, workflow: str, *args: str, key: str | None = None, **more: Any) -> str:
        """Submit; the run's name."""
        return run_service.submit(self.context, self.submission(workflows, workflow, *args, **more), key)[0]

    def know_code(self) -> None:
        """Let the store know a chunk called CODE: what a submission's code is looked up by."""
        self.know(bytes.fromhex(CODE))

    def know(self, chunk_id: bytes) -> None:
        """Let the catalog have a chunk, of which the store has no byte."""
        pack = PackIndex(chunk_id, 1, (ChunkEntry(chunk_id, 0, 1, 1),))
        DatabaseCatalog(self.context.database, self.context.project_id).add([pack])

    def stop(self, name: str, *, job: str | None = None, abort: bool = False, actor: str | None = "ada") -> Answer:
        return stopping.stop(self.context, name, job=job, abort=abort, actor=actor)

    def tag(self, name: str, tag: str, *, force: bool = False) -> list[dict[str, Any]]:
        return tags.tag(self.context, name, tag, force=force, actor="ada")

    def run(self, name: str) -> dict[str, Any]:
        """The run as the API shows it."""
        found = self.read(lambda tx: views.run_view(tx, self.context.project_id, name))
        assert found is not None, f"there is no run {name}"
        return found

    def job(self, name: str, job: str | None = None) -> dict[str, Any]:
        """A job of run `name` as the API shows it; the only one where none is named."""
        found = [item for item in self.run(name)["jobs"] if job in (None, item["name"])]
        assert len(found) == 1, f"{len(found)} jobs of {name} are called {job}"
        return found[0]

    def states(self, name: str) -> dict[str, str]:
        """Job name → state."""
        return {item["name"]: item["status"] for item in self.run(name)["jobs"]}

    # --- the server's loops ------------------------------------------------------------------------------------

    def place(self) -> int:
        return place(self.context)

    def sweep(self) -> int:
        return sweep(self.context)

    def fail_unsatisfiable(self) -> int:
        return fail_unsatisfiable(self.context)

    def runner(self, name: str = "north", **more: Any) -> FakeRunner:
        """A registered runner."""
        runner = FakeRunner(self.context, name, **more)
        runner.register()
        return runner

    def complete(self, *runners: FakeRunner, codes: dict[str, int] | None = None) -> list[str]:
        """Run whatever there is to run to its end; the names of the jobs in the order they ended.

        `codes` are exit codes by job name, 0 for the others. Each job saves what it declares.
        """
        codes = codes or {}
        ended: list[str] = []
        while True:
            self.place()
            held = [(runner, key) for runner in runners for key in runner.take_ids()]
            if not held:
                return ended
            for runner, key in held:
                job = runner.held[key].job_name
                runner.finish(key, codes.get(job, 0))
                ended.append(job)

    # --- the database ------------------------------------------------------------------------------------------

    def read(self, work: Callable[[Transaction], T]) -> T:
        return self.context.database.read(work)

    def rows(self, table: Table, **where: Any) -> list[Any]:
        """Rows of `table` whose columns have these values."""
        query = select(table).where(*[table.c[name] == value for name, value in where.items()])
        return list(self.read(lambda tx: tx.execute(query).all()))

    def job_row(self, name: str, job: str) -> Any:
        (run,) = self.rows(runs, name=name)
        (found,) = self.rows(jobs, run_id=run.id, name=job)
        return found

    def story(self, name: str, kind: str = "job") -> list[tuple[str, str | None, str | None]]:
        """(event, before, after) of a run's objects of one kind, in order."""
        (run,) = self.rows(runs, name=name)
        found = sorted(self.rows(events, run_id=run.id, kind=kind), key=lambda row: row.seq)
        return [(row.event, row.before, row.after) for row in found]

    def check_events(self) -> None:
        """Each run's events are numbered from 1 without a gap, and its row knows the last number."""
        for run in self.rows(runs):
            numbers = sorted(row.seq for row in self.rows(events, run_id=run.id))
            assert numbers == list(range(1, run.seq + 1))


@contextmanager
def counted(counts: list[str]) -> Any:
    """Append the text of every statement that is executed meanwhile to `counts`."""
    plain = Transaction.execute

    def execute(self: Transaction, statement: Any, params: Any = None) -> Any:
        counts.append(str(statement))
        return plain(self, statement, params)

    Transaction.execute = execute
    try:
        yield
    finally:
        Transaction.execute = plain


def digest(text: str) -> bytes:
    """32 bytes that stand for some content."""
    return hashlib.sha256(text.encode()).digest()


class _OnTime:
    """A backend whose transactions all have the fake clock's time."""

    def __init__(self, backend: Backend, clock: FakeClock) -> None:
        self._backend = backend
        self._clock = clock
        self.where = backend.where
        self.readers = backend.readers

    def write(self, work: Callable[[Transaction], T], before: str, after: str, topics: set[str]) -> T:
        return self._backend.write(lambda tx: work(self._timed(tx)), before, after, topics)

    def read(self, work: Callable[[Transaction], T]) -> T:
        return self._backend.read(lambda tx: work(self._timed(tx)))

    def close(self) -> None:
        self._backend.close()

    def _timed(self, tx: Transaction) -> Transaction:
        tx._now = self._clock.now()  # pyright: ignore[reportPrivateUsage]
        return tx
