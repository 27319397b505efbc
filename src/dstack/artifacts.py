"""What runs have saved, from Python. The server is found, or started, as the command line does.

    from dstack import artifacts

    with artifacts.open(tag="v1", path="out/model.safetensors") as file:    # reads what it needs, verified
        ...
    artifacts.download(run="odd-cat-1", path="out", to="results")
    artifacts.upload("data", tag="v1")

Errors: `artifacts.ArtifactError` (nothing of that name, files in the way), `ApiError` (the server's own "no"),
`Unreachable`, and `SnapshotError` for a damaged store.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from dstack.cli.session import Session
from dstack.client import facade
from dstack.client.api import ApiError, Unreachable
from dstack.client.artifacts import folder_named
from dstack.client.facade import At, OpenedFile, PathLike
from dstack.client.sources import ArtifactError
from dstack.snapshots.errors import SnapshotError

__all__ = ["ApiError", "ArtifactError", "SnapshotError", "Unreachable", "download", "list", "open", "upload"]


def list(  # noqa: A001 - as `dstack artifacts list`; callers write `artifacts.list`
    *,
    run: str | None = None,
    tag: str | None = None,
    path: str | None = None,
    job: str | None = None,
    at: At = None,
) -> builtins.list[dict[str, Any]]:
    """The artifacts of a run or tag, newest first; with a `path`, the files at and below it ("" for all files).

    Objects have the fields of `dstack artifacts list --json`. `at`: as it was at a time, or in a snapshot.
    """
    with Session().api as api:
        found = facade.artifacts_of(api, facade.source_of(run, tag, job), at)
        items = found if path is None else facade.list_files(api, found, path)
        return cast("builtins.list[dict[str, Any]]", items)


def download(
    *,
    run: str | None = None,
    tag: str | None = None,
    path: str | Sequence[str] | None = None,
    to: PathLike | None = None,
    job: str | None = None,
    at: At = None,
    overwrite: bool = False,
) -> builtins.list[Path]:
    """Put artifacts, or what stands at `path` in them, below the folder `to` (default: one named after the run or tag),
    under the paths that the job wrote; where each artifact is now.

    Raises ArtifactError, and writes nothing, where files there differ, unless `overwrite`.
    """
    source = facade.source_of(run, tag, job)
    target = folder_named(to) if to is not None else Path(source.name.removeprefix(":"))
    paths = [path] if isinstance(path, str) else path
    with Session().api as api:
        found = facade.artifacts_of(api, source, at)
        return facade.download_to(api, found, paths, target, overwrite=overwrite)


def open(  # noqa: A001 - as the built-in; callers write `artifacts.open`
    *, run: str | None = None, tag: str | None = None, path: str, job: str | None = None, at: At = None
) -> OpenedFile:
    """A file of an artifact as a binary file object, seekable and read-only.

    What is read of it is fetched, chunk by chunk (some 0.5 MiB), and verified. Raises ArtifactError for a folder.
    """
    source = facade.source_of(run, tag, job)
    api = Session().api
    try:
        return facade.open_file(api, facade.artifacts_of(api, source, at), path, api.drop)
    except BaseException:
        api.drop()
        raise


def upload(*paths: PathLike, tag: str | Sequence[str] | None = None, workflow: str = facade.UPLOAD) -> str:
    """Make a finished run of local files and folders; its name. As `dstack artifacts upload`.

    Raises ArtifactError for what is not there; warns of what could not be saved as it is, such as sockets.
    """
    if not paths:
        raise TypeError("name the files or folders to upload")
    tags = [tag] if isinstance(tag, str) else [*(tag or ())]
    session = Session()
    with session.api as api:
        run = facade.upload_files(
            api,
            [os.fspath(path) for path in paths],
            tags=tags,
            workflow=workflow,
            user=session.user,
            home=session.home,
            server=session.address,
        )
    return run.get("name", "")
