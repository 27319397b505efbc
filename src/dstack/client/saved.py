"""What stands in artifacts: the paths that somebody asks for, their files, and one file to read."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dstack.client.sources import ArtifactError, paths_of, plain_path, within
from dstack.client.types import Artifact, SavedFile, SavedSnapshot, SavedVersion
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.listing import entries
from dstack.snapshots.lookup import Located, NotThere, locate
from dstack.snapshots.manifests import DirectoryEntry, FileEntry, SymlinkEntry
from dstack.snapshots.store import SnapshotStore

_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")
"""How `shown_path` writes a byte that is no UTF-8."""


class Part(NamedTuple):
    """What is wanted of an artifact: these paths within it, all of it where they are None."""

    artifact: Artifact
    paths: tuple[bytes, ...] | None


def choose(store: SnapshotStore, artifacts: Sequence[Artifact], paths: Sequence[str]) -> list[Part]:
    """The parts of `artifacts` that stand at `paths`, which are as the jobs wrote them.

    Raises ArtifactError for one that stands nowhere; SnapshotError.
    """
    chosen: dict[int, set[bytes] | None] = {}
    for path in paths:
        found = dict(_standing(store, artifacts, path))
        for index, inside in found.items():
            before = chosen.setdefault(index, set())
            if not inside.path:
                chosen[index] = None
            elif before is not None:
                before.add(inside.path)
    return [
        Part(artifacts[index], None if inside is None else tuple(sorted(inside)))
        for index, inside in sorted(chosen.items())
    ]


def has(store: SnapshotStore, artifacts: Sequence[Artifact], path: str) -> bool:
    """Whether something stands at `path` in any of `artifacts`. Raises SnapshotError."""
    try:
        return bool(choose(store, artifacts, [path]))
    except ArtifactError:
        return False


def one(store: SnapshotStore, artifacts: Sequence[Artifact], path: str) -> tuple[Artifact, Located]:
    """What stands at `path`, links followed. Raises ArtifactError where nothing does, or different things of several
    jobs; SnapshotError."""
    found = list(_standing(store, artifacts, path, follow=True))
    first, located = found[0]
    for index, other in found[1:]:
        if _content(artifacts[index], other) != _content(artifacts[first], located):
            jobs = sorted({artifacts[number].get("job", "") for number, _ in found})
            run = artifacts[first].get("run", "RUN")
            raise ArtifactError(
                f"`{path}` was saved by several jobs: {', '.join(jobs)}", f"name one: {run}/{jobs[0]}:{path}"
            )
    return artifacts[first], located


def one_file(store: SnapshotStore, artifacts: Sequence[Artifact], path: str) -> tuple[bytes, FileEntry]:
    """The file that stands at `path`, with the manifest id of its snapshot; raises as `one`, and for a folder."""
    artifact, located = one(store, artifacts, path)
    if not isinstance(located.entry, FileEntry):
        raise ArtifactError(
            f"`{path}` is a folder", "name a file; `dstack artifacts list RUN:PATH` lists what is in it"
        )
    return manifest_of(artifact), located.entry


def files(store: SnapshotStore, parts: Sequence[Part]) -> Iterator[SavedFile]:
    """Everything that stands in `parts`, folders before what is in them. Raises SnapshotError."""
    for artifact, paths in parts:
        root = artifact.get("path", "")
        prefix = "" if root in ("", ".") else f"{root}/"
        for path in (b"",) if paths is None else paths:
            for entry in entries(store, manifest_of(artifact), path):
                yield {
                    "run": artifact.get("run", ""),
                    "job": artifact.get("job", ""),
                    "artifact": root,
                    "path": prefix + shown_path(entry.path),
                    "type": entry.type,
                    "size": entry.size,
                    "mode": entry.mode,
                    "mtime": entry.mtime // 1000 or None,
                    "target": shown_path(entry.target) if entry.type == "symlink" else None,
                    "digest": entry.digest.hex() if entry.type == "file" else None,
                }


def measure(store: SnapshotStore, part: Part) -> tuple[int, int]:
    """(files, bytes) of a part: links count as files, folders do not."""
    if part.paths is None:
        return part.artifact.get("files", 0), part.artifact.get("size", 0)
    found = [item for item in files(store, [part]) if item.get("type") != "directory"]
    return len(found), sum(item.get("size", 0) for item in found)


def versions(store: SnapshotStore, snapshots: Sequence[SavedSnapshot], path: str) -> list[SavedVersion]:
    """Each content that `path` had in `snapshots` (newest first), as the first of them that has it tells; newest first.

    Raises ArtifactError where none has anything there; SnapshotError.
    """
    found: list[SavedVersion] = []
    last: dict[str, object] = {}
    problem: ArtifactError | None = None
    for item in reversed(snapshots):
        try:
            [(_, located)] = _standing(store, [item], path)
        except ArtifactError as error:
            problem = problem or error
            continue
        content = _content(item, located)
        if last.get(item.get("job", "")) != content:
            last[item.get("job", "")] = content
            found.append(_version(item, path, located))
    if not found:
        raise problem or ArtifactError("nothing was saved yet")
    return found[::-1]


def _version(item: SavedSnapshot, path: str, located: Located) -> SavedVersion:
    match located.entry:
        case FileEntry(digest=digest):
            kind = "file"
        case SymlinkEntry():
            kind, digest = "symlink", b""
        case _:
            kind, digest = "directory", b""
    return {
        "run": item.get("run", ""),
        "job": item.get("job", ""),
        "path": path,
        "type": kind,
        "size": size_of(item, located),
        "digest": digest.hex() or None,
        "attempt": item.get("attempt", 1),
        "at": item.get("at", 0),
        "manifest_id": item.get("manifest_id", ""),
    }


def size_of(artifact: Artifact, located: Located) -> int:
    """Bytes of what was located, of a folder all below it."""
    match located.entry:
        case FileEntry(size=size) | DirectoryEntry(size=size):
            return size
        case SymlinkEntry():
            return 0
        case None:
            return artifact.get("size", 0)


def manifest_of(artifact: Artifact) -> bytes:
    return bytes.fromhex(artifact.get("manifest_id", ""))


def shown_path(path: bytes) -> str:
    """A path as text that any terminal and JSON can take: bytes that are no UTF-8 as escapes."""
    return path.decode("utf-8", "backslashreplace")


def _standing(
    store: SnapshotStore, artifacts: Sequence[Artifact], path: str, *, follow: bool = False
) -> Iterator[tuple[int, Located]]:
    """(number of the artifact, what stands in it at `path`) for each that has something there."""
    plain = plain_path(path)
    problem: NotThere | None = None
    found = False
    for index, artifact in enumerate(artifacts):
        inside = within(artifact.get("path", ""), plain)
        if inside is None:
            continue
        try:
            located = _located(store, manifest_of(artifact), inside, follow=follow)
        except NotThere as error:
            problem = problem or error
            continue
        found = True
        yield index, located
    if not found:
        raise _not_there(artifacts, path, problem)


def _located(store: SnapshotStore, manifest_id: bytes, path: str, *, follow: bool) -> Located:
    """`path` as it was typed, or as `shown_path` shows it. Raises NotThere of the first."""
    try:
        return locate(store, manifest_id, os.fsencode(path), follow=follow)
    except NotThere as error:
        meant = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(path))
        if meant == os.fsencode(path):
            raise
        try:
            return locate(store, manifest_id, meant, follow=follow)
        except NotThere:
            raise error from None


def _not_there(artifacts: Sequence[Artifact], path: str, problem: RestoreFailed | None) -> ArtifactError:
    if not isinstance(problem, NotThere):
        return ArtifactError(f"nothing was saved at `{path}`", f"saved: {', '.join(paths_of(artifacts)) or 'nothing'}")
    name = path.rstrip("/").rpartition("/")[2]
    names = [shown_path(known) for known in problem.near]
    near = difflib.get_close_matches(name, names, 3)
    hint = f"there is {', '.join(names[:10])}{', …' if names[10:] else ''}" if names else None
    hint = f"did you mean {', '.join(f'`{other}`' for other in near)}?" if near else hint
    return ArtifactError(f"nothing was saved at `{path}`: {problem}", hint)


def _content(artifact: Artifact, located: Located) -> object:
    match located.entry:
        case None:
            return artifact.get("content_id")
        case FileEntry(digest=digest):
            return digest
        case DirectoryEntry(content_id=content_id):
            return content_id
        case SymlinkEntry(target=target):
            return target
