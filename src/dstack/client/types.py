"""The shapes that the API answers with (docs/design/interfaces.md). Imported for type checking only.

All are tolerant: the server may leave out what a caller does not need or add what it does not know.
Times are microseconds UTC, null if not yet. Plans are in `planned`, what is sent in `sent`.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Diagnostic(TypedDict, total=False):
    severity: str
    file: str | None
    line: int
    column: int
    message: str
    source: str | None
    hint: str | None


class Artifact(TypedDict, total=False):
    run: str
    job: str
    workflow: str
    path: str
    manifest_id: str
    content_id: str
    files: int
    size: int
    partial: bool
    at: int


class SavedSnapshot(Artifact, total=False):
    """One of the snapshots of an artifact; `stored` is what it added to the store, in bytes."""

    attempt: int
    live: bool
    stored: int


class SavedVersion(TypedDict, total=False):
    """A content that a `path` had, and the first snapshot that has it."""

    run: str
    job: str
    path: str
    type: str
    size: int
    digest: str | None
    attempt: int
    at: int
    manifest_id: str


class SavedFile(TypedDict, total=False):
    """What stands at a `path` of an artifact, as its job wrote it. Bytes; `mtime` in microseconds UTC, null if unknown.

    `digest` is the BLAKE3 of a file, `target` what a symbolic link points to.
    """

    run: str
    job: str
    artifact: str
    path: str
    type: str
    size: int
    mode: int
    mtime: int | None
    target: str | None
    digest: str | None


class Job(TypedDict, total=False):
    id: str
    name: str
    step: str
    workflow: str
    provider: str
    status: str
    status_text: str
    stopping: str | bool | None
    reason: str | None
    reason_text: str | None
    exit_code: int | None
    attempt: int
    attempts: int
    runner: str | None
    submitted_at: int | None
    started_at: int | None
    finished_at: int | None
    reused_from: str | None
    reused_run: str | None
    why_waiting: str | None
    log_length: int
    log_incomplete: bool
    save_warnings: list[str]
    packages_digest: str | None
    artifacts: list[Artifact]


class Run(TypedDict, total=False):
    id: str
    name: str
    workflow: str
    status: str
    status_text: str
    stopping: str | bool | None
    reason: str | None
    reason_text: str | None
    exit_code: int | None
    tags: list[str]
    repository: str | None
    repository_name: str | None
    why_waiting: str | None
    user: str
    submitted_at: int
    started_at: int | None
    finished_at: int | None
    resumed_from: str | None
    variables: dict[str, Any]
    jobs: list[Job]
    jobs_total: int
    job_counts: dict[str, int]
    message: str
    warnings: list[Diagnostic]
    undecided: bool


class Gpu(TypedDict, total=False):
    name: str
    memory: int


class HeldJob(TypedDict, total=False):
    run: str
    name: str
    status: str


class Runner(TypedDict, total=False):
    """A machine that runs jobs; sizes in bytes. `slots`: of its `cpu` processors, how many jobs may have."""

    id: str
    name: str
    status: str
    status_text: str
    draining: bool
    version: str
    slots: int
    cpu: int
    memory: int
    gpus: list[Gpu]
    jobs: list[HeldJob]
    registered_at: int
    heartbeat_at: int
    lost_at: int | None


Value = float | str | None
"""Of a metric: `Infinity` and `-Infinity` as texts, null for NaN."""


class Metric(TypedDict):
    """`points` are [step, at, value], in the order they were logged."""

    job: str
    attempt: int
    name: str
    count: int
    min: Value
    max: Value
    last: Value
    last_step: int | None
    last_at: int
    points: list[tuple[int | None, int, Value]]


class ComparedVariable(TypedDict):
    step: str
    name: str
    values: list[Any]


class ComparedInput(TypedDict):
    step: str
    path: str
    values: list[str | None]
    """Runs of which it was reused."""


class ComparedMetric(TypedDict):
    job: str
    name: str
    values: list[Metric | None]


class ChangedFile(TypedDict):
    path: str
    change: str


class CodeDifference(TypedDict):
    run: str
    files: list[ChangedFile]


class ComparedCode(TypedDict):
    content_ids: list[str | None]
    differences: list[CodeDifference]


class ComparedPackage(TypedDict):
    name: str
    values: list[str | None]


class Comparison(TypedDict):
    """Values stand in the order of the runs asked for."""

    runs: list[dict[str, Any]]
    variables: list[ComparedVariable]
    inputs: list[ComparedInput]
    metrics: list[ComparedMetric]
    code: ComparedCode
    packages: list[ComparedPackage]


class Tag(TypedDict, total=False):
    name: str
    workflow: str
    run: str
    repository: str
    at: int
    user: str
    partial: bool


class RootCause(TypedDict, total=False):
    job: str
    reason: str
    sentence: str
    exit_code: int | None
    tail: list[str]


class WaitingJob(TypedDict, total=False):
    job: str
    why: str


class Explanation(TypedDict, total=False):
    summary: str
    lines: list[str]
    root_cause: RootCause | None
    waiting: list[WaitingJob]


class Info(TypedDict, total=False):
    version: str
    protocol: int
    deployment: str
    pid: int
    started_at: int
    database: str
    store: str
    active_jobs: int
    runners: list[Any]


class RefusedRun(TypedDict, total=False):
    run: str
    why: str
    hint: str


class DeletedRuns(TypedDict, total=False):
    deleted: list[str]
    refused: list[RefusedRun]


class RunUsage(TypedDict):
    name: str
    workflow: str
    repository_name: str | None
    status: str
    tags: list[str]
    submitted_at: int
    stored: int
    logs: int


class Usage(TypedDict, total=False):
    """Bytes."""

    store: int
    quarantine: int
    code: int
    logs: int
    database: int | None
    runs: list[RunUsage]


class RetentionRules(TypedDict, total=False):
    """How long what is kept, as a person writes it: `{"live": "1h", …}`."""

    rules: dict[str, str]
    defaults: dict[str, str]
    set_by: str | None
    set_at: int | None


class Link(TypedDict, total=False):
    """`step` of `run` was given what `job` of the run `source` had saved at `path`. `direction` says on which side of
    what was asked for it lies: `input` or `use`; `depth` is how far, from 1. `instead`: why a job did not begin with
    the last snapshot."""

    direction: str
    how: str
    depth: int
    run: str
    step: str
    status: str
    source: str
    job: str
    workflow: str
    source_status: str
    path: str
    tag: str | None
    partial: bool
    manifest_id: str
    content_id: str
    instead: str | None


class Lineage(TypedDict, total=False):
    """`cut`: there is more than was looked at."""

    roots: list[str]
    links: list[Link]
    cut: bool


class Secret(TypedDict, total=False):
    """What is told of a secret: never its value."""

    name: str
    updated_at: int | None
    by: str | None


class Frame(TypedDict, total=False):
    """One frame of a log stream; which fields it has depends on `t`."""

    t: str
    job: str
    id: str
    workflow: str
    status: str
    status_text: str
    reason_text: str | None
    exit_code: int | None
    runner: str | None
    stopping: str | bool | None
    started_at: int | None
    finished_at: int | None
    reused_from: str | None
    reused_run: str | None
    why_waiting: str | None
    attempt: int
    offset: int
    n: int
    run: Run
