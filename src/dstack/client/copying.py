"""Copying one file or folder out of an artifact to a place of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dstack.client.artifacts import Differs, disk_hint, is_same, see_room
from dstack.client.notes import quoted
from dstack.client.saved import manifest_of
from dstack.client.sources import ArtifactError
from dstack.client.types import Artifact
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.listing import entries
from dstack.snapshots.lookup import Located
from dstack.snapshots.manifests import DirectoryEntry, FileEntry
from dstack.snapshots.naming import Naming, Unnamed
from dstack.snapshots.restore import restore, restore_folder
from dstack.snapshots.seeking import StoredFile
from dstack.snapshots.store import SnapshotStore

PIECE: Final = 4 * 1024 * 1024
"""Bytes that are copied at once."""
_KEPT_BITS: Final = 0o1777


def copy(
    store: SnapshotStore,
    artifact: Artifact,
    located: Located,
    target: Path,
    *,
    overwrite: bool = False,
    watch: Callable[[int], None] = lambda _: None,
) -> None:
    """Make `target` a copy of what was located in `artifact`: files there are replaced, others stay.

    Raises before anything is written Differs unless `overwrite`, and ArtifactError where something is in the way;
    SnapshotError, ArtifactError for what the disk refuses.
    """
    see_room(target, is_folder=not isinstance(located.entry, FileEntry))
    if not overwrite:
        differing = list(_differing(store, artifact, located, target))
        if differing:
            raise Differs(differing)
    manifest_id = manifest_of(artifact)
    match located.entry:
        case FileEntry() as entry:
            _copy_file(store, manifest_id, entry, target, watch)
        case DirectoryEntry() as entry:
            with _folder(target) as folder:
                restore_folder(store, manifest_id, located.path, entry, folder, watch=watch)
        case _:
            with _folder(target) as folder:
                restore(store, manifest_id, folder, whole=True, watch=watch)


def _differing(store: SnapshotStore, artifact: Artifact, located: Located, target: Path) -> Iterator[Path]:
    if not os.path.lexists(target):
        return
    for entry in entries(store, manifest_of(artifact), located.path):
        inside = entry.path[len(located.path) :].lstrip(b"/")
        path = target / os.fsdecode(inside) if inside else target
        if os.path.lexists(path) and not is_same(path, entry):
            yield path


def _copy_file(
    store: SnapshotStore, manifest_id: bytes, entry: FileEntry, target: Path, watch: Callable[[int], None]
) -> None:
    """`target` is the old file or the new one, whole."""
    with _begun(target) as part, StoredFile(store, manifest_id, entry) as source:
        with open(part.fd, "wb", closefd=False) as file:
            while piece := source.read(PIECE):
                with _told(target):
                    file.write(piece)
                watch(len(piece))
            with _told(target):
                file.flush()
        with _told(target):
            os.fchmod(part.fd, entry.mode & _KEPT_BITS)
            os.utime(part.fd, ns=(entry.mtime, entry.mtime))
            part.end(os.fsencode(target.name), lambda: None)


@contextmanager
def _folder(target: Path) -> Generator[Path]:
    """What is to become `target`: a folder that is not there yet gets its name when it is whole, for one that is there
    would be copied into by whoever tries again."""
    if target.exists():
        yield target
        return
    part = target.with_name(f".dstack-{os.urandom(8).hex()}")
    try:
        with _told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
        yield part
        with _told(target):
            part.rename(target)
    except RestoreFailed as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RestoreFailed(str(error).replace(str(part), str(target))) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _begun(target: Path) -> Generator[Unnamed]:
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _told(target):
            part = Naming().open(folder)
        try:
            yield part
        finally:
            part.close()
    finally:
        os.close(folder)


@contextmanager
def _told(target: Path) -> Generator[None]:
    """What the system refuses is told by the name that a person gave."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"cannot write {quoted(str(target))}: {error.strerror}", disk_hint(error)) from error
