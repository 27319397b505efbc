"""Downloading artifacts into a folder of the person's own, which may have things in it that matter."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import blake3

from dstack.client.api import Api
from dstack.client.notes import quoted
from dstack.client.sources import ArtifactError
from dstack.client.store import remote_store
from dstack.client.types import Artifact
from dstack.snapshots.restore import Entry, entries, restore
from dstack.snapshots.store import SnapshotStore

Paths = Sequence[bytes] | None
_ELSEWHERE: Final = "move it away, or choose another place"


class Differs(ArtifactError):
    """Files that are there already would be overwritten. `paths` are all of them."""

    def __init__(self, paths: list[Path]) -> None:
        shown = ", ".join(quoted(str(path)) for path in paths[:3]) + (
            f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        )
        super().__init__(
            f"not overwritten: {shown} differ from what would be downloaded", "choose another folder, or add --force"
        )
        self.paths = paths


def folder_named(path: str | os.PathLike[str]) -> Path:
    """Raises ArtifactError for an empty path: that is a variable which nobody set, not the current folder."""
    if not os.fspath(path):
        raise ArtifactError("an empty path names no folder", "write `.` for the current folder")
    return Path(path)


def download_to(
    api: Api, artifacts: Sequence[Artifact], target: Path, *, overwrite: bool = False
) -> list[tuple[Artifact, Path]]:
    """Restore `artifacts` below `target`; each with the folder it became. Raises what `download` and `places_of` do."""
    places = places_of(artifacts, target)
    download(api, places, target, overwrite=overwrite)
    return places


def download(
    api: Api,
    places: Sequence[tuple[Artifact, Path]],
    target: Path,
    *,
    overwrite: bool = False,
    is_ours: Callable[[Path], bool] = lambda path: False,
    only: Mapping[tuple[str, str], Paths] | None = None,
    store: SnapshotStore | None = None,
    watch: Callable[[int], None] = lambda _: None,
) -> None:
    """Restore each artifact at its place below `target`.

    Nothing is written before everything was compared; `is_ours` says of what differs that it may be overwritten. `only`
    names the paths to restore within artifacts, by job and path; None there, or no entry, is all of it. `watch` is told
    of bytes as they are written. Raises Differs unless `overwrite`; ArtifactError, SnapshotError.
    """
    for artifact, place in places:
        _stay_within(target, artifact, place)
        see_room(place, is_folder=True)
    store = store or remote_store(api)
    if not overwrite:
        differing = [
            path
            for artifact, place in places
            for path in _differing(store, artifact, place, _of(artifact, only))
            if not is_ours(path)
        ]
        if differing:
            raise Differs(differing)
    for artifact, place in places:
        _stay_within(target, artifact, place)  # again: the artifact before may have brought a link
        manifest_id = bytes.fromhex(artifact.get("manifest_id", ""))
        restore(store, manifest_id, place, paths=_of(artifact, only), within=target, whole=True, watch=watch)


def places_of(artifacts: Sequence[Artifact], target: Path) -> list[tuple[Artifact, Path]]:
    """Where each of `artifacts` goes below `target`: the path that its job wrote, or that below a folder with the job's
    name where several jobs wrote the same one. Raises ArtifactError."""
    return list(_places(artifacts, target))


def files_of(api: Api, places: Sequence[tuple[Artifact, Path]]) -> Iterator[Path]:
    """Where the files and links of downloaded artifacts are."""
    store = remote_store(api)
    for artifact, place in places:
        for entry in entries(store, bytes.fromhex(artifact.get("manifest_id", ""))):
            if entry.type != "directory":
                yield place / os.fsdecode(entry.path)


def _places(artifacts: Sequence[Artifact], target: Path) -> Iterator[tuple[Artifact, Path]]:
    paths = [artifact.get("path", "") for artifact in artifacts]
    for artifact, path in zip(artifacts, paths, strict=True):
        folder = target / artifact.get("job", "") if paths.count(path) > 1 else target
        place = Path(os.path.normpath(folder / path))
        # The name comes from a server: it must not lead out of the folder that was asked for.
        if "\0" in path or not place.is_relative_to(os.path.normpath(target)):
            raise ArtifactError(f"artifact `{path}` of {artifact.get('job')} would lie outside of {target}")
        yield artifact, place


def _stay_within(target: Path, artifact: Artifact, place: Path) -> None:
    """See that no link on the way to `place` leads out of `target`."""
    real = Path(os.path.realpath(place))
    if not real.is_relative_to(os.path.realpath(target)):
        raise ArtifactError(
            f"artifact `{artifact.get('path')}` of {artifact.get('job')} would lie outside of {target}: "
            f"a link there leads to {real}",
            "choose another folder, or move the link away",
        )


def see_room(place: Path, *, is_folder: bool) -> None:
    """Raises ArtifactError where something stands at `place`, or on the way to it, that is not overwritten for it."""
    way = next((folder for folder in place.parents if os.path.lexists(folder)), place)
    if not way.is_dir():
        raise ArtifactError(f"{quoted(str(way))} is no folder: nothing can be put below it", _ELSEWHERE)
    if is_folder and os.path.lexists(place) and not place.is_dir():
        raise ArtifactError(f"{quoted(str(place))} is in the way: a folder is to be there", _ELSEWHERE)
    if not is_folder and place.is_dir() and not place.is_symlink():
        raise ArtifactError(f"{quoted(str(place))} is a folder: a file is to be there", _ELSEWHERE)


def disk_hint(error: OSError) -> str:
    """What to do where the system refuses to write."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "free space there, or choose another place" if full else "choose another place"


def _of(artifact: Artifact, only: Mapping[tuple[str, str], Paths] | None) -> Paths:
    return (only or {}).get((artifact.get("job", ""), artifact.get("path", "")))


def _differing(store: SnapshotStore, artifact: Artifact, place: Path, paths: Paths) -> Iterator[Path]:
    if not os.path.lexists(place):
        return
    manifest_id = bytes.fromhex(artifact.get("manifest_id", ""))
    for part in [b""] if paths is None else paths:
        for entry in entries(store, manifest_id, part):
            path = place / os.fsdecode(entry.path)
            if os.path.lexists(path) and not is_same(path, entry):
                yield path


def is_same(path: Path, entry: Entry) -> bool:
    """Whether what stands at `path` is what the snapshot has there; of a folder, that it is one."""
    found = path.lstat()
    if entry.type == "directory":
        return stat.S_ISDIR(found.st_mode)
    if entry.type == "symlink":
        return stat.S_ISLNK(found.st_mode) and os.fsencode(os.readlink(path)) == entry.target
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
        return False
    return blake3.blake3().update_mmap(path).digest() == entry.digest
