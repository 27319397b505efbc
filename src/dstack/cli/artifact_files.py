"""`dstack artifacts cat`, `cp` and `diff`: single files and folders of what runs have saved."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dstack.cli.arguments import current_repository, moment
from dstack.cli.questions import agreed
from dstack.cli.render import count, paint, say, size_words, write_json
from dstack.cli.session import open_api
from dstack.cli.tagged import source_named
from dstack.client.api import Api
from dstack.client.sources import Source, find, parse
from dstack.client.types import Artifact

if TYPE_CHECKING:
    from dstack.client.changes import Change

_MARKS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_at = click.option("--at", "when", metavar="TIME|SNAPSHOT", help="As it was then: 5m or 2h ago, a time, or a snapshot.")


@click.command()
@click.argument("source", metavar="RUN:PATH")
@_at
def cat(source: str, when: str | None) -> None:
    """Write the file at PATH of RUN to standard output."""
    from dstack.client import saved
    from dstack.client.store import remote_store
    from dstack.snapshots.seeking import StoredFile

    wanted = _with_path(parse(source))
    with open_api() as api:
        wanted = _with_path(source_named(api, wanted))
        found = _find(api, wanted, when)
        store = remote_store(api)
        manifest_id, entry = saved.one_file(store, found, wanted.path or "")
        with StoredFile(store, manifest_id, entry) as file:
            while piece := file.read(1 << 20):
                sys.stdout.buffer.write(piece)
    sys.stdout.flush()


@click.command()
@click.argument("source", metavar="RUN:PATH")
@click.argument("dest")
@_at
@click.option("-f", "--force", is_flag=True, help="Overwrite files that differ.")
@click.option("--json", "as_json", is_flag=True, help="What was copied, as a list of one object.")
def cp(source: str, dest: str, when: str | None, force: bool, as_json: bool) -> None:
    """Copy the file or folder at PATH of RUN to DEST, or into DEST where that is a folder or ends with `/`."""
    from dstack.cli.transfer import Measured, transfer
    from dstack.client import saved
    from dstack.client.artifacts import Differs, folder_named
    from dstack.client.copying import copy
    from dstack.client.transfers import counted_store

    folder = folder_named(dest)
    wanted = _with_path(parse(source))
    with open_api() as api:
        wanted = _with_path(source_named(api, wanted))
        found = _find(api, wanted, when)
        store, blobs = counted_store(api)
        artifact, located = saved.one(store, found, wanted.path or "")
        name = (wanted.path or "").rstrip("/").rpartition("/")[2]
        is_into = (dest.endswith("/") or folder.is_dir()) and name not in ("", ".")
        target = folder / name if is_into else folder
        size = saved.size_of(artifact, located)
        measured = Measured()
        try:
            with transfer("copying", size, lambda: blobs.fetched) as advance:
                copy(store, artifact, located, target, overwrite=force, watch=advance)
        except Differs as error:
            if not agreed(f"Overwrite {count(len(error.paths), 'file')}: {error.paths[0]}, …?"):
                raise
            with transfer("copying", size, lambda: blobs.fetched) as advance:
                copy(store, artifact, located, target, overwrite=True, watch=advance)
    if as_json:
        write_json([{**artifact, "path": wanted.path, "size": size, "target": str(target)}])
    measured.tell(str(target), size, blobs.fetched, "is fetched")


@click.command()
@click.argument("before", metavar="RUN[:PATH]")
@click.argument("after", metavar="RUN[:PATH]")
@click.option("--json", "as_json", is_flag=True, help="A list of objects: `path`, `change`, `before`, `after`.")
def diff(before: str, after: str, as_json: bool) -> None:
    """Show which files differ between two runs, snapshots or folders of them; exits with 1 where any do.

    `dstack artifacts diff RUN@SNAPSHOT RUN` compares an earlier state with the newest.
    """
    from dstack.client.changes import changes
    from dstack.client.store import remote_store

    old, new = parse(before), parse(after)
    with open_api() as api:
        old, new = source_named(api, old), source_named(api, new)
        found = changes(remote_store(api), (_find(api, old, None), old.path), (_find(api, new, None), new.path))
    if as_json:
        write_json(found)
    else:
        for change in found:
            _show(change)
        sys.stdout.flush()
        numbers = [(sum(item["change"] == kind for item in found), kind) for kind in _MARKS]
        say(", ".join(f"{number} {kind}" for number, kind in numbers if number) or "no difference")
    if found:
        raise click.exceptions.Exit(1)


def _show(change: Change) -> None:
    mark, colour = _MARKS[change["change"]]
    sizes = [size_words(side.get("size", 0)) for side in (change["before"], change["after"]) if side is not None]
    text = f"{mark} {change['path']}  {' -> '.join(dict.fromkeys(sizes))}"
    sys.stdout.write(paint(text, colour, sys.stdout) + "\n")


def _with_path(source: Source) -> Source:
    if source.path is None:
        raise click.UsageError(f"which file of {source.text}? write {source.text}:PATH")
    return source


def _find(api: Api, source: Source, when: str | None) -> list[Artifact]:
    at, snapshot = moment(when)
    repository = current_repository() if source.tag else None
    found = find(api, source, at=at, snapshot=snapshot, repository=repository)
    if not found and source.path is None:
        say(f"{source.text} has no artifacts")
    return found
