"""`dstack server move-store`: the packs of this home on another disk."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dstack.cli.errors import UserError
from dstack.cli.render import count, printable, say, size_words, write_json
from dstack.cli.transfer import Measured, transfer
from dstack.client.profiles import LOCAL, choose
from dstack.embedded import home_folder


@click.command("move-store")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--keep", is_flag=True, help="Leave the packs where they were, too.")
@click.option("--json", "as_json", is_flag=True, help="What was moved, as one object in a list.")
def move_store(folder: Path, keep: bool, as_json: bool) -> None:
    """Move the store, where artifacts and code are kept, to FOLDER: on a larger disk, for example.

    Jobs go on, and so do commands but for a moment at the end. Everything is read back and compared before the old
    packs are removed. A move that was interrupted goes on with the same command; until it is done, all is where it was.
    """
    from dstack.embedded.move import move, plan

    server = choose(home_folder())
    if server.address:
        words = f"the server is {server.address}, by {server.origin}: its store is not moved from here"
        raise UserError(words, f"DSTACK_SERVER={LOCAL} stands for the local one")
    found = plan(folder)
    measured = Measured()
    with transfer("moving the store", found.missing) as advance:
        done = move(found, keep=keep, watch=advance)
    if as_json:
        write_json(
            [
                {
                    "from": str(found.source), "to": str(found.target), "packs": done.packs, "size": done.size,
                    "copied": done.copied, "kept": keep, "left": list(done.left),
                }
            ]
        )  # fmt: skip
    elif found.is_there:
        sys.stdout.write(f"the store is at {printable(str(found.target))}\n")
    else:
        words = f"the store is at {found.target} now: {count(done.packs, 'pack')}, {size_words(done.size)}"
        sys.stdout.write(f"{printable(words)}\n")
    sys.stdout.flush()
    measured.tell("moved", done.size, done.copied, "is copied")
    for path in done.left:
        say(f"not removed, it holds something else: {printable(path)}")
