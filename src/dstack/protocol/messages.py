"""The messages between a runner and the server, as msgpack over HTTP. The runner always calls.

`POST /rpc/v1/register`  RegisterRequest → RegisterReply
`POST /rpc/v1/poll`      PollRequest     → Commands      held open until there is something to say
`POST /rpc/v1/events`    EventsRequest   → EventsReply
`POST /rpc/v1/logs`      LogsRequest     → LogsReply
`POST /rpc/v1/secrets`   SecretsRequest  → SecretsReply  what one attempt is given, kept in memory only

The poll is level-triggered: the runner says which attempts it knows, the server answers with the difference
to what should be, so a lost answer costs a poll and never a job. Unknown fields are ignored on both sides;
`PROTOCOL` goes up when a change is not readable by the version before. Times are microseconds UTC.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from dstack.domain.resources import Capacity
from dstack.sdk.provider import JobSpec

PROTOCOL = 1
PROTOCOL_HEADER = "x-dstack-protocol"


class Message(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of all messages: immutable, keyword-only, defaults left out on the wire."""


class RegisterRequest(Message, frozen=True, kw_only=True):
    runner_id: UUID | None = None
    """The runner's own, chosen once and kept in its home; None: the server chooses one."""
    incarnation: UUID
    name: str
    version: str
    capacity: Capacity
    slots: int
    pythons: dict[str, str] = {}
    running: tuple[UUID, ...] = ()
    """Attempts this runner still holds (adopted after a restart)."""


class RegisterReply(Message, frozen=True, kw_only=True):
    runner_id: UUID
    deployment_id: UUID
    epoch: int
    heartbeat: float
    """Seconds between heartbeats; a poll counts as one."""


class InputRef(Message, frozen=True, kw_only=True):
    """A snapshot to put at `path` (relative to the working copy) before the job starts."""

    path: str
    manifest_id: bytes
    run_name: str
    job_name: str


class EarlierSnapshot(Message, frozen=True, kw_only=True):
    """What the artifact folder `path` held when a snapshot of it was taken, to be there again before the job starts."""

    path: str
    manifest_id: bytes
    run_name: str
    attempt: int = 0
    """Of this job, 0 for the job of an earlier run."""
    files: int = 0
    size: int = 0
    taken_at: int = 0
    instead: str = ""
    """Why it is not the last (`domain.resuming.Instead`); empty where it is."""
    older: bytes | None = None
    """The one that was saved before it, of the same run."""


class Assignment(Message, frozen=True, kw_only=True):
    attempt_id: UUID
    number: int
    job_id: UUID
    run_name: str
    workflow: str
    job_name: str
    project: str
    spec: JobSpec
    code: bytes | None = None
    """Manifest id of the code snapshot."""
    code_root: str = "."
    inputs: tuple[InputRef, ...] = ()
    resumed: tuple[EarlierSnapshot, ...] = ()
    """Put into the job's artifact folders, after code and inputs; the environment then has `DSTACK_RESUMED`."""
    environment: dict[str, str] = {}
    """Submitting shell's allow-list, variables and DSTACK_*, in final form; the spec's own come on top."""
    private: tuple[str, ...] = ()
    """Those of it that came from the shell and hold a credential, an index's or a proxy's password: masked in logs."""
    python: str | None = None
    """First `python3` of the submitting shell, by path."""
    python_version: str | None = None
    mask_set: bool = False
    """Whether secrets must be fetched before a byte of output may leave."""
    stop_grace: float = 30.0
    save_deadline: float = 86400.0
    setup_deadline: float = 1800.0


class Stop(Message, frozen=True, kw_only=True):
    attempt_id: UUID
    abort: bool = False


class Commands(Message, frozen=True, kw_only=True):
    assign: tuple[Assignment, ...] = ()
    recall: tuple[UUID, ...] = ()
    """Give back if not accepted yet."""
    stop: tuple[Stop, ...] = ()
    kill: tuple[UUID, ...] = ()
    """A newer attempt exists or the job is terminal: end it, report nothing."""
    orphaned: tuple[UUID, ...] = ()
    """The server does not know these: keep running, save, report."""
    ask: tuple[UUID, ...] = ()
    """The runner had these and did not name them: the next poll names them, or says that they are `missing`."""
    register: bool = False
    """The server does not know this runner or incarnation: register again."""


ENDS_BY_ITSELF = frozenset({"ending", "recalled", "stopping", "killed"})
"""States in which the runner's part is done but for its report, so there is no need to tell it anything more."""


class KnownAttempt(Message, frozen=True, kw_only=True):
    attempt_id: UUID
    state: str
    """`assigned`, `starting`, `running`, `saving`, or one of `ENDS_BY_ITSELF`."""
    stop: str = ""
    """"", "stop" or "abort": the intent the runner has already taken up."""
    problem: str = ""
    """What keeps the attempt's artifacts from being saved now, for people."""


class PollRequest(Message, frozen=True, kw_only=True):
    runner_id: UUID
    incarnation: UUID
    known: tuple[KnownAttempt, ...] = ()
    missing: tuple[UUID, ...] = ()
    """Of those that the last answer asked for, the ones that this runner does not hold: they are lost."""
    wait: float = 20.0
    inputs: tuple[bytes, ...] = ()
    """Manifest ids of snapshots that this runner has unpacked: jobs that need one are better placed here."""


class Goodbye(Message, frozen=True, kw_only=True):
    """`POST /rpc/v1/goodbye`: the runner ends in order."""

    runner_id: UUID
    incarnation: UUID


class SavedArtifact(Message, frozen=True, kw_only=True):
    path: str
    manifest_id: bytes
    content_id: bytes
    files: int
    size: int
    stored: int = 0
    """Bytes this save added to the store."""


class Event(Message, frozen=True, kw_only=True, tag_field="type"):
    """Something that happened to one attempt; safe to send twice."""

    attempt_id: UUID
    at: int


class Accepted(Event, frozen=True, kw_only=True, tag="accepted"):
    """A slot is taken; the attempt can no longer be recalled."""


class Rejected(Event, frozen=True, kw_only=True, tag="rejected"):
    detail: str


class Recalled(Event, frozen=True, kw_only=True, tag="recalled"):
    pass


class Started(Event, frozen=True, kw_only=True, tag="started"):
    pid: int = 0
    packages: tuple[str, ...] | None = None
    """What its Python environment holds, as `name==version`; None where that is none of ours."""


class SetupFailed(Event, frozen=True, kw_only=True, tag="setup-failed"):
    detail: str
    log_length: int = 0
    log_incomplete: bool = False


class Exited(Event, frozen=True, kw_only=True, tag="exited"):
    exit_code: int | None = None
    """None when the process is gone and left no exit file."""
    signal: int | None = None
    oom: bool = False
    aborted: bool = False
    log_length: int = 0
    log_incomplete: bool = False
    """Told by an aborted one, whose log ends with it."""
    detail: str = ""
    """What the runner can say beyond the code, such as "disk full on PATH"."""


class SnapshotTaken(Event, frozen=True, kw_only=True, tag="snapshot"):
    """A live snapshot, taken while the job runs."""

    artifacts: tuple[SavedArtifact, ...]


class MetricPoint(msgspec.Struct, frozen=True, array_like=True):
    """A value that a job logged. `seq` is its place in what it was read from: the same point has the same one."""

    seq: int
    name: str
    step: int | None
    at: int
    value: float


class MetricsLogged(Event, frozen=True, kw_only=True, tag="metrics"):
    points: tuple[MetricPoint, ...]


class Saved(Event, frozen=True, kw_only=True, tag="saved"):
    """Artifacts are in the store and the log's tail is acknowledged: the attempt is over."""

    exit: Exited | None = None
    """The exit once more: this message alone tells the whole story, should the earlier one be lost."""
    artifacts: tuple[SavedArtifact, ...] = ()
    log_length: int = 0
    log_incomplete: bool = False
    warnings: tuple[str, ...] = ()


class SaveRefused(Event, frozen=True, kw_only=True, tag="save-refused"):
    detail: str
    log_length: int = 0
    log_incomplete: bool = False


AttemptEvent = (
    Accepted
    | Rejected
    | Recalled
    | Started
    | SetupFailed
    | Exited
    | SnapshotTaken
    | MetricsLogged
    | Saved
    | SaveRefused
)


def log_of_end(event: AttemptEvent) -> int:
    """How long the log is of which `event` tells the end: a runner sends it once all of that is acknowledged.

    0 for an event that ends none, or a log without a byte.
    """
    if isinstance(event, SetupFailed | Saved | SaveRefused) or (isinstance(event, Exited) and event.aborted):
        return event.log_length
    return 0


class EventsRequest(Message, frozen=True, kw_only=True):
    runner_id: UUID
    incarnation: UUID
    events: tuple[AttemptEvent, ...]


class EventAnswer(Message, frozen=True, kw_only=True):
    outcome: str
    """`applied`, `ignored` (a duplicate or stale message) or `rejected`."""
    detail: str = ""
    save_again: bool = False
    """The snapshots that the event tells of are no longer in the store, or never were: nothing was recorded."""


class EventsReply(Message, frozen=True, kw_only=True):
    answers: tuple[EventAnswer, ...]
    commands: Commands = Commands()


class LogChunk(Message, frozen=True, kw_only=True):
    attempt_id: UUID
    offset: int
    data: bytes
    times: tuple[tuple[int, int], ...] = ()
    """(offset in the stream, time) pairs: everything from that offset on was written at or after that time."""


class LogsRequest(Message, frozen=True, kw_only=True):
    runner_id: UUID
    chunks: tuple[LogChunk, ...]


STREAM_OVER = -1
"""In `next_offsets`: the server takes nothing more of this stream. What is left of it is dropped, and that is told."""


class LogsReply(Message, frozen=True, kw_only=True):
    next_offsets: tuple[int, ...]
    """For each chunk, where its stream goes on; smaller than sent means the server wants that part again."""


class SecretsRequest(Message, frozen=True, kw_only=True):
    """Asked by the process of the runner that holds the attempt, before it starts the job or ships a byte of it."""

    runner_id: UUID
    incarnation: UUID
    attempt_id: UUID


class SecretsReply(Message, frozen=True, kw_only=True):
    """The same for an attempt however often it is asked for."""

    values: dict[str, str] = {}
    """By the names in `JobSpec.secrets`."""
    masked: tuple[str, ...] = ()
    """Those of them that no output may show."""
    register: bool = False
    """The server does not know this process of the runner: register, and ask again."""
    over: bool = False
    """The attempt is not (any more) this runner's."""
    problem: str = ""
    """Why they cannot be handed out now, for people."""

    def __repr__(self) -> str:
        return f"SecretsReply(names={sorted(self.values)}, problem={self.problem!r})"


class ErrorReply(Message, frozen=True, kw_only=True):
    code: str
    message: str
    hint: str = ""


def encode(message: object) -> bytes:
    """The msgpack form of a message."""
    return _encoder.encode(message)


_encoder = msgspec.msgpack.Encoder()
