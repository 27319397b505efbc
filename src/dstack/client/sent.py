"""The shapes of what is sent to the API (docs/design/interfaces.md). Imported for type checking only."""

from __future__ import annotations

from typing import Any, TypedDict


class ArtifactsOf(TypedDict, total=False):
    """Which artifacts are asked for: those of one run, or of all that a tag points at in a repository."""

    run: str | None
    tag: str | None
    workflow: str | None
    job: str | None
    repository: RepositoryRef | None


class RepositoryRef(TypedDict, total=False):
    key: str
    name: str
    root: str
    remote: str | None
    branch: str | None
    commit: str | None
    aliases: list[str]


class CodeRef(TypedDict):
    manifest_id: str
    content_id: str
    files: int
    size: int


class PythonRef(TypedDict):
    path: str
    version: str


class Submission(TypedDict, total=False):
    workflow: str
    args: list[str]
    files: dict[str, str]
    repository: RepositoryRef
    code: CodeRef | None
    diff: str | None
    environment: dict[str, str]
    values: dict[str, str]
    python: PythonRef | None
    tags: list[str]
    user: str
    host: str
    dstack_options: dict[str, Any]


class Given(TypedDict, total=False):
    """Names of what the shell that submitted a run gave, which nobody kept."""

    workflow: str
    values: list[str]
    shell: list[str]


class Wish(TypedDict, total=False):
    """How a run is to follow another."""

    restart: bool
    job: str | None
    fresh: bool
    at: int | None
    snapshot: str | None
    set: list[str]
    args: list[str]
    values: dict[str, str]
    environment: dict[str, str]
    python: PythonRef | None
    changes: Submission | None
    tags: list[str]
    user: str
    host: str


class UploadedArtifact(TypedDict):
    path: str
    manifest_id: str
    stored: int


class Upload(TypedDict, total=False):
    workflow: str
    artifacts: list[UploadedArtifact]
    repository: RepositoryRef
    tags: list[str]
    user: str
    host: str
