"""`dstack run --pull`: what a run has saved, put into the folder of its repository."""

from __future__ import annotations

from pathlib import Path

from dstack.cli.errors import error_text
from dstack.cli.render import count, say, size_words
from dstack.cli.session import Session
from dstack.client.artifacts import Differs, download, files_of, places_of
from dstack.client.code import Listing
from dstack.client.notes import quoted
from dstack.client.pulled import Pulled
from dstack.client.tree import look
from dstack.client.types import Artifact

NOT_PULLED = 1
SHOWN = 10


def pull(session: Session, run: str, root: str, *, force: bool) -> int:
    """Fetch the artifacts of `run` into `root`; the exit code. What a person changed there stays, unless `force`."""
    api = session.api
    found = api.artifacts(run=run)
    shared = {path for path in _paths(found) if _paths(found).count(path) > 1}
    for path in sorted(shared):
        say(f"  not pulled: `{path}` was written by several jobs (dstack artifacts download {run})")
    wanted = [artifact for artifact in found if artifact.get("path") not in shared]
    pulled = Pulled(session.home, root)
    try:
        places = places_of(wanted, Path(root))
        download(api, places, Path(root), overwrite=force, is_ours=pulled.is_ours)
    except Differs as error:
        names = [quoted(str(path.relative_to(root))) for path in error.paths]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        say(error_text(f"nothing was pulled: {count(len(names), 'file')} here would be overwritten", None).rstrip())
        for name in [*names[:SHOWN], *more]:
            say(f"  {name}")
        say(f"  hint: dstack artifacts download {run} puts them elsewhere; `--pull --force` overwrites")
        return NOT_PULLED
    pulled.remember(files_of(api, places))
    for artifact, _ in places:
        files, size = count(artifact.get("files", 0), "file"), size_words(artifact.get("size", 0))
        say(f"  pulled: {artifact.get('path')} ({files}, {size})")
    _tell_what_becomes_code(root, wanted)
    return 0


def _paths(artifacts: list[Artifact]) -> list[str]:
    return [artifact.get("path", "") for artifact in artifacts]


def _tell_what_becomes_code(root: str, artifacts: list[Artifact]) -> None:
    """What is pulled and not ignored goes along with the next run, whose job then finds it where it writes."""
    code = look(Listing(root)).paths
    for path in _paths(artifacts):
        if any(name == path or name.startswith(f"{path}/") for name in code):
            say(f"  hint: `{path}` would go with the next run as code; name it in .gitignore or .dstackignore")
