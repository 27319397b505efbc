"""`dstack artifacts upload`: a finished run of local files."""

from __future__ import annotations

import sys

import click

from dstack.cli.render import count, paint, say, size_words, write_json
from dstack.cli.session import Session

_SHOWN = 10
_HELD = 64 << 20
"""Bytes that may have been read and wait to be stored, in packs that are not full yet or on their way."""


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="Give what is uploaded this tag, too.")
@click.option("-w", "--workflow", metavar="NAME", help="The workflow it counts as (default: upload).")
@click.option("--json", "as_json", is_flag=True, help="The run, in a list.")
def upload(paths: tuple[str, ...], tags: tuple[str, ...], workflow: str | None, as_json: bool) -> None:
    """Upload files and folders as a finished run, and print its name.

    Workflows depend on it as on any other: deps: [upload], or [":TAG"]. Jobs find the files where they lie in the
    repository; what lies outside of it, by its own name.
    """
    from dstack.cli.transfer import Measured, transfer
    from dstack.client import uploading
    from dstack.client.transfers import counted_store

    found = uploading.locate(paths)
    session = Session()
    with session.api as api:
        measured = Measured()
        store, blobs = counted_store(api)
        total, stored = (lambda: sum(item.size() for item in found)), (lambda: blobs.stored)
        with transfer("uploading", total, stored, held=_HELD) as advance:
            done = uploading.upload(
                api,
                found,
                tags=tags,
                workflow=workflow or uploading.WORKFLOW,
                user=session.user,
                home=session.home,
                server=session.address,
                store=store,
                watch=advance,
            )
    if as_json:
        write_json([done.run])
    else:
        sys.stdout.write(f"{done.run.get('name')}\n")
        sys.stdout.flush()
    artifacts = [item for job in done.run.get("jobs", []) for item in job.get("artifacts", [])]
    for item in artifacts:
        say(f"{item.get('path')}: {count(item.get('files', 0), 'file')}, {size_words(item.get('size', 0))}")
    measured.tell("uploaded", done.size, done.stored, "is stored")
    for note in done.warnings[:_SHOWN]:
        say(f"{paint('warning:', 'yellow', sys.stderr)} {note}")
    if len(done.warnings) > _SHOWN:
        say(f"  and {len(done.warnings) - _SHOWN} more")
