"""`dstack.artifacts` without the search for a server, which stands above this package."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from dstack.client import saved, uploading
from dstack.client.api import Api
from dstack.client.artifacts import download, places_of
from dstack.client.repository import find_root, identify
from dstack.client.sources import ArtifactError, Source, find, is_snapshot
from dstack.client.store import remote_store
from dstack.client.types import Artifact, Run, SavedFile
from dstack.snapshots.seeking import StoredFile

At = datetime | str | None
PathLike = str | os.PathLike[str]
UPLOAD = uploading.WORKFLOW
_BUFFER = 1 << 16


class OpenedFile(io.BufferedReader):
    """A file of an artifact. Closing it ends the connection that it reads over."""

    def __init__(self, raw: StoredFile, closed: Callable[[], None]) -> None:
        super().__init__(raw, _BUFFER)
        self._done = closed

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._done()


def source_of(run: str | None, tag: str | None, job: str | None) -> Source:
    """Raises TypeError unless exactly one of `run` and `tag` is given."""
    if (run is None) == (tag is None):
        raise TypeError("give either run= or tag=")
    tag = tag.removeprefix(":") if tag is not None else None
    return Source(run or f":{tag}", run, tag, job=job)


def artifacts_of(api: Api, source: Source, at: At) -> list[Artifact]:
    """Raises ArtifactError where there are none."""
    root = find_root() if source.tag else None
    repository = identify(root) if root else None
    moment, snapshot = _moment(at)
    found = find(api, source, at=moment, snapshot=snapshot, repository=repository)
    if not found:
        raise ArtifactError(f"{source.text} has no artifacts")
    return found


def list_files(api: Api, found: Sequence[Artifact], path: str) -> list[SavedFile]:
    store = remote_store(api)
    return list(saved.files(store, saved.choose(store, found, [path])))


def download_to(
    api: Api, found: Sequence[Artifact], paths: Sequence[str] | None, target: Path, *, overwrite: bool
) -> list[Path]:
    """Where each artifact is now; raises Differs, ArtifactError, SnapshotError."""
    store = remote_store(api)
    parts = [saved.Part(item, None) for item in found] if paths is None else saved.choose(store, found, paths)
    only = {(part.artifact.get("job", ""), part.artifact.get("path", "")): part.paths for part in parts}
    places = places_of([part.artifact for part in parts], target)
    download(api, places, target, overwrite=overwrite, only=only, store=store)
    return [place for _, place in places]


def open_file(api: Api, found: Sequence[Artifact], path: str, closed: Callable[[], None]) -> OpenedFile:
    store = remote_store(api)
    manifest_id, entry = saved.one_file(store, found, path)
    return OpenedFile(StoredFile(store, manifest_id, entry), closed)


def upload_files(
    api: Api, paths: Sequence[PathLike], *, tags: Sequence[str], workflow: str, user: str, home: str, server: str
) -> Run:
    """The run; what could not be saved as it is becomes a warning. Raises ArtifactError, SnapshotError."""
    found = uploading.locate(paths)
    done = uploading.upload(api, found, tags=tags, workflow=workflow, user=user, home=home, server=server)
    for text in done.warnings:
        warnings.warn(text, stacklevel=3)
    return done.run


def _moment(at: At) -> tuple[int | None, str | None]:
    if isinstance(at, datetime):
        return round(at.timestamp() * 1e6), None
    if at is not None and not is_snapshot(at):
        raise ValueError(f"at= takes a datetime, or eight or more digits of a snapshot, not {at!r}")
    return None, at
