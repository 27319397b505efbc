"""Local files and folders as the artifacts of a finished run."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dstack.client.api import Api, ApiError
from dstack.client.repository import current_folder, find_root, identify
from dstack.client.sent import UploadedArtifact
from dstack.client.sources import ArtifactError
from dstack.client.store import remote_store
from dstack.client.types import Run
from dstack.snapshots.capture import save
from dstack.snapshots.scanning import parse_rows, select, unpack_row, walk
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore

WORKFLOW = "upload"


class Local(NamedTuple):
    """A folder that becomes the artifact `path`: all of it, or only `files` (names in it)."""

    folder: Path
    path: str
    files: tuple[bytes, ...] | None

    def size(self) -> int:
        """Bytes of its files, as they are now."""
        selection = None if self.files is None else select(self.files)
        return sum(
            unpack_row(row).st_size
            for listing in walk(self.folder, selection)
            for part in listing.parts
            for _, row in parse_rows(part)
        )


class _Told:
    """Passes on how many bytes were read; what need not be read counts when its folder is saved. Safe for threads."""

    def __init__(self, watch: Callable[[int], None] | None) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._bytes = 0

    def read(self, count: int) -> None:
        if self._watch is not None:
            with self._lock:
                self._bytes += count
            self._watch(count)

    def done(self, size: int) -> None:
        if self._watch is not None and size > self._bytes:
            self._watch(size - self._bytes)


class Uploaded(NamedTuple):
    """The run, what could not be uploaded as it is (in words), and bytes: of the files, and that were new."""

    run: Run
    warnings: tuple[str, ...]
    size: int
    stored: int


def locate(paths: Sequence[str | os.PathLike[str]]) -> list[Local]:
    """The artifacts that `paths` become. Jobs find a folder where it lies in the repository (outside of one: from the
    current folder); one that lies elsewhere, by its own name. Files go as part of their folder. Raises ArtifactError.
    """
    base = Path(find_root() or current_folder())
    folders: dict[str, Path] = {}
    files: dict[str, tuple[Path, set[bytes]]] = {}
    for given in paths:
        if not os.fspath(given):
            raise ArtifactError("an empty path names no file or folder", "write `.` for the current folder")
        path = Path(os.path.realpath(given))
        if path.is_dir():
            _add(folders, _name(path, base, path.name), path, given)
        elif path.is_file():
            name = _name(path.parent, base, ".")
            folder, names = files.setdefault(name, (path.parent, set()))
            if folder != path.parent:
                raise ArtifactError(f"{os.fspath(given)} and a file of {folder} would both be in the artifact `{name}`")
            names.add(os.fsencode(path.name))
        else:
            raise ArtifactError(f"{os.fspath(given)} is no file or folder" if path.exists() else f"there is no {given}")
    whole = [Local(folder, name, None) for name, folder in folders.items() if not _is_below(folder, folders.values())]
    parts = [
        Local(folder, name, tuple(sorted(names)))
        for name, (folder, names) in files.items()
        if not any(folder.is_relative_to(other) for other in folders.values())
    ]
    found = sorted([*whole, *parts], key=lambda item: item.path)
    if len({item.path for item in found}) < len(found):
        raise ArtifactError("two of these would be the same artifact", "upload the folder that both are in")
    return found


def upload(
    api: Api,
    artifacts: Sequence[Local],
    *,
    tags: Sequence[str] = (),
    workflow: str = WORKFLOW,
    user: str = "",
    home: str | None = None,
    server: str = "",
    store: SnapshotStore | None = None,
    watch: Callable[[int], None] | None = None,
) -> Uploaded:
    """Save `artifacts` and make a run of them. With a `home`, what did not change since the last upload to `server` is
    not read again. Raises SnapshotError, ApiError, Unreachable."""
    store = store or remote_store(api)
    key = uuid.uuid4().hex
    for attempt in (1, 2):
        saved = _save(store, artifacts, home, server, watch)
        try:
            run = api.upload(
                {
                    "workflow": workflow,
                    "artifacts": saved.sent,
                    "repository": identify(find_root() or os.path.realpath(current_folder())),
                    "tags": list(tags),
                    "user": user,
                    "host": os.uname().nodename,
                },
                key,
            )
        except ApiError as error:
            # It took so long that the store has collected what was saved first, or somebody cleared it meanwhile.
            if error.code != "snapshot-missing" or attempt == 2:
                raise
            continue
        return Uploaded(run, saved.warnings, saved.size, saved.stored)
    raise AssertionError("the second try ends the loop")


class _Saved(NamedTuple):
    """Folders whose snapshots are in the store: what is sent of them, and as in `Uploaded`."""

    sent: list[UploadedArtifact]
    warnings: tuple[str, ...]
    size: int
    stored: int


def _save(
    store: SnapshotStore,
    artifacts: Sequence[Local],
    home: str | None,
    server: str,
    watch: Callable[[int], None] | None,
) -> _Saved:
    warnings: list[str] = []
    sent: list[UploadedArtifact] = []
    size = stored = 0
    for item in artifacts:
        cache = FileCache.load(_cache(home, server, item)) if home else None
        told = _Told(watch)
        saved = save(item.folder, store, paths=item.files, cache=cache, watch=told.read)
        told.done(saved.size)
        warnings += saved.warnings_below(item.path)
        size += saved.size
        stored += saved.stored
        sent.append({"path": item.path, "manifest_id": saved.manifest_id.hex(), "stored": saved.stored})
    return _Saved(sent, tuple(warnings), size, stored)


def _add(folders: dict[str, Path], name: str, path: Path, given: object) -> None:
    if folders.setdefault(name, path) != path:
        raise ArtifactError(f"{given} and {folders[name]} would both be the artifact `{name}`")


def _name(folder: Path, base: Path, elsewhere: str) -> str:
    """What the folder is called as an artifact."""
    return folder.relative_to(base).as_posix() if folder.is_relative_to(base) else elsewhere or "."


def _is_below(folder: Path, others: Iterable[Path]) -> bool:
    return any(folder != other and folder.is_relative_to(other) for other in others)


def _cache(home: str, server: str, item: Local) -> Path:
    key = f"{item.folder}\0{server}\0" + "\0".join(map(os.fsdecode, item.files or ()))
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:24]
    return Path(home, "cli", "stat-cache", f"{name}.files")
