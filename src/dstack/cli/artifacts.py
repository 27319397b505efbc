"""`dstack artifacts`: what runs have saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dstack.cli.arguments import current_repository, moment
from dstack.cli.artifact_files import cat, cp, diff
from dstack.cli.artifact_history import log, show_snapshots, show_versions
from dstack.cli.errors import UserError, near
from dstack.cli.interrupts import has_terminal
from dstack.cli.questions import agreed
from dstack.cli.render import ago, count, say, size_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.cli.tagged import may_name_run, source_named
from dstack.cli.upload import upload
from dstack.client.api import Api
from dstack.client.sources import find, history, parse
from dstack.client.types import Artifact, SavedFile


class _Artifacts(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            of_run = f"dstack artifacts list {name}, or dstack artifacts download {name} -o DIR"
            hint = of_run if may_name_run(name) else f"{ctx.command_path} --help"
            raise UserError(f"there is no command `artifacts {name}`", near(name, self.list_commands(ctx)) or hint)
        return super().resolve_command(ctx, args)


@click.group(cls=_Artifacts)
def artifacts() -> None:
    """List, read, compare, download and upload what runs have saved, by run or by tag.

    Where RUN stands, :TAG or WORKFLOW:TAG may stand, too. RUN/JOB is one job's, RUN@SNAPSHOT an earlier state, and
    RUN:PATH a file or folder as the job wrote it. Runs that are still running count: what they have saved so far is
    there.
    """


@artifacts.command("list")
@click.argument("source", metavar="RUN|:TAG[/JOB][:PATH]")
@click.argument("workflow", required=False)
@click.option("-l", "--files", "with_files", is_flag=True, help="List the files in the artifacts, too.")
@click.option("--all-versions", is_flag=True, help="Every snapshot there is, or every version of PATH.")
@click.option("--at", "when", metavar="TIME|SNAPSHOT", help="As it was then: 5m or 2h ago, a time, or a snapshot.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")
def list_artifacts(
    source: str, workflow: str | None, with_files: bool, all_versions: bool, when: str | None, as_json: bool
) -> None:
    """List the artifacts of RUN or :TAG; with a PATH, or with -l, the files in them."""
    wanted = parse(source)
    at, snapshot = moment(when)
    with open_api() as api:
        wanted = source_named(api, wanted)
        repository = current_repository() if wanted.tag else None
        if all_versions:
            if when or with_files:
                raise click.UsageError("--all-versions goes with neither --at nor --files")
            saved = history(api, wanted, workflow=workflow, repository=repository)
            if wanted.path is None:
                show_snapshots(saved, wanted, as_json=as_json)
            else:
                show_versions(api, saved, wanted.path, as_json=as_json)
            return
        found = find(api, wanted, workflow=workflow, at=at, snapshot=snapshot, repository=repository)
        if wanted.path is not None or with_files:
            files = _files(api, found, wanted.path)
            if found or as_json:
                _show_files(files, as_json=as_json)
                return
    if as_json:
        write_json(found)
    elif not found:
        say(f"{source} has no artifacts")
    else:
        _show(found)


def _show(found: list[Artifact]) -> None:
    columns = ["PATH", "JOB", "RUN", "FILES", "SIZE", "SAVED", "NOTE"]
    rows = [
        [
            item.get("path", ""),
            item.get("job", ""),
            item.get("run", ""),
            str(item.get("files", 0)),
            size_words(item.get("size", 0)),
            ago(item.get("at")),
            "partial" if item.get("partial") else "",
        ]
        for item in found
    ]
    write_table(columns, rows)


def _files(api: Api, found: list[Artifact], path: str | None) -> list[SavedFile]:
    from dstack.client import saved
    from dstack.client.store import remote_store

    if not found and path is None:
        return []
    store = remote_store(api)
    return list(saved.files(store, saved.choose(store, found, ["" if path is None else path])))


def _show_files(found: list[SavedFile], *, as_json: bool) -> None:
    if as_json:
        write_json(found)
        return
    several = len({item.get("job") for item in found}) > 1
    # Artifacts within each other have the same files.
    nested = len({(item.get("job"), item.get("path")) for item in found}) < len(found)
    rows = [
        [
            _name(item),
            size_words(item.get("size", 0)) if item.get("type") != "symlink" else "",
            ago(item.get("mtime")),
            *([item.get("job", "")] if several else []),
            *([item.get("artifact", "")] if nested else []),
        ]
        for item in found
    ]
    write_table(["PATH", "SIZE", "CHANGED", *(["JOB"] if several else []), *(["ARTIFACT"] if nested else [])], rows)


def _name(item: SavedFile) -> str:
    """The path, marked as `ls -lF` does."""
    marks = {"directory": "/", "symlink": f" -> {item.get('target')}"}
    return item.get("path", "") + marks.get(item.get("type", ""), "")


@artifacts.command()
@click.argument("source", metavar="RUN|:TAG[/JOB][:PATH]")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-o", "--output", type=click.Path(), metavar="DIR", help="Into this folder (default: ./RUN or ./TAG).")
@click.option("--at", "when", metavar="TIME|SNAPSHOT", help="As it was then: 5m or 2h ago, a time, or a snapshot.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files that differ.")
@click.option("--json", "as_json", is_flag=True, help="What was downloaded, as a list of objects.")
def download(
    source: str, paths: tuple[str, ...], output: str | None, when: str | None, force: bool, as_json: bool
) -> None:
    """Download the artifacts of RUN or :TAG, or what stands at each PATH of them.

    They appear under the same paths that the job wrote. Files that are there and differ are kept unless you agree. In
    place of a PATH that is not there, the name of a workflow stands for its artifacts.
    """
    from dstack.client.artifacts import folder_named

    target = folder_named(output) if output is not None else None
    wanted = parse(source)
    at, snapshot = moment(when)
    with open_api() as api:
        wanted = source_named(api, wanted)
        repository = current_repository() if wanted.tag else None
        found = find(api, wanted, at=at, snapshot=snapshot, repository=repository)
        named = _of_workflow(api, found, paths)
        if named:
            found, paths = named, ()
        if wanted.path is not None:
            paths = (wanted.path, *paths)
        if not found and not paths:
            say(f"{source} has no artifacts")
        target = target or Path(wanted.name.removeprefix(":"))
        results = _fetch(api, found, paths, target, force=force) if found or paths else []
    if as_json:
        write_json(results)


def _of_workflow(api: Api, found: list[Artifact], paths: tuple[str, ...]) -> list[Artifact]:
    """The artifacts of the workflow that is meant, where a word names one and nothing was saved at such a path."""
    from dstack.client import saved
    from dstack.client.store import remote_store

    named = [item for item in found if item.get("workflow") == paths[0]] if len(paths) == 1 else []
    return [] if named and saved.has(remote_store(api), found, paths[0]) else named


def _fetch(
    api: Api, found: list[Artifact], paths: tuple[str, ...], target: Path, *, force: bool
) -> list[dict[str, Any]]:
    """Put `found`, or what stands at `paths` of it, below `target`; what was put where."""
    from dstack.cli.transfer import Measured, transfer
    from dstack.client import saved
    from dstack.client.artifacts import Differs, download, places_of
    from dstack.client.transfers import counted_store

    store, blobs = counted_store(api)
    parts = saved.choose(store, found, paths) if paths else [saved.Part(item, None) for item in found]
    sizes = {
        (part.artifact.get("job", ""), part.artifact.get("path", "")): saved.measure(store, part) for part in parts
    }
    only = {(part.artifact.get("job", ""), part.artifact.get("path", "")): part.paths for part in parts}
    places = places_of([part.artifact for part in parts], target)
    total = sum(size for _, size in sizes.values())
    measured = Measured()

    def fetch(overwrite: bool) -> None:
        with transfer("downloading", total, lambda: blobs.fetched) as advance:
            download(api, places, target, overwrite=overwrite, only=only, store=store, watch=advance)

    try:
        fetch(force)
    except Differs as error:
        if not _may_overwrite(error.paths, target):
            raise
        fetch(overwrite=True)
    results: list[dict[str, Any]] = []
    for item, place in places:
        key = item.get("job", ""), item.get("path", "")
        number, size = sizes[key]
        say(f"{place}: {count(number, 'file')}, {size_words(size)}")
        inside = only[key]
        more = {} if inside is None else {"paths": [saved.shown_path(path) for path in inside]}
        results.append({**item, "target": str(place), **more})
    measured.tell("downloaded", total, blobs.fetched, "is fetched")
    return results


def _may_overwrite(paths: list[Path], target: Path) -> bool:
    if not has_terminal():
        return False
    say(f"{count(len(paths), 'file')} in {target} would be overwritten:")
    for path in paths[:10]:
        say(f"  {path}")
    if len(paths) > 10:
        say(f"  and {len(paths) - 10} more")
    return agreed("Overwrite?")


for command in (cat, cp, diff, log, upload):
    artifacts.add_command(command)
