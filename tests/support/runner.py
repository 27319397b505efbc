"""A runner without processes: it polls, takes, reports and ships what a test tells it to."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from uuid import UUID

from dstack.domain.resources import Capacity, GpuCard
from dstack.protocol import messages
from dstack.server.services import run_values, runners
from dstack.server.services.catalog import DatabaseCatalog
from dstack.server.services.context import Context
from dstack.snapshots.interfaces import ChunkEntry, PackIndex

GIB = 1 << 30


class FakeRunner:
    """What it holds is in `held`; jobs are named by their names, which tests keep unique."""

    def __init__(
        self,
        context: Context,
        name: str = "north",
        *,
        slots: int = 2,
        memory: int = 64 * GIB,
        gpus: Sequence[GpuCard] = (),
        runner_id: UUID | None = None,
    ) -> None:
        self.context = context
        self.name = name
        self.slots = slots
        self.capacity = Capacity(cpu=slots, memory=memory, gpus=tuple(gpus))
        self.runner_id = runner_id
        self.incarnation = uuid.uuid4()
        self.held: dict[UUID, messages.Assignment] = {}
        self.states: dict[UUID, str] = {}
        self.stops: dict[UUID, str] = {}
        self.problems: dict[UUID, str] = {}
        """What keeps attempts from saving, told with each poll."""
        self.sent: dict[UUID, int] = {}
        self.missing: tuple[UUID, ...] = ()
        self.inputs: tuple[bytes, ...] = ()
        """Manifest ids that it has unpacked."""
        self.stores = True
        """Whether what it reports as saved is in the store."""

    # --- being known ---------------------------------------------------------------------------------------------

    def register(self, *, restarted: bool = False, running: Sequence[UUID] | None = None) -> messages.RegisterReply:
        """Register; `restarted` as a new process, which holds `running` (default: everything it held)."""
        if restarted:
            self.incarnation = uuid.uuid4()
        if running is not None:
            for attempt_id in set(self.held) - set(running):
                self.forget(attempt_id)
        reply = runners.register(
            self.context,
            messages.RegisterRequest(
                runner_id=self.runner_id,
                incarnation=self.incarnation,
                name=self.name,
                version="0",
                capacity=self.capacity,
                slots=self.slots,
                running=tuple(self.held),
            ),
        )
        self.runner_id = reply.runner_id
        return reply

    def poll(self) -> messages.Commands:
        """One poll that does not wait; what is assigned is held, recalls and stops are left to the test."""
        assert self.runner_id is not None
        known = tuple(
            messages.KnownAttempt(
                attempt_id=key,
                state=self.states[key],
                stop=self.stops.get(key, ""),
                problem=self.problems.get(key, ""),
            )
            for key in self.held
        )
        request = messages.PollRequest(
            runner_id=self.runner_id,
            incarnation=self.incarnation,
            known=known,
            missing=self.missing,
            inputs=self.inputs,
        )
        found = runners.poll(self.context, request)
        if isinstance(found, runners.RunnerGone):
            return messages.Commands(register=True)
        self.missing = tuple(asked for asked in found.ask if asked not in self.held)
        for assignment in found.assign:
            self.held[assignment.attempt_id] = assignment
            self.states[assignment.attempt_id] = "assigned"
        return found

    def goodbye(self) -> None:
        assert self.runner_id is not None
        runners.goodbye(self.context, self.runner_id, self.incarnation)

    # --- working -------------------------------------------------------------------------------------------------

    def take(self) -> list[str]:
        """Poll, accept and start what there are free slots for; the names of the jobs that now run."""
        return [self.held[key].job_name for key in self.take_ids()]

    def take_ids(self) -> list[UUID]:
        """`take`, giving the attempts: for jobs of several runs, whose names may be the same."""
        self.poll()
        busy = sum(state in ("starting", "running") for state in self.states.values())
        waiting = [key for key, state in self.states.items() if state == "assigned"]
        taken = waiting[: max(0, self.slots - busy)]
        for key in taken:
            self.accept(key)
            self.start(key)
        return taken

    def id_of(self, job: str | UUID) -> UUID:
        """The newest attempt of `job` that it was given."""
        if isinstance(job, UUID):
            return job
        found = [key for key, assignment in self.held.items() if assignment.job_name == job]
        assert found, f"runner {self.name} does not hold {job}: it holds {self.names()}"
        return found[-1]

    def names(self) -> list[str]:
        return [assignment.job_name for assignment in self.held.values()]

    def accept(self, job: str | UUID) -> messages.EventAnswer:
        return self._move(job, "starting", messages.Accepted(attempt_id=self.id_of(job), at=self.now()))

    def start(self, job: str | UUID, packages: Sequence[str] | None = None) -> messages.EventAnswer:
        held = None if packages is None else tuple(packages)
        return self._move(job, "running", messages.Started(attempt_id=self.id_of(job), at=self.now(), packages=held))

    def exit(self, job: str | UUID, code: int | None = 0, *, aborted: bool = False) -> messages.EventAnswer:
        return self._move(job, "saving", self.exited(job, code, aborted=aborted))

    def save(self, job: str | UUID, paths: Mapping[str, str] | None = None) -> messages.EventAnswer:
        answer = self.report(self.saved(job, paths))
        self.forget(self.id_of(job))
        return answer

    def finish(self, job: str | UUID, code: int = 0, paths: Mapping[str, str] | None = None) -> None:
        """Exit and save: each declared artifact (or `paths`: path → content)."""
        key = self.id_of(job)
        self.exit(key, code)
        self.save(key, paths)

    def run(self, job: str | UUID, code: int = 0, paths: Mapping[str, str] | None = None) -> None:
        """From accepted to saved."""
        key = self.id_of(job)
        self.accept(key)
        self.start(key)
        self.finish(key, code, paths)

    def secrets(self, job: str | UUID) -> messages.SecretsReply:
        """What the job is given besides its assignment."""
        assert self.runner_id is not None
        request = messages.SecretsRequest(
            runner_id=self.runner_id, incarnation=self.incarnation, attempt_id=self.id_of(job)
        )
        return run_values.hand_out(self.context, request)

    def log(self, job: str | UUID, data: bytes) -> int:
        """Append to the job's log, as the rpc route does."""
        key = self.id_of(job)
        offset = self.sent.get(key, 0)
        self.sent[key] = self.context.logs.append_now(key, offset, data, [(offset, self.now())])
        self.context.bus.publish(f"run:{self.run_of(key).hex}")
        return self.sent[key]

    def run_of(self, attempt_id: UUID) -> UUID:
        from sqlalchemy import select

        from dstack.server.db.tables import attempts

        query = select(attempts.c.run_id).where(attempts.c.id == attempt_id)
        return self.context.database.read(lambda tx: tx.execute(query).scalar_one())

    def forget(self, attempt_id: UUID) -> None:
        for known in (self.held, self.states, self.stops):
            known.pop(attempt_id, None)  # pyright: ignore[reportArgumentType] -- dicts of different values

    # --- messages ------------------------------------------------------------------------------------------------

    def report(self, *events: messages.AttemptEvent) -> messages.EventAnswer:
        """Send events in one batch; the answer to the last."""
        return self.report_all(*events)[-1]

    def report_all(self, *events: messages.AttemptEvent) -> tuple[messages.EventAnswer, ...]:
        assert self.runner_id is not None
        if self.stores:
            self._store([item.manifest_id for event in events for item in getattr(event, "artifacts", ())])
        request = messages.EventsRequest(runner_id=self.runner_id, incarnation=self.incarnation, events=events)
        reply = runners.report(self.context, request)
        for assignment in reply.commands.assign:
            self.held[assignment.attempt_id] = assignment
            self.states[assignment.attempt_id] = "assigned"
        return reply.answers

    def exited(self, job: str | UUID, code: int | None = 0, *, aborted: bool = False) -> messages.Exited:
        return messages.Exited(attempt_id=self.id_of(job), at=self.now(), exit_code=code, aborted=aborted)

    def saved(
        self, job: str | UUID, paths: Mapping[str, str] | None = None, exited: messages.Exited | None = None
    ) -> messages.Saved:
        key = self.id_of(job)
        contents = {path: f"{path} of {key}" for path in self.held[key].spec.artifacts} if paths is None else paths
        return messages.Saved(attempt_id=key, at=self.now(), exit=exited, artifacts=self.artifacts(contents))

    def snapshot(self, job: str | UUID, paths: Mapping[str, str]) -> messages.SnapshotTaken:
        return messages.SnapshotTaken(attempt_id=self.id_of(job), at=self.now(), artifacts=self.artifacts(paths))

    def rejected(self, job: str | UUID, why: str = "no room") -> messages.Rejected:
        return messages.Rejected(attempt_id=self.id_of(job), at=self.now(), detail=why)

    def recalled(self, job: str | UUID) -> messages.Recalled:
        return messages.Recalled(attempt_id=self.id_of(job), at=self.now())

    @staticmethod
    def artifacts(paths: Mapping[str, str]) -> tuple[messages.SavedArtifact, ...]:
        return tuple(
            messages.SavedArtifact(
                path=path,
                manifest_id=hashlib.sha256(f"manifest {text}".encode()).digest(),
                content_id=hashlib.sha256(text.encode()).digest(),
                files=1 if text else 0,
                size=len(text),
            )
            for path, text in paths.items()
        )

    def now(self) -> int:
        return self.context.clock.now()

    def _store(self, manifest_ids: Sequence[bytes]) -> None:
        """Let the catalog know them, as packs of their own."""
        packs = [PackIndex(each, 1, (ChunkEntry(each, 0, 1, 1),)) for each in manifest_ids]
        DatabaseCatalog(self.context.database, self.context.project_id).add(packs)

    def _move(self, job: str | UUID, state: str, event: messages.AttemptEvent) -> messages.EventAnswer:
        key = self.id_of(job)
        answer = self.report(event)
        self.states[key] = state
        return answer
