"""What commands take for something that was saved: `RUN`, `:TAG`, a job of it, one of its snapshots, a path in it.

RUN[@SNAPSHOT][/JOB][:PATH]      odd-cat-1   odd-cat-1/train:out/model.pt   odd-cat-1@0123abcd
:TAG[@SNAPSHOT][/JOB][:PATH]     :v1         :v1:out

`WORKFLOW:TAG` looks like `RUN:PATH`: whoever knows the tags says which it is.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dstack.client.api import Api
    from dstack.client.sent import RepositoryRef
    from dstack.client.types import Artifact, SavedSnapshot

SHOWN = 12
"""Digits of a snapshot's id that people see."""
_FEWEST = 8
"""Digits of a snapshot's id that name it."""
_FORM = re.compile(
    r"(?P<tag>:)?(?P<name>[^:/@\s]+)(?:@(?P<snapshot>[^:/@]+))?(?:/(?P<job>[^:/]+))?(?::(?P<path>.*))?", re.DOTALL
)
_SNAPSHOT = re.compile(rf"[0-9a-f]{{{_FEWEST},64}}")


class ArtifactError(Exception):
    """What was saved is not there, or cannot be put where it was asked for. `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Source(NamedTuple):
    """`run` or `tag` is set; `workflow` is the tag's, None for every one that has it. `path` is as the job wrote it,
    None for everything."""

    text: str
    run: str | None
    tag: str | None
    snapshot: str | None = None
    job: str | None = None
    path: str | None = None
    workflow: str | None = None

    @property
    def name(self) -> str:
        """The run, or the tag as it is typed."""
        return self.run or f":{self.tag}"


def parse(text: str) -> Source:
    """Raises ArtifactError for what names nothing."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ArtifactError(f"`{text}` names nothing that was saved", "write RUN, RUN:PATH, RUN/JOB:PATH, or :TAG")
    snapshot = found["snapshot"]
    if snapshot is not None and not is_snapshot(snapshot):
        raise ArtifactError(f"`{snapshot}` in `{text}` is no snapshot", _snapshot_hint(found["name"]))
    run, tag = (None, found["name"]) if found["tag"] else (found["name"], None)
    return Source(text, run, tag, snapshot, found["job"], found["path"] or None)


def is_snapshot(text: str) -> bool:
    """Whether `text` can be a snapshot's id, or the beginning of one."""
    return _SNAPSHOT.fullmatch(text) is not None


def find(
    api: Api,
    source: Source,
    *,
    workflow: str | None = None,
    at: int | None = None,
    snapshot: str | None = None,
    repository: RepositoryRef | None = None,
) -> list[Artifact]:
    """The newest snapshot of each artifact of `source`, as they are now, were `at` that time (microseconds UTC), or
    when `snapshot` was taken; newest first. Of a source that names a snapshot, that one. `repository` is where a tag is
    sought. Raises ArtifactError."""
    repository = repository if source.tag else None
    workflow = workflow or source.workflow
    if at is None and snapshot is None and source.snapshot is None:
        found = api.artifacts(run=source.run, tag=source.tag, workflow=workflow, job=source.job, repository=repository)
        return sorted(found, key=lambda item: -item.get("at", 0))
    saved = history(api, source._replace(path=None), workflow=workflow, repository=repository)
    if source.snapshot is not None:
        saved = of_snapshot(saved, source, source.snapshot)
    named: list[SavedSnapshot] = []
    if snapshot is not None:
        named = of_snapshot(saved, source, snapshot)
        taken = max(item.get("at", 0) for item in named)
        at = taken if at is None else min(at, taken)
    if at is not None:
        before = [item for item in saved if item.get("at", 0) <= at]
        if saved and not before:
            raise ArtifactError(f"{source.name} had not saved anything by then", _snapshot_hint(source.name))
        saved = before
    newest: dict[tuple[str, str, str], Artifact] = {}
    for item in [*named, *saved]:
        newest.setdefault((item.get("run", ""), item.get("job", ""), item.get("path", "")), item)
    return list(newest.values())


def history(
    api: Api, source: Source, *, workflow: str | None = None, repository: RepositoryRef | None = None
) -> list[SavedSnapshot]:
    """Every snapshot of `source`, newest first; of those artifacts only that its path, if it has one, lies in."""
    found = api.artifact_history(
        run=source.run,
        tag=source.tag,
        workflow=workflow or source.workflow,
        job=source.job,
        repository=repository if source.tag else None,
    )
    if source.path is None:
        return found
    path = plain_path(source.path)
    return [item for item in found if within(item.get("path", ""), path) is not None]


def of_snapshot(saved: Iterable[SavedSnapshot], source: Source, snapshot: str) -> list[SavedSnapshot]:
    """Those of `saved` that are the one `snapshot`. Raises ArtifactError where there are none, or it names several."""
    found = [item for item in saved if item.get("manifest_id", "").startswith(snapshot)]
    ids = {item.get("manifest_id", "") for item in found}
    if not ids:
        raise ArtifactError(
            f"there is no snapshot {snapshot[:SHOWN]} of {source.name}",
            f"older ones may have been thinned: `dstack retention` says by which rules. {_snapshot_hint(source.name)}",
        )
    if len(ids) > 1:
        told = ", ".join(sorted(name[:SHOWN] for name in ids))
        raise ArtifactError(f"{len(ids)} snapshots of {source.name} begin with {snapshot}: {told}", "write more of it")
    return found


def _snapshot_hint(name: str) -> str:
    return f"`dstack artifacts log {name}` lists the snapshots; {_FEWEST} digits or more name one"


def plain_path(text: str) -> str:
    """A path below the folder a job ran in, without `.` and doubled slashes; empty for the folder itself.

    Raises ArtifactError for one that leads out of it.
    """
    path = posixpath.normpath(text) if text else "."
    if path == ".." or path.startswith("../") or "\0" in path:
        raise ArtifactError(f"`{text}` is no path of an artifact", "name it as the job wrote it, such as out/model.pt")
    return "" if path == "." else path


def within(artifact: str, path: str) -> str | None:
    """Where `path` stands in an artifact with the path `artifact`: empty for all of it, None for not at all."""
    root = "" if artifact in ("", ".") else posixpath.normpath(artifact)
    if not path or root == path or root.startswith(f"{path}/"):
        return ""
    if not root:
        return path
    return path[len(root) + 1 :] if path.startswith(f"{root}/") else None


def paths_of(artifacts: Sequence[Artifact]) -> list[str]:
    """What may be asked for, for a hint."""
    return list(dict.fromkeys(item.get("path", "") for item in artifacts))
